"""Diagnoses as text, against a table whose words are known."""

from typing import Any

import pandas as pd
import pytest

from gradflow.errors import BadInput
from gradflow.reports import diagnoses

ROW: dict[str, Any] = {
    "net": "plain",
    "depth": 56,
    "run": "plain-56-seed0-0123",
    "seeds": 3,
    "start_step": 1,
    "start_regime": "exploding",
    "start_decades": -4.5,
    "start_low": -4.75,
    "start_high": -4.25,
    "end_step": 80,
    "end_regime": "level",
    "end_decades": 0.25,
    "end_low": 0.125,
    "end_high": 0.375,
    "since": 32,
    "diverged": 0,
    "cause": "batch norm at the start",
    "also": "",
    "evidence": "numbers",
    "cure": "another start",
}
NONE = float("nan")


def lines(*changes: dict[str, Any], width: int = 300) -> list[str]:
    return diagnoses.text(pd.DataFrame([ROW | change for change in changes]), width).splitlines()


def test_a_line_says_the_cause_and_those_below_it_why():
    assert lines({}) == [
        "plain 56, 3 seeds: likely batch norm at the start",
        "  gradient  exploding by 4.50 decades (4.25 to 4.75) at the start, "
        "level, a fall of 0.25 decades (0.12 to 0.38), at step 80, and that from step 32 on",
        "  evidence  numbers",
        "  cure      another start",
    ]


def test_of_a_single_seed_it_says_that_there_is_no_interval():
    one = {"seeds": 1, "start_low": NONE, "start_high": NONE, "end_step": 1}
    assert lines(one)[:2] == [
        "plain 56, 1 seed: likely batch norm at the start",
        "  gradient  exploding by 4.50 decades (one seed: no interval) at the start",
    ]
    assert "undecided (no number) at the start" in lines({"start_regime": "undecided", "start_decades": NONE})[1]


@pytest.mark.parametrize("cause", ["healthy", "not known"])
def test_what_has_no_cause_has_no_cure(cause):
    told = lines({"cause": cause, "cure": "none needed"})
    assert told[0] == f"plain 56, 3 seeds: {cause}"
    assert not any(line.startswith("  cure") for line in told)


def test_further_causes_stand_behind_the_first_and_settings_that_vary_name_the_rest():
    told = lines({"also": "dead units"}, {"depth": 18})
    assert told[0] == "depth 56, 3 seeds: likely batch norm at the start; dead units"
    assert told[4:6] == ["", "depth 18, 3 seeds: likely batch norm at the start"]


@pytest.mark.parametrize("width", [40, 60, 100])
def test_no_line_is_wider_than_the_terminal(width):
    told = lines({"evidence": "many words " * 30, "cure": "and more " * 20}, width=width)
    assert max(map(len, told)) <= width
    assert " ".join(" ".join(told).split()).count("many words") == 30


def test_a_name_that_holds_an_escape_is_shown_as_one():
    assert "\x1b" not in "".join(lines({"net": "\x1b[2Jplain"}, {"net": "other"}))


def test_a_run_is_picked_by_its_name_or_refused_with_the_nearest():
    frame = pd.DataFrame({"run": ["plain-8-seed0-01", "plain-8-seed1-23"], "value": [1.0, 2.0]})
    assert list(diagnoses.of_run(frame, "plain-8-seed1-23").value) == [2.0]
    with pytest.raises(BadInput, match=r"'plain-8-seed1': did you mean plain-8-seed1-23\?"):
        diagnoses.of_run(frame, "plain-8-seed1")
    with pytest.raises(BadInput, match="it has 2, such as plain-8-seed0-01"):
        diagnoses.of_run(frame, "zzz")
