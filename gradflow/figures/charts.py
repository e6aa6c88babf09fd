"""Numbers that an experiment worked out, drawn: rows of dots, lines over a variable, maps of cells.

`plot.py` draws what the tables say of themselves; here the caller brings the numbers, one a seed.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from gradflow.errors import BadInput, at_least
from gradflow.figures import layout, style
from gradflow.figures.drawing import drawing, tick_label
from gradflow.figures.reach import depth_curves as depth_curves
from gradflow.figures.reach import reach as reach

OTHERS = ("vgg", "nin", "googlenet", "mlp")  # whose colours things have that are no nets
# Label to its numbers, one a seed; nan for a seed that gave none.
Numbers = Mapping[str, Sequence[float]]


@drawing
def dots(
    panels: Mapping[str, Numbers],
    title: str = "",
    note: str = "",
    limits: Mapping[str, float] | None = None,
    log: bool = False,
    columns: int = 2,
) -> Figure:
    """Draws one panel a name: a row a label, a small dot a seed, a bar at their mean with its value.

    `limits` puts a dashed line into the panels that it names: the number that a claim is about. `log`: all panels have
    a logarithmic axis.
    """
    at_least("columns", columns, 1)
    lines = -(-len(panels) // columns)
    height = 0.75 + 0.27 * max((len(rows) for rows in panels.values()), default=0)
    figure, axes = layout.grid(lines, min(columns, len(panels)), height, title, note)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax, (name, rows) in zip(axes.flat, panels.items(), strict=False):
        for place, (label, numbers) in enumerate(rows.items()):
            values = np.asarray(numbers, float)
            values = np.sort(values[np.isfinite(values)])  # the order of a table's rows must not show
            colour = _colour(label)
            ax.plot(values, np.full(len(values), place), "o", color=colour, markersize=4, alpha=0.6, markeredgewidth=0)
            mean = np.mean(values) if len(values) else np.nan
            ax.plot([mean], [place], "|", color=colour, markersize=13, markeredgewidth=2.2)
            words = f"{mean:,.0f}" if mean >= 1000 else f"{round(mean, 6):.3g}" if len(values) else "no number"
            ax.annotate(words, (1.01, place), xycoords=("axes fraction", "data"), va="center", color=colour)
        if limits and name in limits:
            ax.axvline(limits[name], color=style.GREY, linestyle=(0, (4, 2)), linewidth=1.2)
        ax.set(yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5))
        ax.set_yticklabels([*map(tick_label, rows)])
        ax.grid(axis="y", visible=False)
        if log:
            ax.set_xscale("log")
            ax.xaxis.set_minor_locator(NullLocator())
        else:
            ax.margins(x=0.08)
        layout.heading(ax, [name])
    return figure


@drawing
def lines(
    panels: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]],
    across: str,
    up: str,
    title: str = "",
    note: str = "",
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """Draws one panel a name: a line a label through the means over seeds at each x, a small dot a seed.

    `panels[name][label][x]` are the numbers at x, one a seed. Labels stand at the lines' ends.
    """
    height = 3.2
    figure, axes = layout.grid(1, len(panels), height, title, note, sharex=True, sharey=True)
    ends: dict[Any, list] = {}
    for ax, (name, curves) in zip(axes[0], panels.items(), strict=True):
        ax.set(xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
        ends[ax] = []
        for place, (label, points) in enumerate(curves.items()):
            colour, good = (
                _colour(label, place),
                {x: sorted(v for v in vs if np.isfinite(v)) for x, vs in points.items()},
            )
            good = {x: values for x, values in sorted(good.items()) if values}
            if not good:
                continue
            for x, values in good.items():
                ax.plot([x] * len(values), values, "o", color=colour, markersize=3.5, alpha=0.5, markeredgewidth=0)
            means = [float(np.mean(values)) for values in good.values()]
            ax.plot(list(good), means, color=colour, linewidth=1.8)
            ends[ax].append((max(good), means[-1], label, colour))
        layout.heading(ax, [name])
    across_all = sorted({x for curves in panels.values() for points in curves.values() for x in points})
    for ax in axes[0]:  # labels need the limits that will be drawn
        if log_x and len(across_all) <= 8:
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xticks(across_all, [f"{x:g}" for x in across_all])
        ax.autoscale_view()
        ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
    for ax, labels in ends.items():
        layout.end_labels(ax, labels, side=1, panel=height)
    layout.outer_labels(figure, axes, across, up)
    return figure


@drawing
def heat(
    panels: Mapping[str, Mapping[str, Mapping[str, float]]],
    columns: int,
    title: str = "",
    note: str = "",
    form: str = "{:+.1f}",
    centre: float = 0.0,
    span: float = 30.0,
) -> Figure:
    """Draws one map a name, so many `columns` of them side by side: a cell a row and column, its number in it.

    `panels[name][row][column]` is the number; what is nan, or missing, is left blank. Cells are brown above `centre`
    and green below it, the darker the farther (by the logarithm), darkest at a distance of `span`: numbers and colours
    say the same, so that a map can be read in black and white. All maps have the rows and columns of the first.
    """
    at_least("columns", columns, 1)
    if not span > 0 or not math.isfinite(span):
        raise BadInput(f"span {span} is not legal: it is a finite number above 0")
    first = next(iter(panels.values()), {})
    names, across = [*first], [*next(iter(first.values()), {})]
    height = 0.55 + 0.27 * len(names)
    figure, axes = layout.grid(-(-len(panels) // columns), columns, height, title, note, sharex=True, sharey=True)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax, (panel, rows) in zip(axes.flat, panels.items(), strict=False):
        for up, row in enumerate(names):
            for place, column in enumerate(across):
                value = rows.get(row, {}).get(column, np.nan)
                _cell(ax, place, up, value, _written(form, value), (value - centre) / span)
        ax.set(xlim=(-0.5, len(across) - 0.5), ylim=(len(names) - 0.5, -0.5))
        ax.set_xticks(range(len(across)), [*map(tick_label, across)])
        ax.set_yticks(range(len(names)), [*map(tick_label, names)])
        ax.tick_params(length=0)
        ax.grid(False)
        ax.spines[:].set_visible(False)
        net = re.split("[,-]", panel)[0]
        layout.heading(ax, [panel], net if net in style.NET_COLOURS else "")
    return figure


def _written(form: str, value: float) -> str:
    try:
        return form.format(value)
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise BadInput(f"form {form!r} is not legal: it is as in form.format(1.5) ({error})") from error


def _cell(ax: Axes, x: int, y: int, value: float, words: str, distance: float) -> None:
    """Draws one cell of a map: its colour by the distance from the centre in spans."""
    if not np.isfinite(value):
        ax.text(x, y, "\N{EN DASH}", ha="center", va="center")
        return
    strength = np.sign(distance) * min(1.0, np.log1p(30 * abs(distance)) / np.log1p(30))
    colour = matplotlib.colormaps["BrBG_r"](0.5 + 0.5 * float(strength))
    ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=colour, linewidth=0))
    light = np.array(colour[:3]) ** 2.2 @ [0.2126, 0.7152, 0.0722] > 0.25
    ax.text(x, y, words.replace("-", "\N{MINUS SIGN}"), ha="center", va="center", color="black" if light else "white")


def _colour(label: str, place: int = 0) -> Any:
    """That of the net which the label names, or else one by its place that is neither plain's nor residual's."""
    named = label.split(",")[0].split(":")[0].split(" ")[0].split("-")[0]
    return style.shade(named if named in (*style.NET_COLOURS, "mlp") else OTHERS[place % len(OTHERS)])
