"""Diagnoses as plain text: a line a setting with its likely cause, and below it the regime, the evidence, the cure."""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd

from gradflow.claims.diagnosis import HEALTHY, UNKNOWN
from gradflow.errors import BadInput, nearest
from gradflow.plain_text import plain
from gradflow.runs import variation

LEAST_WIDTH = 40  # characters; narrower ones would break every word


def of_run(frame: Any, run: str) -> Any:
    """The rows of the run of that name. Raises `BadInput`, with the nearest name, where there is none."""
    names = list(frame["run"].unique())
    if run not in names:
        near = nearest(run, names)
        guess = (
            f"did you mean {near}?" if near else f"it has {len(names)}, such as {names[0]}" if names else "it has none"
        )
        raise BadInput(f"there is no run {run!r}: {guess}")
    return frame[frame["run"] == run]


def text(found: pd.DataFrame, width: int = 80) -> str:
    """The rows of `gradflow.diagnose`, wrapped at `width` characters, an empty line between two."""
    settings: Any = found.iloc[:, : found.columns.get_loc("run")]
    keys = variation.keys(settings)
    return "\n\n".join(_paragraph(row, keys, max(width, LEAST_WIDTH)) for row in found.to_dict("records"))


def _paragraph(row: Mapping[str, Any], keys: list[str], width: int) -> str:
    seeds = f"{row['seeds']} seed{'s' * (row['seeds'] != 1)}"
    name = f"{variation.label(row, keys)}, {seeds}"
    cause = f"{row['cause']}; {row['also']}" if row["also"] else row["cause"]
    told = {"gradient": _gradient(row), "evidence": row["evidence"], "cure": row["cure"]}
    if row["cause"] in (HEALTHY, UNKNOWN):
        del told["cure"]
    likely = "" if row["cause"] in (HEALTHY, UNKNOWN) else "likely "
    lines = [textwrap.fill(plain(f"{name}: {likely}{cause}"), width, subsequent_indent="  ")]
    lines += [
        textwrap.fill(plain(words), width, initial_indent=f"  {part:10}", subsequent_indent=" " * 12)
        for part, words in told.items()
    ]
    return "\n".join(lines)


def _gradient(row: Mapping[str, Any]) -> str:
    start = f"{_regime(row, 'start')} at the start"
    if row["end_step"] == row["start_step"]:
        return start
    return f"{start}, {_regime(row, 'end')} at step {row['end_step']}, and that from step {row['since']} on"


def _regime(row: Mapping[str, Any], at: str) -> str:
    """`vanishing by 8.7 decades (8.5 to 8.9)`, in the direction that the word says."""
    regime, decades = row[f"{at}_regime"], row[f"{at}_decades"]
    if not math.isfinite(decades):
        return f"{regime} (no number)"
    sign = -1 if regime == "exploding" else 1
    low, high = sorted(sign * row[f"{at}_{end}"] for end in ("low", "high"))
    spread = f"{low:.2f} to {high:.2f}" if math.isfinite(low) else "one seed: no interval"
    if regime in ("vanishing", "exploding"):
        return f"{regime} by {sign * decades:.2f} decades ({spread})"
    return f"{regime}, a fall of {decades:.2f} decades ({spread}),"
