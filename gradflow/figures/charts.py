"""Numbers that an experiment worked out, drawn: a row of dots for each thing compared, or a line over a variable.

`plot.py` draws what the tables say of themselves; here the caller brings the numbers, one a seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

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
    lines = -(-len(panels) // columns)
    height = 0.75 + 0.27 * max(len(rows) for rows in panels.values())
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


def _colour(label: str, place: int = 0) -> Any:
    """That of the net which the label names, or else one by its place that is neither plain's nor residual's."""
    named = label.split(",")[0].split(":")[0].split(" ")[0].split("-")[0]
    return style.shade(named if named in (*style.NET_COLOURS, "mlp") else OTHERS[place % len(OTHERS)])
