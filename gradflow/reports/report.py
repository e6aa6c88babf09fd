"""From tables to what is read: verdict.json, figures and a short README in the results folder."""

import datetime
import math
import platform
import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gradflow.claims.endings import fate
from gradflow.claims.experiment import Experiment
from gradflow.claims.statistics import IDENTITY, PATHS
from gradflow.claims.verdict import Finding, Verdict, interval, number, region
from gradflow.errors import BadInput
from gradflow.figures import plot, save
from gradflow.plain_text import markdown, plain
from gradflow.runs import files


def write(
    results: Path, frame: pd.DataFrame, experiment: Experiment, made: Mapping[str, Any], judged: bool = True
) -> tuple[Verdict, dict[str, Figure]]:
    """Judges the table, draws it and writes all of it into `results`; returns the verdict and the figures by name.

    `made` says how the table was made: see `provenance`. Unless `judged`, the claims' numbers stand without an outcome.
    """
    frame.attrs["command"] = made["command"]  # for the line under each figure
    verdict = experiment.verdict(frame)
    verdict = verdict if judged else verdict.not_judged()
    # All are drawn before anything is written: a figure that cannot be drawn leaves the folder as it was.
    figures = experiment.figure(frame, verdict)
    drawn = _drawn(figures, f"{experiment.source}: ")
    # Of a user's own file the name alone: where it lies is of this machine, and no one loads it from there.
    source = Path(experiment.source).name
    files.write_json(results / "verdict.json", _finite({"experiment": source, **verdict.to_json(), "made": made}))
    _save(results, drawn)
    files.write_text(results / "README.md", _readme(experiment, verdict, [*drawn], frame, made))
    return verdict, figures


@dataclass(frozen=True)
class Judged:
    """What `verdict.json` says of how a results folder came about."""

    experiment: str  # the name of one that comes with gradflow, or of the user's own file, without its folder
    outcome: str
    command: str


def read_verdict(results: Path) -> Judged | None:
    """What the `verdict.json` of a folder says; None where there is none. Raises `BadInput` for a foreign one."""
    path = results / "verdict.json"
    content = files.read_json(path)
    if content is None:
        return None
    made = content.get("made")
    said = [content.get("experiment"), content.get("outcome"), made.get("command") if isinstance(made, dict) else None]
    texts = [one for one in said if isinstance(one, str)]
    if len(texts) < len(said):
        raise BadInput(f"{path} is not what gradflow writes: it must say experiment, outcome and made.command as text")
    source, outcome, command = texts
    return Judged(re.split(r"[/\\]", source)[-1], outcome, command)


def draw(results: Path, figures: Mapping[str, Figure]) -> list[str]:
    """Saves each figure as `<name>.svg`; returns the file names. Raises `BadInput` before it saves any."""
    drawn = _drawn(figures)
    _save(results, drawn)
    return [*drawn]


def _drawn(figures: Mapping[str, Figure], whose: str = "") -> dict[str, bytes]:
    """The files that figures become, by name."""
    return {
        f"{name}.svg": save.drawn(figure, "svg", f"{whose}cannot draw the figure {name}")
        for name, figure in figures.items()
    }


def _save(results: Path, drawn: Mapping[str, bytes]) -> None:
    for name, content in drawn.items():
        files.write_bytes(results / name, content)


SWEEP_QUANTITIES = ("activation_gradient_norm", *PATHS, *plot.ERRORS)  # what the figures of a sweep draw


def sweep_figures(frame: Any, say: Callable[[str], Any]) -> dict[str, Any]:
    """The figures of a sweep, which no claim was made about: every one that its runs have readings for.

    `say` is told in a line of one that cannot be drawn, as where every gradient is zero because there is only one
    class: the tables stand.
    """
    draw: dict[str, Callable[..., Any]] = {
        "gradient_norm": plot.gradient_curves,
        "film": plot.film,
        "paths": plot.paths,
        "errors": plot.errors,
    }
    if not (frame["quantity"] == IDENTITY).any():
        del draw["paths"]
    figures = {}
    for name, function in draw.items():
        try:
            figures[name] = function(frame, note=plot.caption(frame))
        except BadInput as error:
            say(plain(f"{name}.svg is not drawn: {error}"))
    return figures


