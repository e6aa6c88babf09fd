"""The end of a sweep as a small table of plain text: a row for each group of runs that differ only by their seed."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from gradflow.claims.endings import fate, final_error
from gradflow.figures import rows
from gradflow.figures.text import format_spread, nothing_varies
from gradflow.plain_text import plain
from gradflow.runs import variation

# pandas types every `frame["x"]` as a union that no type checker can follow: inside this file tables are not checked.
Frame = Any
ERRORS = {"train_error": "training error (%)", "test_error": "test error (%)"}
STATES = ("done", "dead", "diverged", "failed", "running", "queued")


def summary(frame: pd.DataFrame) -> str:
    """`groups` as text, and in a line below that nothing varies, where it does not."""
    heading, *others = groups(frame)
    lines = _aligned([heading, *others], flush_left=[*range(len(heading) - 4), len(heading) - 1])
    return "\n".join(lines if len(others) > 1 else [*lines, nothing_varies(rows.runs(frame))])


def groups(frame: pd.DataFrame) -> list[list[str]]:
    """The settings that vary (net and depth where none does), seeds, final errors and how the runs ended.

    The first row is the heading. `frame` is the long table of `gradflow.load`. An error is in percent: the mean over
    the seeds that ended, a diverged one with the error of chance, and half the distance from the lowest to the highest;
    a dash where no seed has one. Raises `BadInput` for a table without readings.
    """
    found = rows.with_status(frame)
    runs = rows.runs(found).sort_values("run")
    runs = runs.assign(status=runs["run"].map(fate(found)))
    settings = [name for name in variation.varying(runs) if len(variation.chosen(runs, name)) > 1]
    shown = settings or [name for name in ("net", "depth") if name in runs and runs[name].notna().any()]
    places = runs[["run"]].assign(**{name: _ranks(runs, name) for name in shown})
    table = [[*(name.replace("_", " ") for name in shown), "seeds", *ERRORS.values(), "status"]]
    errors = {quantity: 100 * final_error(found, quantity, by=["run"]).dropna() for quantity in ERRORS}
    for group in [group for _, group in places.groupby(shown)] if shown else [places]:
        of_group = runs[runs["run"].isin(group["run"])]
        first = of_group.iloc[0]
        finals = [format_spread(one[one.index.isin(group["run"], level="run")]) for one in errors.values()]
        words = [variation.text(first[name]) for name in shown]
        table.append([*words, str(of_group["seed"].nunique()), *finals, _states(of_group["status"])])
    return table


def _ranks(runs: Frame, name: str) -> list[int]:
    ordered = variation.values(runs, name)
    return [ordered.index(variation.clean(value)) for value in runs[name]]


def _states(status: Any) -> str:
    """`3 done`, or `2 done, 1 diverged`."""
    counts = status.value_counts()
    return ", ".join(f"{counts[state]} {state}" for state in sorted(counts.index, key=_order))


def _order(state: str) -> tuple[int, str]:
    return (STATES.index(state) if state in STATES else len(STATES), state)


def _aligned(table: Sequence[Sequence[str]], flush_left: Sequence[int]) -> list[str]:
    table = [[*map(plain, cells)] for cells in table]  # a newline in a name is no row
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    sides = ["<" if place in flush_left else ">" for place in range(len(widths))]
    return ["  ".join(map("{:{}{}}".format, cells, sides, widths)).rstrip() for cells in table]
