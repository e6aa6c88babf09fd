"""Which speed switches are active on this machine, which not and why, and what each gains.

The probes are processes of their own, in a worker's environment: it is a worker that they are about, and so this
process never claims the accelerator that a worker needs.
"""

import contextlib
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

from gradflow.commands import compile_cache
from gradflow.commands import probe as probing
from gradflow.training import platform as runtime

Probe = Callable[[str], Any]  # from a question to its answer
_TIMEOUT = 120  # seconds until a probe counts as hanging
_TUNABLE = runtime.HUGE_PAGES["GLIBC_TUNABLES"]
_PINS = hasattr(os, "sched_setaffinity")


def lines() -> Iterator[str]:
    """What `gradflow doctor` prints, each line as soon as it is known: about ten seconds in all."""
    environment = runtime.child_environment()
    yield _line("versions", _versions)
    yield _line("platform", lambda: " ".join([platform.system(), platform.machine(), *platform.libc_ver()]))
    yield _line("cores", _cores)
    with probe(environment) as worker:
        yield _line("devices", lambda: ", ".join(worker("devices")))
        yield _line("fast CPU library", lambda: worker("library"))
        yield _line("huge pages", lambda: _huge_pages(environment, worker))
        yield _line("pinning", _pinning)
        yield _line("accelerator", lambda: worker("accelerator"))
    yield _line("compile cache", lambda: _compile_cache(environment))
    yield "In a process of your own, as a notebook:"
    yield _line("fast CPU library", lambda: "as above: it needs nothing before the start")
    yield _line("huge pages", lambda: _own_huge_pages(environment))
    yield _line("pinning", lambda: "only if set before the start: taskset -c 0 python ..." if _PINS else "as above: no")


def _line(name: str, tell: Callable[[], str]) -> str:
    try:
        return f"{name:17} {tell()}"
    except Exception as error:  # whatever a broken machine raises: the other lines are still to be printed
        return f"{name:17} unknown: {error}".splitlines()[0]


@contextlib.contextmanager
def probe(environment: dict[str, str]) -> Iterator[Probe]:
    """A process that starts in this environment and answers the questions of `gradflow.probe`, or raises why not."""
    command = [sys.executable, "-P", "-c", "from gradflow.commands import probe; probe.answer()"]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=environment, text=True, **pipes)
    timer = threading.Timer(_TIMEOUT, process.kill)
    timer.start()
    try:
        yield functools.partial(_ask, process)
    finally:
        timer.cancel()
        process.kill()
        with contextlib.suppress(OSError), process:  # closes the pipes and waits
            pass


def _ask(process: subprocess.Popen, question: str) -> Any:
    assert process.stdin
    assert process.stdout
    try:
        print(question, file=process.stdin, flush=True)
        reply = json.loads(process.stdout.readline())
    except (OSError, ValueError):  # it died without a word, or was killed for being late
        raise RuntimeError(f"the probe's process died, or took more than {_TIMEOUT} s") from None
    if "failed" in reply:
        raise RuntimeError(reply["failed"])
    return reply["found"]


def _ask_alone(environment: dict[str, str], question: str) -> Any:
    with probe(environment) as process:
        return process(question)


def _versions() -> str:
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("gradflow", "jax", "jaxlib"))
    return f"{packages}, Python {platform.python_version()}"


def _cores() -> str:
    affinity = sorted(os.sched_getaffinity(0)) if _PINS else "not known"
    return f"{runtime.cores()} usable of {os.cpu_count()}; affinity {affinity}"


def _pinning() -> str:
    if not _PINS:
        return "not active: this system has no sched_setaffinity"
    return "active: each worker of a sweep has its own cores; gain not measured"


def _compile_cache(environment: dict[str, str]) -> str:
    if off := compile_cache.why_off(environment):
        return f"not active: {off}"
    with tempfile.TemporaryDirectory() as folder:  # an empty one: the second process finds what the first has kept
        trial = {**environment, compile_cache.JAX_FOLDER: folder}
        *_, hit = [_ask_alone(trial, "cached") for _ in range(2)]
    if not hit:
        return "not active: this JAX refuses on this processor what it has kept (jax issue 38445)"
    chosen = environment.get(compile_cache.JAX_FOLDER, compile_cache.folder(environment))
    return f"active: compiled programs are kept in {chosen}; gain not measured; --no-cache turns it off"


def _huge_pages(environment: dict[str, str], worker: Probe) -> str:
    if off := runtime.huge_pages_off(environment):
        return f"not active: {off}"
    others = [one for one in environment.get("GLIBC_TUNABLES", "").split(":") if one != _TUNABLE]
    without = {**environment, "GLIBC_TUNABLES": ":".join(others)}
    if not runtime.huge_pages_off(without):
        return "active: the kernel gives them to every process; gain not measured"
    if not worker("devices")[0].startswith("cpu"):
        return "active: gain not measured; a step's memory is the accelerator's"
    with probe(without) as other:
        return probing.active(probing.ratio(lambda: other("seconds"), lambda: worker("seconds")))


def _own_huge_pages(environment: dict[str, str]) -> str:
    if not runtime.huge_pages_off(os.environ):
        return "yes, where it has the environment of this command"
    how = f"only if set before the start: GLIBC_TUNABLES={_TUNABLE} python ..."
    return "as above: no" if runtime.huge_pages_off(environment) else how
