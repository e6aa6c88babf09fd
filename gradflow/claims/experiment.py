"""An experiment is one Python file: a claim of a paper, the runs that test it, a verdict and its figures.

The file defines `runs(preset, **overrides)`, `verdict(table)` and `figure(table, verdict)`; its docstring states the
idea and its first line is what `gradflow list` shows. Where it depends on the first runs which others follow, such as
those at the best learning rate, `further_runs(table, preset, **overrides)` says which. One that is not about training
runs defines `measure(preset, folder, **overrides)` in the place of `runs`: it returns the two tables itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gradflow import ranges, user_code
from gradflow.claims.verdict import Verdict
from gradflow.errors import BadInput
from gradflow.runs.settings import Run

PRESETS = ("smoke", "default", "full")


@dataclass(frozen=True)
class Experiment:
    """A loaded experiment file."""

    name: str
    source: str  # what `load` takes: the name of one that comes with gradflow, or the path of the user's own file
    idea: str  # its docstring
    runs: Callable[..., list[Run]] | None
    measure: Callable[..., tuple[pd.DataFrame, pd.DataFrame]] | None  # there where `runs` is not
    further_runs: Callable[..., list[Run]] | None
    verdict: Callable[[pd.DataFrame], Verdict]
    figure: Callable[[pd.DataFrame, Verdict], dict[str, Any]]


def folder() -> Path:
    """Where the experiments that come with gradflow are: inside an installed wheel, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    return package / "experiments" if (package / "experiments").is_dir() else package.parent / "experiments"


def known() -> dict[str, Path]:
    """The experiments that come with gradflow, by name."""
    return {path.stem: path for path in sorted(folder().glob("[a-z]*.py"))}


def load(name: str) -> Experiment:
    """The experiment called `name`, or in the file at that path. Raises `BadInput` for none, or not a whole one."""
    own = name not in known()
    path = Path(name).absolute() if own else known()[name]
    if path.suffix != ".py" or not path.is_file():
        raise BadInput(f"unknown experiment {name!r}: choose one of {', '.join(known())}, or the path of a Python file")
    module = user_code.load(path)
    runs, measure = getattr(module, "runs", None), getattr(module, "measure", None)
    missing = [part for part in ("verdict", "figure") if not hasattr(module, part)]
    missing = ["runs"] * (runs is None and measure is None) + missing
    if missing:
        raise BadInput(f"experiment {path} lacks {', '.join(missing)}: it must define runs, verdict and figure")
    source = str(path) if own else name
    further = getattr(module, "further_runs", None)
    return Experiment(path.stem, source, module.__doc__ or "", runs, measure, further, module.verdict, module.figure)


def idea(path: Path) -> str:
    """The first line of an experiment's docstring, read without running the file."""
    import ast

    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n", 1)[0]


def make_runs(
    experiment: Experiment, preset: str, overrides: Mapping[str, Sequence[Any]], seeds: int | None
) -> list[Run]:
    """The runs of a preset, with some settings replaced by those the user gave. Raises `BadInput` where it has none."""
    assert experiment.runs
    given = _given(overrides, seeds)
    with user_code.in_one_line(
        experiment.source, f"has no runs for preset {preset!r} with {given or 'its own settings'}"
    ):
        return experiment.runs(preset, **given)


def make_further_runs(
    experiment: Experiment, table: pd.DataFrame, preset: str, overrides: Mapping[str, Sequence[Any]], seeds: int | None
) -> list[Run]:
    """The runs that follow the first ones, whose long table this is; none where the experiment has no such runs."""
    if not experiment.further_runs:
        return []
    given = _given(overrides, seeds)
    with user_code.in_one_line(experiment.source, f"has no further runs for preset {preset!r}"):
        return experiment.further_runs(table, preset, **given)


def measured(
    experiment: Experiment, preset: str, folder: Path, overrides: Mapping[str, Sequence[Any]], seeds: int | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables (runs, readings) of an experiment that measures by itself. It may write in `folder` alone."""
    assert experiment.measure
    given = _given(overrides, seeds)
    with user_code.in_one_line(
        experiment.source, f"cannot measure preset {preset!r} with {given or 'its own settings'}"
    ):
        return experiment.measure(preset, folder, **given)


def _given(overrides: Mapping[str, Sequence[Any]], seeds: int | None) -> dict[str, Any]:
    """What the user gave. Raises `BadInput` for fewer seeds than one."""
    ranges.check("seeds", seeds)
    return {**overrides} if seeds is None else {**overrides, "seeds": seeds}
