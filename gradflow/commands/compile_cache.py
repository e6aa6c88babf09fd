"""Where JAX keeps what it has compiled, so that the next command, and the next worker, need not compile it again.

It is JAX's own cache of programs, whose key holds the program, the versions and the options. Here it gets a folder of
the user's, one for each kind of processor, because what is kept is machine code.
"""

import hashlib
import os
import platform
import stat
import warnings
from collections.abc import Mapping, MutableMapping
from importlib import metadata
from pathlib import Path

import platformdirs

FOLDER, JAX_FOLDER, ENABLED = "GRADFLOW_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
BYTES = 2**30  # a program is some 100 KB; beyond this the least recently used are removed
# Small programs as well: there are hundreds of them, and together they take as long as a step.
_SETTINGS = {
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(BYTES),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def turn_on(environment: MutableMapping[str, str]) -> None:
    """Puts into the environment what makes JAX keep its programs, before JAX is imported.

    Nothing where the user has chosen for JAX already, or where there is no folder that is safe to use.
    """
    # A program that cannot be read or written, on a full disk or after a crash, is compiled again, and that is all.
    warnings.filterwarnings("ignore", message=".*persistent compilation cache")
    if environment.get(JAX_FOLDER) or why_off(environment):
        return
    environment[JAX_FOLDER] = str(folder(environment))
    for name, value in _SETTINGS.items():
        environment.setdefault(name, value)


def turn_off(environment: MutableMapping[str, str]) -> None:
    """For this process and those that it starts."""
    environment[ENABLED] = "false"


def folder(environment: Mapping[str, str]) -> Path:
    """Where programs for this processor are kept: under GRADFLOW_CACHE_DIR or the user's folder for caches.

    Raises `RuntimeError` where the user has no home.
    """
    kept = Path(environment.get(FOLDER) or platformdirs.user_cache_path("gradflow", appauthor=False))
    return kept.expanduser().absolute() / f"{metadata.version('jaxlib')}-{_processor()}"


def why_off(environment: Mapping[str, str]) -> str:
    """Why nothing is kept; empty where it is. The folder is made, readable and writable by its owner alone."""
    if environment.get(ENABLED, "").lower() in ("false", "0", "f", "n", "no", "off"):
        return "it was turned off"
    try:
        path = folder(environment)
    except RuntimeError:
        return f"this user has no home folder; {FOLDER} may name another"
    except FileNotFoundError:
        return f"the current directory has been deleted, and {FOLDER} lies in it"
    if not str(path).isprintable():
        return f"{path} is not a name in visible characters"  # JAX takes none that is not UTF-8
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = path.stat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    # What lies there is run, so nobody else may put anything there.
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        return f"{path} can be written by others"
    return "" if os.access(path, os.W_OK) else f"{path} cannot be written"


def _processor() -> str:
    """A name for the kind of processor: what it can do, as Linux lists it, or else what Python knows."""
    text = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        text = "".join(
            line for line in lines[: lines.index("")] if line.startswith(("model name", "flags", "Features"))
        )
    except (OSError, ValueError):  # no Linux
        pass
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
