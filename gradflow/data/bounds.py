"""How much memory a data set may take: its sizes are compared with one bound before anything is allocated."""

import contextlib
import os

from gradflow.errors import BadInput

VARIABLE = "GRADFLOW_MAX_DATA_BYTES"
_DEFAULT = 4 * 2**30  # decoded ImageNet at 32x32 is 3.7 GiB


def limit() -> int:
    """The bytes that one split may take once decoded: 4 GiB or half of this machine's memory, or what VARIABLE says."""
    given = os.environ.get(VARIABLE)
    if given is None:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # no such number on this system
            return min(_DEFAULT, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
        return _DEFAULT
    if not (given.isascii() and given.isdecimal() and 0 < len(given) < 19):
        raise BadInput(f"{VARIABLE} {given[:40]!r} is not legal: it must be a number of bytes, such as {_DEFAULT}")
    return int(given)


def check(size: int, where: str) -> int:
    """Returns `size`, in bytes; raises `BadInput` where that is more than the bound."""
    if size > limit():
        raise BadInput(
            f"{where} would take {_words(size)} of memory; legal are {_words(limit())}, or more where the environment "
            f"sets {VARIABLE}"
        )
    return size


def _words(size: int) -> str:
    for unit, bytes_ in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= bytes_:
            return f"{size / bytes_:.4g} {unit}"
    return f"{size} bytes"
