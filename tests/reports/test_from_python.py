"""An experiment or a sweep from Python is that of the command line: what it returns, says and refuses."""

import itertools
import json
import shlex
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import TINY, call, compile_once, published  # noqa: F401

import gradflow as gf
from gradflow.commands import arguments
from gradflow.commands.cli import VERBS

OWN = '''"""An experiment that measures by itself."""
import gradflow as gf, pandas as pd
GIVEN = {}
def measure(preset, folder, **overrides):
    GIVEN.update({"preset": preset} | {name: repr(value) for name, value in overrides.items()})
    runs = [{"run": f"a{seed}", "net": "n", "seed": seed, "steps": 1, "status": "done"} for seed in range(3)]
    rows = [{"run": f"a{seed}", "step": 1, "layer": "", "position": -1, "quantity": "loss", "value": 1.0 + seed}
            for seed in range(3)]
    return pd.DataFrame(runs), pd.DataFrame(rows)
def verdict(table):
    claim = gf.Claim("it is above 0", "a paper", "more", "loss", ">", -9.0)
    return gf.Verdict("it is", (gf.judge(claim, {s: 1.0 + s for s in range(3)}, 1),), {"given": GIVEN})
def figure(table, verdict):
    return {"mine": gf.charts.dots({"loss": {"n": [*table["value"]]}}, note=gf.plot.caption(table, "one command"))}
'''


