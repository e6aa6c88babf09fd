"""Statistics by construction: tables whose slope, error and ratio are known, and numbers worked out by hand."""

import math
import statistics
from typing import Any

import numpy as np
import pandas as pd
import pytest

import gradflow as gf
from gradflow.claims.intervals import confidence_interval, t_quantile
from gradflow.claims.statistics import (
    end_ratio,
    finite_log10,
    geometric_mean,
    geometric_means,
    half_range,
    identity_share,
    spine,
)
from gradflow.claims.verdict import INCONCLUSIVE
from gradflow.errors import BadInput

# Two-sided 95 % points of Student's t as printed in statistical tables.
PRINTED = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 15: 2.131, 20: 2.086, 25: 2.060}
PRINTED |= {29: 2.045, 30: 2.042, 40: 2.021, 60: 2.000, 120: 1.980, 10_000: 1.960}


@pytest.mark.parametrize(("freedom", "t"), PRINTED.items())
def test_the_interval_is_students(freedom, t):
    values = [*np.random.default_rng(freedom).normal(3, 2, freedom), 7.5]
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    expected = statistics.mean(values) - half, statistics.mean(values) + half
    assert confidence_interval(values) == pytest.approx(expected, rel=3e-4, abs=3e-4 * half)
    low, high = confidence_interval(values)
    assert (high - low) / (2 * half) == pytest.approx(1, rel=3e-4)


def test_the_interval_by_hand():
    # mean 2, squares 1 + 0 + 1, s = 1, t(2) = 4.3027: 2 -+ 4.3027 / sqrt(3)
    assert confidence_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.48416, 2 + 2.48416), abs=1e-4)
    assert confidence_interval([5.0]) == (-math.inf, math.inf)
    assert confidence_interval([5.0, 5.0]) == (5.0, 5.0)


SLOPES = {("plain", 8): 0.5, ("plain", 20): 0.25, ("residual", 8): 0.0, ("residual", 20): -0.125}


