"""Verdicts by construction: tables whose slope, error and interval are known before they are judged."""

import math
import statistics
from typing import Any

import numpy as np
import pandas as pd
import pytest

import gradflow as gf
from gradflow.claims.statistics import confidence_interval, spine
from gradflow.claims.verdict import FAIL, INCONCLUSIVE, PASS, Finding
from gradflow.errors import BadInput

CLAIM = {"text": "a claim", "source": "a paper", "paper": "no number", "statistic": "a number"}
# Two-sided 95 % points of Student's t as printed in statistical tables.
PRINTED = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 15: 2.131, 20: 2.086, 25: 2.060}
PRINTED |= {29: 2.045, 30: 2.042, 40: 2.021, 60: 2.000, 120: 1.980, 10_000: 1.960}


def claim(side: str = ">", **more) -> gf.Claim:
    return gf.Claim(**CLAIM, side=side, **more)


@pytest.mark.parametrize(("freedom", "t"), PRINTED.items())
def test_the_interval_is_students(freedom, t):
    values = [*np.random.default_rng(freedom).normal(3, 2, freedom), 7.5]
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    expected = statistics.mean(values) - half, statistics.mean(values) + half
    assert confidence_interval(values) == pytest.approx(expected, rel=3e-3, abs=3e-3 * half)
    low, high = confidence_interval(values)
    assert (high - low) / (2 * half) == pytest.approx(1, rel=1.5e-3)


def test_the_interval_by_hand():
    # mean 2, squares 1 + 0 + 1, s = 1, t(2) = 4.3027: 2 -+ 4.3027 / sqrt(3)
    assert confidence_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.48416, 2 + 2.48416), abs=1e-4)
    assert confidence_interval([5.0]) == (-math.inf, math.inf)
    assert confidence_interval([5.0, 5.0]) == (5.0, 5.0)


OUTCOMES = [
    ({0: 1.0, 1: 1.1}, ">", PASS, None),  # 1.05 -+ 12.7 * 0.05 = 0.41 to 1.69
    ({0: 1.0, 1: 1.1}, "<", FAIL, None),
    ({0: -1.0, 1: -1.1}, ">", FAIL, None),
    ({0: -1.0, 1: -1.1}, "<", PASS, None),
    ({0: 1.0, 1: 2.0}, ">", INCONCLUSIVE, "more seeds"),  # 1.5 -+ 6.35
    ({0: 1.0, 1: 2.0}, "<", INCONCLUSIVE, "more seeds"),
    ({0: 0.0, 1: 0.0}, ">", INCONCLUSIVE, "more seeds"),  # exactly on the border
    ({0: 9.0}, ">", INCONCLUSIVE, "2 seeds"),
    ({0: 9.0, 1: math.nan}, ">", INCONCLUSIVE, "2 seeds"),
    ({0: math.nan, 1: math.inf}, ">", INCONCLUSIVE, "do not diverge"),
    ({}, ">", INCONCLUSIVE, "there are none"),
]


@pytest.mark.parametrize(("per_seed", "side", "outcome", "decides"), OUTCOMES)
def test_a_claim_is_judged_by_where_its_interval_lies(per_seed, side, outcome, decides):
    finding = gf.judge(claim(side), per_seed, steps=10)
    assert finding.outcome == outcome
    assert (decides is None) == (finding.would_decide is None)
    assert not decides or decides in str(finding.would_decide)
    good = {seed: value for seed, value in per_seed.items() if math.isfinite(value)}
    assert finding.per_seed == good
    assert set(finding.missing) == set(per_seed) - set(good)
    assert finding.mean == (pytest.approx(statistics.mean(good.values())) if good else None)
    assert f"entirely {side} 0" in finding.rule


