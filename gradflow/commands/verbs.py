"""What each verb of the command line does. JAX is imported only inside a verb, so that `--help` answers at once."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from gradflow.commands.arguments import Choices, NetChoices
from gradflow.errors import BadInput, RunsFailed
from gradflow.plain_text import plain
from gradflow.reports import results_folders

# None is whatever the hint says: what stands in the help in the place of it.
Workers = Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: one a core)")]
Seeds = Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the experiment's own)")]
OwnFile = Annotated[str | None, arg(metavar="FILE", help_behavior_hint="(default: the one that comes with gradflow)")]
OneRun = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: all)")]
Step = Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the last that was recorded)")]
Side = Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 32, or that of the paper)")]
Classes = Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 10, or that of the paper)")]

EXIT_FAIL, EXIT_RUN_FAILED = 1, 3


def list_() -> int:
    """List experiments, nets and data sets."""
    from gradflow.claims import experiment
    from gradflow.data.embedded import EMBEDDED
    from gradflow.nets import NETS, settings

    print("experiments")
    for name, path in experiment.known().items():
        _print(f"  {name:20} {experiment.idea(path)}")
    print("nets")
    for name in NETS:
        print(f"  {name:20} {', '.join(settings(name))}")
    print("  or a function of your own, FILE.py:FUNCTION: build(*, classes, channels, seed, ...) returns an nnx.Module")
    print("data sets")
    print(f"  {', '.join(EMBEDDED):20} embedded")
    print("  or a local path (parquet, IDX or image folder), or a name on the Hub with pip install '.[hub]'")
    return 0


def run(
    experiment: Positional[str],
    *,
    settings: Choices,
    smoke: bool = False,
    full: bool = False,
    results: Path = Path("results"),
    seeds: Seeds = None,
    workers: Workers = None,
    checkpoint_seconds: float = 60.0,
) -> int:
    """Run or resume all runs of an experiment, print its verdict, write figures and report.

    Args:
        experiment: a name from `gradflow list`, or the path of your own file.
        settings: replaces settings of the experiment's runs.
        smoke: seconds instead of minutes, in RESULTS/smoke; shows that everything works and judges nothing.
        full: the paper's own size.
        results: the results go to RESULTS/<experiment>.
        seeds: how many seeds, from 0.
        workers: processes at a time; they share the cores.
        checkpoint_seconds: how much work a crash may lose.
    """
    from gradflow.reports import report
    from gradflow.reports.experiments import run_experiment

    if smoke and full:
        raise BadInput("--smoke and --full exclude each other: choose one")
    preset = "smoke" if smoke else "full" if full else "default"
    how: dict[str, Any] = {"seeds": seeds, "workers": workers, "checkpoint_seconds": checkpoint_seconds}
    how |= {"results": results, "progress": True, "settings": settings.given}
    try:
        found = run_experiment(experiment, preset, command=_typed(), **how)
    except RunsFailed:  # each has been said
        return EXIT_RUN_FAILED
    verdict = found.verdict
    assert verdict
    shown = results / "smoke" / found.folder.name if smoke else results / found.folder.name
    _print(*map(report.line, verdict.findings), f"{verdict.outcome}: {verdict.title}", f"figures and report: {shown}")
    return EXIT_RUN_FAILED if found.failures else EXIT_FAIL if verdict.outcome == "FAIL" else 0


def sweep(
    *,
    settings: Choices,
    seeds: int = 1,
    results: Path = Path("results"),
    name: str = "sweep",
    workers: Workers = None,
    checkpoint_seconds: float = 60.0,
) -> int:
    """Run a grid of settings: several values of a setting make several runs.

    Args:
        settings: the settings of the runs.
        seeds: how many seeds of each, from 0.
        results: the results go to RESULTS/<name>.
        name: the name of this sweep.
        workers: processes at a time; they share the cores.
        checkpoint_seconds: how much work a crash may lose.
    """
    from gradflow.reports.experiments import run_sweep
    from gradflow.reports.summary import summary

    how: dict[str, Any] = {"seeds": seeds, "workers": workers, "checkpoint_seconds": checkpoint_seconds}
    how |= {"results": results, "progress": True, "settings": settings.given}
    try:
        found = run_sweep(name=name, **how)
    except RunsFailed:  # each has been said
        return EXIT_RUN_FAILED
    _print(*found.notes, *summary(found.table).splitlines(), f"tables and figures: {results / name}")
    return EXIT_RUN_FAILED if found.failures else 0


def plot(results: Positional[Path], *, experiment: OwnFile = None) -> int:
    """Redraw the figures of a results folder from its tables alone.

    Args:
        results: the folder.
        experiment: the file of an experiment of your own.
    """
    from gradflow.reports import report
    from gradflow.runs import published, table

    folder = results_folders.absolute(results)
    judged = report.read_verdict(folder)
    own = judged or experiment is not None
    frame = table.load(folder, quantities=None if own else report.SWEEP_QUANTITIES)
    if own:
        chosen = results_folders.experiment(results, judged, experiment)
        frame.attrs["command"] = judged.command if judged else ""
        figures = chosen.figure(frame, chosen.verdict(frame))
    else:
        figures = report.sweep_figures(frame, _print)
    with published.publishing(folder):
        drawn = report.draw(folder, figures)
    for name in drawn:
        _print(results / name)
    return 0


def judge(results: Positional[Path], *, experiment: OwnFile = None) -> int:
    """Judge the claims of an experiment again, from the tables of its results folder alone; nothing is written.

    Args:
        results: the folder.
        experiment: the file of an experiment of your own.
    """
    from gradflow.claims.verdict import NOT_JUDGED
    from gradflow.reports import report
    from gradflow.runs import table

    folder = results_folders.absolute(results)
    judged = report.read_verdict(folder)
    if not judged:
        raise BadInput(f"{results} has no verdict.json: nothing was claimed of it; give the folder of an experiment")
    verdict = results_folders.experiment(results, judged, experiment).verdict(table.load(folder))
    if judged.outcome == NOT_JUDGED:
        verdict = verdict.not_judged()
    _print(*map(report.line, verdict.findings), *report.facts(verdict), f"{verdict.outcome}: {verdict.title}")
    return EXIT_FAIL if verdict.outcome == "FAIL" else 0


def diagnose(results: Positional[Path], *, run: OneRun = None, step: Step = None) -> int:
    """Say for each setting whether its gradient vanishes or explodes, the likely cause, and what would cure it.

    Args:
        results: a results folder, or the folder of one run in its runs/.
        run: of the results folder this run alone.
        step: the step that is compared with the start.
    """
    from gradflow.claims.diagnosis import diagnose as find
    from gradflow.reports import diagnoses
    from gradflow.runs import table

    frame = table.load(results_folders.absolute(results))
    frame = frame if run is None else diagnoses.of_run(frame, run)
    _print(*diagnoses.text(find(frame, step), shutil.get_terminal_size().columns).splitlines())
    return 0


def describe(
    net: Positional[str],
    *,
    settings: NetChoices,
    image: Side = None,
    channels: int = 3,
    classes: Classes = None,
    layers: bool = False,
) -> int:
    """Print a net's table as its paper prints it, with output shapes, parameters, multiply-adds and positions.

    Args:
        net: a name from `gradflow list`.
        settings: the settings of the net.
        image: the image's side in pixels.
        channels: of the image.
        classes: of the classifier.
        layers: a row for each weighted layer.
    """
    from gradflow.commands import tabulate

    several = [name for name, value in settings.given.items() if len(value) > 1]
    if several:
        raise BadInput(f"{several[0]} has several values: describe takes one net at a time")
    values = {name: value for name, (value,) in settings.given.items()}
    found = tabulate.describe(net, image=image, channels=channels, classes=classes, layers=layers, **values)
    _print(*str(found).splitlines())
    return 0


def doctor() -> int:
    """Print which speed switches are active on this machine, which not and why, and what each gains."""
    from gradflow.commands import doctor as doctors

    for line in doctors.lines():
        _print(line)
    return 0


def worker(cores: Positional[str]) -> int:
    """What a sweep starts: does the runs that come in on standard input."""
    from gradflow.runs.worker import work

    work(cores)
    return 0


def stopwatch(settings: Positional[str]) -> int:
    """What a measurement of speed starts: makes steps as standard input says."""
    from gradflow.commands.stopwatch import serve

    serve(settings)
    return 0


def _print(*lines: object) -> None:
    """Prints lines, each as it is for a terminal that obeys nothing but its end."""
    for line in lines:
        print(plain(line), flush=True)


def _typed() -> str:
    """What the user typed."""
    return shlex.join(["gradflow", *sys.argv[1:]])


VERBS = {
    "list": list_,
    "run": run,
    "sweep": sweep,
    "plot": plot,
    "judge": judge,
    "describe": describe,
    "diagnose": diagnose,
    "doctor": doctor,
}
HIDDEN = {"worker": worker, "stopwatch": stopwatch}  # started by gradflow itself: not among the verbs
