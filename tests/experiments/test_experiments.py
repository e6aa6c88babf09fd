"""Every experiment that comes with gradflow, and one of a user's own, from the command to verdict, report, figures."""

import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from command_line import ROOT, TINY, Result, call, compile_once, published  # noqa: F401
from flax import nnx

import gradflow as gf
from gradflow.claims import experiment
from gradflow.data import load
from gradflow.nets.layers import atoms as layers
from gradflow.nets.layers import pooling
from gradflow.reports import report
from gradflow.runs import files, variation

SHIPPED = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
TWINS = ("degradation", "depth_sweep")
MEASURED = ("overhead", "unrolling")  # these make their tables themselves: they have no runs
TUNED = (
    "alexnet_ingredients",
    "arithmetic",
    "degradation",
    "design_rules",
    "inception",
    "lineage",
    "nin_head",
    "spatial",
    "vgg_depth",
)
SMALLER: dict[str, tuple] = dict.fromkeys(
    TWINS, ("--depth", 8, 10, "--width", 4, "--batch", 16, "--steps", 5, "--evaluations", 1)
)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> Callable[[str], tuple[str, Path, Result]]:
    """Gives an experiment's smoke preset, some made smaller still, and what the command said.

    An experiment is run once for all test processes: the second to ask waits for the first.
    """
    results = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        results = results.parent
    results = results / "results"
    results.mkdir(exist_ok=True)

    def run(name: str) -> tuple[str, Path, Result]:
        answer = results / f"{name}.json"
        with (results / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not answer.exists():
                # One worker: the other core runs other tests.
                more = () if name in MEASURED else ("--workers", 1, *SMALLER.get(name, ()))
                answer.write_text(json.dumps(call("run", name, "--smoke", *more, "--results", results)))
        return name, results / "smoke" / name, Result(*json.loads(answer.read_text()))

    return run


@pytest.fixture(params=SHIPPED)
def made(request, smoke) -> tuple[str, Path, Result]:
    """An experiment that was run. Nobody writes into its folder."""
    return smoke(request.param)


@pytest.fixture(params=TWINS)
def twins(request, smoke) -> tuple[str, Path]:
    """The tables of one that compares plain and residual nets."""
    return smoke(request.param)[:2]


def test_there_are_experiments():
    assert {*TWINS, *MEASURED} <= set(SHIPPED) == set(experiment.known())


def test_what_nothing_was_claimed_of_is_not_judged(tmp_path):
    result = call("judge", tmp_path)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert "no verdict.json" in result.err


def test_a_smoke_run_ends_in_verdict_report_and_figures(made):
    name, folder, result = made
    assert result.code == 0, result
    content = json.loads((folder / "verdict.json").read_text())
    assert content["outcome"] == "NOT JUDGED"
    assert content["experiment"] == name
    assert content["findings"]
    for finding in content["findings"]:
        claim = finding["claim"]
        assert claim["text"] in result.out
        assert all(claim[part] for part in ("text", "source", "paper", "statistic"))
        assert claim["seeds"] >= 3
        # A smoke preset may leave out what a claim is about, and a measurement has as many seeds as it has turns.
        assert name in MEASURED or len(finding["per_seed"]) + len(finding["missing"]) in (0, 2)
        assert finding["outcome"] == "NOT JUDGED"
        assert finding["rule"]
        assert finding["would_decide"] is None
    assert content["made"]["command"].startswith(f"gradflow run {name} --smoke")
    assert f"{content['outcome']}: {content['title']}" in result.out
    readme = (folder / "README.md").read_text()
    assert readme.startswith(f"# {name}: {content['outcome']}\n")
    assert content["made"]["command"] in readme
    figures = {path.name for path in folder.glob("*.svg")}
    assert figures
    assert set(re.findall(r"!\[.*?\]\((.*?)\)", readme)) == figures


def test_the_table_holds_twins_and_seeds(twins):
    name, folder = twins
    frame: Any = gf.load(folder)
    assert set(frame.net) == {"plain", "residual"}
    assert set(frame.depth) == {8, 10}
    runs = frame.drop_duplicates("run")
    keys = [key for key in variation.keys(runs.drop(columns="learning_rate")) if key not in ("net", "learning_rate")]
    for _, of in runs.groupby([*keys, "seed"]):
        assert set(of.net) == {"plain", "residual"}  # the same seed, the same settings, but perhaps the rate
    assert set(frame.groupby("run").step.max()) <= {1, 5}
    if name == "degradation":  # one seed is run at every rate, the others at the best one
        rates = runs.groupby(["net", "depth", "seed"]).learning_rate.nunique().unstack()
        assert (rates[0] == 2).all()
        assert (rates.drop(columns=0) == 1).all().all()


def test_verdict_and_figures_are_functions_of_the_table_alone(made, tmp_path):
    """From the two published files, in any order of rows: the same verdict, and the same figures to the byte."""
    name, folder, _ = made
    for file in ("runs.csv", "readings.parquet"):
        shutil.copy(folder / file, tmp_path / file)
    chosen, content = experiment.load(name), json.loads((folder / "verdict.json").read_text())
    frame: Any = gf.load(tmp_path).sample(frac=1, random_state=0).reset_index(drop=True)
    frame.attrs["command"] = content["made"]["command"]  # the line under each figure
    before = frame.copy()
    verdict = chosen.verdict(frame).not_judged()
    judged = json.loads(json.dumps(report._finite(verdict.to_json())))
    assert (judged["outcome"], judged["title"]) == (content["outcome"], content["title"])
    for finding, other in zip(judged["findings"], content["findings"], strict=True):
        assert finding["mean"] == (None if other["mean"] is None else pytest.approx(other["mean"], rel=1e-9))
        assert finding["outcome"] == other["outcome"]
    for file in report.draw(tmp_path, chosen.figure(frame, verdict)):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes(), file
    assert frame.equals(before)  # nobody changed it


def test_plot_redraws_the_same_bytes(made, tmp_path):
    name, folder, _ = made
    folder = shutil.copytree(folder, tmp_path / name)
    drawn = {path: path.read_bytes() for path in folder.glob("*.svg")}
    assert drawn
    for path in drawn:
        path.unlink()
    result = call("plot", folder)
    assert result.code == 0, result
    assert {path: path.read_bytes() for path in folder.glob("*.svg")} == drawn
    assert set(result.out.split()) == set(map(str, drawn))


def chosen_by_rate(runs) -> bool:
    """Whether these runs are those of the seed that chooses among rates."""
    return len({run.learning_rate for run in runs}) > 1


@pytest.mark.parametrize("preset", experiment.PRESETS)
@pytest.mark.parametrize("name", sorted({*SHIPPED} - {*MEASURED}))
def test_every_preset_has_legal_runs_of_as_many_seeds_as_decide(name, preset):
    chosen = experiment.load(name)
    runs = experiment.make_runs(chosen, preset, {}, None)
    assert len(set(runs)) == len(runs) >= 4
    assert chosen.further_runs or len({run.seed for run in runs}) >= (2 if preset == "smoke" else 3)
    more = experiment.make_runs(chosen, preset, {"batch": (32,)}, 5)
    assert {run.batch for run in more} == {32}
    assert {run.seed for run in more} == ({0} if chosen.further_runs and chosen_by_rate(runs) else set(range(5)))
    if name in TWINS:
        assert {run.net for run in runs} >= {"plain", "residual"}
        assert preset != "full" or {run.steps for run in runs} <= {1, 64_000}  # the paper's


def errors_of(runs: list[gf.Run], held_out: Callable, fast: Callable) -> Any:
    """A table of these runs whose errors are low where `held_out(run)`, on the images held out, or `fast(run)` says."""
    rows = []
    for number, run in enumerate(runs):
        common = run.settings | {"run": str(number), "status": "done", "classes": 10, "layer": "", "position": -1}
        rows += [common | {"quantity": "test_error", "step": run.steps, "value": 0.1 if held_out(run) else 0.3}]
        steps = range(1, 21)  # of which ten are the window of AlexNet's mark
        rows += [
            common | {"quantity": "train_error", "step": step, "value": 0.1 if fast(run) else 0.9} for step in steps
        ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("name", TUNED)
def test_each_net_is_judged_at_the_rate_that_its_first_seed_finds_best(name):
    chosen = experiment.load(name)
    first = experiment.make_runs(chosen, "default", {}, 3)
    assert all(run.validation and run.seed == 0 for run in first)
    net = lambda run: run.replace(learning_rate=1.0, validation=0, seed=0)  # noqa: E731
    rates: dict[gf.Run, list[float]] = {}
    for run in first:
        rates.setdefault(net(run), []).append(run.learning_rate)
    assert max(map(len, rates.values())) >= 3
    best = {one: tried[place % len(tried)] for place, (one, tried) in enumerate(rates.items())}
    fastest = {one: tried[(place + 1) % len(tried)] for place, (one, tried) in enumerate(rates.items())}
    at = lambda of: lambda run: run.learning_rate == of[net(run)]  # noqa: E731
    found = experiment.make_further_runs(chosen, errors_of(first, at(best), at(fastest)), "default", {}, 3)
    by_speed = [run for run in found if name == "alexnet_ingredients" and run.validation]
    by_error = [run for run in found if run not in by_speed]
    assert all(map(at(fastest), by_speed))
    assert all(map(at(best), by_error))
    assert {run.validation for run in by_error} == ({200} if name == "degradation" else {0})
    if name == "alexnet_ingredients":  # figure 1 is about speed, the ingredients are about errors
        assert {run.activation for run in by_speed} == {"relu", "tanh", "sigmoid"}
        assert {*map(net, by_error)} == {one for one in rates if one.activation == "relu"}
    else:
        assert {*map(net, by_error)} == {*rates}
    for runs in filter(None, (by_speed, by_error)):
        assert len(runs) == 3 * len({*map(net, runs)})
        assert {run.seed for run in runs} == {1, 2, 3}


@pytest.mark.parametrize("name", TUNED)
def test_at_a_single_rate_nothing_is_chosen_and_all_seeds_are_judged(name):
    chosen = experiment.load(name)
    given = {"learning_rate": (0.05,)}
    runs = experiment.make_runs(chosen, "default", given, 3)
    assert {run.learning_rate for run in runs} == {0.05}
    assert {run.seed for run in runs} == {0, 1, 2}
    assert {run.validation for run in runs} == ({200} if name == "degradation" else {0})
    always = lambda run: True  # noqa: E731
    assert experiment.make_further_runs(chosen, errors_of(runs, always, always), "default", given, 3) == []


@pytest.mark.parametrize("name", TUNED)
def test_a_committed_page_is_of_the_runs_that_its_experiment_makes(name):
    """By their names, which hold a hash of all that decides a run, the second round by the committed errors."""
    frame = gf.load(ROOT / "results" / name, quantities=["train_error", "test_error"])
    chosen = experiment.load(name)
    runs = experiment.make_runs(chosen, "default", {}, None)
    runs += experiment.make_further_runs(chosen, frame, "default", {}, None)
    digest = load.digest("digits")
    assert {run.folder_name(digest) for run in runs} == {*frame["run"]}


def test_list_names_them_with_their_idea():
    result = call("list")
    assert result.code == 0
    assert result.err == ""
    for name in SHIPPED:
        line = next(line for line in result.out.splitlines() if line.strip().startswith(name))
        assert experiment.load(name).idea.splitlines()[0] in line
    for word in ("plain", "residual", "digits"):
        assert word in result.out


MINE = '''"""My own idea: a number that is known beforehand.

More of it.
"""

import gradflow as gf


def runs(preset, seeds=3, **overrides):
    """Two tiny runs."""
    settings = {"net": ("mlp",), "depth": (2,), "width": (4,), "batch": (16,), "steps": (3,), "evaluations": (0,)}
    return gf.grid(seeds, **(settings | overrides))


def verdict(table):
    """The loss is positive: a claim on the side that the test wants."""
    losses = table[(table.quantity == "loss") & (table.step == 1)].groupby("seed").value.first()
    claim = gf.Claim("my claim", "me", "none", "first loss", side="SIDE", than=THAN)
    return gf.Verdict("My title", (gf.judge(claim, losses.to_dict(), 3),))


def figure(table, verdict):
    """One."""
    return {"mine": gf.plot.errors(table, title=verdict.title)}
'''


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mine")


@pytest.mark.parametrize(
    ("side", "than", "code", "outcome"),
    [(">", -1e3, 0, "PASS"), ("<", -1e3, 1, "FAIL"), (">", 2.5, 0, "INCONCLUSIVE")],
)
def test_the_exit_code_of_ones_own_experiment_is_by_its_verdict(results, tmp_path, side, than, code, outcome):
    path = tmp_path / "mine.py"
    path.write_text(MINE.replace("SIDE", side).replace("THAN", str(than)))
    result = call("run", path, "--workers", 1, "--results", results)
    assert result.code == code, result
    assert f"{outcome}: My title" in result.out
    folder = results / "mine"
    content = json.loads((folder / "verdict.json").read_text())
    assert (content["outcome"], content["experiment"]) == (outcome, "mine.py")  # not where it lies on this machine
    assert "My own idea" in (folder / "README.md").read_text()
    drawn = (folder / "mine.svg").read_bytes()
    (folder / "mine.svg").unlink()
    assert call("plot", folder, "--experiment", path).code == 0
    assert (folder / "mine.svg").read_bytes() == drawn
    before = {path: path.read_bytes() for path in folder.glob("*.*")}
    again = call("judge", folder, "--experiment", path)
    assert again.code == code
    assert again.out.splitlines() == [line for line in result.out.splitlines() if outcome in line]
    assert {path: path.read_bytes() for path in folder.glob("*.*")} == before


def test_runs_that_are_missing_leave_a_verdict_open(twins, tmp_path):
    """When a run failed before its first reading its rows are missing: no traceback, and no claim decided by less."""
    name, folder = twins
    frame: Any = gf.load(folder)
    lost = frame[(frame.net == "plain") & (frame.depth == 10) & (frame.seed == 1)].run.unique()
    verdict = experiment.load(name).verdict(frame[~frame.run.isin(lost)])
    assert verdict.outcome != "PASS"
    assert any(finding.outcome == "INCONCLUSIVE" for finding in verdict.findings)
    files.write_json(tmp_path / "verdict.json", report._finite(verdict.to_json()))


def test_a_diverged_run_is_an_outcome(twins):
    """Its error is that of chance, its gradient no number: claims on the one count it, those on the other stay open."""
    name, folder = twins
    frame: Any = gf.load(folder)
    lost = (frame.net == "plain") & (frame.depth == 10) & (frame.seed == 1)
    frame.loc[lost, "status"] = "diverged"
    frame.loc[lost & (frame.quantity == "activation_gradient_norm"), "value"] = float("nan")
    error = gf.final_error(frame, by=["run"])
    assert set(error[error.index.get_level_values("run").isin(frame[lost].run)]) == {0.9}
    chosen = experiment.load(name)
    verdict = chosen.verdict(frame)
    assert any(1 in finding.missing for finding in verdict.findings)
    assert any(1 in finding.per_seed for finding in verdict.findings)
    assert chosen.figure(frame, verdict)


@pytest.mark.parametrize("words", [("--padding", "zero"), ("--order", "pre"), ("--activation", "relu", "gelu")])
@pytest.mark.parametrize("name", ["depth_sweep", "regimes"])
def test_nets_of_which_no_law_is_known_are_refused_by_what_judges_by_laws(name, words, tmp_path):
    result = call("run", name, *words, "--results", tmp_path)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert f"{words[0].strip('-')} {words[-1]} is not legal here" in result.err
    assert not [*tmp_path.iterdir()]


def test_a_depth_sweep_of_another_activation_is_judged_by_its_law(smoke):
    name, folder, _ = smoke("depth_sweep")
    frame: Any = gf.load(folder)
    chosen = experiment.load(name)
    relu, tanh = (chosen.verdict(frame.assign(activation=kind)).findings[0] for kind in ("relu", "tanh"))
    laws = [gf.gradient_law("plain", "glorot", "none", kind, 10) or 0.0 for kind in ("relu", "tanh")]
    for seed, value in relu.per_seed.items():
        assert value - tanh.per_seed[seed] == pytest.approx(10 * (laws[1] - laws[0]))


@pytest.fixture
def regimes() -> Any:
    return sys.modules[experiment.load("regimes").runs.__module__]  # pyright: ignore[reportOptionalMemberAccess]


def start_table(regimes, net: str, initialisation: str, activation: str, course: dict[int, float]) -> Any:
    """A table of step 1 of a net of 56 layers, 16 wide, whose gradient norms are 0.01 at the last unit and follow a
    course, read in float32: below 1e-38 they are 0.
    """
    heights = {at: 10.0 ** (height - 2) for at, height in course.items() if at % 2 and at < 55}
    rows = [(f"block{at // 2 + 1:02d}", at, value if value > 1e-38 else 0.0) for at, value in heights.items()]
    frame = pd.DataFrame([*rows, ("head", 56, 0.1)], columns=["layer", "position", "value"])
    settings = {"net": net, "normalisation": "none", "activation": activation, "initialisation": initialisation}
    built = gf.nets.build(net, depth=56, normalisation="none", classes=10, channels=1)
    settings |= {"run": "a", "seed": 0, "depth": 56, "width": np.nan, "parameters": gf.count_parameters(built)}
    return frame.assign(step=1, quantity="activation_gradient_norm", status="done", **settings)


@pytest.mark.parametrize("net", ["plain", "residual"])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_a_gradient_that_keeps_to_theory_is_nowhere_off_also_where_part_of_it_reads_zero(regimes, net, activation):
    kernels = [(3, 3, 1, 16)]
    for channels_in, channels_out in [(16, 16)] * 18 + [(16, 32)] + [(32, 32)] * 17 + [(32, 64)] + [(64, 64)] * 17:
        kernels.append((3, 3, channels_in, channels_out))
    course = gf.gradient_course(net, [*kernels, (64, 10)], "normal(0.01)", "none", activation)
    assert course is not None
    table = start_table(regimes, net, "normal(0.01)", activation, course)
    assert (table.value == 0).any() == (net == "plain")
    assert regimes.off(table).item() == pytest.approx(0, abs=1e-6)
    table["value"] *= 10.0 ** (-table["position"] / 56)
    assert regimes.off(table).item() == pytest.approx(1, abs=0.02)
    key = (net, 56, "none", activation, "normal(0.01)")
    expected = np.polyfit(range(1, 55, 2), [course[at] for at in range(1, 55, 2)], 1)[0]
    assert regimes.theory(table)[key] == pytest.approx(56 * expected)


def test_cells_are_folded_seed_by_seed_and_a_missing_one_leaves_no_number(regimes):
    index = pd.MultiIndex.from_product([["relu", "tanh"], [0, 1]], names=["activation", "seed"])
    series = pd.Series([1.0, 2.0, 3.0, float("nan")], index)
    folded = regimes.over(series, np.max, activation=("relu", "tanh"))
    assert folded[0] == 3
    assert np.isnan(folded[1])
    assert regimes.over(series, np.max, activation=("relu", "sigmoid")) == {}
    assert regimes.over(series, np.min, activation="relu") == {0: 1, 1: 2}


def test_a_line_of_a_finding_says_all_of_it():
    claim = gf.Claim("it grows", "a paper", "0.5", "slope", side=">", seeds=3)
    line = report.line(gf.judge(claim, {0: 1, 1: 1.5, 2: float("nan")}, 10))
    assert line == (
        "INCONCLUSIVE  it grows: 1.25 [-1.93, 4.43], claimed > 0 "
        "(by seed 0: 1, 1: 1.5; no number from seed 2; would decide: a number from seed 2)"
    )
    equal = gf.Claim("it stays", "a paper", "1", "ratio", side="=", than=1, margin=0.1)
    assert ", claimed = 1 within 0.1 (by seed" in report.line(gf.judge(equal, {0: 1, 1: 1, 2: 1}, 10))


def test_the_arithmetic_of_layers_is_that_of_the_layers():
    """The formulas of the experiment against shapes and kernels of real layers."""
    known = sys.modules[experiment.load("arithmetic").runs.__module__]  # pyright: ignore[reportOptionalMemberAccess]
    images = jnp.zeros((1, known.SIDE, known.SIDE, known.CHANNELS))
    for layer in known.LAYERS.values():
        side = layer.output(known.SIDE)
        if not layer.weighted:
            pooled = pooling.max_pool(images, layer.kernel, layer.stride, layer.padding)
            assert pooled.shape == (1, side, side, layer.maps)
            continue
        atoms = layers.Atoms()
        more = {"padding": layer.padding, "rngs": nnx.Rngs(0)}
        real = atoms.convolution(known.CHANNELS, layer.maps, layer.kernel, layer.stride, **more)
        output = real(images)
        assert output.shape == (1, side, side, layer.maps)
        assert real.kernel.get_value().size == layer.weights(known.CHANNELS)
        counted = real.kernel.get_value().size * output.shape[1] * output.shape[2]
        assert counted == layer.multiply_adds(known.SIDE, known.CHANNELS)


def test_two_layers_of_3x3_see_what_one_of_5x5_sees():
    """By the gradient of one output pixel: the pixels of the input that it depends on."""
    known = sys.modules[experiment.load("arithmetic").runs.__module__]  # pyright: ignore[reportOptionalMemberAccess]
    three, five = known.Layer(3, 1, padding=1), known.Layer(5, 1, padding=2)
    for stack in ([three, three], [five], [three, known.Layer(3, 1, 2, 1), three]):
        reals = [
            layers.Atoms().convolution(1, 1, layer.kernel, layer.stride, padding=layer.padding, rngs=nnx.Rngs(1))
            for layer in stack
        ]

        def pixel(x, reals=reals):
            for real in reals:
                x = real(x)
            return x[0, x.shape[1] // 2, x.shape[2] // 2, 0]

        seen = np.abs(jax.grad(pixel)(jnp.zeros((1, 33, 33, 1)))[0, :, :, 0]) > 0
        assert seen.any(0).sum() == seen.any(1).sum() == known.field(stack)
