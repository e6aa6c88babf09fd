"""How much memory something may take: its size is compared with a bound before anything is allocated."""

import contextlib
import os
from collections.abc import Callable

from gradflow.errors import BadInput

VARIABLE = "GRADFLOW_MAX_DATA_BYTES"
_DEFAULT = 4 * 2**30  # decoded ImageNet at 32x32 is 3.7 GiB


def machine(otherwise: int = 2**62) -> int:
    """The bytes of this machine's memory; `otherwise` where the system does not say."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no such number on this system
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return otherwise


def _of_data() -> int:
    """What one split may take once decoded: 4 GiB or half of this machine's memory."""
    return min(_DEFAULT, machine() // 2)


def limit(variable: str = VARIABLE, default: Callable[[], int] = _of_data) -> int:
    """The bytes that are allowed: what the environment says by `variable`, or the default."""
    given = os.environ.get(variable)
    if given is None:
        return default()
    if not (given.isascii() and given.isdecimal() and 0 < len(given) < 19):
        raise BadInput(f"{variable} {given[:40]!r} is not legal: it must be a number of bytes, such as {default()}")
    return int(given)


def check(size: int, where: str, variable: str = VARIABLE, default: Callable[[], int] = _of_data) -> int:
    """Returns `size`, in bytes; raises `BadInput` where that is more than the bound."""
    allowed = limit(variable, default)
    if size > allowed:
        raise BadInput(
            f"{where} would take {words(size)} of memory; legal are {words(allowed)}, or more where the environment "
            f"sets {variable}"
        )
    return size


def words(size: int) -> str:
    """A number of bytes as a person says it."""
    for unit, bytes_ in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if size >= bytes_:
            return f"{size / bytes_:.4g} {unit}"
    return f"{size} bytes"
