"""The files of a data set: which are seen, that each can be read to its end, and whether they changed."""

import os
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from gradflow.errors import BadInput

_CLUTTER = ("__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "lost+found", "$RECYCLE.BIN")
_STREAMS = ("/dev/std", "/dev/fd/", "/proc/")  # may look like a file here, and be another one in a worker


class Files(NamedTuple):
    """The files of one split, in order, and the folder that they were found in."""

    paths: tuple[Path, ...]
    place: Path


Stamp = tuple[tuple[str | int, ...], ...]


def visible(folder: Path) -> tuple[list[Path], list[Path]]:
    """The subfolders of a folder and everything else in it, in sorted order, without what systems leave behind.

    Left out are hidden ones, as `.ipynb_checkpoints`, `._0.png` and `.DS_Store` are, and a few known names.
    """
    folders, others = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name not in _CLUTTER:
                (folders if entry.is_dir() else others).append(folder / entry.name)
    return sorted(folders, key=_order), sorted(others, key=_order)


def name_of(path: Path) -> str:
    """The name of a file or a folder as it is in UTF-8, whatever the locale reads its bytes as."""
    return os.fsencode(path.name).decode("utf-8", "surrogateescape")


def _order(path: Path) -> tuple[str, str]:
    """By name, whose Unicode form depends on the system that the files come from."""
    name = name_of(path)
    return unicodedata.normalize("NFC", name), name


def stamp(paths: Iterable[Path]) -> Stamp:
    """What tells files from other ones of the same names, and from themselves before a change.

    Raises `BadInput` for what is not a regular file: reading a pipe, a device or a socket may never end.
    """
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[str | int, ...]:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or str(path.absolute()).startswith(_STREAMS):
        raise BadInput(f"{path} is a pipe, a device or a folder, or standard input; legal are files that can be reread")
    return (str(path), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def newest(stamps: Stamp) -> int:
    """When the last change was, in nanoseconds since 1970."""
    return max((int(time) for one in stamps for time in one[-2:]), default=0)
