"""Whether a net's gradient vanishes, explodes or stays level on its way to the input, by an interval over seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradflow.claims import columns
from gradflow.claims.intervals import confidence_interval
from gradflow.claims.statistics import TWINS, Layers, gradient_slope, with_values
from gradflow.kinds import checked

# pandas types every column as a union that no type checker can follow: inside this file tables are not checked.
Series = Any
LEVEL = 1.0  # decades from output to input: a gradient that changes by less is level


@checked
def gradient_decades(table: Layers, step: int = 1, by: Sequence[str] = TWINS) -> Series:
    """By how many decades the gradient falls over the whole net, indexed as `final_error`: its fitted slope times the
    depth, the layers between input and logits.

    Positive: it vanishes on its way to the input; negative: it explodes. Raises `BadInput` for a step that was not
    recorded.
    """
    rows = with_values(table[table["quantity"] == "activation_gradient_norm"], by)
    slope = gradient_slope(table, step, by)
    return slope * rows.groupby([*by, "seed"])["position"].max().reindex(slope.index)


@checked
def gradient_regime(table: Layers, step: int = 1, by: Sequence[str] = TWINS) -> Series:
    """`vanishing`, `exploding`, `level` or `undecided` for each combination of the settings `by`: see `regime_of`.

    Raises `BadInput` for a step that was not recorded.
    """
    columns.one_or_more(by)
    return gradient_decades(table, step, by).groupby(list(by)).apply(lambda decades: regime_of(list(decades)))


@checked
def regime_of(decades: Sequence[float]) -> str:
    """What the `gradient_decades` of several seeds say together, with an error rate of at most 5 %.

    `vanishing` or `exploding` where their 95 % interval lies beyond one decade on either side, `level` where it lies
    within one, `undecided` otherwise, and where a seed has no number. The seed is the unit: readings along the depth of
    one net depend on one another.
    """
    if not np.isfinite(decades).all():
        return "undecided"
    low, high = confidence_interval(decades)
    if low > LEVEL:
        return "vanishing"
    if high < -LEVEL:
        return "exploding"
    return "level" if low > -LEVEL and high < LEVEL else "undecided"


def of_one(decades: float) -> str:
    """What the `gradient_decades` of one seed say, without an interval: `vanishing`, `exploding` or `level`."""
    return "vanishing" if decades > LEVEL else "exploding" if decades < -LEVEL else "level"
