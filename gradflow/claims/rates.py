"""The learning rate that a net is judged at: its own best one of a grid, chosen on held-out images by other seeds.

The seeds that were run at several rates choose, and nothing else: they are not judged. A seed at a rate that it helped
to choose is judged too well; and where each is judged at the rate that the others choose, they are no longer
independent: in a simulation, tests/claims/test_rates.py, that decides twice as often as it may.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pandas as pd

from gradflow.claims import columns
from gradflow.claims.endings import final_error
from gradflow.claims.statistics import TWINS, with_values
from gradflow.errors import BadInput
from gradflow.kinds import checked
from gradflow.runs.settings import Run
from gradflow.settings import ranges

# pandas types every column as a union that no type checker can follow: inside this file tables are not checked.
Frame = Any
Series = Any
Rated = Annotated[Any, columns.needs(*columns.READING, "status", "learning_rate")]


@checked
def choosing_settings(settings: Mapping[str, Any], validation: int = 200) -> dict[str, Any]:
    """The settings of the runs that choose a rate for each net: one seed of them, at every one of `learning_rate`.

    It chooses on held-out images: `validation` of them, where `settings` do not say how many. Where `learning_rate` is
    a single one, or none is given, there is nothing to choose, and the settings are what they were. `settings` are
    those of `grid` or `variants`, with a tuple of rates; the runs that are judged are those of `runs_at_best_rates`.
    """
    rates = settings.get("learning_rate")
    if not isinstance(rates, Sequence) or len(rates) == 1:
        return dict(settings)
    return {"validation": validation, **settings, "seeds": 1}


@checked
def best_rates(table: Rated, by: Sequence[str] = TWINS, score: Series | None = None) -> Series:
    """The learning rate of a grid with the lowest `score`, averaged over the seeds that choose.

    By default the score is the error on held-out images, `final_error(table, "test_error")`; another one has a number
    for each run, indexed by the settings `by`, the learning rate and the seed. Of equal rates the lowest. Indexed by
    the settings `by`. A net that was run at a single rate has that one. Raises `BadInput` where a rate is to be chosen
    and no images were held out: on the test set nothing may be chosen.
    """
    return _scores(table, by, score).idxmin(axis=1).rename("learning_rate")


def _scores(table: Frame, by: Sequence[str], score: Series | None) -> Frame:
    """What the rates are chosen by: a row a net, a column a rate, nan where a net was not run at it."""
    columns.one_or_more(by)
    keys = [*by, "learning_rate"]
    error = final_error(table, "test_error", keys) if score is None else score
    chooses = _chooses(with_values(table, by), by)
    held_out = table["validation"] if "validation" in table else pd.Series(0, table.index)
    if chooses and not (held_out[table["seed"].isin(chooses)] > 0).all():
        raise BadInput("rates are chosen on held-out training images: let the runs have validation images, 1 or more")
    # Where nobody chooses there is one rate a net, which needs no error to be the best.
    choosing = error[error.index.get_level_values("seed").isin(chooses)] if chooses else error.fillna(1)
    means = choosing.groupby(keys).mean().unstack("learning_rate").sort_index(axis=1).dropna(how="all")
    if means.empty:
        raise BadInput("no run of this table has a test_error: there is nothing to choose a rate by")
    return means


@checked
def rates_in_words(table: Rated, by: Sequence[str] = TWINS, score: Series | None = None) -> Series:
    """The rates of `best_rates` as text, which says where one is an end of its grid: a better one may lie beyond; and
    where all rates are alike, as for a net that stays at chance at each.
    """
    scores = _scores(table, by, score)
    best = scores.idxmin(axis=1).rename("learning_rate")
    tried = with_values(table, by).groupby(list(by))["learning_rate"].agg(["min", "max"]).reindex(best.index)
    words = best.map("{:g}".format)
    several = tried["min"] < tried["max"]
    alike = several & (scores.max(axis=1) == scores.min(axis=1))
    words = words.where(~alike, words + " (all tried are alike)")
    words = words.where(~several | alike | (best > tried["min"]), words + " (the lowest tried)")
    return words.where(~several | alike | (best < tried["max"]), words + " (the highest tried)")


@checked
def at_best_rates(table: Rated, by: Sequence[str] = TWINS, score: Series | None = None) -> Frame:
    """The rows of the runs that are judged: those at the rate of `best_rates`, of the seeds that did not choose it."""
    best, known = best_rates(table, by, score), with_values(table, by)
    index = pd.MultiIndex.from_frame(known[list(by)]) if len(by) > 1 else pd.Index(known[by[0]])
    judged = known["learning_rate"].to_numpy() == best.reindex(index).to_numpy()
    return table[judged & ~table["seed"].isin(_chooses(known, by)).to_numpy()]


@checked
def runs_at_best_rates(
    choosing: Sequence[Run],
    table: Rated,
    by: Sequence[str] = TWINS,
    score: Series | None = None,
    *,
    seeds: int,
    **changes: Any,
) -> list[Run]:
    """The runs that are judged: those of `choosing` at the rate of `best_rates`, from the next `seeds` seeds.

    `changes` are settings in which they differ from those that choose. None where nothing was to be chosen.
    """
    seeds = ranges.whole("seeds", seeds)
    if len({run.learning_rate for run in choosing}) <= 1:
        return []
    best, first = best_rates(table, by, score), 1 + max(run.seed for run in choosing)
    found = []
    for run in choosing:
        values = ["" if (value := run.settings.get(name)) is None else value for name in by]
        own = tuple(values) if len(values) > 1 else values[0]
        if own not in best.index:
            raise BadInput(f"the table has no run of {run.name}: a rate is chosen by the runs that it has")
        if run.learning_rate == best[own]:
            found += [run.replace(seed=first + seed, **changes) for seed in range(seeds)]
    return list(dict.fromkeys(found))


def _chooses(table: Frame, by: Sequence[str]) -> set[int]:
    """The seeds of which a net was run at several rates."""
    several = table.groupby([*by, "seed"])["learning_rate"].nunique()
    return set(several[several > 1].index.get_level_values("seed"))
