"""From tables to what is read: verdict.json, figures and a short README in the results folder."""

import datetime
import math
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gradflow.claims.experiment import Experiment
from gradflow.claims.statistics import IDENTITY, fate
from gradflow.claims.verdict import Claim, Finding, Verdict
from gradflow.errors import BadInput
from gradflow.figures import plot
from gradflow.runs import files


def write(
    results: Path, frame: pd.DataFrame, experiment: Experiment, made: Mapping[str, Any], judged: bool = True
) -> Verdict:
    """Judges the table, draws it and writes all of it into `results`; returns the verdict.

    `made` says how the table was made: see `provenance`. Unless `judged`, the claims' numbers stand without an outcome.
    """
    frame.attrs["command"] = made["command"]  # for the line under each figure
    verdict = experiment.verdict(frame)
    verdict = verdict if judged else verdict.not_judged()
    files.write_json(
        results / "verdict.json", _finite({"experiment": experiment.source, **verdict.to_json(), "made": made})
    )
    figures = draw(results, experiment.figure(frame, verdict))
    files.write_text(results / "README.md", _readme(experiment, verdict, figures, frame, made))
    return verdict


def draw(results: Path, figures: Mapping[str, Any]) -> list[str]:
    """Saves each figure as `<name>.svg`; returns the file names."""
    for name, figure in figures.items():
        plot.save(figure, results / f"{name}.svg")
    return [f"{name}.svg" for name in figures]


def sweep_figures(frame: Any) -> dict[str, Any]:
    """The figures of a sweep, which no claim was made about: every one that its runs have readings for.

    One that cannot be drawn, as where every gradient is zero because there is only one class, is said in a line: the
    tables stand.
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
            print(f"{name}.svg is not drawn: {error}")
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


def region(claim: Claim) -> str:
    """Where a claim says that its number lies: `> 0.5`, or `= 0 within 1`."""
    within = f" within {number(claim.margin)}" if claim.margin else ""
    return f"{claim.side} {number(claim.than)}{within}"


def number(value: float | None) -> str:
    """A number as it is printed beside a claim."""
    return "none" if value is None else f"{value:.3g}"


def line(finding: Finding) -> str:
    """One finding in one line of plain text."""
    bounds = f" [{', '.join(map(number, finding.interval))}]" if finding.interval else ""
    seeds = ", ".join(f"{seed}: {number(value)}" for seed, value in finding.per_seed.items())
    decide = f"; would decide: {finding.would_decide}" if finding.would_decide else ""
    lost = f"; no number from seed {', '.join(map(str, finding.missing))}" if finding.missing else ""
    return (
        f"{finding.outcome}  {finding.claim.text}: {number(finding.mean)}{bounds}, claimed {region(finding.claim)} "
        f"(by seed {seeds}{lost}{decide})"
    )


def facts(verdict: Verdict) -> list[str]:
    """What was seen beside the claims, a line each."""
    return [f"{name}: {_plain(value)}" for name, value in verdict.facts.items()]


def _readme(experiment: Experiment, verdict: Verdict, figures: list[str], frame: pd.DataFrame, made) -> str:
    rows = [
        f"| {f.claim.text} | {f.claim.source} | {f.claim.paper} | {f.claim.statistic} | {region(f.claim)} | "
        f"{number(f.mean)} | "
        f"{'none' if f.interval is None else ' to '.join(map(number, f.interval))} | "
        f"{', '.join(number(value) for value in f.per_seed.values())} | {f.outcome} |"
        for f in verdict.findings
    ]
    notes = [f"- {f.claim.text}: would be decided by {f.would_decide}." for f in verdict.findings if f.would_decide]
    notes = [RULE, "", *notes] if verdict.judged else [NOT_JUDGED]
    seen = [f"- {line}" for line in facts(verdict)]
    ended = fate(frame).value_counts().to_dict()
    return "\n".join(
        [
            f"# {experiment.name}: {verdict.outcome}",
            "",
            f"**{verdict.title}**",
            "",
            experiment.idea.strip(),
            "",
            "| claim | source | the paper | our number | claimed | mean | 95 % interval | by seed | outcome |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            *notes,
            "",
            *(["What was seen beside the claims, not judged:", "", *seen, ""] if seen else []),
            *(f"![{name.removesuffix('.svg')}]({name})\n" for name in figures),
            f"{plot.caption(frame)}. Runs: {', '.join(f'{count} {state}' for state, count in ended.items())}.",
            "",
            f"Made on {made['date']} ({made['machine']}; the runs took {made['run_seconds']} s, added up) by",
            "",
            f"    {made['command']}",
            "",
            "The tables are `runs.csv` (a row a run) and `readings.parquet` (a row a reading); "
            "`gradflow plot` draws the figures from them alone.",
            "",
        ]
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    return number(value) if isinstance(value, float) else str(value)


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
