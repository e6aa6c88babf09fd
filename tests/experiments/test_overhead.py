"""What the experiment on speed makes of its table, and that its PyTorch twin does the runs of `depth_sweep`."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import ROOT, call

import gradflow as gf
from gradflow.claims import experiment
from gradflow.training import optimiser

TWIN = ROOT / "tests" / "torch_depth_sweep.py"
PYTHON = os.environ.get("GRADFLOW_TORCH") or (sys.executable if importlib.util.find_spec("torch") else "")
needs_torch = pytest.mark.skipif(not PYTHON, reason="needs torch: pip install 'gradflow[crosscheck]'")
STARTS = {("glorot", "none"): "small weights", ("he", "none"): "He's weights", ("he", "batch"): "batch norm"}

STEPS = [  # net, depth, tool, size, read, seconds
    ("residual", 56, "gradflow", "32x32", 1, 5.6),
    ("residual", 56, "gradflow", "32x32", 10, 5.5),
    ("residual", 56, "gradflow", "32x32", 0, 5.4),
    ("residual", 56, "torch", "32x32", 1, 7.0),
    ("plain", 56, "gradflow", "32x32", 1, 2.0),
    ("plain", 56, "torch", "32x32", 1, 1.0),
    ("residual", 20, "gradflow", "32x32", 1, 2.0),
    ("residual", 110, "gradflow", "32x32", 1, 11.0),
    ("residual", 56, "gradflow", "digits", 1, 0.33),
    ("residual", 56, "gradflow", "digits", 0, 0.30),
    ("transformer", 12, "gradflow", "transformer", 1, 0.22),
    ("transformer", 12, "gradflow", "transformer", 10, 0.20),
    ("transformer", 12, "gradflow", "transformer", 0, 0.20),
    ("transformer", 12, "torch", "transformer", 1, 1.10),
]
COMMANDS = [  # net, tool, cache, quantity, value
    ("all", "gradflow", "empty", "job_seconds", 60.0),
    ("all", "gradflow", "filled", "job_seconds", 45.0),
    ("all", "torch", "empty", "job_seconds", 50.0),
    ("plain", "gradflow", "empty", "first_reading_seconds", 3.0),
    ("plain", "gradflow", "filled", "first_reading_seconds", 2.5),
    ("residual", "gradflow", "filled", "first_reading_seconds", 1.5),
    ("residual", "gradflow", "empty", "compiles", 1.0),
]


def written_by_hand(**changes: Any) -> pd.DataFrame:
    """A table whose ratios are known, of three rounds, the second twice and the third three times as long."""
    rows = []
    for seed in range(3):
        common: dict[str, Any] = {"seed": seed, "status": "done", "processor": "AVX2", "step": 1}
        for net, depth, tool, size, read, seconds in STEPS:
            which = common | {"net": net, "depth": depth, "tool": tool, "size": size, "read": read, "cache": "empty"}
            # Of ten, the first is read: 3 s and nine times 1, 2 or 3 in the unit of the round are 2.1 on average.
            parts = (3, 2, 2, 2, 1, 1, 3, 3, 1, 2) if read == 10 else (1, 100, 0)
            times = [part * seconds * (1 + seed) for part in parts]
            rows += [which | {"quantity": "step_seconds", "value": v, "step": i} for i, v in enumerate(times, start=1)]
            numbers = {"input_seconds": 0.001, "peak_megabytes": 100.0 + read, "kernels": 100.0 + 30 * read}
            numbers |= {"temporary_megabytes": 100.0 + 2 * read}
            numbers |= {"trace_seconds": 0.5, "compile_seconds": 1.0 if size == "digits" else 3.0}
            rows += [which | {"quantity": name, "value": value} for name, value in numbers.items() if tool != "torch"]
        for net, tool, cache, quantity, value in COMMANDS:
            which = common | {"net": net, "depth": 56, "tool": tool, "size": "digits", "read": 1, "cache": cache}
            rows.append(which | {"quantity": quantity, "value": value})
    return pd.DataFrame(rows).assign(**changes)


def findings(table: pd.DataFrame) -> dict[str, Any]:
    """By the text of their claims."""
    return {one.claim.text: one for one in experiment.load("overhead").verdict(table).findings}


@pytest.mark.parametrize(
    ("text", "number", "alone"),
    [
        ("a recorded step is as fast as PyTorch's, residual-56", 5.6 / 7, "PASS"),
        ("a recorded step is as fast as PyTorch's, plain-56", 2, "FAIL"),
        ("a recorded step is as fast as PyTorch's, residual-20", None, "INCONCLUSIVE"),  # nobody measured PyTorch there
        ("depth_sweep takes little longer than in PyTorch, compile cache empty", 1.2, "PASS"),
        ("depth_sweep is as fast as in PyTorch, compile cache filled by other seeds", 0.9, "PASS"),
        ("reading every step costs little, 32x32", 5.6 / 5.4, "FAIL"),
        ("reading every step costs little, digits", 1.1, "FAIL"),
        ("reading every tenth step costs less, 32x32", 2.1 * 5.5 / 5.4, "FAIL"),
        ("reading every tenth step costs less, digits", None, "INCONCLUSIVE"),
        ("recording adds few kernels, 32x32", 1.3, "FAIL"),
        ("recording needs no memory at run time, digits", 1.01, "PASS"),
        ("watching costs little, read every step", 1.1, "FAIL"),
        ("watching costs little, read every tenth step", 2.1, "FAIL"),
        ("watching keeps no activations", 1.02, "PASS"),
        ("56 layers are soon compiled, 32x32", 3.5, "FAIL"),
        ("56 layers are soon compiled, digits", 1.5, "PASS"),
        ("plain-56 is soon read, compile cache empty", 3, "PASS"),
        ("plain-56 is soon read, compile cache filled", 2.5, "FAIL"),
        ("residual-56 is soon read, compile cache filled", 1.5, "PASS"),
        ("a step does not wait for data, 32x32", np.mean([0.001 / 5.6 / round_ for round_ in (1, 2, 3)]), "PASS"),
        ("a step's time is linear in depth", 0, "PASS"),  # 0.1 s a layer
        ("a sweep over rates, decays, momenta, lengths and seeds of one net compiles its step once", 1, "PASS"),
    ],
)
def test_each_bar_is_judged_by_its_own_numbers_round_by_round(text, number, alone):
    found = findings(written_by_hand())[text]
    assert found.mean == (None if number is None else pytest.approx(number, abs=1e-9))
    assert len(found.per_seed) == (0 if number is None else 3)
    assert found.alone == alone


def test_a_step_that_is_never_compiled_is_no_pass():
    table = written_by_hand()
    table.loc[table.quantity == "compiles", "value"] = 0.0
    assert next(one for text, one in findings(table).items() if "compiles its step" in text).alone == "FAIL"


def test_bars_are_about_their_depths_alone():
    table = written_by_hand()
    table["depth"] += 2 * (table.depth == 20)
    assert {one.outcome for one in findings(table).values()} == {"INCONCLUSIVE"}
    assert any(one.per_seed for one in findings(table).values())


@pytest.mark.parametrize(
    ("words", "torch", "said"),
    [(("--depth", 8), "", "needs two depths"), ((), "/no/such/python", "GRADFLOW_TORCH is '/no/such/python'")],
)
def test_what_cannot_be_measured_is_said_in_one_line_before_anything_is(monkeypatch, tmp_path, words, torch, said):
    monkeypatch.setenv("GRADFLOW_TORCH", torch)
    result = call("run", "overhead", "--smoke", *words, "--results", tmp_path)
    assert result.code == 2
    assert said in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("preset", ["smoke", "default"])
def test_the_pytorch_twin_has_the_runs_of_the_experiment(preset):
    words = ["--smoke"] if preset == "smoke" else []
    said = subprocess.run([sys.executable, TWIN, "--list", *words], capture_output=True, text=True, check=True)
    runs = experiment.make_runs(experiment.load("depth_sweep"), preset, {}, None)
    ours = {(run.net, run.depth, STARTS[run.initialisation, run.normalisation], run.seed, run.steps) for run in runs}
    theirs = [
        tuple(one[name] for name in ("net", "depth", "start", "seed", "steps")) for one in json.loads(said.stdout)
    ]
    assert len(theirs) == len(ours) == len(runs)
    assert set(theirs) == ours


def test_the_pytorch_twin_trains_and_records_as_the_experiment_does():
    spec = importlib.util.spec_from_file_location("torch_depth_sweep", TWIN)
    assert spec
    assert spec.loader
    twin: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(twin)
    same = {"batch": twin.BATCH, "learning_rate": twin.RATE, "momentum": twin.MOMENTUM, "weight_decay": twin.DECAY}
    same |= {"optimiser": "sgd", "schedule": "step", "warmup": 0, "evaluations": 0, "augment": False}
    same |= {"centre": "channel", "shuffle": False, "padding": "circular", "width": None, "activation": "relu"}
    for run in experiment.make_runs(experiment.load("depth_sweep"), "default", {}, 1):
        assert same.items() <= run.settings.items()
        steps = range(1, run.steps + 1)
        assert [twin.keeps(step, run.steps) for step in steps] == [run.keeps(step) for step in steps]
        rates = optimiser.rates(optimiser.schedule(run.schedule, run.learning_rate, run.steps), run.steps)
        assert [twin.rate(step, run.steps) for step in steps] == pytest.approx([rates(step) for step in steps])


@needs_torch
def test_the_pytorch_transformer_answers_as_the_stopwatch_does():
    settings = {"net": "transformer", "depth": 2, "width": 8, "length": 4, "batch": 2, "cores": 1, "record": True}
    with gf.Stopwatch(settings, [str(TWIN.with_name("torch_transformer.py"))], PYTHON) as watch:
        assert len(watch.steps(3)["seconds"]) == 3


@needs_torch
def test_the_first_readings_of_the_pytorch_twin_are_those_of_our_nets(tmp_path):
    """Of other weights of the same distributions: the same points, and gradients that fall and grow alike."""
    subprocess.run([PYTHON, TWIN, tmp_path, "--smoke"], check=True)
    for net, start in (("plain", "glorot"), ("plain", "batch"), ("residual", "glorot"), ("residual", "he")):
        more: Any = {"initialisation": "he" if start == "batch" else start}
        more |= {"normalisation": "batch" if start == "batch" else "none"}
        run = gf.Run(net=net, depth=14, padding="circular", batch=32, learning_rate=0.01, **more)
        ours = next(gf.train(run)).values
        name = STARTS[more["initialisation"], more["normalisation"]].replace(" ", "_").replace("'", "")
        theirs = json.loads((tmp_path / f"{net}-14-{name}-0-1.json").read_text())["readings"][0]
        assert theirs["points"] == list(ours["activation_std"])
        for quantity in ("weight", "gradient", "update"):
            assert theirs[quantity] == pytest.approx(list(ours[f"{quantity}_norm"].values()), rel=0.7), quantity
        zeros = np.mean([row[2] for row in theirs["activation"]])
        assert zeros == pytest.approx(np.mean(list(ours["zero_fraction"].values())), abs=0.1)
        gradients = dict(zip(theirs["gradients_of"], theirs["activation_gradient"], strict=True))
        decades = [
            math.log10(values["block01"] / values["block06"])
            for values in (gradients, ours["activation_gradient_norm"])
        ]
        assert np.ptp(decades) < 0.3
