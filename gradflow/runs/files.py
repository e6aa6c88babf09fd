"""Files that are whole or not there, written by one process at a time, and nothing but our own files ever removed."""

import contextlib
import errno
import json
import os
import re
import stat
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import filelock

from gradflow.errors import BadInput, refuse_links

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
# What a file system says that has no flock, such as an NFS without its lock daemon.
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which takes its place, synced, if the block succeeds.

    The name is random: process numbers are the same in two containers that share a folder.
    """
    path = _in_utf8(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}; what was recorded before is intact") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _in_utf8(path: Path) -> Path:
    """The path whose name on disk is UTF-8 in any locale. Raises `BadInput` for a name that no system takes."""
    try:
        if "\0" not in str(path):
            return Path(os.fsdecode(str(path).encode("utf-8", "surrogateescape")))
        reason = "embedded null character"
    except UnicodeError as error:
        reason = str(error)
    raise BadInput(f"cannot write {path}: no system takes such a name ({reason})")


def _sync(folder: Path) -> None:
    """Makes a rename in the folder last; where a folder cannot be opened (Windows), the system does so by itself."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_temporary(folder: Path) -> None:
    """Removes what writers left that were killed in the middle of `replacing`. The caller holds the folder's lock."""
    if folder.is_dir():
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Makes the folder where it is not there. Raises `BadInput` where that is not possible."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # the latter: a name that no system takes
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"cannot write {folder}: {reason}: choose another --results folder") from error


@contextlib.contextmanager
def lock(path: Path, seconds: float = 0) -> Iterator[bool]:
    """Yields whether the lock is ours after waiting that long. It ends with the process.

    By flock, or by the existence of the file where the file system has none. Raises `BadInput` where it cannot be made.
    """
    refuse_links(path)
    with _writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = _acquire(path, seconds)
    try:
        yield held is not None
    finally:
        if held:
            held.release()


def _acquire(path: Path, seconds: float) -> filelock.BaseFileLock | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library says that it goes without flock
        try:
            try:
                held = filelock.FileLock(path)
                held.acquire(timeout=seconds)
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    raise
                held = filelock.SoftFileLock(path.with_name(f"{path.name}.soft"))
                held.acquire(timeout=seconds)
        except filelock.Timeout:
            return None
    return held


def write_json(path: Path, content: Any) -> None:
    """Writes `content` in place of `path` in one go; raises `BadInput` where that is not possible."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, content: str) -> None:
    """Writes `content` in place of `path` in one go; raises `BadInput` where that is not possible."""
    write_bytes(path, content.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` in place of `path` in one go; raises `BadInput` where that is not possible."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def open_whole(path: Path) -> BinaryIO:
    """A file to read to its end. Raises `OSError` for a pipe, a device or a folder: such a read may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    return path.open("rb")


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises `OSError` as `open_whole`."""
    with open_whole(path) as file:
        return file.read()


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is no file. Raises `BadInput` for one that cannot be read."""
    try:
        content = json.loads(read_bytes(path).decode("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"cannot read {path}: {error}; remove it and run again") from error
    return content
