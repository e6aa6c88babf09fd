"""The table at the end of a sweep, against numbers worked out by hand."""

from typing import Any

import pandas as pd

from gradflow.reports.live import View
from gradflow.reports.summary import summary

# Final training and test errors, by run: the training error of the last of ten steps, of which it is the last tenth.
RUNS = [
    ({"learning_rate": 0.001, "seed": 0}, 0.50, 0.62, "done"),
    ({"learning_rate": 0.001, "seed": 1}, 0.54, 0.66, "done"),
    ({"learning_rate": 1.0, "seed": 0}, 0.90, 0.91, "diverged"),
    ({"learning_rate": 1.0, "seed": 1}, 0.125, 0.25, "done"),
]


def table(runs: Any) -> Any:
    rows = []
    for place, (own, train, test, status) in enumerate(runs):
        run = {"net": "plain", "depth": 8, "layer": "", "position": -1, "run": f"run{place}", "status": status, **own}
        for step in range(1, 11):
            rows.append(run | {"step": step, "quantity": "train_error", "value": train if step == 10 else 1.0})
        rows.append(run | {"step": 10, "quantity": "test_error", "value": test})
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_a_row_is_a_group_with_its_errors_and_how_its_runs_ended():
    lines = [line.split("  ") for line in summary(table(RUNS)).splitlines()]
    heading, small, large = ([cell.strip() for cell in line if cell.strip()] for line in lines)
    assert heading == ["learning rate", "seeds", "training error (%)", "test error (%)", "status"]
    assert small == ["0.001", "2", "52.0\N{PLUS-MINUS SIGN}2.0", "64.0\N{PLUS-MINUS SIGN}2.0", "2 done"]
    assert large == ["1", "2", "12.5", "25.0", "1 done, 1 diverged"]


def test_columns_are_aligned_and_a_group_without_an_error_has_a_dash():
    lost = [(own, train, test, "diverged") for own, train, test, _ in RUNS[2:]]
    lines = summary(table([*RUNS[:2], *lost])).splitlines()
    at = lines[0].index("status")
    assert [line[at:] for line in lines] == ["status", "2 done", "2 diverged"]
    assert lines[2].split() == ["1", "2", "\N{EN DASH}", "\N{EN DASH}", "2", "diverged"]


def test_a_setting_nobody_has_heard_of_and_one_that_a_net_lacks():
    runs = [
        ({"net": "my_nets.py:build", "my_gate": True, "depth": None, "seed": 0}, 0.1, 0.2, "done"),
        ({"net": "my_nets.py:build", "my_gate": False, "depth": None, "seed": 0}, 0.3, 0.4, "done"),
        ({"seed": 0}, 0.5, 0.6, "failed"),
    ]
    lines = [line.split() for line in summary(table(runs)).splitlines()]
    assert lines[0][:4] == ["net", "my", "gate", "seeds"]
    assert lines[1:] == [
        ["my_nets.build", "off", "1", "30.0", "40.0", "1", "done"],
        ["my_nets.build", "on", "1", "10.0", "20.0", "1", "done"],
        ["plain", "not", "set", "1", "\N{EN DASH}", "\N{EN DASH}", "1", "failed"],
    ]


def test_where_nothing_varies_it_is_said():
    lines = summary(table(RUNS[:2])).splitlines()
    assert lines[0].split()[:3] == ["net", "depth", "seeds"]
    assert lines[1].split()[:3] == ["plain", "8", "2"]
    assert lines[2] == "nothing varies but the seed"
    assert summary(table(RUNS[:1])).splitlines()[-1] == "a single run"


def test_progress_lines_name_runs_by_their_labels(capsys):
    labels = {"plain-8-0123": "learning rate 0.001, seed 0"}
    with View(2, 0, labels) as view:
        view({"event": "done", "run": "plain-8-0123"})
        view({"event": "busy", "run": "plain-8-seed1-4567"})
    assert capsys.readouterr().err.splitlines() == [
        "[1/2] done     learning rate 0.001, seed 0",
        "plain-8-seed1: another command is running it; left to that one",
    ]
