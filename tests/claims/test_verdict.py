"""Verdicts by construction: numbers whose interval is known before they are judged, and simulations of error rates."""

import math
import statistics
from collections import Counter
from typing import Any

import numpy as np
import pytest

import gradflow as gf
from gradflow.claims.verdict import FAIL, INCONCLUSIVE, NOT_JUDGED, PASS, Finding
from gradflow.errors import BadInput

CLAIM: dict[str, Any] = {"text": "a claim", "source": "a paper", "paper": "no number", "statistic": "a number"}


def claim(side: str = ">", **more) -> gf.Claim:
    return gf.Claim(**CLAIM, side=side, **more)


def numbered(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


NAN = math.nan
OUTCOMES = [
    # 1.0 -+ 4.303 * 0.1 / sqrt(3) = 0.75 to 1.25
    (numbered(0.9, 1.0, 1.1), {"side": ">"}, PASS, None),
    (numbered(0.9, 1.0, 1.1), {"side": "<"}, FAIL, None),
    (numbered(-0.9, -1.0, -1.1), {"side": ">"}, FAIL, None),
    (numbered(-0.9, -1.0, -1.1), {"side": "<"}, PASS, None),
    (numbered(0.9, 1.0, 1.1), {"side": ">", "than": 0.8}, INCONCLUSIVE, "more seeds: about "),
    (numbered(0.9, 1.0, 1.1), {"side": "<=", "margin": 1.3}, PASS, None),
    (numbered(0.9, 1.0, 1.1), {"side": "<=", "margin": 1.2}, INCONCLUSIVE, "more seeds: about "),
    (numbered(0.9, 1.0, 1.1), {"side": "<=", "margin": 0.7}, FAIL, None),
    (numbered(-9.0, -9.1, -9.2), {"side": "<=", "margin": 0.1}, PASS, None),  # better is no worse
    (numbered(0.9, 1.0, 1.1), {"side": "=", "margin": 1.3}, PASS, None),
    (numbered(0.9, 1.0, 1.1), {"side": "=", "than": 1.0, "margin": 0.26}, PASS, None),
    (numbered(0.9, 1.0, 1.1), {"side": "=", "than": 1.0, "margin": 0.24}, INCONCLUSIVE, "more seeds: about "),
    (numbered(0.9, 1.0, 1.1), {"side": "=", "margin": 0.7}, FAIL, None),
    (numbered(-0.9, -1.0, -1.1), {"side": "=", "margin": 0.7}, FAIL, None),  # on either side
    # Three equal seeds leave no doubt, but for the border itself.
    (numbered(0.0, 0.0, 0.0), {"side": "<=", "margin": 0.02}, PASS, None),
    (numbered(0.0, 0.0, 0.0), {"side": "=", "margin": 0.02}, PASS, None),
    (numbered(0.0, 0.0, 0.0), {"side": ">"}, INCONCLUSIVE, "close to the border"),
    (numbered(1.0, 1.0, 1.0), {"side": "=", "margin": 0.5}, FAIL, None),
    # Too few, or some that gave no number.
    (numbered(9.0, 9.1), {"side": ">"}, INCONCLUSIVE, "3 seeds"),
    (numbered(9.0), {"side": ">", "seeds": 1}, INCONCLUSIVE, "more seeds"),
    (numbered(9.0, 9.1, 9.2, 9.3, NAN), {"side": ">"}, INCONCLUSIVE, "a number from seed 4"),
    (numbered(-9.0, -9.1, -9.2, math.inf, NAN), {"side": ">"}, INCONCLUSIVE, "a number from seed 3, 4"),
    (numbered(NAN, math.inf, NAN), {"side": ">"}, INCONCLUSIVE, "no seed did"),
    ({}, {"side": ">"}, INCONCLUSIVE, "there are none"),
]


@pytest.mark.parametrize(("per_seed", "of", "outcome", "decides"), OUTCOMES)
def test_a_claim_is_judged_by_where_its_interval_lies(per_seed, of, outcome, decides):
    finding = gf.judge(claim(**of), per_seed, steps=10)
    assert finding.outcome == finding.alone == outcome
    assert (decides is None) == (finding.would_decide is None)
    assert not decides or decides in str(finding.would_decide)
    good = {seed: value for seed, value in per_seed.items() if math.isfinite(value)}
    assert finding.per_seed == good
    assert set(finding.missing) == set(per_seed) - set(good)
    assert finding.mean == (pytest.approx(statistics.mean(good.values())) if good else None)
    assert (finding.p_value <= 0.05) == (outcome != INCONCLUSIVE)


def test_the_p_value_is_that_of_students_test_at_the_border():
    """t = 2 / (1 / sqrt(3)) = 3.464 with two degrees of freedom, whose distribution has a closed form."""
    finding = gf.judge(claim(), numbered(1.0, 2.0, 3.0), 1)
    t = 2 * math.sqrt(3)
    assert finding.p_value == pytest.approx(1 - t / math.sqrt(2 + t**2))
    assert gf.judge(claim("<"), numbered(1.0, 2.0, 3.0), 1).p_value == pytest.approx(finding.p_value)
    both = gf.judge(claim("=", than=1.0, margin=1.5), numbered(1.0, 2.0, 3.0), 1)  # the nearer border: 2.5
    t = 0.5 * math.sqrt(3)
    assert both.p_value == pytest.approx(1 - t / math.sqrt(2 + t**2))


def test_what_would_decide_does():
    """As many seeds as it says, of the same mean and deviation, and not one fewer."""
    values = [-1.0, 0.5, 2.0]
    count = int(str(gf.judge(claim(), numbered(*values), 1).would_decide).split("about ")[1].split(",")[0])

    def of(size: int) -> dict[int, float]:
        draw = np.random.default_rng(0).normal(size=size)
        return numbered(*(0.5 + 1.5 * (draw - draw.mean()) / draw.std(ddof=1)))

    assert gf.judge(claim(), of(count), 1).outcome == PASS
    assert gf.judge(claim(), of(count - 1), 1).outcome == INCONCLUSIVE


@pytest.mark.parametrize("side", [">", "<", "<=", "="])
def test_too_few_seeds_or_steps_decide_nothing_however_clear_and_either_way(side):
    margin = {"margin": 0.5} if side in ("<=", "=") else {}
    for value in (-1.0, 1.0):
        clear = {seed: value + seed / 1000 for seed in range(4)}
        whole = gf.judge(claim(side, seeds=4, steps=100, **margin), clear, 100)
        assert whole.outcome in (PASS, FAIL)
        few = gf.judge(claim(side, seeds=5, steps=100, **margin), clear, 100)
        assert (few.outcome, few.would_decide) == (INCONCLUSIVE, "5 seeds")
        short = gf.judge(claim(side, seeds=4, steps=100, **margin), clear, 99)
        assert short.outcome == INCONCLUSIVE
        assert "100 steps" in str(short.would_decide)
        # Nor is it decided as one of several.
        assert gf.Verdict("title", (short, whole)).findings[0].outcome == INCONCLUSIVE


@pytest.mark.parametrize(
    ("of", "words"),
    [
        ({"side": ">="}, "unknown side '>=': choose one of >, <, <=, ="),
        ({"side": "="}, "margin 0.0 is not legal"),
        ({"side": "<="}, "margin 0.0 is not legal"),
        ({"side": "=", "margin": -1.0}, "margin -1.0 is not legal"),
        ({"side": "=", "margin": math.inf}, "margin inf is not legal"),
        ({"side": ">", "margin": 0.1}, "> and < none"),
    ],
)
def test_a_claim_has_one_of_four_sides_and_a_margin_where_it_needs_one(of, words):
    with pytest.raises(BadInput, match=words):
        claim(**of)


def found(outcome: str, p_value: float | None = None) -> Finding:
    p = p_value if p_value is not None else 1.0 if outcome == INCONCLUSIVE else 0.001
    return Finding(claim(), {}, None, None, outcome, outcome, p, "rule")


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
    verdict = gf.Verdict("title", tuple(map(found, outcomes)), {"a fact": 1})
    assert verdict.outcome == whole
    content = verdict.to_json()
    assert content["outcome"] == whole
    assert [finding["outcome"] for finding in content["findings"]] == outcomes
    assert content["facts"] == {"a fact": 1}
    open_ = verdict.not_judged()
    assert open_.outcome == NOT_JUDGED
    assert {finding.outcome for finding in open_.findings} <= {NOT_JUDGED}


def test_of_several_claims_those_stand_that_holm_lets_stand():
    """Holm 1979: the k-th smallest of n p-values against 5 % / (n - k + 1), up to the first that is larger."""
    p_values = [0.04, 0.012, 0.5, 0.001]  # against 0.0125, 0.0167, 0.025, 0.05: 0.001 and 0.012 stand, 0.04 does not
    outcomes = [FAIL, PASS, INCONCLUSIVE, FAIL]
    verdict = gf.Verdict("title", tuple(map(found, outcomes, p_values)))
    assert [finding.outcome for finding in verdict.findings] == [INCONCLUSIVE, PASS, INCONCLUSIVE, FAIL]
    assert [finding.alone for finding in verdict.findings] == outcomes
    assert "as one of 4 claims" in str(verdict.findings[0].would_decide)
    assert verdict.outcome == FAIL


def test_that_all_claims_pass_needs_no_correction_and_that_one_fails_does():
    passing = gf.Verdict("title", (found(PASS, 0.04), found(PASS, 0.045)))
    assert [finding.outcome for finding in passing.findings] == [INCONCLUSIVE, INCONCLUSIVE]
    assert passing.outcome == PASS
    failing = gf.Verdict("title", (found(FAIL, 0.04), found(PASS, 0.045)))
    assert failing.outcome == INCONCLUSIVE


# Error rates: what is claimed is false, or true, by construction, and counted is how often the verdict is wrong

TRIALS = 1500


def rates_of(truth: float, seeds: int, **of: Any) -> dict[str, float]:
    """The share of the trials that came out as each outcome."""
    draw, judged = np.random.default_rng(seeds).normal(truth, 1, size=(TRIALS, seeds)), claim(**of)
    outcomes = Counter(gf.judge(judged, numbered(*row), 1).outcome for row in draw)
    return {outcome: outcomes[outcome] / TRIALS for outcome in (PASS, FAIL, INCONCLUSIVE)}


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(
    ("of", "worst"),
    [
        ({"side": ">"}, [0.0]),
        ({"side": "<"}, [0.0]),
        ({"side": "<=", "margin": 1.0}, [1.0]),
        ({"side": "=", "margin": 1.0}, [1.0, -1.0]),
    ],
    ids=[">", "<", "<=", "="],
)
def test_on_its_border_a_claim_is_decided_at_most_in_five_percent(seeds, of, worst):
    """There neither PASS nor FAIL is right; 2.5 % each is nominal, and 1,500 trials know it to 0.4 points."""
    spread = 3 * math.sqrt(0.025 * 0.975 / TRIALS)
    for truth in worst:
        rates = rates_of(truth, seeds, **of)
        assert max(rates[PASS], rates[FAIL]) <= 0.025 + spread
        if of["side"] == ">":  # and the nominal rate is reached: nothing is more careful than it says
            assert rates[PASS] >= 0.025 - spread


def test_far_from_its_border_a_claim_is_decided():
    assert rates_of(3.0, 5, side=">")[PASS] > 0.95
    assert rates_of(-3.0, 5, side=">")[FAIL] > 0.95
    assert rates_of(0.0, 10, side="=", margin=1.5)[PASS] > 0.95


@pytest.mark.parametrize("claims", [2, 5])
def test_among_several_claims_on_their_borders_one_is_decided_at_most_in_five_percent(claims):
    draw = np.random.default_rng(1).normal(size=(TRIALS, claims, 5))
    wrong = alone = 0
    for trial in draw:
        verdict = gf.Verdict("title", tuple(gf.judge(claim(), numbered(*row), 1) for row in trial))
        wrong += any(finding.outcome != INCONCLUSIVE for finding in verdict.findings)
        alone += any(finding.alone != INCONCLUSIVE for finding in verdict.findings)
    assert wrong / len(draw) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(draw))
    assert alone / len(draw) > 0.08  # without Holm


def test_a_difference_of_dead_heats_is_no_worse_and_a_chance_result_is_not_hidden():
    """Three equal seeds of zero error; and a diverged one among them, which counts as chance: no longer no worse."""
    worse = claim("<=", margin=0.02)
    assert gf.judge(worse, numbered(0.0, 0.0, 0.0), 1).outcome == PASS
    assert gf.judge(worse, numbered(0.0, 0.0, 0.9), 1).outcome == INCONCLUSIVE


@pytest.mark.parametrize("number", ["x", None, math.nan, math.inf])
def test_a_claim_is_about_a_number(number):
    with pytest.raises(BadInput, match="number"):
        gf.Claim("t", "s", "p", "x", ">", number)
