"""What a table says: the rows, means, ranges and fates that a figure shows, as numbers and words, nothing drawn yet.

A table is the long one of `gradflow.load`. Runs that share net, depth and normalisation are seeds of one another.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradflow.errors import BadInput
from gradflow.measure import spine

# pandas types every `frame["x"]` as a union that no type checker can follow: inside this file tables are not checked.
Frame = Any
Series = Any
COLUMNS = ("run", "step", "layer", "position", "quantity", "value", "net", "depth", "seed")
IDENTITY, RESIDUAL, COSINE = PATHS = ("identity_gradient_norm", "residual_gradient_norm", "path_cosine")
TWINS = ("plain", "residual")
PERCENT = 100.0


def readings(table: Frame, *quantities: str) -> Frame:
    """Returns the readings of some quantities (all if none is named), in an order that is not that of the table."""
    if missing := [column for column in COLUMNS if column not in table]:
        raise BadInput(f"the table cannot be drawn: it lacks the column {', '.join(missing)}")
    rows = table[table["quantity"].isin(quantities)] if quantities else table
    if rows.empty:
        has = ", ".join(sorted(set(table["quantity"]))) or "no readings at all"
        raise BadInput(f"the table cannot be drawn: it lacks {' and '.join(quantities) or 'readings'}, and has {has}")
    rows = rows.assign(normalisation=rows["normalisation"].fillna("none") if "normalisation" in rows else "")
    if "status" not in rows:
        whole = np.isfinite(rows["value"]).groupby(rows["run"]).transform("all")
        rows["status"] = np.where(whole, "done", "diverged")
    return rows.sort_values(["depth", "seed", "run", "quantity", "step", "position", "layer"], kind="stable")


def path_readings(table: Frame) -> Frame:
    """Returns the readings of both paths, which must be there, and of their cosine, which need not."""
    cosines = [readings(table, COSINE)] if (table["quantity"] == COSINE).any() else []
    return pd.concat([readings(table, IDENTITY), readings(table, RESIDUAL), *cosines])


def only(rows: Frame, **fixed: Any) -> Frame:
    """Returns the rows in which every named column has the given value."""
    return rows[np.logical_and.reduce([rows[column] == value for column, value in fixed.items()])]


def finished(rows: Frame) -> Frame:
    """Returns the rows of the runs that came to their end: not of those that diverged, failed or are under way."""
    return rows[rows["status"] == "done"]


def units(rows: Frame) -> Frame:
    """Returns the readings at units, the points plain and residual nets share; of a net without, those of its spine."""
    found = rows[on_spine(rows)]
    return found if len(found) else rows


def on_spine(rows: Frame) -> Series:
    """Returns which rows are of points on the spine of their run's net."""
    of_run = {run: set(spine(layers)) for run, layers in rows.groupby("run")["layer"]}
    return pd.Series([layer in of_run[run] for run, layer in zip(rows["run"], rows["layer"], strict=True)], rows.index)


def nets(rows: Frame) -> list[str]:
    """Returns the nets, the twins first."""
    return sorted(rows["net"].unique(), key=lambda net: (net not in TWINS, net))


def kinds(rows: Frame) -> list[str]:
    """Returns the normalisations; none comes first, as it did in history."""
    return sorted(rows["normalisation"].dropna().unique(), key=lambda kind: (kind != "none", kind))


def kind_name(kind: str, kinds: Sequence[str] = ()) -> str:
    """Returns a normalisation in words; none if it is the only one there is, which goes without saying."""
    return "" if len(kinds) == 1 else "no normalisation" if kind == "none" else f"{kind} norm"


def depths(rows: Frame) -> list[int]:
    """Returns the depths, shallowest first."""
    return sorted(int(depth) for depth in rows["depth"].unique())


def steps(rows: Frame, wanted: Sequence[int] | None, count: int) -> list[int]:
    """Returns the wanted steps, or the first, an early (geometric middle) and the last all finished runs recorded."""
    done = finished(rows)
    recorded = [set(group) for _, group in (done if len(done) else rows).groupby("run")["step"]]
    common = sorted(set.intersection(*recorded) or set.union(*recorded))
    if wanted is not None:
        if unknown := sorted(set(wanted) - set(rows["step"])):
            raise BadInput(f"step {unknown[0]} was not recorded: choose among {', '.join(map(str, common))}")
        return list(wanted)
    early = min(common, key=lambda step: abs(2 * np.log(step) - np.log(common[0] * common[-1])))
    return sorted({common[0], common[-1]} | ({early} if count == 3 else set()))


def logs(values: Any) -> Any:
    """Returns log10 of the values; nan for what has no finite logarithm."""
    values = np.asarray(list(values) if not hasattr(values, "__len__") else values, dtype=float)
    return np.log10(values, where=(values > 0) & np.isfinite(values), out=np.full(values.shape, np.nan))


def _log_values(rows: Frame) -> Series:
    return pd.Series(logs(rows["value"]), rows.index)


def wide(rows: Frame, index: str, columns: str) -> Frame:
    """Returns the geometric mean of the values for each index (down) and column (across); nan where there is none."""
    return 10 ** _log_values(rows).groupby([rows[index], rows[columns]]).mean().unstack()