def test_the_border_may_lie_elsewhere():
    values = {0: 1.0, 1: 1.1, 2: 0.9}
    assert gf.judge(claim(than=0.5), values, 1).outcome == PASS
    assert gf.judge(claim(than=1.0), values, 1).outcome == INCONCLUSIVE
    assert gf.judge(claim(than=1.5), values, 1).outcome == FAIL


def test_too_few_seeds_or_steps_decide_nothing_however_clear():
    clear = {seed: 1 + seed / 1000 for seed in range(4)}
    assert gf.judge(claim(seeds=4, steps=100), clear, 100).outcome == PASS
    few = gf.judge(claim(seeds=5, steps=100), clear, 100)
    assert (few.outcome, few.would_decide) == (INCONCLUSIVE, "5 seeds")
    short = gf.judge(claim(seeds=4, steps=100), clear, 99)
    assert short.outcome == INCONCLUSIVE
    assert "100 steps" in str(short.would_decide)
    assert gf.judge(claim("<", seeds=4, steps=100), clear, 99).outcome == INCONCLUSIVE  # nor against it


def test_a_claim_has_one_of_two_sides():
    with pytest.raises(BadInput, match="unknown side '>=': choose one of <, >"):
        claim(">=")


@pytest.mark.parametrize(
    ("outcomes", "whole"),
    [
        ([PASS, PASS], PASS),
        ([PASS, INCONCLUSIVE], INCONCLUSIVE),
        ([INCONCLUSIVE, FAIL, PASS], FAIL),
        ([], INCONCLUSIVE),
    ],
)
def test_an_experiment_passes_if_all_do_and_fails_if_one_does(outcomes, whole):
    findings = tuple(Finding(claim(), {}, None, None, outcome, "rule") for outcome in outcomes)
    verdict = gf.Verdict("title", findings, {"a fact": 1})
    assert verdict.outcome == whole
    content = verdict.to_json()
    assert content["outcome"] == whole
    assert [finding["outcome"] for finding in content["findings"]] == outcomes
    assert content["facts"] == {"a fact": 1}


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


@pytest.mark.parametrize("status", ["diverged", "failed", "running"])
def test_a_run_that_did_not_end_well_has_no_final_error(status):
    frame = table()
    frame.loc[frame.run == "plain-20-1", "status"] = status
    found = gf.final_error(frame)
    assert math.isnan(found["plain", 20, "batch", 1])
    assert found.notna().sum() == 7
    added = gf.difference(gf.per_seed(found, net="plain", depth=20), gf.per_seed(found, net="plain", depth=8))
    finding = gf.judge(claim(), added, 40)
    assert (finding.outcome, finding.missing, list(finding.per_seed)) == (INCONCLUSIVE, (1,), [0])


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


@pytest.mark.parametrize(
    ("halves", "name"), [(0.95, "healthy"), (-0.95, "healthy"), (1.05, "vanishing"), (-1.05, "exploding")]
)
def test_the_regime_is_the_side_on_which_the_fitted_slope_lies(halves, name):
    x = np.arange(1.0, 14.0)
    noise = np.random.default_rng(0).normal(size=len(x))
    coefficients, covariance = np.polyfit(x, noise, 1, cov=True)  # the second source of slope and standard error
    half = 2.2010 * math.sqrt(covariance[0, 0])  # Student's t for 11 degrees of freedom
    height = noise - np.polyval(coefficients, x) + halves * half * x
    rows = {"layer": [f"block{unit:02d}" for unit in range(1, 14)], "position": x, "value": 10**height}
    run = {"run": "one", "net": "plain", "depth": 28, "normalisation": "batch", "seed": 0, "step": 1}
    frame = pd.DataFrame(rows | run | {"quantity": "activation_gradient_norm"})
    assert gf.gradient_regime(frame).to_dict() == {("plain", 28, "batch"): name}


def test_the_regime_is_undecided_where_nothing_can_be_fitted():
    dead = table().assign(value=0.0)
    assert set(gf.gradient_regime(dead)) == {"undecided"}


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
