"""A Python file of the user's own: loaded as a module, and whatever it raises said in one line."""

import contextlib
import functools
import hashlib
import stat
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from gradflow.errors import BadInput, WrongKind


def read(path: Path) -> bytes:
    """The content of a Python file. Raises `BadInput` where there is none."""
    try:
        if path.suffix == ".py" and stat.S_ISREG(path.stat().st_mode):
            return path.read_bytes()
        reason = "it is no regular file whose name ends in .py"  # of a pipe the content may never end
    except (OSError, ValueError) as error:  # the latter: a name that no system takes
        reason = getattr(error, "strerror", None) or str(error)
    raise BadInput(f"{path} is no Python file that can be read: {reason}")


def load(path: Path) -> ModuleType:
    """The module in a file; the same one again until the content changes. Raises `BadInput` where it does not load."""
    return _load(path.absolute(), read(path))


@functools.lru_cache(maxsize=64)
def _load(path: Path, content: bytes) -> ModuleType:
    # Executed is exactly what the caller has seen; two files of one name are two modules.
    module = ModuleType(f"gradflow_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    with in_one_line(path, "does not load"):
        exec(compile(content, str(path), "exec"), module.__dict__)
    return module


@contextlib.contextmanager
def in_one_line(path: str | Path, what: str) -> Iterator[None]:
    """The user's own file may raise anything: that becomes a `BadInput` that says what, and where in the file."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, (BadInput, KeyboardInterrupt)) and not isinstance(error, WrongKind):
            raise
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines = [error.lineno]
        where = f" (line {lines[-1]})" if lines else ""
        raise BadInput(f"{path} {what}: {in_words(error)}{where}") from error


def in_words(error: BaseException) -> str:
    """The kind of an error and the first line of what it says, which may fail as well."""
    try:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    except Exception:
        return type(error).__name__
