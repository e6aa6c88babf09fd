"""What numbers are legal: the range of each that a user can give, by its name. Within it what a number costs is known.

The upper ends are far above what anybody trains, and low enough that nothing hangs or asks for all memory at once.
"""

import math
import operator

from gradflow.errors import BadInput

INTEGER = 2**31 - 1  # what a step, a seed or a size is counted with
MOST_RUNS = 100_000  # of a sweep or an experiment
RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, INTEGER),
    "batch": (1, 2**24),
    "image_size": (1, 8192),
    "evaluations": (0, INTEGER),
    "validation": (0, INTEGER),
    "warmup": (0, INTEGER),
    "seed": (0, INTEGER),
    "learning_rate": (0, math.inf),
    "momentum": (0, math.inf),
    "weight_decay": (0, math.inf),
    "depth": (-INTEGER, 10_000),  # the least is each net's to say
    "width": (-INTEGER, 65_536),
    # What is no setting of a run
    "step": (1, INTEGER),
    "seeds": (1, 100_000),
    "runs": (1, MOST_RUNS),
    "image": (1, 8192),
    "channels": (1, 4096),
    "classes": (1, 10**6),
    "checkpoint_seconds": (0, 10**9),
}


def check(name: str, value: object) -> None:
    """Raises `BadInput` for a number out of its range; None, and what is no number, is left to others.

    A name without a range, of a user's own net, must be one that a 32-bit integer holds, or finite.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    least, most = RANGES.get(name, (-INTEGER, INTEGER) if isinstance(value, int) else (-math.inf, math.inf))
    if isinstance(value, float) and not math.isfinite(value):
        rest = f", {least:g} or more" if math.isfinite(least) else ""
        raise BadInput(f"{name} {value} is not legal: it must be a finite number{rest}")
    if not least <= value <= most:
        low = f"{least:g} or more" if isinstance(value, float) else f"at least {least:g}"
        end = low if value < least else f"at most {most:,.0f}"
        raise BadInput(f"{name} {_short(value)} is not legal: it must be {end}")


def whole(name: str, value: object) -> int:
    """The number as Python's own. Raises `BadInput` for what is no integer, or out of its range."""
    number = integer(name, value)
    check(name, number)
    return number


def integer(name: str, value: object) -> int:
    """The number as Python's own. Raises `BadInput` for what is no integer, such as True."""
    try:
        number = operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise BadInput(f"{name} {repr(value)[:60]} is not legal: it must be an integer")
    return number


def _short(value: float) -> str:
    return f"{value}" if abs(value) < 10**20 else "with more than 20 digits"
