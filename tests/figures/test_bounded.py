"""A figure of more runs than it can show: it is bounded, says what is left out, and how the rest is drawn."""

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

import gradflow as gf
from gradflow.figures import layout
from gradflow.figures.facets import MOST_LINES, facets

DRAW = (gf.plot.gradient_curves, gf.plot.film, gf.plot.paths, gf.plot.errors, gf.plot.depth_errors)
QUANTITIES = ("activation_gradient_norm", "identity_gradient_norm", "residual_gradient_norm")
COUNT = 3000


def sweep(**settings: Any) -> pd.DataFrame:
    """The long table of as many runs, which differ by these settings, each with readings for every figure."""
    runs = pd.DataFrame({"run": [f"r{i:04d}" for i in range(COUNT)], "net": "plain", "seed": 0, "status": "done"})
    runs = runs.assign(**settings)
    of_layers = [
        {"step": step, "layer": f"block{at:02d}", "position": at, "quantity": quantity, "value": float(at)}
        for step in (1, 2)
        for at in (1, 2)
        for quantity in QUANTITIES
    ]
    of_net = [
        {"step": step, "layer": "", "position": -1, "quantity": quantity, "value": 0.5}
        for step in (1, 2)
        for quantity in ("train_error", "test_error")
    ]
    return runs.merge(pd.DataFrame(of_layers + of_net), how="cross")


EVERY = np.arange(COUNT)
SWEEPS = {
    "nets": {"net": [f"net{i}" for i in EVERY]},
    "lines": {"learning_rate": EVERY / COUNT},
    "rows": {"depth": 8 + EVERY % 3, "data": [f"data{i // 3}" for i in EVERY]},
    "all": {"net": [f"net{i % 50}" for i in EVERY], "depth": EVERY % 70, "data": [f"data{i}" for i in EVERY]},
}


@pytest.mark.parametrize("side", ["column", "line"])
@pytest.mark.parametrize("of", SWEEPS)
def test_the_places_of_a_large_sweep_are_few_and_none_is_empty(of, side):
    table = sweep(**SWEEPS[of])
    begun = time.process_time()
    found = facets(table[table["quantity"] == "train_error"], side=side, deep=2)
    assert time.process_time() - begun < 10
    across, others = (found.nets, 1) if side == "column" else (found.values, len(found.nets))
    assert len(across) <= layout.MOST_COLUMNS
    assert 2 * len(across) * others * len(found.rows) <= layout.MOST_PANELS
    assert len(found.values) <= MOST_LINES
    drawn = found.frame["run"].nunique()
    assert 0 < drawn < COUNT
    assert found.left_out.startswith(f"Drawn are {drawn:,} of 3,000 runs, the first in the order of their settings: ")
    assert "\n" not in found.left_out
    assert {*found.frame["column"]} == {*range(len(found.nets))}
    assert {*found.frame["row"]} == {*range(len(found.rows))}


@pytest.mark.parametrize("draw", DRAW, ids=lambda draw: draw.__name__)
def test_a_figure_of_thousands_of_nets_is_drawn_and_says_of_how_many(draw, monkeypatch):
    monkeypatch.setattr(layout, "MOST_PANELS", 8)
    monkeypatch.setattr(layout, "MOST_COLUMNS", 2)
    figure = draw(sweep(**SWEEPS["nets"]), note="the note")
    panels = {ax.get_subplotspec() for ax in figure.axes if ax.get_subplotspec() and ax.get_visible()}
    assert 0 < len(panels) <= 8
    said = " ".join(" ".join(text.get_text() for text in figure.texts).split())
    assert "of 3,000 runs, the first in the order of their settings: for others draw a part of the table" in said
    assert "the note" in said


def of_one_run() -> pd.DataFrame:
    """As many steps of one run, of two layers each."""
    row = {"run": "a", "net": "plain", "seed": 0, "status": "done", "quantity": QUANTITIES[0], "value": 1.0}
    layers = pd.DataFrame({"layer": ["block01", "block02"], "position": [1, 2]})
    return pd.DataFrame({"step": EVERY}).merge(layers, how="cross").assign(**row)


def test_where_all_runs_are_drawn_nothing_is_said():
    table = sweep(**SWEEPS["rows"])
    assert facets(table[table["run"] < "r0005"]).left_out == ""


@pytest.mark.parametrize(
    "draw",
    [
        lambda: gf.charts.dots({f"{i}": {"a": [1.0]} for i in range(COUNT)}),
        lambda: gf.charts.lines({f"{i}": {"a": {1: [1.0]}} for i in range(COUNT)}, "x", "y"),
        lambda: gf.charts.heat({f"{i}": {"a": {"b": 1.0}} for i in range(COUNT)}, 3),
        lambda: gf.plot.gradient_curves(of_one_run(), steps=range(COUNT)),
    ],
)
def test_a_figure_that_is_asked_for_with_thousands_of_panels_is_refused(draw):
    with pytest.raises(gf.BadInput, match=r"a figure cannot have .* panels: legal are one or more"):
        draw()
