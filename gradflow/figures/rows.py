"""Which rows of a table a figure shows, at which steps and within which limits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gradflow.claims import columns, statistics
from gradflow.claims.endings import final_error
from gradflow.errors import BadInput

# pandas types every `frame["x"]` as a union that no type checker can follow: inside this file tables are not checked.
Frame = Any
COLUMNS = ("run", "step", "layer", "position", "quantity", "value", "net", "seed")
PERCENT = 100.0
MOST_STEPS = 400  # of a drawn line: more than its panel has pixels


def readings(table: Frame, *quantities: str) -> Frame:
    """The readings of some quantities (all if none is named), in an order that is not that of the table.

    A table has a column a setting and may be large: rows are taken from it once. Raises `BadInput` where columns or
    readings are missing.
    """
    _check(table)
    at = np.flatnonzero(table["quantity"].isin(quantities or table["quantity"].unique()))
    if not len(at):
        has = ", ".join(sorted(table["quantity"].unique()))
        raise BadInput(f"the table cannot be drawn: it lacks {' and '.join(quantities)}, and has {has}")
    keys = table[["seed", "run", "quantity", "step", "position", "layer"]].take(at).reset_index(drop=True)
    return _with_status(table.take(at[keys.sort_values([*keys], kind="stable").index]))


def with_status(table: Frame) -> Frame:
    """All readings. Raises `BadInput` where columns are missing, or there is no reading."""
    _check(table)
    return _with_status(table)


def runs(table: Frame) -> Frame:
    """One reading of each run, for its settings, by seed and run. Raises `BadInput` as `with_status`."""
    return with_status(table).drop_duplicates("run").sort_values(["seed", "run"], kind="stable")


def _check(table: Frame) -> None:
    if wrong := columns.lacks(table, COLUMNS):
        raise BadInput(f"the table cannot be drawn: it {wrong}")
    if table.empty:
        raise BadInput("the table cannot be drawn: it lacks readings, and has no readings at all")


def _with_status(rows: Frame) -> Frame:
    """A table that does not say how a run ended says it by its readings: one that has not only numbers diverged."""
    if "status" in rows:
        return rows
    whole = np.isfinite(rows["value"]).groupby(rows["run"]).transform("all")
    return rows.assign(status=np.where(whole, "done", "diverged"))


def path_readings(table: Frame) -> Frame:
    """The readings of both paths, which must be there, and of their cosine, which need not."""
    _check(table)
    has = (table["quantity"] == statistics.COSINE).any()
    wanted = statistics.PATHS if has else statistics.PATHS[:2]
    return pd.concat([readings(table, quantity) for quantity in wanted])


def only(rows: Frame, **fixed: Any) -> Frame:
    """The rows in which every named column has the given value."""
    return rows[np.logical_and.reduce([rows[column] == value for column, value in fixed.items()])]


def finished(rows: Frame) -> Frame:
    """The rows of the runs that came to their end: not of those that diverged, failed or are under way."""
    return rows[rows["status"] == "done"]


def units(rows: Frame) -> Frame:
    """The readings at units, the points that plain and residual nets share; of a net without, those of its spine."""
    found = rows[statistics.on_spine(rows)]
    return found if len(found) else rows


def choose_steps(rows: Frame, wanted: Sequence[int] | None, count: int) -> list[int]:
    """The wanted steps, or the first, an early (geometric middle) and the last that all finished runs recorded.

    `count` is 3, or 2 without the early one. Raises `BadInput` for a step that nobody recorded.
    """
    done = finished(rows)
    recorded = [set(group) for _, group in (done if len(done) else rows).groupby("run")["step"]]
    common = sorted(set.intersection(*recorded) or set.union(*recorded))
    if wanted is not None:
        if not len(wanted):
            raise BadInput(f"steps () are not legal: choose among {', '.join(map(str, common))}")
        if unknown := sorted(set(wanted) - set(rows["step"])):
            raise BadInput(f"step {unknown[0]} was not recorded: choose among {', '.join(map(str, common))}")
        return list(wanted)
    logs = dict(zip(common, np.log(np.maximum(common, 1)), strict=True))  # what `gf.read` read is of step 0
    early = min(common, key=lambda step: abs(2 * logs[step] - logs[common[0]] - logs[common[-1]]))
    return sorted({common[0], common[-1]} | ({early} if count == 3 else set()))


def by_run(rows: Frame) -> Frame:
    """Positions down, runs across; nan where a reading has no logarithm."""
    return statistics.geometric_means(rows, ["position", "run"]).unstack()


def limits(rows: Frame, spare: float = 1) -> tuple[float, float]:
    """The range to show: that of sane readings, at most `spare` decades more, as a diverging run has no bounds.

    Raises `BadInput` where no reading has a logarithm.
    """
    heights: Any = pd.Series(statistics.finite_log10(rows["value"]), rows.index)
    sane = heights[(rows["status"] != "diverged") | (rows["step"] == rows["step"].min())].dropna()
    if sane.empty:
        raise BadInput("the table cannot be drawn: no reading is positive and finite")
    low, high = max(heights.min(), sane.min() - spare), min(heights.max(), sane.max() + spare)
    room = 0.1 + 0.04 * (high - low)
    return 10 ** (low - room), 10 ** (high + room)


def error_curves(rows: Frame, window: int) -> tuple[Frame, Frame]:
    """The percent at each step (down) of each finished and of each other run (across), at most `MOST_STEPS` steps.

    Each is the mean of the last `window` steps, and nan where the run has none.
    """
    if rows.empty:
        return pd.DataFrame(), pd.DataFrame()
    values = PERCENT * rows.groupby(["step", "run"])["value"].mean().unstack().replace(np.inf, np.nan)
    smooth = values.rolling(window, min_periods=1).mean().where(values.notna())
    smooth = smooth.iloc[np.unique(np.linspace(0, len(smooth) - 1, MOST_STEPS).astype(int))]
    done = smooth.columns.isin(finished(rows)["run"])
    return smooth.loc[:, done], smooth.loc[:, ~done]


def final_errors(rows: Frame, quantity: str, by: Sequence[str] = ("run",)) -> Any:
    """The final error in percent of each finished run, indexed by the columns `by` and the seed."""
    return PERCENT * final_error(finished(rows), quantity, by).dropna()
