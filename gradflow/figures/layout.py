"""How panels are laid out and what is written around them: titles, notes, headings, labels and axes."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from gradflow.errors import BadInput
from gradflow.figures.drawing import Picture, tick_label
from gradflow.figures.style import GREY, WIDTH, shade

MOST_PANELS, MOST_COLUMNS = 60, 20  # of a figure: more take minutes to lay out, and side by side they are too narrow


def grid(lines: int, columns: int, height: float, title: str, note: str, **shared: Any) -> tuple[Figure, np.ndarray]:
    """Returns an empty figure with its title, its note and a grid of panels, each `height` inches tall.

    Raises `BadInput` for no panel, or for more than can be drawn.
    """
    if not 0 < lines * columns <= MOST_PANELS or columns > MOST_COLUMNS:
        raise BadInput(
            f"a figure cannot have {lines:,} x {columns:,} panels: legal are one or more, {MOST_COLUMNS} side by side "
            f"and {MOST_PANELS} in all; give fewer"
        )
    width = WIDTH if columns > 1 else 0.7 * WIDTH
    title = textwrap.fill(title, int(9.8 * width))
    note = "\n".join(textwrap.fill(line, int(15.5 * width)) for line in note.splitlines())
    text = 0.3 * len(title.splitlines()) + 0.2 * len(note.splitlines()) + 0.4
    figure = Picture(figsize=(width, lines * height + text), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.text(0.01, 0.005, note, fontsize=8.5, va="bottom", linespacing=1.3)
    below = 0.19 * len(note.splitlines()) / figure.get_figheight()
    figure.set_layout_engine("constrained", rect=(0, below, 1, 1 - below))
    return figure, figure.subplots(lines, columns, squeeze=False, **shared)


def settle(figure: Figure) -> None:
    """Lays the panels out for good, at rounded places: the layout's solver is not the same twice in the last bits."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    figure.set_layout_engine("none")
    for ax in figure.axes:
        left, bottom, width, height = (round(part, 9) for part in ax.get_position(original=True).bounds)
        ax.set_position((left, bottom, width, height))
    for text in figure.texts:
        across, up = text.get_position()
        text.set_position((round(across, 6), round(up, 6)))


def outer_labels(figure: Figure, axes: np.ndarray, across: str, up: str) -> None:
    """Writes what goes across below the lowest panels, what goes up once for all."""
    for ax in axes[-1]:
        ax.set_xlabel(across)
    figure.supylabel(up, fontsize=9)


def heading(ax: Axes, words: Sequence[str], net: str = "", **look: Any) -> None:
    """Writes what a panel shows above it, in the colour of its net."""
    columns = len({other.get_position().x0 for other in ax.figure.axes})
    parts = ", ".join(word for word in words if word).split(", ")
    text = ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)
    text = textwrap.fill(text, int(13 * WIDTH / columns)).replace("\N{NO-BREAK SPACE}", " ")
    ax.set_title(text, loc="left", color=shade(net) if net else GREY, **look)


def remarks(ax: Axes, remarks: Iterable[tuple[str, Any]]) -> None:
    """Writes (text, colour) in the panel's upper right corner, which curves that end near 1 leave free."""
    for line, (text, colour) in enumerate(remarks):
        ax.annotate(text, (1, 1), (0, -11 * line), "axes fraction", "offset points", ha="right", va="top", color=colour)


def blank(ax: Axes, words: str) -> None:
    """Says in the middle of a panel why it is empty."""
    ax.text(0.5, 0.5, words, ha="center", va="center", transform=ax.transAxes)
    ax.tick_params(labelleft=False, left=False, labelbottom=False, bottom=False)
    ax.grid(False)


def value_axis(ax: Axes, across: np.ndarray, values: Sequence[str], numeric: bool) -> None:
    """Sets a tick at each value of a setting; a logarithmic axis where the values are numbers far apart."""
    if numeric and across.min() > 0 and across.max() / across.min() >= 20:
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(across, [*map(tick_label, values)])


def log_ticks(ax: Axes) -> None:
    """Labels 1, 2 and 5 times the powers of ten where the y-axis has few of these: the default's labels overlap."""
    low, high = ax.get_ylim()
    if high / low < 30:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
        ax.yaxis.set_minor_locator(NullLocator())


def end_labels(ax: Axes, ends: list[tuple[Any, float, str, Any]], side: int, panel: float) -> None:
    """Writes (x, y, text, colour) left (-1) or right (1) of each line's end, or of the panel where x is None.

    Labels move up or down just enough that no two overlap and none leaves the panel: so the axis limits must be final,
    and a panel, with its heading, `panel` inches tall.
    """
    if not ends:
        return
    ends = sorted(ends, key=lambda end: end[1])
    into_panel = ax.transScale + ax.transLimits
    heights = np.array([np.clip(into_panel.transform((1, y))[1], 0, 1) for _, y, _, _ in ends])
    gap = 10.5 / 72 / (panel - 0.45)
    for (x, _, text, colour), height in zip(ends, apart(heights, gap), strict=True):
        anchor, across = (side > 0, "axes fraction") if x is None else (x, "data")
        ax.annotate(
            text,
            (anchor, height),
            xycoords=(across, "axes fraction"),
            xytext=(5 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            color=colour,
            fontweight="bold",
            fontsize=9,
        )


def apart(heights: np.ndarray, gap: float) -> list[float]:
    """Returns sorted heights moved as little (in least squares) as sets neighbours a gap apart, within 0 to 1.

    Without the gaps that precede it each height need only be no lower than the one before: isotonic regression.
    """
    from scipy.optimize import isotonic_regression  # takes most of a second: not where nothing is drawn

    gaps = gap * np.arange(len(heights))
    fit = isotonic_regression(heights - gaps).x
    return list(np.clip(fit, 0, max(0, 1 - gaps[-1])) + gaps)


def label_room(labels: Iterable[str], columns: int) -> float:
    """Returns the share of a panel's width, one of so many side by side, that the longest label needs beside a line."""
    panel = (WIDTH if columns > 1 else 0.7 * WIDTH) / columns - 0.35
    return min(0.6, (0.1 + 0.085 * max(map(len, labels), default=0)) / panel)
