"""One call, one figure: how the gradient of one model goes from the loss to the input, on one batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gradflow.claims import regime
from gradflow.claims.statistics import spine
from gradflow.errors import BadInput
from gradflow.figures.plot import gradient_curves
from gradflow.kinds import checked
from gradflow.runs.log import DEFAULTS
from gradflow.watching.reading import WatchedReading
from gradflow.watching.step import read_once


@checked
def plot_gradient_flow(model: Any, batch: Any, loss: Callable[..., Any], params: Any = None, title: str = "") -> Figure:
    """Draws the gradient norm along the depth of a model, read once on one batch; nothing is updated.

    `model` is a `flax.nnx.Module`, a `flax.linen.Module` with its `params`, or `gf.watch(...)` of one;
    `loss(model, batch)`, of a Linen module `loss(params, batch)`, is the mean over the examples of the batch. The title
    says in words what this one reading shows. `figure.savefig("flow.png")` or `gf.plot.save` write it; a notebook shows
    it.

    Raises `BadInput` for a model that cannot be watched, or whose gradient is zero or not finite everywhere.
    """
    table = table_of(read_once(model, batch, loss, params), name=type(getattr(model, "model", model)).__name__)
    return gradient_curves(
        table, title or in_words(table), "One batch, one set of weights: no interval can be given.\n"
    )


def table_of(reading: WatchedReading, name: str) -> pd.DataFrame:
    """The long table of one reading, as `gf.load` returns one of many."""
    return reading.to_frame().assign(run=name, step=1, status="done", **{**DEFAULTS, "net": name})


def in_words(table: pd.DataFrame) -> str:
    """What one reading can say: by how much the gradient changes from output to input, and over how many layers."""
    if spine(table, 1)["position"].nunique() < 2:
        return "All points are at one layer: there is no depth to follow the gradient along"
    decades = float(regime.gradient_decades(table).iloc[0])
    if not np.isfinite(decades):
        raise BadInput(
            "no gradient flows that could be drawn: fewer than two points have one that is positive and finite"
        )
    how = regime.of_one(decades)
    layers = round(float(np.max(table["position"])))
    if how == "level":
        return f"Level: over {layers} layers the gradient changes by ×{10 ** abs(decades):.2g} on its way to the input"
    word, verb = ("Vanishing", "falls") if how == "vanishing" else ("Exploding", "grows")
    return f"{word}: over {layers} layers the gradient {verb} by {abs(decades):.1f} decades on its way to the input"
