"""The learning rate that a net is judged at: its own best one of a grid, chosen on held-out images."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from gradflow.claims.statistics import TWINS, final_error, with_values
from gradflow.errors import BadInput

# pandas types every column as a union that no type checker can follow: inside this file tables are not checked.
Frame = Any
Series = Any


def best_rates(table: Frame, by: Sequence[str] = TWINS) -> Series:
    """The learning rate that each run is judged at, indexed as `final_error`: the best one on held-out images.

    That is the rate of a grid with the lowest `test_error`, averaged over all *other* seeds, so that no run is judged
    at a rate that it helped to choose; of equals the lowest. Raises `BadInput` where no images were held out: on the
    test set nothing may be chosen.
    """
    if not (table["validation"] > 0).all():
        raise BadInput("rates are chosen on held-out training images: let the runs have validation images, 1 or more")
    error = final_error(table, "test_error", [*by, "learning_rate"])
    of_seed = error.unstack("learning_rate").sort_index(axis=1)
    together = of_seed.groupby(list(by))
    of_others = (together.transform("sum") - of_seed.fillna(0)) / (together.transform("count") - of_seed.notna())
    of_others = of_others.where(of_others.notna(), of_seed)  # a seed that is alone has none but its own
    return of_others.dropna(how="all").idxmin(axis=1).rename("learning_rate")


def at_best_rates(table: Frame, by: Sequence[str] = TWINS) -> Frame:
    """The rows of the runs at the rate of `best_rates`: one run for each combination of `by` and seed."""
    best, keys = best_rates(table, by), [*by, "seed"]
    known = with_values(table, by)
    return table[known["learning_rate"].to_numpy() == best.reindex(pd.MultiIndex.from_frame(known[keys])).to_numpy()]
