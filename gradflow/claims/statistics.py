"""Numbers from tables: each statistic once, as figures, verdicts and reports alike use it.

A table is the long one of `gradflow.load`. What has one number a run is indexed by the settings `by` and the seed.
How a run ended is in `endings`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd

from gradflow.claims import columns
from gradflow.errors import BadInput
from gradflow.kinds import checked
from gradflow.measuring.measure import spine as spine_layers

# pandas types every column as a union that no type checker can follow: inside this file tables are not checked.
Frame = Any
Series = Any
# The same with the columns that a statistic needs.
Table = Annotated[Any, columns.needs()]
Rows = Annotated[Any, columns.needs(*columns.READING)]
Runs = Annotated[Any, columns.needs("run", "seed")]
Named = Annotated[Any, columns.needs(*columns.READING, "layer")]
Layers = Annotated[Any, columns.needs(*columns.READING, "layer", "position")]
BySeed = Annotated[Any, columns.by_seed]
TWINS = ("net", "depth", "normalisation")  # what tells the runs of a depth sweep apart
IDENTITY, RESIDUAL, COSINE = PATHS = ("identity_gradient_norm", "residual_gradient_norm", "path_cosine")


# Of plain numbers


def finite_log10(values: Any) -> Any:
    """The decimal logarithm of each value; nan for what has no finite one."""
    values = np.asarray(list(values) if not hasattr(values, "__len__") else values, dtype=float)
    return np.log10(values, where=(values > 0) & np.isfinite(values), out=np.full(values.shape, np.nan))


def geometric_mean(values: Any) -> float:
    """The geometric mean of the values that are positive and finite; nan if none is."""
    logs = finite_log10(values)
    logs = logs[~np.isnan(logs)]
    return float(10 ** logs.mean()) if len(logs) else math.nan


def half_range(values: Series) -> float:
    """Half the distance from the lowest to the highest value: the spread over seeds that figures and reports print."""
    return float(values.max() - values.min()) / 2


def end_ratio(first: Series, last: Series) -> float:
    """How many times the last norm the first is: the geometric mean over runs; nan where a norm is 0 or not finite."""
    return float(10 ** np.nanmean(ratios)) if np.isfinite(ratios := _log_ratio(first, last)).any() else math.nan


def _log_ratio(first: Series, last: Series) -> Any:
    return finite_log10(first) - finite_log10(last)


# Of runs: one number each


@checked
def reading_at(table: Named, quantity: str, layer: str, step: int = 1, by: Sequence[str] = TWINS) -> Series:
    """The reading of one layer at one step, indexed as `final_error`; of the whole net where `layer` is ""."""
    table = with_values(table, by)
    rows = table[(table["quantity"] == quantity) & (table["layer"] == layer) & (table["step"] == step)]
    return rows.groupby([*by, "seed"])["value"].mean().sort_index()


@checked
def run_column(table: Runs, column: str, by: Sequence[str] = TWINS) -> Series:
    """A column of the table of runs, such as `parameters` or `multiply_adds`, indexed as `final_error`."""
    runs = with_values(table, by).drop_duplicates("run")
    if column not in runs or not pd.api.types.is_numeric_dtype(runs[column].dtype):
        raise BadInput(f"the table has no column {column!r} of numbers")
    return runs.set_index([*by, "seed"])[column].astype(float).sort_index()


@checked
def gradient_slope(table: Layers, step: int = 1, by: Sequence[str] = TWINS) -> Series:
    """The fitted slope of log10 gradient norm against position, in decades a layer, indexed as `final_error`.

    Positive: the gradient shrinks from output to input. Zeros and what is not finite are not fitted. Raises
    `BadInput` for a step that was not recorded.
    """

    def fit(rows: Frame) -> float:
        height = finite_log10(rows["value"])
        good = ~np.isnan(height)
        along = rows["position"][good]
        return float(np.polyfit(along, height[good], 1)[0]) if along.nunique() > 1 else math.nan

    return with_values(spine(table, step), by).groupby([*by, "seed"])[["position", "value"]].apply(fit)


def with_values(table: Frame, by: Sequence[str]) -> Frame:
    """The table with "" where a setting is missing, so that its rows can be grouped by these settings.

    Raises `BadInput` where one of them is none.
    """
    columns.settings(table, by)
    return table.assign(**{name: table[name].astype(object).where(table[name].notna(), "") for name in by})


# Of settings: one number, or word, over all seeds


@checked
def gradient_ratio(table: Layers, step: int = 1, by: Sequence[str] = TWINS) -> Series:
    """By how much the gradient changes from output to input: its norm at the first unit over that at the last.

    The geometric mean over seeds, indexed by the settings `by`; nan where a norm is 0 or not finite. Raises `BadInput`
    for a step that was not recorded.
    """
    columns.one_or_more(by)
    ends = with_values(spine(table, step), by).groupby([*by, "seed"])["value"].agg(["first", "last"])
    return ends.groupby(list(by))[["first", "last"]].apply(lambda rows: end_ratio(rows["first"], rows["last"]))


# Seed by seed


@checked
def per_seed(series: BySeed, **levels: bool | float | str | None) -> dict[int, float]:
    """The numbers of one setting, by seed: `per_seed(slope, net="plain", depth=56, normalisation="none")`.

    Raises `BadInput` when the levels do not pick one number a seed, or one is no setting that the numbers have.
    """
    if unknown := [name for name in levels if name not in series.index.names]:
        raise BadInput(f"these numbers have no setting {unknown[0]!r}, but {', '.join(map(str, series.index.names))}")
    those = [series.index.get_level_values(name) == at for name, at in levels.items()]
    chosen = series[np.logical_and.reduce([np.ones(len(series), bool), *those])]
    seeds = chosen.index.get_level_values("seed")
    if seeds.has_duplicates:
        names = ", ".join(map(str, series.index.names))
        raise BadInput(f"{levels} picks several runs of the same seed: say which by {names}")
    return {int(seed): float(value) for seed, value in zip(seeds, chosen, strict=True)}


@checked
def difference(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    """`a - b`, seed by seed: twins and depths of one seed saw the same batches. A seed that only one has gives nan."""
    return {seed: a.get(seed, math.nan) - b.get(seed, math.nan) for seed in sorted({*a, *b})}


# Of layers


@checked
def spine(table: Layers, step: int, quantity: str = "activation_gradient_norm") -> Frame:
    """The readings on the spine of each run at one step, a row a reading, sorted by run and position.

    These are the units, or of a net without units the layers of its main path. Raises `BadInput` where there are none.
    """
    rows = table[(table["quantity"] == quantity) & (table["step"] == step)]
    rows = rows[on_spine(rows)]
    if rows.empty:
        raise BadInput(f"the table has no {quantity} at step {step}: legal are the steps that were recorded")
    return rows.sort_values(["run", "position"])


def on_spine(rows: Frame) -> Series:
    """Which rows are of points on the spine of their run's net."""
    names: Any
    run, (layer, names) = pd.factorize(rows["run"])[0], pd.factorize(rows["layer"])
    # Each layer of each run once, however many readings it has.
    place, pairs = pd.factorize(run * max(len(names), 1) + layer)
    runs, layers = pairs // max(len(names), 1), np.asarray(names)[pairs % max(len(names), 1)]
    of_run = {one: set(spine_layers(names)) for one, names in pd.Series(layers).groupby(runs)}
    on = np.array([name in of_run[one] for one, name in zip(runs, layers, strict=True)], bool)
    return pd.Series(on[place], rows.index)


def geometric_means(rows: Frame, by: Sequence[str]) -> Series:
    """The geometric mean of the values for each combination of the columns `by`; nan where no value has a logarithm."""
    logs: Any = pd.Series(finite_log10(rows["value"]), rows.index)
    return 10 ** logs.groupby([rows[name] for name in by]).mean()


def identity_share(rows: Frame) -> tuple[Series, Series]:
    """How the gradient came back, at each position: the identity's share of its norm, 0 to 1, and the paths' cosine.

    Share: |identity| / (|identity| + |residual|). Both are means over the runs; nan where the share is.
    """
    finite = rows[np.isfinite(rows["value"])]
    norms = finite.groupby(["position", "run", "quantity"])["value"].mean().unstack().reindex(columns=list(PATHS))
    share = norms[IDENTITY] / (norms[IDENTITY] + norms[RESIDUAL])
    share, cosine = share.groupby("position").mean(), norms[COSINE].groupby("position").mean()
    return share, cosine.where(share.notna())
