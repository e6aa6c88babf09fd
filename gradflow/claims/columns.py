"""What of a table, or of numbers by seed, statistics and figures need: said in one line before anything is computed."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from gradflow.errors import BadInput, WrongKind

# pandas types every column as a union that no type checker can follow: inside this file tables are not checked.
Frame = Any
Series = Any
READING = ("run", "seed", "step", "quantity", "value")  # of whatever goes by runs and their readings
_NUMBERS = ("step", "position", "value", "seed", "classes")


def needs(*columns: str) -> Callable[[Any], None]:
    """What raises `BadInput` for anything but a table that has these columns: an annotation, see `kinds.checked`."""

    def check(table: Any) -> None:
        if wrong := lacks(table, columns):
            raise WrongKind(f"statistics are of the long table of gf.load: this {wrong}")

    return check


def lacks(table: Any, columns: Sequence[str]) -> str:
    """What is wrong with a table that needs these columns, in words; empty where nothing is."""
    if not isinstance(table, pd.DataFrame):
        return f"is a {type(table).__name__}"
    if missing := [name for name in columns if name not in table]:
        return f"lacks the column {', '.join(missing)}"
    if not table.columns.is_unique:
        return "has two columns of one name"
    known: Frame = table
    for name in _NUMBERS:
        if name in table and len(table) and not pd.api.types.is_numeric_dtype(known[name].dtype):
            return f"has no numbers in its column {name}"
    return ""


def settings(table: Frame, by: Sequence[str]) -> None:
    """Raises `BadInput` where `by` names what is no setting in this table, or one twice."""
    unknown = [name for name in by if name not in table or name == "seed"]
    if unknown or len(set(by)) < len(by):
        wrong = f"{unknown[0]!r} is none" if unknown else "each once"
        raise BadInput(f"by {tuple(by)} is not legal: it names settings, columns of the table beside the seed; {wrong}")


def one_or_more(by: Sequence[str]) -> None:
    """Raises `BadInput` for no setting, where there is to be a number for each."""
    if not len(by):
        raise BadInput("by () is not legal here: it names one setting or more, columns of the table")


def by_seed(series: Any) -> None:
    """Raises `BadInput` for anything but numbers that are indexed by settings and the seed."""
    of_seeds = isinstance(series, pd.Series) and "seed" in series.index.names
    numbers: Series = series
    if not of_seeds or (len(series) and not pd.api.types.is_numeric_dtype(numbers.dtype)):
        raise WrongKind("legal is a number a run, indexed by settings and seed, as gf.final_error returns them")