def averages(rows: Frame) -> Frame:
    """Returns rows whose value is the geometric mean over the seeds, diverged or not apart."""
    rows = rows.assign(value=_log_values(rows))
    same = ["net", "normalisation", "depth", "status", "step", "position"]
    means = rows.groupby(same, as_index=False)["value"].mean()
    return means.assign(value=10 ** means["value"])


def limits(rows: Frame, spare: float = 1) -> tuple[float, float]:
    """Returns the range to show: that of sane readings, at most `spare` decades more: a diverging run has no bounds."""
    heights = _log_values(rows)
    sane = heights[(rows["status"] != "diverged") | (rows["step"] == rows["step"].min())].dropna()
    if sane.empty:
        raise BadInput("the table cannot be drawn: no reading is positive and finite")
    low, high = max(heights.min(), sane.min() - spare), min(heights.max(), sane.max() + spare)
    room = 0.1 + 0.04 * (high - low)
    return 10 ** (low - room), 10 ** (high + room)


def times(ratio: float) -> str:
    """Returns a factor in one digit, as a power of ten where it is far from one."""
    if not (ratio > 0 and np.isfinite(ratio)):
        return f"\N{MULTIPLICATION SIGN}{ratio:g}"
    if 0.001 <= ratio < 10_000:
        return f"\N{MULTIPLICATION SIGN}{float(f'{ratio:.1g}'):g}"
    power = str(round(np.log10(ratio))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"\N{MULTIPLICATION SIGN}10{power}"


def fate(group: Frame, curves: Frame | None = None) -> str:
    """Says which runs diverged, did not end or (given their curves) read zero; a run with a whole curve is fine."""
    runs = group.groupby("run")["status"].first()
    whole = [] if curves is None else list(curves.dropna(axis=1).columns)
    lost = runs.drop(whole).replace(["running", "queued", "failed"], "unfinished")
    lost = lost[(lost != "done") | lost.index.isin([] if curves is None else curves.columns)].replace("done", "reads 0")
    counts = lost.value_counts().sort_index()
    return ", ".join(name if n == len(runs) else f"{n} of {len(runs)} {name}" for name, n in counts.items())


def final(rows: Frame) -> Series:
    """Returns the mean of the last tenth of the steps in percent, for each finished run, indexed by depth and run."""
    done = finished(rows)
    late = done[done["step"] > 0.9 * done.groupby("run")["step"].transform("max")]
    return PERCENT * late.groupby(["depth", "run"])["value"].mean()


def last(rows: Frame) -> Series:
    """Returns the last reading in percent for each finished run."""
    return PERCENT * finished(rows).groupby("run")["value"].last()


def spread(values: Series) -> str:
    """Returns mean and half range as text, no finer than the range allows; a dash if there are no values."""
    if values.empty:
        return "\N{EN DASH}"
    half = (values.max() - values.min()) / 2
    places = 0 if half >= 5 else 1
    return f"{values.mean():.{places}f}" + (f"\N{PLUS-MINUS SIGN}{half:.{places}f}" if len(values) > 1 else "")


def shares(rows: Frame) -> tuple[Series, Series]:
    """Returns the identity's share of the gradient norm, and the cosine, at each position: means over the runs."""
    finite = rows[np.isfinite(rows["value"])]
    norms = finite.groupby(["position", "run", "quantity"])["value"].mean().unstack().reindex(columns=list(PATHS))
    share = norms[IDENTITY] / (norms[IDENTITY] + norms[RESIDUAL])
    share, cosine = share.groupby("position").mean(), norms[COSINE].groupby("position").mean()
    return share, cosine.where(share.notna())


def error_curves(rows: Frame, window: int) -> tuple[Frame, Frame]:
    """Returns the percent at each step (down) of each finished and of each other run (across), at most 400 steps.

    Each is the mean of the last `window` steps, and nan where the run has none.
    """
    if rows.empty:
        return pd.DataFrame(), pd.DataFrame()
    values = PERCENT * rows.groupby(["step", "run"])["value"].mean().unstack().replace(np.inf, np.nan)
    smooth = values.rolling(window, min_periods=1).mean().where(values.notna())
    smooth = smooth.iloc[np.unique(np.linspace(0, len(smooth) - 1, 400).astype(int))]
    done = smooth.columns.isin(finished(rows)["run"])
    return smooth.loc[:, done], smooth.loc[:, ~done]


def conditions(table: Frame) -> list[str]:
    """Returns what the runs have in common, in words: data, steps, seeds, batch, width, normalisation, divergence."""

    def said(column: str, form: str) -> list[str]:
        values = sorted(table[column].dropna().unique()) if column in table else []
        return [form.format("/".join(Path(str(value)).name.removesuffix(".0") for value in values))] if values else []

    runs = readings(table).drop_duplicates("run")
    lost, seeds = int((runs["status"] == "diverged").sum()), runs["seed"].nunique()
    steps = said("steps", "{} steps") or [f"{table['step'].max()} steps"]
    parts = [*said("data", "{}"), *steps, f"{seeds} seed{'s' * (seeds != 1)}"]
    parts += [*said("batch", "batch {}"), *said("width", "width {}")]
    parts += [", ".join(kind_name(kind) for kind in kinds(runs))] if "normalisation" in table else []
    return parts + ([f"{lost} of {len(runs)} runs diverged"] if lost else [])
