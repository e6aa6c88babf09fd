"""Table to figure: every picture of the suite, a function of the long table of `gradflow.load` and of nothing else.

In the place of the table stands what makes one: the path of a results folder, or the readings of `gf.train` or
`gf.read`, several nets' by name (see `sources.py`).

It needs the columns `run, step, layer, position, quantity, value, net, seed`, and uses `status` and every setting that
is there. Every figure takes a `title` (the finding in words) and a `note` (the small line under it, see `caption`).
Which run is drawn where is found in `facets.py`, which rows in `rows.py`, and how panels
and marks look in `layout.py`, `marks.py` and `style.py`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from gradflow.claims import statistics
from gradflow.errors import BadInput, choose
from gradflow.figures import layout, marks, rows, style
from gradflow.figures.drawing import drawing
from gradflow.figures.facets import facets
from gradflow.figures.save import save
from gradflow.figures.sources import Source, as_table
from gradflow.figures.text import INPUT_TO_OUTPUT, LABELS, caption, format_ratio, format_spread, status_summary

ERRORS = {"train_error": "train", "test_error": "test"}
__all__ = ["caption", "depth_errors", "errors", "film", "gradient_curves", "paths", "save"]


@drawing
def gradient_curves(
    table: Source,
    title: str = "",
    note: str = "",
    quantity: str = "activation_gradient_norm",
    steps: Sequence[int] | None = None,
    laws: Mapping[str, float | None] | None = None,
) -> Figure:
    """Draws a norm against layer position, one column of panels a net, all on the same axes.

    One row a step (first, early and last, unless `steps` says otherwise); where more settings vary than the lines can
    show, one row for the first and the last step of each combination. A line is the geometric mean over seeds, thin
    lines are the seeds, the band goes from the lowest to the highest. At the line's input end, where the gradient
    arrives, stand the depth, or whatever the lines differ by, and how many times the gradient norm there is that at the
    output end. `laws` has the slope that theory predicts for a run, in decades a layer, positive where the norm falls
    towards the input; it is drawn as a thin dotted line from the output end of that run's mean.
    """
    chosen = rows.readings(as_table(table), choose("quantity to draw", quantity, LABELS))
    found = facets(rows.units(chosen), deep=3 if steps is None else len(steps) or 1)
    frame, gradient, places = found.frame, quantity.endswith("gradient_norm"), len(found.values)
    moments = rows.choose_steps(frame, steps, 3 if len(found.rows) == 1 else 2)
    panels = [(row, step) for row in range(len(found.rows)) for step in moments]
    height = 2.0 if len(panels) < 4 else 1.5
    words = [found.line] * (found.line != "" and (gradient or found.line != "depth"))
    words += ["the norm where the gradient ends (input) over that where it starts (dot)"] * gradient
    words += ["dotted: what theory predicts"] * bool(laws)
    key = f"At each line: {', and '.join(words)}.\n" if words else ""
    figure, axes = layout.grid(
        len(panels), len(found.nets), height, title, found.note(key + note), sharex=True, sharey=True
    )
    ends, lost = {}, {}
    for (line, column), ax in np.ndenumerate(axes):
        (row, step), net, ends[ax], lost[ax] = panels[line], found.nets[column], [], []
        for place, group in found.at(column=column, row=row).groupby("line"):
            curves = rows.by_run(rows.only(group, step=step))
            colour, status = style.shade(net, place, places), status_summary(group, curves)
            look = {"linewidth": style.line_width(place, places), "zorder": 3 - style.rank(place, places)}
            end = marks.curve(ax, curves, colour, **look)
            marks.law(ax, curves, group["run"].map(laws or {}).astype(float).mean(), look["zorder"])
            at_line = end and " of " not in status  # that of all runs stands at the line, that of some in the corner
            if end:
                ratio = statistics.end_ratio(*curves.dropna(axis=1).iloc[[0, -1]].to_numpy()) if gradient else np.nan
                words = [format_ratio(ratio) if np.isfinite(ratio) else "", status if at_line else ""]
                ends[ax].append((*end, found.line_label(place, " ".join(filter(None, words))), colour))
            if not at_line and status:
                lost[ax].append((found.line_label(place, status, ": "), colour))
        layout.heading(ax, [found.columns[column], found.rows[row], f"step {step}"], net)
    last = np.nanmax([found.depth, frame["position"].max() + np.isnan(found.depth)])
    room = layout.label_room([text for labels in ends.values() for *_, text, _ in labels], len(found.nets))
    left = 1 - max(0.25 if gradient else 0.12, room / (1 - room)) * last
    limits = rows.limits(frame[frame["step"].isin(moments)])
    axes[0, 0].set(yscale="log", ylim=limits, xlim=(left, last))
    layout.log_ticks(axes[0, 0])
    axes[0, 0].set_xticks([tick for tick in MaxNLocator(6, integer=True).tick_values(0, last) if 0 <= tick <= last])
    for ax in axes.flat:  # labels need the limits that will be drawn
        layout.end_labels(ax, ends[ax], side=-1, panel=height)
        layout.remarks(ax, lost[ax])
    layout.outer_labels(figure, axes, INPUT_TO_OUTPUT, LABELS[quantity])
    return figure


@drawing
def film(table: Source, title: str = "", note: str = "", quantity: str = "activation_gradient_norm") -> Figure:
    """Draws a norm as colour over layer position and step: one column a depth, or value of what else the lines show.

    One row a net and combination of the other settings that vary. One logarithmic colour scale for all panels; seeds
    are averaged in the logarithm. Blank where no seed is finite. Raises `BadInput` for what was read without training.
    """
    chosen = rows.readings(as_table(table), choose("quantity to draw", quantity, LABELS))
    found = facets(rows.units(chosen), side="line")
    if (found.frame["step"] < 1).any():
        raise BadInput("a film goes over the steps of training: draw what gf.read read with gradient_curves")
    panels = [(row, column) for row in range(len(found.rows)) for column in range(len(found.nets))]
    height = {1: 2.6}.get(len(panels), 1.75 if len(panels) < 4 else 1.4)  # as tall as the colour bar's name at least
    figure, axes = layout.grid(len(panels), len(found.values), height, title, found.note(note), sharex=True)
    of_panel = ["column", "row", "line", "status", "step", "position"]
    means = statistics.geometric_means(found.frame, of_panel).rename("value").reset_index()
    scale = LogNorm(*rows.limits(means, spare=0))
    axes[0, 0].set(xscale="log", xlim=marks.edges(found.frame["step"], ratio=True)[[0, -1]])
    axes[0, 0].xaxis.set_minor_locator(NullLocator())
    for (line, place), ax in np.ndenumerate(axes):
        row, column = panels[line]
        here, net = found.at(column=column, row=row, line=place), found.nets[column]
        words = [found.panel(column, place), found.rows[row]]
        ax.grid(False)
        if here.empty:
            layout.heading(ax, words, net)
            layout.blank(ax, "no runs")
            continue
        finished, status = rows.finished(here), status_summary(here)
        some = finished if len(finished) else here
        cells = statistics.geometric_means(some, ["position", "step"]).unstack()
        more = [status, "blank: reads 0" if cells.isna().any(axis=None) else ""] if len(finished) else []
        layout.heading(ax, [*words, *more], net)
        end = marks.cells(ax, cells, scale)
        if finished.empty:
            ax.text(1.15 * end, np.mean(ax.get_ylim()), status, rotation=90, ha="left", va="center", clip_on=True)
    mappable = ScalarMappable(scale, "viridis")
    figure.colorbar(mappable, ax=axes, label=LABELS[quantity], pad=0.015, aspect=35).outline.set_visible(False)
    layout.outer_labels(figure, axes, "step", INPUT_TO_OUTPUT)
    return figure


@drawing
def paths(table: Source, title: str = "", note: str = "", step: int | None = None) -> Figure:
    """Draws how the gradient of each unit came back: shares of the identity and the residual path, and their cosine.

    Needs `identity_gradient_norm` and `residual_gradient_norm`; `path_cosine` is drawn where it was read. A share is
    |identity| / (|identity| + |residual|), averaged over seeds. One column as in `film`, one row for the first and the
    last step (or for `step` alone) of each net and combination.
    """
    found = facets(rows.path_readings(as_table(table)), side="line", deep=2)
    moments = rows.choose_steps(found.frame, None if step is None else [step], 2)
    places = range(len(found.rows)), range(len(found.nets))
    panels = [(row, column, moment) for row in places[0] for column in places[1] for moment in moments]
    height = 1.7 if len(panels) < 4 else 1.35
    figure, axes = layout.grid(len(panels), len(found.values), height, title, found.note(note), sharey=True)
    for (line, place), ax in np.ndenumerate(axes):
        row, column, moment = panels[line]
        here = found.at(column=column, row=row, line=place)
        now = rows.only(here, step=moment)
        share, cosine = statistics.identity_share(now)
        status = status_summary(here, rows.by_run(rows.only(now, quantity=statistics.IDENTITY)))
        shown = share.notna().any()
        if shown:
            marks.shares(ax, share, cosine, place == len(found.values) - 1)
        else:
            layout.blank(ax, status or "no runs")
        words = [found.panel(column, place), found.rows[row], f"step {moment}", status if shown else ""]
        layout.heading(ax, words, found.nets[column])
    marks.share_names(axes[0, 0])
    layout.outer_labels(figure, axes, INPUT_TO_OUTPUT, "share of the gradient norm")
    return figure


@drawing
def errors(table: Source, title: str = "", note: str = "") -> Figure:
    """Draws training error (thin, dashed) and test error (bold) against step, one column a net, as Fig. 6 of He 2015.

    Needs `train_error` or `test_error`. Lines are means over the finished runs, bands go from lowest to highest;
    any other is a thin line that ends in a cross. The final values stand at the right: mean and half the range.
    """
    found = facets(rows.readings(as_table(table), "train_error", "test_error"))
    last, places = found.frame["step"].max(), len(found.values)
    height, window = 3.1 if len(found.rows) == 1 else 2.6, max(5, round(0.02 * last))
    read = [quantity for quantity in ERRORS if (found.frame["quantity"] == quantity).any()]
    kinds = {
        "train_error": f"Dashed: training error, mean of the last {window} steps.",
        "test_error": "Bold: test error.",
    }
    key = " ".join([*(kinds[quantity] for quantity in read), "Band: lowest to highest seed."])
    size = len(found.rows), len(found.nets)
    figure, axes = layout.grid(*size, height, title, found.note(f"{key}\n{note}"), sharex=True, sharey=True)
    ends = {}
    for (row, column), ax in np.ndenumerate(axes):
        net, ends[ax] = found.nets[column], []
        for place, group in found.at(column=column, row=row).groupby("line"):
            colour, width = style.shade(net, place, places), style.line_width(place, places)
            dashed = {"color": colour, "linewidth": 0.6 * width, "linestyle": (0, (3, 1.2))}
            bold = {"color": colour, "linewidth": width, "linestyle": "-"}
            train, test = (rows.only(group, quantity=quantity) for quantity in ("train_error", "test_error"))
            heights = [
                marks.error_line(ax, *rows.error_curves(train, window), **dashed),
                marks.error_line(ax, *rows.error_curves(test, 1), **bold),
            ]
            finals = [format_spread(rows.final_errors(group, quantity)) for quantity in read]
            status = status_summary(group)
            words = [" / ".join(finals)] * (len(rows.finished(group)) > 0) + [status] * (status != "")
            ends[ax].append((None, np.nanmax([*heights, 0]), found.line_label(place, ", ".join(words), ": "), colour))
        layout.heading(ax, [found.columns[column], found.rows[row]], net)
        above = " / ".join(ERRORS[quantity] for quantity in read)
        above = f"{found.line}: {above}" if found.line else above
        ax.annotate(above, (1, 1), (5, 5), xycoords="axes fraction", textcoords="offset points")
    axes[0, 0].set(xlim=(0, max(last, 1)), ylim=(0, None))
    axes[0, 0].xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    for ax, labels in ends.items():
        layout.end_labels(ax, labels, side=1, panel=height)
    layout.outer_labels(figure, axes, "step", "error (%)")
    return figure


@drawing
def depth_errors(table: Source, title: str = "", note: str = "") -> Figure:
    """Draws the final training error (mean of the last tenth of the steps) against depth, one line a net.

    Where depth does not vary, against the setting that does. Needs `train_error`. Dots are seeds, lines go through
    their means, a diverged run is a cross above the panel. One panel a combination of the other settings.
    """
    found = facets(rows.readings(as_table(table), "train_error"))
    height = 3.3
    wide = min(len(found.rows), 3)
    under = found.note(note)
    figure, axes = layout.grid(-(-len(found.rows) // wide), wide, height, title, under, sharex=True, sharey=True)
    for ax in axes.flat[len(found.rows) :]:
        ax.set_visible(False)
    across = np.array(found.numbers or range(len(found.values)), float)
    ends = {}
    for row, ax in enumerate(axes.flat[: len(found.rows)]):
        ends[ax] = []
        for column, net in enumerate(found.nets):
            here, look = found.at(column=column, row=row), {"color": style.shade(net), "clip_on": False}
            lost = across[here[here["status"] == "diverged"].groupby("run")["line"].first()]
            # A diverged run has no final error: its cross has a place of its own, one line a net.
            above = 1.04 + 0.05 * (len(found.nets) - 1 - column)
            if len(lost):
                up = ax.get_xaxis_transform()
                ax.plot(lost, np.full(len(lost), above), "x", transform=up, **look)
                where = {"xycoords": up, "textcoords": "offset points", "va": "center", "color": look["color"]}
                ax.annotate("diverged", (lost.max(), above), (6, 0), **where)
            final = rows.final_errors(here, "train_error", ["line", "run"])
            final.index = final.index.get_level_values("line").astype(int)
            mean = final.groupby(level=0).mean()
            if len(mean):
                ax.plot(across[final.index], final, "o", alpha=0.6, markeredgewidth=0, **look)
                # No line leads from one word to another: a bar at each mean.
                joined = {"linewidth": 2} if found.numbers else {"linestyle": "none", "marker": "_", "markersize": 9}
                ax.plot(across[mean.index], mean, **joined, **look)
                text = f"{found.columns[column]}{' ' if found.line == 'depth' else ': '}{mean.iloc[-1]:.0f}"
                ends[ax].append((across[mean.index[-1]], mean.iloc[-1], text, look["color"]))
        layout.heading(ax, [found.rows[row]], pad=18)
    layout.value_axis(axes[0, 0], across, found.values, found.numbers is not None and found.line != "depth")
    axes[0, 0].set(ylim=(0, None))
    for ax, labels in ends.items():
        layout.end_labels(ax, labels, side=1, panel=height)
    layout.outer_labels(figure, axes, found.line, "final training error (%)")
    for ax in axes.flat[len(found.rows) - wide : len(found.rows)]:  # the lowest that are seen
        ax.set_xlabel(found.line)
        ax.tick_params(labelbottom=True)
    return figure