def table(steps: int = 40, seeds: int = 2) -> pd.DataFrame:
    """A long table by construction: gradient norms exactly exponential in the position, errors known in every step."""
    rows = []
    for (net, depth), slope in SLOPES.items():
        for seed in range(seeds):
            run = {"run": f"{net}-{depth}-{seed}", "net": net, "depth": depth, "normalisation": "batch", "seed": seed}
            run |= {"steps": steps, "status": "done"}
            for step in (1, steps):
                for unit in range((depth - 2) // 2):
                    value = 10 ** (slope * (1 + 2 * unit) + seed - step)
                    place = {"step": step, "layer": f"block{unit + 1:02d}", "position": 1 + 2 * unit}
                    rows.append({**run, **place, "quantity": "activation_gradient_norm", "value": value})
                    junk = place | {"layer": place["layer"] + "/conv1", "position": 2 + 2 * unit}
                    rows.append({**run, **junk, "quantity": "activation_gradient_norm", "value": 1e30})
            for step in range(1, steps + 1):
                net_wide = {**run, "step": step, "layer": "", "position": -1}
                error = depth / 100 + seed / 1000 if step > steps - steps // 10 else 1
                rows.append({**net_wide, "quantity": "train_error", "value": error + (-1) ** step / 10_000})
                if step % 20 == 0:
                    rows.append({**net_wide, "quantity": "test_error", "value": step / 100 + depth / 1000})
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # the order of rows must not matter


def test_an_exponential_has_exactly_its_slope():
    for step in (1, 40):
        found = gf.gradient_slope(table(), step)
        assert found.index.names == ["net", "depth", "normalisation", "seed"]
        assert len(found) == 8
        for (net, depth), slope in SLOPES.items():
            for seed, value in gf.per_seed(found, net=net, depth=depth).items():
                assert value == pytest.approx(slope, abs=1e-12), (net, depth, seed)


def test_a_noisy_slope_is_that_of_the_normal_equations():
    frame, rng = table(), np.random.default_rng(0)
    frame["value"] *= np.exp(rng.normal(0, 1, len(frame)))
    found = gf.per_seed(gf.gradient_slope(frame), net="plain", depth=20)
    for seed, value in found.items():
        rows = spine(frame[(frame.net == "plain") & (frame.depth == 20) & (frame.seed == seed)], 1)
        x, y = rows.position.to_numpy(float), np.log10(rows.value.to_numpy(float))
        assert value == pytest.approx(((x - x.mean()) @ (y - y.mean())) / ((x - x.mean()) ** 2).sum())


def test_zeros_and_what_is_not_finite_are_not_fitted():
    frame = table()
    spoilt = (
        (frame.quantity == "activation_gradient_norm") & (frame.depth == 20) & frame.layer.isin(["block02", "block05"])
    )
    frame.loc[spoilt & (frame.layer == "block02"), "value"] = 0.0
    frame.loc[spoilt & (frame.layer == "block05"), "value"] = math.inf
    assert list(gf.per_seed(gf.gradient_slope(frame), net="plain", depth=20).values()) == pytest.approx([0.25, 0.25])
    frame.loc[(frame.depth == 8) & (frame.position >= 3), "value"] = math.nan  # one point has no slope
    assert all(map(math.isnan, gf.per_seed(gf.gradient_slope(frame), net="plain", depth=8).values()))


def test_factors_are_those_between_the_first_and_the_last_unit():
    found = gf.gradient_ratio(table(), step=1)
    for (net, depth), slope in SLOPES.items():
        between = 2 * ((depth - 2) // 2 - 1)  # units are two layers apart
        assert found[net, depth, "batch"] == pytest.approx(10 ** (-slope * between))


def test_a_step_that_was_not_recorded_is_one_line():
    with pytest.raises(BadInput, match="no activation_gradient_norm at step 2: legal are the steps that were recorded"):
        gf.gradient_slope(table(), step=2)


def test_the_final_error_is_the_mean_of_the_last_tenth():
    found = gf.final_error(table())
    for depth in (8, 20):
        for seed in range(2):
            # Steps 37 to 40: the alternating part cancels.
            assert found["plain", depth, "batch", seed] == pytest.approx(depth / 100 + seed / 1000)
    tests = gf.final_error(table(), "test_error")
    assert tests["residual", 20, "batch", 1] == pytest.approx(0.40 + 0.020)  # the last one only


def test_a_diverged_run_has_the_error_of_chance():
    frame = table().assign(classes=4)
    frame.loc[frame.run == "plain-20-1", "status"] = "diverged"
    for quantity in ("train_error", "test_error"):
        assert gf.final_error(frame, quantity)["plain", 20, "batch", 1] == 0.75
    assert gf.final_error(frame)["plain", 20, "batch", 0] == pytest.approx(0.2)
    assert set(gf.chance(frame)) == {0.75}


def losses(frame: Any, of: dict[str, Any]) -> Any:
    """The table with the losses of some runs, one a step: that of ten classes, times a number or several."""
    rows = frame[frame.quantity == "train_error"].sort_values("step").assign(quantity="loss")
    for run, factors in of.items():
        rows.loc[rows.run == run, "value"] = math.log(10) * np.broadcast_to(factors, (rows.run == run).sum())
    return pd.concat([frame, rows[rows.run.isin(of)]]).assign(classes=10)


def test_the_final_loss_is_over_that_of_guessing():
    frame = losses(table(), {"plain-8-0": [9.0] * 36 + [0.5] * 4, "plain-8-1": 1.0, "plain-20-0": 7.0})
    frame.loc[frame.run == "plain-20-0", "status"] = "diverged"
    found = gf.final_loss(frame)
    assert gf.per_seed(found, net="plain", depth=8) == pytest.approx({0: 0.5, 1: 1.0})
    assert found["plain", 20, "batch", 0] == 1


def test_a_run_that_learnt_nothing_is_dead():
    """By its loss, of 60 steps, or by gradients that are all zero; a short run is not."""
    stuck, learns = np.linspace(0.96, 1.2, 60), np.r_[np.full(40, 5.0), np.full(6, 0.9), np.full(14, 1.0)]
    frame = losses(table(steps=60), {"plain-8-0": stuck, "residual-8-1": learns, "residual-8-0": stuck})
    zero = (frame.run == "plain-20-1") & (frame.quantity == "activation_gradient_norm") & (frame.step == 60)
    frame.loc[zero, "value"] = 0.0
    frame.loc[frame.run == "residual-8-0", "status"] = "diverged"
    fate = gf.fate(frame)
    assert fate[["plain-8-0", "plain-20-1", "residual-8-0", "residual-8-1"]].to_list() == [
        "dead",
        "dead",
        "diverged",
        "done",
    ]
    assert set(fate.drop(["plain-8-0", "plain-20-1", "residual-8-0"])) == {"done"}
    assert set(gf.fate(losses(table(steps=40), {"plain-8-0": 1.0}))) == {"done"}


@pytest.mark.parametrize("status", ["diverged", "failed", "running"])
def test_a_run_that_did_not_end_well_has_no_final_error(status):
    frame = table()
    frame.loc[frame.run == "plain-20-1", "status"] = status
    found = gf.final_error(frame)
    assert math.isnan(found["plain", 20, "batch", 1])
    assert found.notna().sum() == 7
    added = gf.difference(gf.per_seed(found, net="plain", depth=20), gf.per_seed(found, net="plain", depth=8))
    claim = gf.Claim("a claim", "a paper", "no number", "a number", side=">")
    finding = gf.judge(claim, added, 40)
    assert (finding.outcome, finding.missing, list(finding.per_seed)) == (
        INCONCLUSIVE,
        (1,),
        [0],
    )  # no classes: no chance


def test_differences_are_seed_by_seed():
    found = gf.final_error(table())
    added = gf.difference(gf.per_seed(found, net="plain", depth=20), gf.per_seed(found, net="plain", depth=8))
    assert added == pytest.approx({0: 0.12, 1: 0.12})
    lonely = gf.difference({0: 3.0, 1: 5.0}, {1: 2.0, 2: 9.0})
    assert lonely[1] == 3.0
    assert math.isnan(lonely[0])
    assert math.isnan(lonely[2])


def test_a_setting_must_pick_one_run_a_seed():
    found = gf.final_error(table())
    assert gf.per_seed(found, net="plain", depth=8) == pytest.approx({0: 0.08, 1: 0.081})
    assert gf.per_seed(found, net="plain", depth=10) == {}
    with pytest.raises(BadInput, match="several runs of the same seed: say which by net, depth, normalisation, seed"):
        gf.per_seed(found, net="plain")


def settings_table(columns: Any) -> Any:
    return pd.DataFrame(columns)


def test_runs_are_told_apart_by_any_setting_also_one_left_to_the_net():
    frame = settings_table(
        {
            "run": list("aabb"),
            "lrn": [True, True, None, None],
            "seed": 0,
            "steps": 2,
            "step": [1, 2, 1, 2],
            "quantity": "test_error",
            "layer": "",
            "value": [0.5, 0.2, 0.9, 0.4],
            "status": "done",
            "parameters": [7, 7, 8, 8],
        }
    )
    error = gf.final_error(frame, "test_error", by=("lrn",))
    assert gf.per_seed(error, lrn=True) == {0: 0.2}
    assert gf.per_seed(error, lrn="") == {0: 0.4}
    assert gf.per_seed(gf.run_column(frame, "parameters", by=("lrn",)), lrn="") == {0: 8.0}
    assert gf.per_seed(gf.reading_at(frame, "test_error", "", step=1, by=("lrn",)), lrn=True) == {0: 0.5}


def test_the_first_step_below_a_mark_is_that_of_the_running_mean():
    values = [0.9, 0.1, 0.8, 0.3, 0.1, 0.1]
    frame = settings_table(
        {"run": "a", "net": "n", "seed": 3, "step": range(1, 7), "quantity": "train_error", "value": values}
    )
    by = ("net",)
    assert gf.per_seed(gf.first_step(frame, "train_error", 0.25, 1, by), net="n") == {3: 2.0}
    assert gf.per_seed(gf.first_step(frame, "train_error", 0.25, 2, by), net="n") == {3: 5.0}
    assert np.isnan(gf.per_seed(gf.first_step(frame, "train_error", 0.05, 2, by), net="n")[3])


@pytest.mark.parametrize("freedom", [1, 2, 7, 40])
def test_the_t_quantile_leaves_two_and_a_half_percent_on_each_side(freedom):
    """By the density, integrated in small steps: 95 % of it lies within."""
    reach = t_quantile(freedom)
    x = np.linspace(-reach, reach, 200_001)
    constant = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    density = constant * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    assert np.sum((density[1:] + density[:-1]) / 2) * (x[1] - x[0]) == pytest.approx(0.95, abs=1e-7)


def test_a_logarithm_is_of_what_is_positive_and_finite():
    found = finite_log10([100, 1e-3, 0, -1, math.inf, math.nan])
    assert list(found[:2]) == [2, -3]
    assert np.isnan(found[2:]).all()
    assert list(finite_log10(iter([10.0]))) == [1]


def test_geometric_means_by_hand():
    assert geometric_mean([1, 100, 0, math.nan]) == pytest.approx(10)
    assert geometric_mean([2, 8, 4]) == pytest.approx(4)
    assert math.isnan(geometric_mean([0, math.inf]))
    rows = pd.DataFrame({"a": [1, 1, 2, 2], "b": list("xxxy"), "value": [2.0, 8.0, 0.0, 5.0]})
    found = geometric_means(rows, ["a", "b"])
    assert found.index.names == ["a", "b"]
    assert found[1, "x"] == pytest.approx(4)
    assert math.isnan(found[2, "x"])
    assert found[2, "y"] == pytest.approx(5)


def test_the_ratio_of_the_ends_is_the_geometric_mean_of_each_runs_ratio():
    # 1/4 and 9/1: the square root of 9/4; the third run has no end.
    first, last = [1.0, 9.0, 5.0], [4.0, 1.0, 0.0]
    assert end_ratio(first, last) == pytest.approx(1.5)
    assert math.isnan(end_ratio([0.0], [1.0]))


def test_half_the_range_by_hand():
    assert half_range(pd.Series([3.0, 8.0, 4.0])) == 2.5
    assert half_range(pd.Series([3.0])) == 0


def test_the_identitys_share_by_loops():
    random, rows, shares = np.random.default_rng(0), [], {}
    for position in (1, 3):
        for run in ("a", "b"):
            identity, branch = random.random(2)
            shares.setdefault(position, []).append(identity / (identity + branch))
            place = {"position": position, "run": run}
            rows.append(place | {"quantity": "identity_gradient_norm", "value": identity})
            rows.append(place | {"quantity": "residual_gradient_norm", "value": branch})
            rows.append(place | {"quantity": "path_cosine", "value": position / 10})
    share, cosine = identity_share(pd.DataFrame(rows))
    assert {at: float(value) for at, value in share.items()} == pytest.approx(
        {at: sum(x) / 2 for at, x in shares.items()}
    )
    assert list(cosine) == pytest.approx([0.1, 0.3])
