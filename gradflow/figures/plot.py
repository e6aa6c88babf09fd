"""Table to figure: every picture of the suite, a function of the long table of `gradflow.load` and of nothing else.

It needs the columns `run, step, layer, position, quantity, value, net, depth, seed`, and uses `normalisation` and
`status` where they are there. Every figure takes a `title` (the finding in words) and a `note` (the small line under
it, see `caption`). What is shown comes from `gradflow.rows`, how it looks from `gradflow.drawing`.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from gradflow.claims import statistics as rows
from gradflow.errors import BadInput, choose
from gradflow.figures import drawing


@matplotlib.rc_context(drawing.STYLE)
def gradient_curves(
    table: pd.DataFrame,
    title: str = "",
    note: str = "",
    quantity: str = "activation_gradient_norm",
    steps: Sequence[int] | None = None,
) -> Figure:
    """Draws a norm against layer position, one column of panels a net, all on the same axes.

    One row a step (first, early and last, unless `steps` says otherwise); with several normalisations, one row for the
    first and the last step of each. A line is the geometric mean over seeds, thin lines are the seeds, the band goes
    from the lowest to the highest. At the line's input end, where the gradient arrives, stand the depth and how many
    times the gradient norm there is that at the output end.
    """
    frame = rows.units(rows.readings(table, choose("quantity to draw", quantity, drawing.LABELS)))
    nets, kinds, depths = rows.nets(frame), rows.kinds(frame), rows.depths(frame)
    panels = [(kind, step) for kind in kinds for step in rows.steps(frame, steps, 3 if len(kinds) == 1 else 2)]
    height, last, gradient = 2.0 if len(panels) < 4 else 1.5, max(depths), quantity.endswith("gradient_norm")
    key = (
        "At each line: depth, and the norm where the gradient ends (input) over that where it starts (dot).\n"
        * gradient
    )
    figure, axes = drawing.grid(len(panels), len(nets), height, title, key + note, sharex=True, sharey=True)
    limits = rows.limits(frame[frame["step"].isin([step for _, step in panels])])
    axes[0, 0].set(yscale="log", ylim=limits, xlim=(1 - (0.25 if gradient else 0.12) * last, last))
    axes[0, 0].set_xticks([tick for tick in MaxNLocator(6, integer=True).tick_values(0, last) if 0 <= tick <= last])
    for (line, column), ax in np.ndenumerate(axes):
        (kind, step), net = panels[line], nets[column]
        ends, lost = [], []
        for depth, group in rows.only(frame, net=net, normalisation=kind).groupby("depth"):
            curves = rows.wide(rows.only(group, step=step), "position", "run")
            colour, fate = drawing.shade(net, depth, depths), rows.fate(group, curves)
            end = drawing.curve(ax, curves, colour, drawing.line_width(depth, depths), 3 - drawing.rank(depth, depths))
            said = end and " of " not in fate  # the fate of all runs stands at the line, that of some in the corner
            if end:
                factor = [rows.times(end[2])] if gradient and np.isfinite(end[2]) else []
                ends.append((*end[:2], " ".join([str(depth), *factor, *([fate] if said and fate else [])]), colour))
            if not said and fate:
                lost.append((f"{depth}: {fate}", colour))
        drawing.end_labels(ax, ends, side=-1, panel=height)
        drawing.remarks(ax, lost)
        drawing.heading(ax, net, rows.kind_name(kind, kinds), f"step {step}")
    drawing.outer_labels(figure, axes, drawing.INPUT_TO_OUTPUT, drawing.LABELS[quantity])
    return figure


@matplotlib.rc_context(drawing.STYLE)
def film(table: pd.DataFrame, title: str = "", note: str = "", quantity: str = "activation_gradient_norm") -> Figure:
    """Draws a norm as colour over layer position and step: one row a net and normalisation, one column a depth.

    One logarithmic colour scale for all panels; seeds are averaged in the logarithm. Blank where no seed is finite.
    """
    frame = rows.units(rows.readings(table, choose("quantity to draw", quantity, drawing.LABELS)))
    kinds, depths = rows.kinds(frame), rows.depths(frame)
    panels = [(kind, net) for kind in kinds for net in rows.nets(frame)]
    figure, axes = drawing.grid(len(panels), len(depths), 1.75 if len(panels) < 4 else 1.4, title, note, sharex=True)
    scale = LogNorm(*rows.limits(rows.averages(frame), spare=0))
    axes[0, 0].set(xscale="log", xlim=drawing.edges(frame["step"], ratio=True)[[0, -1]])
    axes[0, 0].xaxis.set_minor_locator(NullLocator())
    for (line, column), ax in np.ndenumerate(axes):
        (kind, net), depth = panels[line], depths[column]
        here = rows.only(frame, net=net, normalisation=kind, depth=depth)
        finished, fate = rows.finished(here), rows.fate(here)
        ax.grid(False)
        if here.empty:
            drawing.heading(ax, net, rows.kind_name(kind, kinds), depth=depth)
            drawing.blank(ax, "no runs")
            continue
        cells = rows.wide(finished if len(finished) else here, "position", "step")
        more = [fate, "blank: reads 0" if cells.isna().any(axis=None) else ""] if len(finished) else []
        drawing.heading(ax, net, rows.kind_name(kind, kinds), *more, depth=depth)
        end = drawing.cells(ax, cells, scale)
        if finished.empty:
            ax.text(1.15 * end, np.mean(ax.get_ylim()), fate, rotation=90, ha="left", va="center", clip_on=True)
    mappable = ScalarMappable(scale, "viridis")
    figure.colorbar(mappable, ax=axes, label=drawing.LABELS[quantity], pad=0.015, aspect=35).outline.set_visible(False)
    drawing.outer_labels(figure, axes, "step", drawing.INPUT_TO_OUTPUT)
    return figure


@matplotlib.rc_context(drawing.STYLE)
def paths(table: pd.DataFrame, title: str = "", note: str = "", step: int | None = None) -> Figure:
    """Draws how the gradient of each unit came back: shares of the identity and the residual path, and their cosine.

    Needs `identity_gradient_norm` and `residual_gradient_norm`; `path_cosine` is drawn where it was read. A share is
    |identity| / (|identity| + |residual|), averaged over seeds. One column a depth, one row for the first and the last
    step (or for `step` alone) of each normalisation.
    """
    frame = rows.path_readings(table)
    kinds, depths, steps = rows.kinds(frame), rows.depths(frame), rows.steps(frame, None if step is None else [step], 2)
    panels = [(kind, net, moment) for kind in kinds for net in rows.nets(frame) for moment in steps]
    figure, axes = drawing.grid(len(panels), len(depths), 1.7 if len(panels) < 4 else 1.35, title, note, sharey=True)
    for (line, column), ax in np.ndenumerate(axes):
        (kind, net, moment), depth = panels[line], depths[column]
        here = rows.only(frame, net=net, normalisation=kind, depth=depth)
        now = rows.only(here, step=moment)
        share, cosine = rows.shares(now)
        fate = rows.fate(here, rows.wide(rows.only(now, quantity=rows.IDENTITY), "position", "run"))
        shown = share.notna().any()
        if shown:
            drawing.shares(ax, share, cosine, column == len(depths) - 1)
        else:
            drawing.blank(ax, fate or "no runs")
        drawing.heading(ax, net, rows.kind_name(kind, kinds), f"step {moment}", fate if shown else "", depth=depth)
    drawing.share_names(axes[0, 0])
    drawing.outer_labels(figure, axes, drawing.INPUT_TO_OUTPUT, "share of the gradient norm")
    return figure


@matplotlib.rc_context(drawing.STYLE)
def errors(table: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """Draws training error (thin, dashed) and test error (bold) against step, one column a net, as Fig. 6 of He 2015.

    Needs `train_error` or `test_error`. Lines are means over the finished runs, bands go from lowest to highest;
    any other is a thin line that ends in a cross. The final values stand at the right: mean and half the range.
    """
    frame = rows.readings(table, "train_error", "test_error")
    nets, kinds, depths = rows.nets(frame), rows.kinds(frame), rows.depths(frame)
    height, window = 3.1 if len(kinds) == 1 else 2.6, max(5, round(0.02 * frame["step"].max()))
    key = f"Dashed: training error, mean of the last {window} steps. Bold: test error. Band: lowest to highest seed."
    figure, axes = drawing.grid(len(kinds), len(nets), height, title, f"{key}\n{note}", sharex=True, sharey=True)
    ends = {}
    for (line, column), ax in np.ndenumerate(axes):
        kind, net, ends[ax] = kinds[line], nets[column], []
        for depth, group in rows.only(frame, net=net, normalisation=kind).groupby("depth"):
            colour, width = drawing.shade(net, depth, depths), drawing.line_width(depth, depths)
            train, test = rows.only(group, quantity="train_error"), rows.only(group, quantity="test_error")
            heights = [
                drawing.error_line(
                    ax, *rows.error_curves(train, window), color=colour, linewidth=0.6 * width, linestyle=(0, (3, 1.2))
                ),
                drawing.error_line(ax, *rows.error_curves(test, 1), color=colour, linewidth=width, linestyle="-"),
            ]
            fate = rows.fate(group)
            numbers = f"{rows.spread(rows.final(train))} / {rows.spread(rows.last(test))}"
            words = [numbers] * (len(rows.finished(group)) > 0) + [fate] * (fate != "")
            ends[ax].append((None, np.nanmax([*heights, 0]), f"{depth}: {', '.join(words)}", colour))
        drawing.heading(ax, net, rows.kind_name(kind, kinds))
        ax.annotate("depth: train / test", (1, 1), (5, 5), xycoords="axes fraction", textcoords="offset points")
    axes[0, 0].set(xlim=(0, frame["step"].max()), ylim=(0, None))
    for ax, labels in ends.items():
        drawing.end_labels(ax, labels, side=1, panel=height)
    drawing.outer_labels(figure, axes, "step", "error (%)")
    return figure


@matplotlib.rc_context(drawing.STYLE)
def depth_errors(table: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """Draws the final training error (mean of the last tenth of the steps) against depth, one line a net.

    Needs `train_error`. Dots are seeds, lines go through their means, a diverged run is a cross above the panel. One
    panel a normalisation.
    """
    frame = rows.readings(table, "train_error")
    nets, kinds = rows.nets(frame), rows.kinds(frame)
    figure, axes = drawing.grid(1, len(kinds), 3.3, title, note, sharex=True, sharey=True)
    ends = {}
    for kind, ax in zip(kinds, axes[0], strict=True):
        ends[ax] = []
        for rank, net in enumerate(nets):
            here, look = rows.only(frame, net=net, normalisation=kind), {"color": drawing.shade(net), "clip_on": False}
            lost = here[here["status"] == "diverged"].groupby("run")["depth"].first()
            # A diverged run has no final error: its cross has a place of its own, one line a net.
            above = np.full(len(lost), 1.04 + 0.05 * (len(nets) - 1 - rank))
            if len(lost):
                ax.plot(lost, above, "x", transform=ax.get_xaxis_transform(), **look)
                end = (lost.max(), above[0])
                ax.annotate(
                    "diverged",
                    end,
                    (6, 0),
                    ax.get_xaxis_transform(),
                    "offset points",
                    va="center",
                    color=drawing.shade(net),
                )
            final = rows.final(here)
            mean = final.groupby("depth").mean()
            if len(mean):
                ax.plot(final.index.get_level_values("depth"), final, "o", alpha=0.6, markeredgewidth=0, **look)
                ax.plot(mean.index, mean, linewidth=2, **look)
                ends[ax].append((mean.index[-1], mean.iloc[-1], f"{net} {mean.iloc[-1]:.0f}", drawing.shade(net)))
        drawing.heading(ax, "", rows.kind_name(kind, kinds), pad=18)
    axes[0, 0].set(xticks=rows.depths(frame), ylim=(0, None))
    for ax, labels in ends.items():
        drawing.end_labels(ax, labels, side=1, panel=3.3)
    drawing.outer_labels(figure, axes, "depth", "final training error (%)")
    return figure


def sparkline(values: Iterable[float]) -> str:
    """Returns one bar a value, its height the logarithm within the range of all; a space where there is none.

    The range is taken as at least one decade, so that noise on equal values stays small.
    """
    logs = rows.logs(values)
    if not np.isfinite(logs).any():
        return " " * len(logs)
    low, high = np.nanmin(logs), np.nanmax(logs)
    levels = np.round(7 * ((logs - (low + high) / 2) / max(high - low, 1) + 0.5))
    return "".join(" " if np.isnan(level) else "▁▂▃▄▅▆▇█"[int(level)] for level in levels)


def shorten(values: Sequence[float], width: int) -> list[float]:
    """Returns at most `width` values, each the geometric mean of its neighbours that have a logarithm (or nan)."""
    bins = np.array_split(rows.logs(values), min(width, len(values)) or 1)
    return [float(10 ** np.mean(bin[~np.isnan(bin)])) if not np.isnan(bin).all() else float("nan") for bin in bins]


@matplotlib.rc_context(drawing.STYLE)
def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure as SVG or PNG, by the suffix: transparent, whole or not at all, same table same bytes."""
    path = Path(path)
    kind = choose("figure format", path.suffix.lower().lstrip("."), ("svg", "png"))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.settle(figure)
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(part, format=kind, transparent=True, dpi=160, metadata=metadata)
        os.replace(part, path)
    except OSError as error:
        raise BadInput(f"cannot write the figure {path}: {error.strerror or error}") from error
    finally:
        if part.is_file():
            part.unlink()


def caption(table: pd.DataFrame, command: str = "") -> str:
    """Returns the small line under a figure: what its runs have in common, then the command that made them.

    A report leaves the command in `table.attrs["command"]`.
    """
    command = command or table.attrs.get("command", "")
    parts = [part.replace(" ", "\N{NO-BREAK SPACE}") for part in rows.conditions(table)]
    return "\N{NO-BREAK SPACE}\N{MIDDLE DOT} ".join([*parts, *([command] if command else [])])
