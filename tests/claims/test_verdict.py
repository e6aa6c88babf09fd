"""Verdicts by construction: numbers whose interval is known before they are judged."""

import math
import statistics

import pytest

import gradflow as gf
from gradflow.claims.verdict import FAIL, INCONCLUSIVE, PASS, Finding
from gradflow.errors import BadInput

CLAIM = {"text": "a claim", "source": "a paper", "paper": "no number", "statistic": "a number"}


def claim(side: str = ">", **more) -> gf.Claim:
    return gf.Claim(**CLAIM, side=side, **more)


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
