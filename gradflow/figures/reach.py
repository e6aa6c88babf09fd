"""Numbers by layer, drawn: curves along depth in a grid of panels, and which activation reaches which as a map."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gradflow.errors import BadInput
from gradflow.figures import layout, style
from gradflow.figures.drawing import drawing

# Position to numbers, one a seed.
Curve = Mapping[float, Sequence[float]]
PRINTED = 10  # rows of a map up to which its numbers stand in the cells


@drawing
def depth_curves(
    panels: Sequence[Sequence[tuple[str, str, Mapping[str, Curve], Mapping[str, Curve]]]],
    across: str,
    up: str,
    title: str = "",
    note: str = "",
    log: bool = True,
    side: int = -1,
) -> Figure:
    """Draws a grid of panels, all on the same axes: each is `(heading, net, curves, guides)`, by label.

    A curve is the mean over seeds (geometric on a logarithmic axis) with a band from the lowest to the highest, in the
    colour of its net, the first light and the last dark. A guide, a number to compare with, is thin and dotted. Labels
    stand at the left end (`side=-1`) or the right one (1).
    """
    height = 2.1
    figure, axes = layout.grid(len(panels), _columns(panels), height, title, note, sharex=True, sharey=True)
    axes[0, 0].set_yscale("log" if log else "linear")
    ends: dict[Axes, list] = {}
    for ax, (heading, net, lines, guides) in zip(axes.flat, [one for row in panels for one in row], strict=True):
        ends[ax] = []
        for place, (label, curve) in enumerate(lines.items()):
            colour = style.shade(net, place, len(lines))
            if end := _curve(ax, curve, log, side, colour, style.line_width(place, len(lines))):
                ends[ax].append((*end, label, colour))
        for label, curve in guides.items():
            look = {"linestyle": (0, (1, 1.5)), "band": False}
            if end := _curve(ax, curve, log, side, style.GREY, 1.2, **look):
                ends[ax].append((*end, label, style.GREY))
        layout.heading(ax, [heading], net)
    every = sorted(
        {x for row in panels for _, _, *both in row for some in both for line in some.values() for x in line}
    )
    if every:
        room = (every[-1] - every[0]) * 0.3
        axes[0, 0].set_xlim(every[0] - room * (side < 0), every[-1] + room * (side > 0))
        ticks = MaxNLocator(6, integer=True).tick_values(0, every[-1])
        axes[0, 0].set_xticks([tick for tick in ticks if every[0] - 1 <= tick <= every[-1]])
    axes[0, 0].set_ylim(axes[0, 0].get_ylim())
    for ax in axes.flat:  # labels need the limits that will be drawn
        layout.end_labels(ax, ends[ax], side=side, panel=height)
    layout.outer_labels(figure, axes, across, up)
    return figure


def _columns(panels: Sequence[Sequence[Any]]) -> int:
    """How many panels stand side by side."""
    counts = {len(row) for row in panels}
    if len(counts) != 1 or counts == {0}:
        raise BadInput("panels are one row or more, of equally many: give each row the same number of them")
    return counts.pop()


def _curve(ax: Axes, curve: Curve, log: bool, side: int, colour: Any, width: float, band=True, **look: Any):
    """Draws one; returns where its label goes, or None where no seed gave a number."""
    legal = {x: [v for v in sorted(values) if np.isfinite(v) and (v > 0 or not log)] for x, values in curve.items()}
    legal = {x: values for x, values in sorted(legal.items()) if values}
    if not legal:
        return None
    mean = [float(np.exp(np.mean(np.log(some))) if log else np.mean(some)) for some in legal.values()]
    if band:
        low, high = ([function(some) for some in legal.values()] for function in (min, max))
        ax.fill_between(list(legal), low, high, color=colour, alpha=0.25, linewidth=0)
    ax.plot(list(legal), mean, color=colour, linewidth=width, **look)
    at = 0 if side < 0 else -1
    return list(legal)[at], mean[at]


@drawing
def reach(
    panels: Sequence[Sequence[tuple[str, str, np.ndarray]]],
    title: str = "",
    note: str = "",
    label: str = "influence of one activation on a later one",
) -> Figure:
    """Draws maps, each `(heading, net, values)`: values[l, m] says how strongly x_{l+1} acts on x_{m+2}.

    From which activation goes down, on which one across. One logarithmic scale of colours for all; where a map has
    at most ten rows its numbers stand in the cells. Blank is what comes before.
    """
    columns = _columns(panels)
    flat = [one for row in panels for one in row]
    if odd := [values.shape for *_, values in flat if values.ndim != 2 or values.dtype.kind not in "biuf"]:
        raise BadInput(f"values of the shape {odd[0]} are not legal: a map has numbers, (unit, unit)")
    known = np.concatenate([np.ravel(values)[np.isfinite(np.ravel(values))] for *_, values in flat])
    known = known[known > 0]
    scale = LogNorm(*(known.min(), known.max()) if len(known) and known.min() < known.max() else (0.1, 10))
    figure, axes = layout.grid(len(panels), columns, 3.1, title, note)
    for ax, (heading, net, values) in zip(axes.flat, flat, strict=True):
        count = len(values)
        ax.pcolormesh(
            np.arange(1.5, count + 2),
            np.arange(0.5, count + 1),
            np.ma.masked_invalid(values),
            norm=scale,
            cmap="cividis",
        )
        ax.grid(False)
        ax.set(ylim=(count + 0.5, 0.5), ylabel="from x_l, l =")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(10, integer=True))
        if count <= PRINTED:
            _numbers(ax, values, scale)
        layout.heading(ax, [heading], net)
    figure.colorbar(ScalarMappable(scale, "cividis"), ax=axes, label=label, pad=0.015, aspect=35).outline.set_visible(
        False
    )
    for ax in axes[-1]:
        ax.set_xlabel("on x_m, m =")
    return figure


def _numbers(ax: Axes, values: np.ndarray, scale: LogNorm) -> None:
    """Writes each number into its cell."""
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = "black" if scale(value) > 0.5 else "white"
            ax.text(column + 2, row + 1, _short(value), ha="center", va="center", fontsize=8, color=ink)


def _short(value: float) -> str:
    """Two digits, in as few characters as can be: 0.12, 1.3, 25, 4e-5."""
    if 0.01 <= value < 1000:
        return f"{value:.2f}".lstrip("0") if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"
    digits, exponent = f"{value:.0e}".split("e")
    return f"{digits}e{int(exponent)}"
