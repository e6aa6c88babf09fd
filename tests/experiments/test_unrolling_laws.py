"""The laws of the experiment `unrolling`, what its verdict counts, and what it refuses."""

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

import gradflow as gf
from gradflow.claims import experiment

UNROLLING = experiment.load("unrolling")


def module() -> Any:
    """The file of the experiment as a module."""
    return sys.modules[UNROLLING.measure.__module__]  # pyright: ignore[reportOptionalMemberAccess]


def test_within_a_stage_the_laws_are_those_of_the_suite():
    """A unit is two layers; where maps get wider a plain net loses a third each, a residual one has 1/2 and 1/6."""
    for start, settings in (("small weights", ("glorot", "none")), ("batch norm", ("he", "batch"))):
        steps = np.diff(module().law(start, "plain", 56))
        slope: Any = gf.gradient_law("plain", *settings)
        assert np.median(steps) == pytest.approx(2 * slope)
    assert np.diff(module().law("small weights", "plain", 56)).max() == pytest.approx(np.log10(6) / 2)
    steps = np.diff(module().law("small weights", "residual", 56))
    assert np.median(steps) == pytest.approx(-np.log10(1 + 1 / 4) / 2)
    assert steps.max() == pytest.approx(-np.log10(1 / 2 + 1 / 6) / 2)
    assert module().law("batch norm", "residual", 56) is None


def table(cancelled: float = 1.0) -> Any:
    """Numbers that meet every law; in the trained residual nets `cancelled` times the identity's part arrives."""
    rows = []
    for start in module().STARTS:
        for net in module().NETS:
            for seed in range(3):
                law = module().law(start, net, 18) or [1.0] * 8
                settings = {"run": f"{start}{net}{seed}", "start": start, "net": net, "depth": 18, "width": 16}
                settings |= {"seed": seed, "status": "done", "steps": 100, "classes": 10}
                for step in (0, 100):
                    numbers: dict[str, Any] = {
                        "influence": 10 ** np.array(law),
                        "influence_forward": 10 ** np.array(law),
                    }
                    if net == "residual":
                        part = 10 ** np.array(law) / (cancelled if step else 1)
                        numbers |= {"identity_influence": part, "sum_error": [0.3] * 8, "share": [0.1] * 8}
                    if net == "residual" and start == "batch norm" and not step:
                        numbers["influence"] = numbers["influence_forward"] = numbers["influence"] / 100
                    rows += [
                        settings
                        | {"step": step, "layer": f"block{i:02d}", "position": 2 * i + 1}
                        | {"quantity": quantity, "value": value}
                        for quantity, values in numbers.items()
                        for i, value in enumerate(values)
                    ]
                    error = {"layer": "", "position": -1, "quantity": "derivative_error", "value": 1e-7}
                    rows.append(settings | {"step": step} | error)
                rows.append(
                    settings | {"step": 100, "layer": "", "position": -1, "quantity": "train_error", "value": 0.1}
                )
    return pd.DataFrame(rows)


def test_the_verdict_counts_what_the_claims_say():
    frame = table()
    verdict = UNROLLING.verdict(frame)
    found = {one.claim.text: one for one in verdict.findings}
    assert len(found) == len(module().CLAIMS)
    for finding in verdict.findings:
        assert set(finding.per_seed) == {0, 1, 2}
    means = [one.mean for one in verdict.findings]
    assert means[:4] == pytest.approx([0.3, 0.3, 1e-7, 0], abs=1e-9)
    assert means[4:7] == pytest.approx([0, 0, 0], abs=1e-9)
    assert means[8] == pytest.approx(0, abs=1e-9)
    cancelled = UNROLLING.verdict(table(cancelled=0.1)).findings[8]
    assert cancelled.mean == pytest.approx(-1)
    assert cancelled.outcome == "FAIL"


def test_a_step_that_was_not_recorded_is_said_in_one_line():
    frame = table()
    with pytest.raises(gf.BadInput, match="influence was not recorded after training"):
        UNROLLING.verdict(frame[frame.step == 0])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"width": (4, 8)}, "one width at a time, not 4, 8"),
        ({"momentum": (0.5,)}, "no setting 'momentum'.*it takes depth"),
        ({"seeds": 0}, "seeds 0 is not legal"),
        ({"depth": (7,)}, "no depth 7"),
    ],
)
def test_what_it_cannot_measure_is_refused_in_one_line(tmp_path, given, said):
    given = dict(given)
    seeds = given.pop("seeds", None)
    with pytest.raises(gf.BadInput, match=said) as raised:
        experiment.measured(UNROLLING, "smoke", tmp_path, given, seeds)
    assert "\n" not in str(raised.value)
