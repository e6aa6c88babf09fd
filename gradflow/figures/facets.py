"""Which run is drawn where: panels side by side by net, lines by one setting that varies, rows of panels by the others.

Nothing is known here of any setting but `net` and `depth`: what separates runs follows from their table.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gradflow.figures import layout, rows
from gradflow.plain_text import plain
from gradflow.runs import variation

# pandas types every `frame["x"]` as a union that no type checker can follow: inside this file tables are not checked.
Frame = Any
TWIN_NETS = ("plain", "residual")  # first, and in this order: the figures compare them
MOST_LINES = 60  # in a panel: of more no label stands beside its line


@dataclass(frozen=True)
class Facets:
    """The readings to draw, each with the place of its run, and every place in words."""

    frame: Frame  # columns run, seed, status and those of a reading; `column`, `line` and `row` count from 0
    nets: list[str]  # by column: what is coloured
    columns: list[str]  # the net, with its depth where no line says it
    line: str  # the setting that the lines differ by, in words; "" where there is none
    values: list[str]  # of that setting, by line
    phrases: list[str]  # the same in words that stand alone; "", as in `values`, for a net without that setting
    numbers: list[float] | None  # the same as numbers; None where a value is none
    rows: list[str]  # the settings that tell rows of panels apart; "" for the only row, which goes without saying
    depth: float  # of the deepest net, in layers; nan where no net has a depth
    left_out: str  # how many runs are drawn of how many, and how to draw others; "" where all are

    def at(self, **places: int) -> Frame:
        """The readings at a `column`, a `line` and a `row`, or at all of those that are not named."""
        return rows.only(self.frame, **places)

    def note(self, note: str) -> str:
        """The small line under the figure, and before it what is left out."""
        return f"{self.left_out}\n{note}" if self.left_out else note

    def panel(self, column: int, line: int) -> str:
        """A net and the value of a line in words: `plain 56`, or `plain 8, learning rate 0.001`."""
        if self.line == "depth":
            return f"{self.columns[column]} {self.values[line]}".strip()
        return ", ".join(part for part in (self.columns[column], self.phrases[line]) if part)

    def line_label(self, line: int, words: str, between: str = "") -> str:
        """What stands at a line: its value and what is words of it: `56 ×300`, `0.001: ×2`."""
        between = between or (" " if self.line == "depth" else ": ")
        return between.join(part for part in (self.values[line], words) if part)


def facets(readings: Frame, side: str = "column", deep: int = 1) -> Facets:
    """The places of all runs of a table of readings; of more than a figure can show the first in the order of settings.

    The lines are those of depth where it varies, else of the first setting that does, one with numbers if there is one.
    Panels that stand side by side are those of the nets (`side` is "column"), or of the lines ("line"); below one
    another are `deep` for each row.
    """
    every = readings.drop_duplicates("run")
    runs, (nets, line, lines, settings, places) = _bounded(every, side, deep)
    left_out = ""
    if len(runs) < len(every):
        readings = readings[readings["run"].isin(runs["run"])]
        left_out = (
            f"Drawn are {len(runs):,} of {len(every):,} runs, the first in the order of their settings: "
            "for others draw a part of the table, as table[table.net == 'plain']."
        )
    first = runs.iloc[np.unique(places["row"], return_index=True)[1]].to_dict("records") if settings else [{}]
    names = {key: variation.phrases(key, variation.values(runs, key)) for key in settings}
    words: dict[Any, str] = variation.phrases(line, lines) if line else {None: ""}
    kept = ["run", "step", "layer", "position", "quantity", "value", "seed", "status"]
    return Facets(
        frame=readings[kept].merge(places, on="run", how="left"),
        nets=[variation.text(net) for net in nets],
        columns=[_column(runs, net, line) for net in nets],
        line=plain(line).replace("_", " "),
        values=[_value(runs, line, value) for value in lines],
        phrases=[words[value] if _value(runs, line, value) else "" for value in lines],
        numbers=[float(value) for value in lines] if all(map(_is_number, lines)) else None,
        rows=[variation.label(row, settings, names) if settings else "" for row in first],
        depth=_deepest(runs),
        left_out=left_out,
    )


class _Places(NamedTuple):
    """Which runs are where: the values behind the numbers of `of`, which has a row a run."""

    nets: list[Any]
    line: str
    lines: list[Any]
    settings: list[str]
    of: Frame


def _places(runs: Frame) -> _Places:
    nets = sorted(variation.values(runs, "net"), key=lambda net: (net not in TWIN_NETS, str(net)))
    others = [key for key in variation.keys(runs) if key != "net"]
    line = _line(runs, others)
    settings = [key for key in others if key != line]
    lines: list[Any] = variation.values(runs, line) if line else [None]
    of = runs[["run"]].assign(
        column=_number(runs, "net", nets), line=_number(runs, line, lines) if line else 0, row=_rows(runs, settings)
    )
    return _Places(nets, line, lines, settings, of)


def _bounded(runs: Frame, side: str, deep: int) -> tuple[Frame, _Places]:
    """As many of the runs, and their places, as a figure can show: of too many columns, lines or rows the first."""
    while True:
        found = _places(runs)
        nets, lines = len(found.nets), len(found.lines)
        across, others = (nets, 1) if side == "column" else (lines, nets)
        below = max(1, layout.MOST_PANELS // (deep * min(across, layout.MOST_COLUMNS)))
        most = {"column": layout.MOST_COLUMNS, "line": MOST_LINES, "row": max(1, below // others)}
        if side == "line":
            most |= {"line": layout.MOST_COLUMNS, "column": below}
        over = [name for name, limit in most.items() if found.of[name].max() >= limit]
        if not over:
            return runs, found
        runs = runs[(found.of[over[0]] < most[over[0]]).to_numpy()]


def _deepest(runs: Frame) -> float:
    """The largest depth that is a number: a net of a user's own may have words there."""
    numbers: Any = pd.to_numeric(runs["depth"], errors="coerce") if "depth" in runs else pd.Series(dtype=float)
    return float(numbers[np.isfinite(numbers)].max())


def _line(runs: Frame, keys: list[str]) -> str:
    if "depth" in keys or not keys:
        return "depth" if "depth" in runs and runs["depth"].notna().any() else ""
    numeric = [key for key in keys if all(value is None or _is_number(value) for value in variation.values(runs, key))]
    return (numeric or keys)[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(runs: Frame, setting: str, ordered: list[Any]) -> list[int]:
    places = {value: place for place, value in enumerate(ordered)}
    return [places[variation.clean(value)] for value in runs[setting]]


def _rows(runs: Frame, settings: list[str]) -> Any:
    """The number of the combination of values of each run, in the order of the values."""
    if not settings:
        return 0
    ranks = np.array([_number(runs, key, variation.values(runs, key)) for key in settings]).T
    return np.unique(ranks, axis=0, return_inverse=True)[1].reshape(-1)


def _column(runs: Frame, net: Any, line: str) -> str:
    own = runs[[variation.clean(value) == net for value in runs["net"]]]
    depths = variation.values(own, "depth") if "depth" in runs and line != "depth" else []
    return variation.label({"net": net, "depth": depths[0] if len(depths) == 1 else None}, [])


def _value(runs: Frame, line: str, value: Any) -> str:
    """What stands at a line; nothing where the net has no such setting."""
    return variation.text(value) if line and value in variation.chosen(runs, line) else ""
