"""Numbers and runs in words, as figures, verdicts and reports print them."""

from typing import Any

import numpy as np

from gradflow.claims import statistics
from gradflow.figures import rows
from gradflow.figures.sources import Source, as_table
from gradflow.kinds import checked
from gradflow.plain_text import plain
from gradflow.runs import variation

# pandas types every `frame["x"]` as a union that no type checker can follow: inside this file tables are not checked.
Frame = Any
Series = Any
LABELS = {
    "activation_gradient_norm": "gradient norm (rms over examples)",
    "identity_gradient_norm": "gradient norm, identity path (rms over examples)",
    "residual_gradient_norm": "gradient norm, residual branch (rms over examples)",
    "activation_std": "standard deviation of the activation",
    "weight_norm": "norm of the weights",
    "gradient_norm": "norm of the weights' gradient",
    "update_norm": "norm of the weights' update",
}
INPUT_TO_OUTPUT = "layer position (input \N{RIGHTWARDS ARROW} output)"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SHARED = ("data", "steps", "seed", "batch", "width", "normalisation")  # what a caption says also where it is the same

MOST_VALUES = 12  # of a setting that a caption lists; of more it says the first and the last


@checked
def format_ratio(ratio: float) -> str:
    """A ratio in one digit, as a power of ten where it is far from one: `×0.003`, `×10⁻⁷`."""
    if not (ratio > 0 and np.isfinite(ratio)):
        return f"\N{MULTIPLICATION SIGN}{ratio:g}"
    rounded = float(f"{ratio:.1g}")
    if 0.001 <= rounded < 10_000:
        return f"\N{MULTIPLICATION SIGN}{rounded:g}"
    return f"\N{MULTIPLICATION SIGN}10{str(round(np.log10(ratio))).translate(SUPERSCRIPTS)}"


def format_spread(values: Series) -> str:
    """Mean and half range as text, no finer than the range allows; a dash if there are no values."""
    if values.empty:
        return "\N{EN DASH}"
    half = statistics.half_range(values)
    places = 0 if half >= 5 else 1
    return f"{values.mean():.{places}f}" + (f"\N{PLUS-MINUS SIGN}{half:.{places}f}" if len(values) > 1 else "")


def status_summary(group: Frame, curves: Frame | None = None) -> str:
    """Which runs diverged, did not end or (given their curves) read zero; a run with a whole curve is not listed."""
    status = group.groupby("run")["status"].first()
    whole = [] if curves is None else list(curves.dropna(axis=1).columns)
    lost = status.drop(whole).replace(["running", "queued", "failed"], "unfinished")
    lost = lost[(lost != "done") | lost.index.isin([] if curves is None else curves.columns)].replace("done", "reads 0")
    counts = lost.value_counts().sort_index()
    return ", ".join(
        plain(name) if n == len(status) else f"{n} of {len(status)} {plain(name)}" for name, n in counts.items()
    )


@checked
def caption(table: Source, command: str = "") -> str:
    """The small line under a figure: what its runs share, what varies between them, the command that made them.

    A report leaves the command in `table.attrs["command"]`. Raises `BadInput` for a table without readings.
    """
    table = as_table(table)
    command = command or table.attrs.get("command", "")
    parts = [part.replace(" ", "\N{NO-BREAK SPACE}") for part in _conditions(table)]
    return "\N{NO-BREAK SPACE}\N{MIDDLE DOT} ".join([*parts, *([plain(command)] if command else [])])


def _conditions(table: Frame) -> list[str]:
    runs = rows.runs(table)
    chosen = {name: variation.chosen(runs, name) for name in [*SHARED, *variation.varying(runs)] if name in runs}
    chosen.setdefault("steps", [table["step"].max()])
    shared = [_words(name, chosen[name]) for name in SHARED if len(chosen.get(name, [])) == 1 or name == "seed"]
    varying = {name: values for name, values in chosen.items() if len(values) > 1 and name != "seed"}
    lost = int((runs["status"] == "diverged").sum())
    return [
        *shared,
        *(_words(name, varying[name]) for name in variation.varying(runs) if name in varying),
        *([] if varying else [nothing_varies(runs)]),
        *([f"{lost} of {len(runs)} runs diverged"] if lost else []),
    ]


def nothing_varies(runs: Frame) -> str:
    """What is words of runs that have the same settings."""
    return "nothing varies but the seed" if len(runs) > 1 else "a single run"


def _words(name: str, values: list[Any]) -> str:
    """A setting and its values in words: `150 steps`, `batch 64`, `learning rate 0.001/1`."""
    words = "/".join(map(variation.text, values))
    if len(values) > MOST_VALUES:
        words = f"{variation.text(values[0])} to {variation.text(values[-1])} ({len(values)} values)"
    if name == "seed":
        return f"{len(values)} seed{'s' * (len(values) != 1)}"
    if name == "normalisation" or (len(values) == 1 and isinstance(values[0], bool)):
        return "/".join(variation.phrase(name, value) for value in values)
    return {"data": words, "net": words, "steps": f"{words} step{'s' * (words != '1')}"}.get(
        name, f"{plain(name).replace('_', ' ')} {words}"
    )
