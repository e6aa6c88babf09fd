"""All of an experiment or a sweep: from its name and settings to published tables, verdict and figures."""

import shlex
import time
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from gradflow.claims import experiment as experiments
from gradflow.claims.experiment import PRESETS, Experiment
from gradflow.errors import BadInput, RunsFailed, choose
from gradflow.reports import recording, report, results_folders
from gradflow.reports.results import Results
from gradflow.runs import grid, published, sweep, table
from gradflow.runs.settings import Run
from gradflow.settings import ranges
from gradflow.training import platform

Tables = tuple[pd.DataFrame, pd.DataFrame]  # (runs, readings)


def run_experiment(
    experiment: str | Path,
    preset: str = "default",
    *,
    results: str | Path = "results",
    seeds: int | None = None,
    workers: int | None = None,
    checkpoint_seconds: float = 60.0,
    progress: bool = False,
    command: str | None = None,
    settings: Mapping[str, Any] | None = None,
    **more: Any,
) -> Results:
    """Runs or resumes all runs of an experiment, judges its claims and writes tables, figures and report.

    `gradflow run` does the same. Nothing is printed without `progress`. The runs are made by processes of their own;
    one that is finished is not made again. Raises `BadInput` for whatever is not legal, and its kind `RunsFailed` where
    all of the first runs failed.

    Args:
        experiment: A name from `gradflow list`, or the path of your own file.
        preset: default; smoke: seconds instead of minutes, judges nothing; full: the paper's own size.
        results: The results go to `results/<experiment>`, or `results/smoke/<experiment>`, from the current directory.
        seeds: How many, from 0; by default the experiment's own number.
        workers: Processes at a time, which share the cores; by default one a core.
        checkpoint_seconds: How much work a crash may lose.
        progress: Show how far the runs are, on standard error.
        command: What the report says that it was made by; by default the command line that does the same.
        settings: Replace those of the experiment's runs: `{"depth": 20}`, or `{"depth": (20, 56)}` for several.
        more: The same as keywords, `depth=20`, where the name is none of the above.
    """
    given = _several(settings, more)
    _check_numbers(seeds, workers, checkpoint_seconds)
    _check_own(progress=progress, command=command)
    chosen = experiments.load(str(experiment))
    choose("preset", preset, PRESETS)
    results_folders.check_path(results)
    folder = results_folders.absolute(Path(results) / ("smoke" if preset == "smoke" else "") / chosen.name)
    flag = () if preset == "default" else (f"--{preset}",)
    command = command or _command(("run", experiment, *flag), given, results=results, seeds=seeds)
    tables, made, failures = [], {}, {}
    if chosen.runs:
        how = {"workers": workers, "checkpoint_seconds": checkpoint_seconds, "progress": progress}
        records, failures = _all_runs(chosen, folder, preset, given, seeds, how)
        tables, made = [sweep.collect(records)], recording.provenance(records, command)
    if chosen.measure:
        begun = time.monotonic()
        tables = [*tables, experiments.measured(chosen, preset, folder, given, seeds)]
        made = made or report.provenance(command, time.monotonic() - begun, platform.machine())
    with published.publishing(folder):
        published.publish(folder, *table.concatenate(tables))
        frame = table.load(folder)
        verdict, figures = report.write(folder, frame, chosen, made, judged=preset != "smoke")
    return Results(folder, frame, figures, verdict, failures)


def run_sweep(
    *,
    seeds: int = 1,
    results: str | Path = "results",
    name: str = "sweep",
    workers: int | None = None,
    checkpoint_seconds: float = 60.0,
    progress: bool = False,
    settings: Mapping[str, Any] | None = None,
    **more: Any,
) -> Results:
    """Runs a grid of settings, each combination from several seeds, and writes tables and figures.

    `gradflow sweep` does the same: `run_sweep(net=("plain", "residual"), depth=(18, 34), steps=100)`. Nothing is
    printed without `progress`. Raises `BadInput` for whatever is not legal, and its kind `RunsFailed` where all runs
    failed.

    Args:
        seeds: How many of each, from 0.
        results: The results go to `results/<name>`, from the current directory.
        name: The name of this sweep.
        workers: Processes at a time, which share the cores; by default one a core.
        checkpoint_seconds: How much work a crash may lose.
        progress: Show how far the runs are, on standard error.
        settings: Those of the runs and their nets (see `Run`), each one value, or several.
        more: The same as keywords, where the name is none of the above.
    """
    given = _several(settings, more)
    _check_own(progress=progress)
    results_folders.check_name(name)
    _check_numbers(seeds, workers, checkpoint_seconds)
    results_folders.check_path(results)
    folder = results_folders.absolute(Path(results) / name)
    records = sweep.records(grid.grid(seeds, **given), folder)
    failures = _execute(records, workers, checkpoint_seconds, progress)
    notes: list[str] = []
    with published.publishing(folder):
        published.publish(folder, *sweep.collect(records))
        frame = table.load(folder)
        figures = report.sweep_figures(frame, notes.append)
        report.draw(folder, figures)
    return Results(folder, frame, figures, None, failures, tuple(notes))


