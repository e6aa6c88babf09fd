"""Regimes of gradients whose course along the depth is made up: named right, and wrong at most as often as said."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

import gradflow as gf
from gradflow.claims.intervals import confidence_interval

DEPTH, UNITS, SEEDS = 56, 27, 5


def table(heights: Any) -> pd.DataFrame:
    """A long table of log10 gradient norms, `(net, seed, unit)`, at step 1; a head tells the depth."""
    nets, seeds, units = heights.shape
    values = np.concatenate([10**heights, np.ones((nets, seeds, 1))], axis=-1)
    net, seed, place = (axis.ravel() for axis in np.indices(values.shape))
    layers = np.array([*(f"block{unit:02d}" for unit in range(1, units + 1)), "head"], object)
    positions = np.array([*(2 * np.arange(units) + 1), DEPTH])
    rows = {"layer": layers[place], "position": positions[place], "value": values.ravel()}
    settings = {"depth": DEPTH, "normalisation": "none", "step": 1, "quantity": "activation_gradient_norm"}
    frame = pd.DataFrame({**rows, "net": net.astype(str), "seed": seed}).assign(**settings)
    return frame.assign(run=frame["net"] + "-" + frame["seed"].astype(str))


def line(decades: float, spread: float = 0.01) -> Any:
    """Five seeds whose gradient falls by about so many decades over the whole net, from output to input."""
    slopes = (decades + spread * np.array([-2, -1, 0, 1, 2])) / DEPTH
    return (slopes[:, None] * (2 * np.arange(UNITS) + 1))[None]


@pytest.mark.parametrize(
    ("decades", "name"),
    [(0, "level"), (0.9, "level"), (-0.9, "level"), (1.1, "vanishing"), (-1.1, "exploding"), (1.0, "undecided")],
)
def test_the_regime_is_where_the_interval_over_seeds_lies(decades, name):
    frame = table(line(decades))
    assert gf.gradient_decades(frame).to_list() == pytest.approx([decades + 0.01 * i for i in range(-2, 3)])
    assert gf.gradient_regime(frame).to_dict() == {("0", DEPTH, "none"): name}


def test_by_hand():
    # mean 1.2, s = 0.1, t(2) = 4.303: 1.2 -+ 0.248, and 1.3 -+ 0.248
    assert gf.regime_of([1.1, 1.2, 1.3]) == "undecided"
    assert gf.regime_of([1.2, 1.3, 1.4]) == "vanishing"
    assert gf.regime_of([-1.2, -1.3, -1.4]) == "exploding"
    assert gf.regime_of([0.1, -0.1, 0.0]) == "level"
    assert gf.regime_of([5.0]) == "undecided"
    assert gf.regime_of([5.0, 5.1, math.nan]) == "undecided"


def test_a_gradient_that_reads_zero_is_undecided():
    frame = table(line(5))
    assert set(gf.gradient_regime(frame.assign(value=0.0))) == {"undecided"}


def courses(kind: str, nets: int, seeds: int) -> Any:
    """Log10 norms along the depth of nets that have no slope: their points depend on one another, or not."""
    noise = np.random.default_rng(7).normal(size=(nets, seeds, UNITS))
    if kind == "white noise":
        return 0.2 * noise
    if kind == "random walk":
        return 0.1 * noise.cumsum(-1)
    course = np.zeros_like(noise)
    for unit in range(UNITS):
        course[..., unit] = 0.84 * (course[..., unit - 1] if unit else 0) + 0.15 * noise[..., unit]
    return course


@pytest.mark.parametrize("kind", ["white noise", "random walk", "AR(1)"])
def test_of_courses_without_a_slope_at_most_five_percent_are_called_vanishing_or_exploding(kind):
    found = gf.gradient_regime(table(courses(kind, 200, SEEDS)))
    wrong = found.isin(["vanishing", "exploding"]).mean()
    assert wrong <= 0.05


def test_from_the_scatter_of_points_about_one_fit_most_random_walks_would_vanish_or_explode():
    """Why the seed is the unit: the interval of a regression counts points that depend on one another."""
    x, wrong = 2 * np.arange(UNITS) + 1, []
    for course in courses("random walk", 200, 1)[:, 0]:
        (slope, _), covariance = np.polyfit(x, course, 1, cov=True)
        wrong.append(abs(slope) > 2.060 * math.sqrt(covariance[0, 0]))  # Student's t for 25 degrees of freedom
    assert np.mean(wrong) > 0.5


@pytest.mark.parametrize("kind", ["white noise", "random walk", "AR(1)"])
def test_the_interval_of_the_slope_holds_the_truth_in_95_percent(kind):
    """The claim behind every regime and every verdict on a slope: its nominal rate, whatever the course."""
    decades = gf.gradient_decades(table(courses(kind, 300, SEEDS)))
    held = [low <= 0 <= high for _, of in decades.groupby("net") for low, high in [confidence_interval(list(of))]]
    assert np.mean(held) == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / len(held)))


@pytest.mark.parametrize("border", [1.0, -1.0])
def test_on_the_border_of_a_decade_a_regime_is_named_at_most_in_five_percent(border):
    """There no name is right: `level` and the one beyond it, 2.5 % each."""
    slope = border / DEPTH * (2 * np.arange(UNITS) + 1)
    found = gf.gradient_regime(table(courses("random walk", 300, SEEDS) + slope))
    assert (found != "undecided").mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(found))
