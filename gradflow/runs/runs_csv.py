"""The table of runs as CSV, a row a run, so that what is read again is what was written, or refused."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradflow.errors import BadInput, first_line
from gradflow.runs.readings import READINGS

NEEDED = ("run", "seed", "status")  # of every table of runs, beside what settings there are


def as_published(runs: pd.DataFrame) -> pd.DataFrame:
    """The table as it is when it is written and read again."""
    return _read(io.StringIO(as_text(runs)), text_like_numbers(runs))


def text_like_numbers(runs: pd.DataFrame) -> list[str]:
    """The columns of text that a reader of CSV would take for numbers, as it does a commit `12e4567`."""
    text = [name for name in runs if any(isinstance(value, str) for value in runs[name])]
    some: Any = runs[text]
    read = _read(io.StringIO(as_text(some))) if text else runs
    return [name for name in text if not pd.api.types.is_string_dtype(read[name].dtype)]


def as_text(runs: pd.DataFrame) -> str:
    """The table as text. Raises `BadInput` for what no CSV can hold."""
    if strange := [name for name in runs.columns if not isinstance(name, str)]:
        raise BadInput(f"a column of the table of runs is called {strange[0]!r}: legal is text")
    try:
        text = runs.to_csv(index=False, lineterminator="\n")
        text.encode()
    except ValueError as error:  # an integer of thousands of digits, half a character
        raise BadInput(f"the table of runs cannot be written: {first_line(error)}") from error
    return text


def _read(source: io.StringIO | io.BytesIO, text: Sequence[str] = ()) -> pd.DataFrame:
    """Reads raw and published runs alike: a setting that is None everywhere has the same type in both. The columns
    `text` hold only that, whatever it looks like.
    """
    return pd.read_csv(source, keep_default_na=False, na_values=[""], dtype=dict.fromkeys(text, str))


def checked(content: bytes, path: Path, text: Sequence[str] = ()) -> pd.DataFrame:
    """The table in the bytes that were read from this path. Raises `BadInput` for what is none."""
    try:
        runs = _read(io.BytesIO(content), text)
        if missing := [name for name in NEEDED if name not in runs]:
            raise ValueError(f"it has no column {missing[0]!r}")
        if bool(runs["run"].isna().any()) or bool(runs["run"].duplicated().any()):
            raise ValueError("a run without a name, or twice")
        for name in ("last_step", "classes"):  # which statistics compute with
            numbers: Any = pd.to_numeric(runs[name]) if name in runs else 0
            if np.any(np.isinf(numbers)):
                raise ValueError(f"{name} holds what is no number")
        if common := sorted({*runs} & {*READINGS.names}):
            raise ValueError(f"a column of the readings: {common[0]}")
    except (ValueError, OverflowError) as error:
        raise BadInput(f"cannot read {path}: {first_line(error)}; remove it and run again") from error
    return runs.astype({"run": str})