def _all_runs(
    chosen: Experiment, folder: Path, preset: str, given: Mapping[str, Any], seeds: int | None, how: Mapping[str, Any]
) -> tuple[sweep.Records, dict[str, str]]:
    """The records of the first runs and of those that depend on them, and why runs failed."""
    records = sweep.records(experiments.make_runs(chosen, preset, given, seeds), folder)
    failures = _execute(records, **how)
    more: list[Run] = []
    if chosen.further_runs:
        first = table.join(*sweep.collect(records))
        more = experiments.make_further_runs(chosen, first, preset, given, seeds)
    if more:
        further = sweep.records(more, folder)
        failures |= recording.execute(further, **how)
        records = {**records, **further}
    return records, failures


def _execute(records: sweep.Records, workers: int | None, checkpoint_seconds: float, progress: bool) -> dict[str, str]:
    """Makes the runs. Raises `RunsFailed` where none came to its end: there is nothing to publish."""
    failures = recording.execute(records, workers, checkpoint_seconds, progress)
    if len(failures) == len(records):
        name, reason = next(iter(failures.items()))
        raise RunsFailed(f"every run failed, the first one: {reason}; see {records[name][1].folder / 'log.txt'}")
    return failures


def _several(settings: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The values of each setting: one as itself, several as any iterable that is no text."""
    if not isinstance(settings, Mapping | None):
        raise BadInput(f"settings is a {type(settings).__name__}: legal is a dict of names and values")
    if twice := [name for name in more if name in (settings or {})]:
        raise BadInput(f"{twice[0]} is given twice, by itself and in settings: give it once")
    settings = {**(settings or {}), **more}
    if "seed" in settings:
        raise BadInput("seed is not legal here: give seeds=N, and the runs have the seeds from 0 to N - 1")
    one = lambda value: isinstance(value, str) or not isinstance(value, Iterable)  # noqa: E731
    most = ranges.MOST_RUNS + 1  # an iterable may never end; so many are refused by the grid
    return {name: (value,) if one(value) else tuple(islice(value, most)) for name, value in settings.items()}


def _check_own(**given: Any) -> None:
    """Raises `BadInput` where what is no setting has a value that it cannot have: a setting of its name was meant."""
    for name, value in given.items():
        if not isinstance(value, bool if name == "progress" else str | None):
            legal = "True or False" if name == "progress" else "text"
            raise BadInput(
                f"{name} {value!r} is not legal: it must be {legal}; a setting that is called so is given as "
                f"settings={{{name!r}: {value!r}}}"
            )


def _check_numbers(seeds: Any, workers: Any, checkpoint_seconds: Any) -> None:
    """Raises `BadInput` for what is no number, or out of its range."""
    for name, value, kinds in (
        ("seeds", seeds, (int,)),
        ("workers", workers, (int,)),
        ("checkpoint_seconds", checkpoint_seconds, (int, float)),
    ):
        if type(value) not in kinds and (value is not None or name == "checkpoint_seconds"):
            raise BadInput(
                f"{name} {value!r} is not legal: it must be {'an integer' if kinds == (int,) else 'a number'}"
            )
    ranges.check("seeds", seeds)
    ranges.check("checkpoint_seconds", checkpoint_seconds)


def _command(verb: Iterable[Any], given: Mapping[str, Iterable[Any]], results: str | Path, seeds: int | None) -> str:
    """The command line that does the same."""
    words = [*verb, *(["--results", results] if str(results) != "results" else [])]
    words += ["--seeds", seeds] if seeds is not None else []
    for name, values in given.items():
        words += [f"--{name.replace('_', '-')}", *values]
    return shlex.join(map(str, ["gradflow", *words]))
