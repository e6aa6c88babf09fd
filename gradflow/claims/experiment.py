"""An experiment is one Python file: a claim of a paper, the runs that test it, a verdict and its figures.

The file defines `runs(preset, **overrides)`, `verdict(table)` and `figure(table, verdict)`; its docstring states the
idea and its first line is what `gradflow list` shows. Where it depends on the first runs which others follow, such as
those at the best learning rate, `further_runs(table, preset, **overrides)` says which. What no training run records,
`measure(preset, folder, **overrides)` makes the two tables of, in the place of `runs` or after them.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gradflow.claims.verdict import Verdict
from gradflow.errors import BadInput
from gradflow.runs.readings import READINGS
from gradflow.runs.runs_csv import NEEDED
from gradflow.runs.settings import Run
from gradflow.settings import ranges, user_code

PRESETS = ("smoke", "default", "full")
# What an experiment file may define, and with which arguments each is called.
_PARTS = {"runs": ("preset",), "measure": ("preset", "folder"), "further_runs": ("table", "preset")}
_PARTS |= {"verdict": ("table",), "figure": ("table", "verdict")}


@dataclass(frozen=True)
class Experiment:
    """A loaded experiment file."""

    name: str
    source: str  # what `load` takes: the name of one that comes with gradflow, or the path of the user's own file
    idea: str  # its docstring
    runs: Callable[..., list[Run]] | None
    measure: Callable[..., tuple[pd.DataFrame, pd.DataFrame]] | None  # one of the two at least
    further_runs: Callable[..., list[Run]] | None
    verdict: Callable[[pd.DataFrame], Verdict]
    figure: Callable[[pd.DataFrame, Verdict], dict[str, Figure]]


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
    if not path.stem.strip("."):
        raise BadInput(f"{path} is no name of an experiment: its results would lie outside of their folder")
    module = vars(user_code.load(path))  # as it is: a file may define what happens where a name is asked for
    runs, measure = module.get("runs"), module.get("measure")
    missing = [part for part in ("verdict", "figure") if part not in module]
    missing = ["runs"] * (runs is None and measure is None) + missing
    if missing:
        raise BadInput(f"experiment {path} lacks {', '.join(missing)}: it must define runs, verdict and figure")
    for part, arguments in _PARTS.items():
        _check_callable(path, part, module.get(part), arguments)
    source = str(path) if own else name
    verdict, figure = _verdict(path, module["verdict"]), _figure(path, module["figure"])
    described = str(module.get("__doc__") or "")
    return Experiment(path.stem, source, described, runs, measure, module.get("further_runs"), verdict, figure)


def _check_callable(path: Path, part: str, function: Any, arguments: Sequence[str]) -> None:
    """Raises `BadInput`, before hours are spent, where a part that is there cannot be called as it will be."""
    try:
        if function is not None:
            inspect.signature(function).bind(*arguments)
    except (TypeError, ValueError) as error:
        wanted = ", ".join(arguments)
        raise BadInput(f"{path}: {part} is no function of ({wanted}): {error}") from error


def _in_one_line(path: Path, function: Callable[..., Any], otherwise: str) -> Callable[..., Any]:
    def called(*arguments: Any) -> Any:
        with user_code.in_one_line(path, otherwise):
            return function(*arguments)

    return called


def _verdict(path: Path, function: Callable[..., Any]) -> Callable[[pd.DataFrame], Verdict]:
    called = _in_one_line(path, function, "has no verdict of this table")

    def verdict(table: pd.DataFrame) -> Verdict:
        found = called(table.copy(deep=False))  # the user's file may change it: what follows needs it as it was
        if not isinstance(found, Verdict):
            raise BadInput(
                f"{path}: verdict must return a gradflow.Verdict, not {type(found).__name__} (line {_line(function)})"
            )
        return found

    return verdict


def _figure(path: Path, function: Callable[..., Any]) -> Callable[[pd.DataFrame, Verdict], dict[str, Figure]]:
    called = _in_one_line(path, function, "has no figures of this table")

    def figure(table: pd.DataFrame, verdict: Verdict) -> dict[str, Figure]:
        found = called(table.copy(deep=False), verdict)
        if wrong := _wrong_figures(found):
            raise BadInput(f"{path}: figure must return {wrong} (line {_line(function)})")
        return dict(found)

    return figure


def _wrong_figures(found: Any) -> str:
    """What `figure` should have returned instead; empty where nothing is wrong with it."""
    if not isinstance(found, Mapping):
        return f"a dictionary of names and matplotlib figures, not {type(found).__name__}"
    for name, figure in found.items():
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]{,99}", name):
            return f"names of letters, digits, _, - and ., at most 100: a figure cannot be called {name!r}"
        if not isinstance(figure, Figure):
            return f"matplotlib figures: the figure {name} is a {type(figure).__name__}"
    return ""


def _line(function: Any) -> int:
    """Where in its file a function begins; 0 for what is none of Python's."""
    return getattr(getattr(function, "__code__", None), "co_firstlineno", 0)


def _checked_runs(experiment: Experiment, part: str, found: Any) -> list[Run]:
    """What `runs` or `further_runs` returned, as a list. Raises `BadInput` for anything but runs."""
    runs = [*islice(found, ranges.MOST_RUNS + 1)] if isinstance(found, Iterable) else [found]
    if len(runs) > ranges.MOST_RUNS:  # it may be a generator that never ends
        raise BadInput(f"{experiment.source}: {part} returned more than {ranges.MOST_RUNS:,} runs, which are legal")
    for run in runs:
        if not isinstance(run, Run):
            raise BadInput(
                f"{experiment.source}: {part} must return a list of gradflow.Run, not of {type(run).__name__}"
            )
    return runs


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
        runs = _checked_runs(experiment, "runs", experiment.runs(preset, **given))
    if not runs:
        raise BadInput(f"{experiment.source}: runs returned none for preset {preset!r}: an experiment has one or more")
    return runs


def make_further_runs(
    experiment: Experiment, table: pd.DataFrame, preset: str, overrides: Mapping[str, Sequence[Any]], seeds: int | None
) -> list[Run]:
    """The runs that follow the first ones, whose long table this is; none where the experiment has no such runs."""
    if not experiment.further_runs:
        return []
    given = _given(overrides, seeds)
    with user_code.in_one_line(experiment.source, f"has no further runs for preset {preset!r}"):
        return _checked_runs(experiment, "further_runs", experiment.further_runs(table, preset, **given))


def measured(
    experiment: Experiment, preset: str, folder: Path, overrides: Mapping[str, Sequence[Any]], seeds: int | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables (runs, readings) of an experiment that measures by itself. It may write in `folder` alone."""
    assert experiment.measure
    given = _given(overrides, seeds)
    with user_code.in_one_line(
        experiment.source, f"cannot measure preset {preset!r} with {given or 'its own settings'}"
    ):
        tables = experiment.measure(preset, folder, **given)
        if not (isinstance(tables, tuple) and [*map(type, tables)] == [pd.DataFrame] * 2):
            raise BadInput(f"{experiment.source}: measure must return two tables, (runs, readings)")
        for columns, one in ((NEEDED, tables[0]), (("run", *READINGS.names), tables[1])):
            if missing := [name for name in columns if name not in one]:
                raise BadInput(f"{experiment.source}: a table that measure returns lacks the column {missing[0]!r}")
        return tables


def _given(overrides: Mapping[str, Sequence[Any]], seeds: int | None) -> dict[str, Any]:
    """What the user gave. Raises `BadInput` for fewer seeds than one."""
    ranges.check("seeds", seeds)
    return {**overrides} if seeds is None else {**overrides, "seeds": seeds}