@pytest.fixture
def own(tmp_path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_an_experiment_from_python_writes_what_the_command_writes_and_prints_nothing(own, tmp_path, capsys):
    found = gf.run_experiment(own, results=tmp_path / "python")
    assert capsys.readouterr() == ("", "")
    assert found.folder == tmp_path / "python" / "own"
    assert found.verdict
    assert (found.verdict.outcome, found.verdict.findings[0].mean, found.failures) == ("PASS", 2.0, {})
    assert [*found.table["value"]] == [1.0, 2.0, 3.0]
    assert found.table.equals(gf.load(found.folder))
    assert [*found.figures] == ["mine"]
    gf.plot.save(found.figures["mine"], tmp_path / "again.svg")
    command = call("run", own, "--results", tmp_path / "command")
    assert (command.code, command.out.splitlines()[-2]) == (0, "PASS: it is")
    folders = tmp_path / "command" / "own", found.folder
    assert published(folders[0]) == published(folders[1])
    assert (folders[0] / "mine.svg").read_bytes() == (folders[1] / "mine.svg").read_bytes()
    assert (tmp_path / "again.svg").read_bytes() == (folders[1] / "mine.svg").read_bytes()
    verdicts = [json.loads((folder / "verdict.json").read_text()) for folder in folders]
    made = [verdict.pop("made") for verdict in verdicts]
    assert verdicts[0] == verdicts[1]
    assert made[0]["command"].replace("command", "python") == made[1]["command"]


def test_the_report_names_the_command_that_does_the_same(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"depth": (8, 14), "width": [4], "learning_rate": np.array([0.1, 1.0]), "augment": False}
    found = gf.run_experiment("own.py", "smoke", seeds=2, results="a b", **given)
    assert found.folder == tmp_path / "a b" / "smoke" / "own"
    assert found.verdict
    assert found.verdict.outcome == "NOT JUDGED"
    seen = found.verdict.facts["given"]
    assert (seen["preset"], seen["seeds"], seen["depth"], seen["augment"]) == ("smoke", "2", "(8, 14)", "(False,)")
    command = json.loads((found.folder / "verdict.json").read_text())["made"]["command"]
    assert command.startswith("gradflow run own.py --smoke --results 'a b' --seeds 2 --depth 8 14 --width 4 ")
    typed = arguments.parse(VERBS, shlex.split(command)[1:]).keywords  # pyright: ignore[reportFunctionMemberAccess]
    wanted = {"depth": (8, 14), "width": (4,), "learning_rate": (0.1, 1.0), "augment": (False,)}
    assert typed["settings"].given == wanted
    assert (typed["seeds"], typed["smoke"], typed["results"]) == (2, True, Path("a b"))
    assert gf.run_experiment("own.py", command="by hand").verdict
    assert json.loads((tmp_path / "results" / "own" / "verdict.json").read_text())["made"]["command"] == "by hand"


def test_a_setting_may_be_called_as_what_a_run_of_an_experiment_takes_itself(own, tmp_path):
    settings = {"progress": (1, 2), "command": "x"}
    found = gf.run_experiment(own, results=tmp_path / "python", settings=settings, depth=8)
    assert found.verdict
    given = found.verdict.facts["given"]
    assert (given["progress"], given["command"], given["depth"]) == ("(1, 2)", "('x',)", "(8,)")


REFUSED = {
    "a setting called progress": (
        lambda: gf.run_experiment("border", progress=(1, 2)),  # pyright: ignore
        "progress (1, 2) is not legal: it must be True or False; a setting that is called so is given as settings={",
    ),
    "a setting called command": (
        lambda: gf.run_experiment("border", command=3),  # pyright: ignore
        "command 3 is not legal: it must be text; a setting that is called so is given as settings={'command': 3}",
    ),
    "no settings": (lambda: gf.run_sweep(settings=8), "settings is a int: legal is a dict of names and values"),  # pyright: ignore
    "a setting twice": (lambda: gf.run_sweep(settings={"depth": 3}, depth=8), "depth is given twice, by itself and in"),
    "no such experiment": (lambda: gf.run_experiment("nonsense"), "unknown experiment 'nonsense': choose one of "),
    "no such preset": (lambda: gf.run_experiment("border", "tiny"), "unknown preset 'tiny': choose one of smoke, "),
    "no seeds": (lambda: gf.run_experiment("border", seeds=0), "seeds 0 is not legal"),
    "half a seed": (lambda: gf.run_sweep(seeds=2.5), "seeds 2.5 is not legal: it must be an integer"),  # pyright: ignore
    "a seed": (lambda: gf.run_sweep(seed=1), "seed is not legal here: give seeds=N"),
    "a seed of an experiment": (lambda: gf.run_experiment("border", seed=1), "seed is not legal here"),
    "workers": (lambda: gf.run_sweep(workers="two"), "workers 'two' is not legal: it must be an integer"),  # pyright: ignore
    "many workers": (lambda: gf.run_sweep(net="mlp", workers=10**6), "workers 1000000 is not legal: this machine"),
    "seconds": (lambda: gf.run_sweep(checkpoint_seconds="x"), "checkpoint_seconds 'x' is not legal: it must"),  # pyright: ignore
    "fewer seconds": (lambda: gf.run_sweep(checkpoint_seconds=-1), "checkpoint_seconds -1 is not legal"),
    "a misspelt setting": (lambda: gf.run_sweep(net="mlp", depht=3), "net 'mlp' has no setting 'depht': did you mean"),
    "a wrong value": (lambda: gf.run_sweep(net="mlp", depth="deep"), "depth 'deep' is not legal: it must be int"),
    "no value": (lambda: gf.run_sweep(net="mlp", depth=()), "runs 0 is not legal"),
    "a name that is a path": (lambda: gf.run_sweep(name="../a"), "name '../a' is not legal"),
    "a name that is none": (lambda: gf.run_sweep(name=3), "name 3 is not legal"),  # pyright: ignore
    "no such net": (lambda: gf.describe("nonsense"), "unknown net 'nonsense'"),
    "seconds that are none": (lambda: gf.run_sweep(checkpoint_seconds=None), "checkpoint_seconds None is not legal"),  # pyright: ignore
    "a folder that is none": (lambda: gf.run_sweep(results=3), "results 3 is not legal"),  # pyright: ignore
    "depths without end": (lambda: gf.run_sweep(net="mlp", depth=itertools.count(2)), "runs 100001 is not legal"),
    "a seed to describe": (lambda: gf.describe("mlp", seed=3), "net 'mlp' has no setting 'seed'"),
    "no side of an image": (lambda: gf.describe("mlp", image="x"), "image 'x' is not legal: it must be an integer"),  # pyright: ignore
    "no classes": (lambda: gf.nets.build("mlp", classes=0, channels=1), "classes 0 is not legal"),
    "no channels": (lambda: gf.nets.build("plain", classes=3, channels=-1), "channels -1 is not legal"),
    "several depths": (lambda: gf.describe("plain", depth=(18, 34)), "depth (18, 34) is not legal: it must be int"),
    "a small image": (lambda: gf.describe("residual", image=0), "image 0 is not legal"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_legal_is_bad_input_in_one_line_and_leaves_nothing(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ask, said = REFUSED[case]
    with pytest.raises(gf.BadInput) as error:
        ask()
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)
    assert capsys.readouterr() == ("", "")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_sweep_from_python_is_that_of_the_command_and_not_run_twice(tmp_path, capsys):
    settings: dict[str, Any] = dict(
        zip((one.removeprefix("--") for one in TINY[::2]), map(int, TINY[1::2]), strict=True)
    )
    found = gf.run_sweep(net=("plain", "residual"), steps=3, results=tmp_path, name="python", **settings)
    assert capsys.readouterr() == ("", "")
    assert (found.verdict, found.failures, found.notes) == (None, {}, ())
    assert {*found.figures} == {"gradient_norm", "film", "paths", "errors"}
    call("sweep", "--net", "plain", "residual", "--steps", 3, *TINY, "--results", tmp_path, "--name", "command")
    assert published(tmp_path / "python") == published(tmp_path / "command")
    again: list[Any] = []
    how: dict[str, Any] = {"results": tmp_path, "name": "python", **settings}
    other = threading.Thread(target=lambda: again.append(gf.run_sweep(net=("plain", "residual"), steps=3, **how)))
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "python" / "runs").rglob("*.parquet")}
    other.start()  # not the main thread, where Python has no signals
    other.join()
    assert again[0].table.equals(found.table)
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "python" / "runs").rglob("*.parquet")}


def test_where_every_run_fails_that_is_said_in_one_line(tmp_path, capsys):
    broken = tmp_path / "broken.py"
    broken.write_text("import os\ndef build(*, classes, channels, seed, depth: int = 8):\n    os._exit(9)\n")
    with pytest.raises(gf.RunsFailed) as error:
        gf.run_sweep(net=f"{broken}:build", steps=2, results=tmp_path)
    assert str(error.value).startswith("every run failed, the first one: its process ended with exit code 9; see ")
    assert "\n" not in str(error.value)
    assert capsys.readouterr() == ("", "")