def provenance(command: str, seconds: float, machine: Mapping[str, Any]) -> dict[str, Any]:
    """How results came about: command, date, seconds that the runs took added up, kind of machine and versions."""
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "run_seconds": round(seconds),
        "machine": f"{machine.get('device', platform.machine())} x {machine.get('devices', 1)}, "
        f"{machine.get('cores', '?')} core(s) a run",
        "versions": machine.get("versions", {}),
    }


RULE = (
    "A claim passes where the 95 % interval of the mean over seeds lies where it says, and fails where all of it lies "
    "elsewhere; the claims are one family (Holm 1979), so what is said of all of them together is wrong in at most 5 %."
)
NOT_JUDGED = "Nothing is judged: this preset only shows that everything works."


def line(finding: Finding) -> str:
    """One finding in one line of plain text."""
    bounds = f" [{', '.join(map(number, finding.interval))}]" if finding.interval else ""
    seeds = ", ".join(f"{seed}: {number(value)}" for seed, value in finding.per_seed.items())
    decide = f"; would decide: {finding.would_decide}" if finding.would_decide else ""
    lost = f"; no number from seed {', '.join(map(str, finding.missing))}" if finding.missing else ""
    return plain(
        f"{finding.outcome}  {finding.claim.text}: {number(finding.mean)}{bounds}, claimed {region(finding.claim)} "
        f"(by seed {seeds}{lost}{decide})"
    )


def facts(verdict: Verdict) -> list[str]:
    """What was seen beside the claims, a line each."""
    return [plain(f"{name}: {_words(value)}") for name, value in verdict.facts.items()]


def _readme(experiment: Experiment, verdict: Verdict, figures: list[str], frame: pd.DataFrame, made) -> str:
    rows = [
        f"| {' | '.join(map(markdown, (f.claim.text, f.claim.source, f.claim.paper, f.claim.statistic)))} | "
        f"{region(f.claim)} | {number(f.mean)} | "
        f"{interval(f)} | "
        f"{', '.join(number(value) for value in f.per_seed.values())} | {f.outcome} |"
        for f in verdict.findings
    ]
    notes = [
        f"- {markdown(f.claim.text)}: would be decided by {f.would_decide}." for f in verdict.findings if f.would_decide
    ]
    notes = [RULE, "", *notes] if verdict.judged else [NOT_JUDGED]
    seen = [f"- {markdown(line)}" for line in facts(verdict)]
    ended = ", ".join(f"{count} {markdown(state)}" for state, count in fate(frame).value_counts().items())
    return "\n".join(
        [
            f"# {markdown(experiment.name)}: {verdict.outcome}",
            "",
            f"**{markdown(verdict.title)}**",
            "",
            *map(_own_markdown, experiment.idea.strip().splitlines()),
            "",
            "| claim | source | the paper | our number | claimed | mean | 95 % interval | by seed | outcome |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            *notes,
            "",
            *(["What was seen beside the claims, not judged:", "", *seen, ""] if seen else []),
            *(f"![{name.removesuffix('.svg')}]({urllib.parse.quote(name)})\n" for name in figures),
            f"{markdown(plot.caption(frame))}. Runs: {ended}.",
            "",
            f"Made on {made['date']} ({markdown(made['machine'])}; the runs took {made['run_seconds']} s, added up) by",
            "",
            f"    {plain(made['command'])}",
            "",
            "The tables are `runs.csv` (a row a run) and `readings.parquet` (a row a reading); "
            "`gradflow plot` draws the figures from them alone.",
            "",
        ]
    )


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(one)}" for name, one in value.items())
    return number(value) if isinstance(value, float) else str(value)


def _own_markdown(line: str) -> str:
    """A line of an experiment's docstring, which is Markdown by its author: without HTML."""
    return re.sub(r"<(?=[a-zA-Z/!?])", r"\<", plain(line.expandtabs()))


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
