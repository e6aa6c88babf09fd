"""An experiment is one Python file: a claim of a paper, the runs that test it, a verdict and its figures.

The file defines `runs(preset, **overrides)`, `verdict(table)` and `figure(table, verdict)`; its docstring states the idea
and its first line is what `gradflow list` shows.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gradflow.errors import BadInput
from gradflow.run import Run
from gradflow.verdict import Verdict

PRESETS = ("smoke", "default", "full")


@dataclass(frozen=True)
class Experiment:
    """A loaded experiment file."""

    name: str
    path: Path
    idea: str  # its docstring
    runs: Callable[..., list[Run]]
    verdict: Callable[[pd.DataFrame], Verdict]
    figure: Callable[[pd.DataFrame, Verdict], dict[str, Any]]


def folder() -> Path:
    """Where the experiments that come with gradflow are: inside an installed wheel, or beside it in a checkout."""
    package = Path(__file__).parent
    return package / "experiments" if (package / "experiments").is_dir() else package.parent / "experiments"


def known() -> dict[str, Path]:
    """The experiments that come with gradflow, by name."""
    return {path.stem: path for path in sorted(folder().glob("[a-z]*.py"))}


def load(name: str) -> Experiment:
    """The experiment called `name`, or in the file at that path. Raises `BadInput` for one that is not there or not whole."""
    path = known().get(name, Path(name))
    if path.suffix != ".py" or not path.is_file():
        raise BadInput(f"unknown experiment {name!r}: choose one of {', '.join(known())}, or the path of a Python file")
    spec = importlib.util.spec_from_file_location(f"gradflow_experiment_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own file may raise anything
        raise BadInput(f"experiment {path} does not load: {type(error).__name__}: {error}") from error
    missing = [part for part in ("runs", "verdict", "figure") if not hasattr(module, part)]
    if missing:
        raise BadInput(f"experiment {path} lacks {', '.join(missing)}: it must define runs, verdict and figure")
    return Experiment(path.stem, path, module.__doc__ or "", module.runs, module.verdict, module.figure)


def idea(path: Path) -> str:
    """The first line of an experiment's docstring, read without running the file."""
    import ast

    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n", 1)[0]


def make_runs(experiment: Experiment, preset: str, overrides: dict[str, Sequence[Any]], seeds: int | None) -> list[Run]:
    """The runs of a preset, with some settings replaced by those the user gave."""
    if seeds is not None:
        return experiment.runs(preset, seeds=seeds, **overrides)
    return experiment.runs(preset, **overrides)
