"""Table to figure: all pictures of the suite in one (long) file, because they share one look, one axis and one palette.

Every figure is a function of the long table that `gradflow.load` returns and of nothing else. It needs the columns
`run, step, layer, position, quantity, value, net, depth, seed`, and uses `normalisation` and `status` where they are
there. Runs that share net, depth and normalisation are taken as seeds of one another. Every figure takes a `title` (the
finding in words) and a `note` (the small line under it, see `caption`).
"""

import os
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from gradflow.errors import BadInput, choose

# pandas types every `frame["x"]` as a union that no type checker can follow: inside this file tables are not checked.
Frame = Any
Series = Any
COLUMNS = ("run", "step", "layer", "position", "quantity", "value", "net", "depth", "seed")
LABELS = {
    "activation_gradient_norm": "gradient norm (rms over examples)",
    "identity_gradient_norm": "gradient norm, identity path (rms over examples)",
    "residual_gradient_norm": "gradient norm, residual branch (rms over examples)",
    "activation_std": "standard deviation of the activation",
    "weight_norm": "norm of the weights",
    "gradient_norm": "norm of the weights' gradient",
    "update_norm": "norm of the weights' update",
}
PERCENT = 100.0
INPUT_TO_OUTPUT = "layer position (input \N{RIGHTWARDS ARROW} output)"

WIDTH = 9.0  # inches; a README shows it about 830 pixels wide, which keeps 8.5 pt above 8 pt
GREY = "#787878"  # 4.4 to 1 against white as against #0d1117: no grey does better on both
# The Okabe-Ito palette, which colour-blind eyes tell apart.
NET_COLOURS = {"plain": "#D55E00", "residual": "#0072B2", "vgg": "#009E73", "nin": "#CC79A7", "googlenet": "#E69F00"}
# Luminance of the shallowest and the deepest net: at least 2.4 to 1 against white and 3.4 to 1 against #0d1117.
LIGHTEST, DARKEST = 0.38, 0.14
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    **dict.fromkeys(("font.size", "axes.labelsize", "xtick.labelsize", "ytick.labelsize"), 9),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "axes.grid": True,
    "grid.color": GREY,
    "grid.alpha": 0.22,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "font.family": "DejaVu Sans",  # comes with matplotlib; drawn as paths, so it is the same everywhere
    "svg.fonttype": "path",
    "svg.hashsalt": "gradflow",
}


@matplotlib.rc_context(STYLE)
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
    from the lowest to the highest. The depth stands at the line's input end, where the gradient arrives.
    """
    rows = _units(_rows(table, choose("quantity to draw", quantity, LABELS)))
    nets, kinds, depths = _nets(rows), _kinds(rows), _depths(rows)
    panels = [(kind, step) for kind in kinds for step in _steps(rows, steps, 3 if len(kinds) == 1 else 2)]
    figure, axes = _grid(len(panels), len(nets), 2.0, title, note, sharex=True, sharey=True)
    last = max(depths)
    limits = _limits(rows[rows["step"].isin([step for _, step in panels])])
    axes[0, 0].set(yscale="log", ylim=limits, xlim=(1 - 0.12 * last, last))
    axes[0, 0].set_xticks([tick for tick in MaxNLocator(6, integer=True).tick_values(0, last) if 0 <= tick <= last])
    for (line, column), ax in np.ndenumerate(axes):
        (kind, step), net = panels[line], nets[column]
        ends, lost = [], []
        for depth, group in _only(rows, net=net, normalisation=kind).groupby("depth"):
            colour = _shade(net, depth, depths)
            curves = _wide(_only(group, step=step), "position", "run")
            end = _curve(
                ax, curves, color=colour, linewidth=_line_width(depth, depths), zorder=3 - _rank(depth, depths)
            )
            fate = _fate(group, curves)
            if end:
                ends.append((*end, f"{depth} {fate}" if fate == "diverged" else str(depth), colour))
            if not end or fate not in ("", "diverged"):
                lost.append((f"{depth}: {fate or 'no positive reading'}", colour))
        _end_labels(ax, ends, side=-1, panel=2.0)
        _remarks(ax, lost)
        _heading(ax, net, kind if len(kinds) > 1 else None, f"step {step}")
    _outer_labels(figure, axes, INPUT_TO_OUTPUT, LABELS[quantity])
    return figure


@matplotlib.rc_context(STYLE)
def film(table: pd.DataFrame, title: str = "", note: str = "", quantity: str = "activation_gradient_norm") -> Figure:
    """Draws a norm as colour over layer position and step: one row a net and normalisation, one column a depth.

    One logarithmic colour scale for all panels; seeds are averaged in the logarithm. Blank where no seed is finite.
    """
    rows = _units(_rows(table, choose("quantity to draw", quantity, LABELS)))
    kinds, depths, scale = _kinds(rows), _depths(rows), LogNorm(*_limits(rows))
    panels = [(kind, net) for kind in kinds for net in _nets(rows)]
    figure, axes = _grid(len(panels), len(depths), 1.75, title, note, sharex=True)
    axes[0, 0].set(xscale="log", xlim=_edges(rows["step"], ratio=True)[[0, -1]])
    for (line, column), ax in np.ndenumerate(axes):
        (kind, net), depth = panels[line], depths[column]
        here = _only(rows, net=net, normalisation=kind, depth=depth)
        finished, fate = here[here["status"] != "diverged"], _fate(here)
        _heading(ax, net, kind if len(kinds) > 1 else None, fate if len(finished) else "", depth=depth)
        ax.grid(False)
        if len(here):
            end = _cells(ax, finished if len(finished) else here, scale)
            if finished.empty:
                ax.text(1.3 * end, np.mean(ax.get_ylim()), fate, rotation=90, ha="left", va="center", clip_on=True)
    mappable = ScalarMappable(scale, "viridis")
    figure.colorbar(mappable, ax=axes, label=LABELS[quantity], pad=0.015, aspect=35).outline.set_visible(False)
    _outer_labels(figure, axes, "step", INPUT_TO_OUTPUT)
    return figure


@matplotlib.rc_context(STYLE)
def paths(table: pd.DataFrame, title: str = "", note: str = "", step: int | None = None) -> Figure:
    """Draws how the gradient of each unit came back: shares of the identity and the residual path, and their cosine.

    Needs `identity_gradient_norm` and `residual_gradient_norm`; `path_cosine` is drawn where it was read. A share is
    |identity| / (|identity| + |residual|), averaged over seeds. One column a depth, one row for the first and the last
    step (or for `step` alone) of each normalisation.
    """
    identity, residual, cosine = quantities = ("identity_gradient_norm", "residual_gradient_norm", "path_cosine")
    rows = pd.concat([_rows(table, identity), _rows(table, residual), *_cosines(table, cosine)])
    kinds, depths, steps = _kinds(rows), _depths(rows), _steps(rows, None if step is None else [step], 2)
    panels = [(kind, net, moment) for kind in kinds for net in _nets(rows) for moment in steps]
    figure, axes = _grid(len(panels), len(depths), 1.7, title, note, sharey=True)
    for (line, column), ax in np.ndenumerate(axes):
        (kind, net, moment), depth = panels[line], depths[column]
        here = _only(rows, net=net, normalisation=kind, depth=depth)
        now = here[(here["step"] == moment) & np.isfinite(here["value"])]
        wide = now.groupby(["position", "run", "quantity"])["value"].mean().unstack().reindex(columns=list(quantities))
        share = (wide[identity] / (wide[identity] + wide[residual])).groupby("position").mean().dropna()
        if len(share):
            _shares(ax, share, wide[cosine].groupby("position").mean(), column == len(depths) - 1)
        else:
            ax.text(0.5, 0.5, _fate(here) or "no reading", ha="center", transform=ax.transAxes)
            ax.set(xticks=[])
        _heading(ax, net, kind if len(kinds) > 1 else None, f"step {moment}", depth=depth)
    for y, name, ink, rank in ((0.08, "identity path", "white", 1), (0.92, "residual branch", "black", 0)):
        text = axes[0, 0].text(0.03, y, name, color=ink, va="center", transform=axes[0, 0].transAxes)
        text.set_path_effects([withStroke(linewidth=2, foreground=_shade("residual", rank, (0, 1)))])
    _outer_labels(figure, axes, INPUT_TO_OUTPUT, "share of the gradient norm")
    return figure


@matplotlib.rc_context(STYLE)
def errors(table: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """Draws training error (thin, dashed) and test error (bold) against step, one column a net, as Fig. 6 of He 2015.

    Needs `train_error` or `test_error`. Lines are means over the finished runs, bands go from lowest to highest;
    a diverged run is a thin line that ends in a cross. The final values stand at the right: mean and half the range.
    """
    rows = _rows(table, "train_error", "test_error")
    nets, kinds, depths = _nets(rows), _kinds(rows), _depths(rows)
    window = max(5, round(0.02 * rows["step"].max()))
    key = f"Dashed: training error, mean of the last {window} steps. Bold: test error. Band: lowest to highest seed."
    figure, axes = _grid(len(kinds), len(nets), 3.1, title, f"{key} {note}", sharex=True, sharey=True)
    ends = {}
    for (line, column), ax in np.ndenumerate(axes):
        kind, net, ends[ax] = kinds[line], nets[column], []
        for depth, group in _only(rows, net=net, normalisation=kind).groupby("depth"):
            colour, width = _shade(net, depth, depths), _line_width(depth, depths)
            train, test = _only(group, quantity="train_error"), _only(group, quantity="test_error")
            heights = [
                _error_line(ax, train, window, color=colour, linewidth=0.6 * width, linestyle=(0, (3, 1.2))),
                _error_line(ax, test, 1, color=colour, linewidth=width, linestyle="-"),
            ]
            fate = _fate(group)
            numbers = f"{_spread(_final(train))} / {_spread(_last(test))}"
            words = [fate] if fate == "diverged" else [numbers, fate] if fate else [numbers]
            ends[ax].append((None, np.nanmax(heights), f"{depth}: {', '.join(words)}", colour))
        _heading(ax, net, kind if len(kinds) > 1 else None)
        ax.annotate("depth: train / test", (1, 1), (5, 5), xycoords="axes fraction", textcoords="offset points")
    axes[0, 0].set(xlim=(0, rows["step"].max()), ylim=(0, None))
    for ax, labels in ends.items():
        _end_labels(ax, labels, side=1, panel=3.1)
    _outer_labels(figure, axes, "step", "error (%)")
    return figure


@matplotlib.rc_context(STYLE)
def depth_errors(table: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """Draws the final training error (mean of the last tenth of the steps) against depth, one line a net.

    Needs `train_error`. Dots are seeds, lines go through their means, a diverged run is a cross above the panel. One
    panel a normalisation.
    """
    rows = _rows(table, "train_error")
    nets, kinds = _nets(rows), _kinds(rows)
    figure, axes = _grid(1, len(kinds), 3.3, title, note, sharex=True, sharey=True)
    ends = {}
    for kind, ax in zip(kinds, axes[0], strict=True):
        ends[ax] = []
        for rank, net in enumerate(nets):
            here, look = _only(rows, net=net, normalisation=kind), {"color": _shade(net), "clip_on": False}
            lost = here[here["status"] == "diverged"].groupby("run")["depth"].first()
            # A diverged run has no final error: its cross has a place of its own, one line a net.
            above = np.full(len(lost), 1.04 + 0.05 * (len(nets) - 1 - rank))
            if len(lost):
                ax.plot(lost, above, "x", transform=ax.get_xaxis_transform(), **look)
                end = (lost.max(), above[0])
                ax.annotate(
                    "diverged", end, (6, 0), ax.get_xaxis_transform(), "offset points", va="center", color=_shade(net)
                )
            final = _final(here)
            mean = final.groupby("depth").mean()
            if len(mean):
                ax.plot(final.index.get_level_values("depth"), final, "o", alpha=0.6, markeredgewidth=0, **look)
                ax.plot(mean.index, mean, linewidth=2, **look)
                ends[ax].append((mean.index[-1], mean.iloc[-1], f"{net} {mean.iloc[-1]:.0f}", _shade(net)))
        _heading(ax, "", kind if len(kinds) > 1 else None, pad=18)
    axes[0, 0].set(xticks=_depths(rows), ylim=(0, None))
    for ax, labels in ends.items():
        _end_labels(ax, labels, side=1, panel=3.3)
    _outer_labels(figure, axes, "depth", "final training error (%)")
    return figure


def sparkline(values: Iterable[float]) -> str:
    """Returns one bar a value, its height the logarithm within the range of all; a space where there is none.

    The range is taken as at least one decade, so that noise on equal values stays small.
    """
    logs = _logs(values)
    if not np.isfinite(logs).any():
        return " " * len(logs)
    low, high = np.nanmin(logs), np.nanmax(logs)
    levels = np.round(7 * ((logs - (low + high) / 2) / max(high - low, 1) + 0.5))
    return "".join(" " if np.isnan(level) else "▁▂▃▄▅▆▇█"[int(level)] for level in levels)


def shorten(values: Sequence[float], width: int) -> list[float]:
    """Returns at most `width` values, each the geometric mean of its neighbours that have a logarithm (or nan)."""
    bins = np.array_split(_logs(values), min(width, len(values)) or 1)
    return [float(10 ** np.mean(bin[~np.isnan(bin)])) if not np.isnan(bin).all() else float("nan") for bin in bins]


@matplotlib.rc_context(STYLE)
def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure as SVG or PNG, by the suffix: transparent, whole or not at all, same table same bytes."""
    path = Path(path)
    kind = choose("figure format", path.suffix.lower().lstrip("."), ("svg", "png"))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(part, format=kind, transparent=True, dpi=160, metadata=metadata)
        os.replace(part, path)
    except OSError as error:
        raise BadInput(f"cannot write the figure {path}: {error.strerror or error}") from error
    finally:
        if part.is_file():
            part.unlink()


def caption(table: pd.DataFrame, command: str = "") -> str:
    """Returns the small line under a figure: data, steps, seeds, batch, width, normalisation, divergence, command."""

    def said(column: str, form: str) -> list[str]:
        return [form.format("/".join(map(str, sorted(table[column].dropna().unique()))))] if column in table else []

    runs = _rows(table).drop_duplicates("run")
    lost, seeds = int((runs["status"] == "diverged").sum()), runs["seed"].nunique()
    steps = said("steps", "{} steps") or [f"{table['step'].max()} steps"]
    parts = [*said("data", "{}"), *steps, f"{seeds} seed{'s' * (seeds != 1)}"]
    parts += [*said("batch", "batch {}"), *said("width", "width {}")]
    parts += [", ".join(_norm_name(kind) for kind in _kinds(runs))] if "normalisation" in table else []
    parts += [f"{lost} of {len(runs)} runs diverged"] if lost else []
    return "\N{NO-BREAK SPACE}\N{MIDDLE DOT} ".join([*parts, *([command] if command else [])])


# What the table says


def _rows(table: Frame, *quantities: str) -> Frame:
    """Returns the readings of some quantities (all if none is named), in an order that is not that of the table."""
    if missing := [column for column in COLUMNS if column not in table]:
        raise BadInput(f"the table cannot be drawn: it lacks the column {', '.join(missing)}")
    rows = table[table["quantity"].isin(quantities)] if quantities else table
    if rows.empty:
        has = ", ".join(sorted(set(table["quantity"]))) or "no readings at all"
        raise BadInput(f"the table cannot be drawn: it lacks {' and '.join(quantities) or 'readings'}, and has {has}")
    rows = rows.assign(normalisation=rows["normalisation"].fillna("none") if "normalisation" in rows else "")
    if "status" not in rows:
        whole = np.isfinite(rows["value"]).groupby(rows["run"]).transform("all")
        rows["status"] = np.where(whole, "done", "diverged")
    return rows.sort_values(["depth", "seed", "run", "quantity", "step", "position", "layer"], kind="stable")


def _cosines(table: Frame, quantity: str) -> list[Frame]:
    return [_rows(table, quantity)] if (table["quantity"] == quantity).any() else []


def _only(rows: Frame, **fixed: Any) -> Frame:
    """Returns the rows in which every named column has the given value."""
    return rows[np.logical_and.reduce([rows[column] == value for column, value in fixed.items()])]


def _units(rows: Frame) -> Frame:
    """Returns the readings at units, the points plain and residual nets share; at all layers if no unit was read."""
    units = rows[rows["layer"].str.fullmatch(r"block\d+")]
    return units if len(units) else rows


def _nets(rows: Frame) -> list[str]:
    known = list(NET_COLOURS)
    return sorted(rows["net"].unique(), key=lambda net: (known.index(net) if net in known else len(known), net))


def _kinds(rows: Frame) -> list[str]:
    """Returns the normalisations; none comes first, as it did in history."""
    return sorted(rows["normalisation"].dropna().unique(), key=lambda kind: (kind != "none", kind))


def _depths(rows: Frame) -> list[int]:
    return sorted(int(depth) for depth in rows["depth"].unique())


def _steps(rows: Frame, wanted: Sequence[int] | None, count: int) -> list[int]:
    """Returns the wanted steps, or the first, an early (geometric middle) and the last all finished runs recorded."""
    finished = rows[rows["status"] != "diverged"]
    recorded = [set(group) for _, group in (finished if len(finished) else rows).groupby("run")["step"]]
    common = sorted(set.intersection(*recorded) or set.union(*recorded))
    if wanted is not None:
        if unknown := sorted(set(wanted) - set(rows["step"])):
            raise BadInput(f"step {unknown[0]} was not recorded: choose among {', '.join(map(str, common))}")
        return list(wanted)
    early = min(common, key=lambda step: abs(2 * np.log(step) - np.log(common[0] * common[-1])))
    return sorted({common[0], common[-1]} | ({early} if count == 3 else set()))


def _logs(values: Any) -> Any:
    """Returns log10 of the values; nan for what has no finite logarithm."""
    values = np.asarray(list(values) if not hasattr(values, "__len__") else values, dtype=float)
    return np.log10(values, where=(values > 0) & np.isfinite(values), out=np.full(values.shape, np.nan))


def _log_values(rows: Frame) -> Series:
    return pd.Series(_logs(rows["value"]), rows.index)


def _wide(rows: Frame, index: str, columns: str) -> Frame:
    """Returns the geometric mean of the values for each index (down) and column (across); nan where there is none."""
    return 10 ** _log_values(rows).groupby([rows[index], rows[columns]]).mean().unstack()


def _limits(rows: Frame) -> tuple[float, float]:
    """Returns the range to show: that of sane readings, at most a decade more: a diverging run has no bounds."""
    logs = _log_values(rows)
    sane = logs[(rows["status"] != "diverged") | (rows["step"] == rows["step"].min())].dropna()
    if sane.empty:
        raise BadInput("the table cannot be drawn: no reading is positive and finite")
    low, high = max(logs.min(), sane.min() - 1), min(logs.max(), sane.max() + 1)
    room = 0.1 + 0.04 * (high - low)
    return 10 ** (low - room), 10 ** (high + room)


def _fate(group: Frame, curves: Frame | None = None) -> str:
    """Says which of the runs diverged, leaving out those whose curve is whole all the same."""
    runs = group.groupby("run")["status"].first()
    whole = set() if curves is None else set(curves.dropna(axis=1).columns)
    lost = [run for run, status in runs.items() if status == "diverged" and run not in whole]
    return "" if not lost else "diverged" if len(lost) == len(runs) else f"{len(lost)} of {len(runs)} diverged"


def _final(rows: Frame) -> Series:
    """Returns the mean of the last tenth of the steps in percent, for each finished run, indexed by depth and run."""
    done = rows[rows["status"] != "diverged"]
    late = done[done["step"] > 0.9 * done.groupby("run")["step"].transform("max")]
    return PERCENT * late.groupby(["depth", "run"])["value"].mean()


def _last(rows: Frame) -> Series:
    """Returns the last reading in percent for each finished run."""
    return PERCENT * rows[rows["status"] != "diverged"].groupby("run")["value"].last()


def _spread(values: Series) -> str:
    """Returns mean and half range as text, a dash if there are no values."""
    if values.empty:
        return "\N{EN DASH}"
    half = f"\N{PLUS-MINUS SIGN}{(values.max() - values.min()) / 2:.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{half}"


def _edges(centres: Any, ratio: bool = False) -> np.ndarray:
    """Returns the borders of cells around the sorted centres, midway between neighbours (geometrically for a ratio)."""
    points = np.unique(np.asarray(centres, dtype=float))
    points = np.log(points) if ratio else points
    middle = (points[1:] + points[:-1]) / 2
    first, last = (middle[0] - points[0], points[-1] - middle[-1]) if len(middle) else (0.5, 0.5)
    edges = np.array([points[0] - first, *middle, points[-1] + last])
    return np.exp(edges) if ratio else edges


# How it is drawn


def _grid(lines: int, columns: int, height: float, title: str, note: str, **shared: Any) -> tuple[Figure, np.ndarray]:
    """Returns an empty figure with its title, its note and a grid of panels, each `height` inches tall."""
    width = WIDTH if columns > 1 else 0.7 * WIDTH
    title, note = textwrap.fill(title, int(8.8 * width)), textwrap.fill(note, int(15.5 * width))
    text = 0.3 * len(title.splitlines()) + 0.2 * len(note.splitlines()) + 0.4
    figure = Figure(figsize=(width, lines * height + text), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    figure.text(0.01, 0.005, note, fontsize=8.5, va="bottom", linespacing=1.3)
    below = 0.19 * len(note.splitlines()) / figure.get_figheight()
    figure.set_layout_engine("constrained", rect=(0, below, 1, 1 - below))
    return figure, figure.subplots(lines, columns, squeeze=False, **shared)


def _outer_labels(figure: Figure, axes: np.ndarray, across: str, up: str) -> None:
    for ax in axes[-1]:
        ax.set_xlabel(across)
    figure.supylabel(up, fontsize=9)


def _norm_name(kind: str) -> str:
    return "no normalisation" if kind == "none" else f"{kind} norm"


def _heading(ax: Axes, net: str, kind: str | None, *more: str, depth: int | str = "", **look: Any) -> None:
    """Writes what a panel shows above it, in the colour of its net."""
    words = [f"{net} {depth}".strip(), _norm_name(kind) if kind else "", *more]
    columns = len({other.get_position().x0 for other in ax.figure.axes})
    text = ", ".join(word.replace(" ", "\N{NO-BREAK SPACE}") for word in words if word)
    text = textwrap.fill(text, int(13 * WIDTH / columns)).replace("\N{NO-BREAK SPACE}", " ")
    ax.set_title(text, loc="left", color=_shade(net) if net else GREY, **look)


def _remarks(ax: Axes, remarks: Iterable[tuple[str, Any]]) -> None:
    """Writes (text, colour) in the panel's upper right corner, which curves that end near 1 leave free."""
    for line, (text, colour) in enumerate(remarks):
        ax.annotate(text, (1, 1), (0, -11 * line), "axes fraction", "offset points", ha="right", va="top", color=colour)


def _shade(net: str, depth: int = 0, depths: Sequence[int] = (0,)) -> tuple[float, float, float]:
    """Returns a net's colour, light for the shallowest of the depths and dark for the deepest.

    Mixed with white or black in linear light, where luminance, and with it contrast on either page, is a plain sum.
    """
    linear = np.array(to_rgb(NET_COLOURS.get(net, GREY))) ** 2.2
    wanted = LIGHTEST * (DARKEST / LIGHTEST) ** _rank(depth, depths)
    own = linear @ [0.2126, 0.7152, 0.0722]
    mixed = linear * wanted / own if wanted < own else 1 - (1 - linear) * (1 - wanted) / (1 - own)
    red, green, blue = mixed ** (1 / 2.2)
    return red, green, blue


def _line_width(depth: int, depths: Sequence[int]) -> float:
    return 1.4 + 0.9 * _rank(depth, depths)


def _rank(depth: int, depths: Sequence[int]) -> float:
    """Returns 0 for the shallowest depth to 1 for the deepest, the middle if there is but one."""
    return list(depths).index(depth) / (len(depths) - 1) if len(depths) > 1 else 0.5


def _curve(ax: Axes, curves: Frame, color: Any, linewidth: float, zorder: float) -> tuple[float, float] | None:
    """Draws the runs (columns) thin, and band and geometric mean of those without a gap; returns the input end."""
    whole = curves.dropna(axis=1)
    if curves.shape[1] > 1 or whole.empty:
        ax.plot(curves.index, curves.to_numpy(), color=color, linewidth=0.7, alpha=0.75, zorder=zorder)
    if whole.empty:
        drawn = curves.dropna(how="all")
        return None if drawn.empty else (drawn.index[0], drawn.iloc[0].mean())
    mean = np.exp(np.log(whole).mean(axis=1))
    ax.fill_between(mean.index, whole.min(axis=1), whole.max(axis=1), color=color, alpha=0.25, linewidth=0)
    ax.plot(mean.index, mean.to_numpy(), color=color, linewidth=linewidth, zorder=zorder)
    return mean.index[0], mean.iloc[0]


def _cells(ax: Axes, rows: Frame, scale: LogNorm) -> float:
    """Draws the geometric mean over the runs as colour over step and position; returns the last step with a colour."""
    cells = _wide(rows, "position", "step")
    edges = _edges(cells.columns, ratio=True), _edges(cells.index)
    ax.pcolormesh(*edges, cells.to_numpy(), norm=scale, cmap="viridis", rasterized=True)
    return max(cells.columns[cells.notna().any()], default=1)


def _shares(ax: Axes, share: Series, cosine: Series, labelled: bool) -> None:
    """Draws the identity's share, the rest above it, and the cosine on an axis of its own, at the right."""
    edges = _edges(share.index)
    ax.stairs(share, edges, fill=True, color=_shade("residual", 1, (0, 1)))
    ax.stairs(np.ones(len(share)), edges, baseline=share, fill=True, color=_shade("residual", 0, (0, 1)))
    ax.set(xlim=edges[[0, -1]], ylim=(0, 1), yticks=(0, 0.5, 1))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.grid(False)
    twin = ax.twinx()
    (line,) = twin.plot(cosine.index, cosine, color="#F0E442", linewidth=1.6)
    line.set_path_effects([withStroke(linewidth=3, foreground="black")])
    twin.set(ylim=(-1, 1), yticks=(-1, 0, 1), ylabel="cosine (yellow line)" if labelled else "")
    twin.tick_params(labelright=labelled, right=labelled)
    twin.grid(False)


def _error_line(ax: Axes, rows: Frame, window: int, color: Any, **look: Any) -> float:
    """Draws mean and band of the finished runs, a diverged run thin up to a cross; returns the last height."""
    if rows.empty:
        return float("nan")
    values = PERCENT * rows.groupby(["step", "run"])["value"].mean().unstack().replace(np.inf, np.nan)
    smooth = values.rolling(window, min_periods=1).mean().where(values.notna())
    smooth = smooth.iloc[np.unique(np.linspace(0, len(smooth) - 1, 400).astype(int))]
    lost = sorted(set(rows.loc[rows["status"] == "diverged", "run"]))
    for run in lost:
        curve = smooth[run].dropna()
        ax.plot(curve.index, curve, color=color, marker="x", markevery=[-1], **{**look, "linewidth": 0.8})
    whole = smooth.drop(columns=lost).dropna()
    if whole.empty:
        return float(smooth.ffill().iloc[-1].max())
    ax.fill_between(whole.index, whole.min(axis=1), whole.max(axis=1), color=color, alpha=0.2, linewidth=0)
    ax.plot(whole.index, whole.mean(axis=1), color=color, **look)
    return float(whole.iloc[-1].mean())


def _end_labels(ax: Axes, ends: list[tuple[Any, float, str, Any]], side: int, panel: float) -> None:
    """Writes (x, y, text, colour) left (-1) or right (1) of each line's end, or of the panel where x is None.

    Labels move up or down just enough that no two overlap: so the axis limits must be final, and a panel, with its
    heading, `panel` inches tall.
    """
    if not ends:
        return
    ends = sorted(ends, key=lambda end: end[1])
    into_panel = ax.transScale + ax.transLimits
    heights = np.array([np.clip(into_panel.transform((1, y))[1], 0, 1) for _, y, _, _ in ends])
    gap = 10.5 / 72 / (panel - 0.45)
    for (x, _, text, colour), height in zip(ends, _apart(heights, gap), strict=True):
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


def _apart(heights: np.ndarray, gap: float) -> list[float]:
    """Returns sorted heights moved as little (in least squares) as sets neighbours at least a gap apart.

    Without the gaps that precede it each height need only be no lower than the one before: isotonic regression.
    """
    free, count = heights - gap * np.arange(len(heights)), len(heights)
    return [
        gap * i + max(min(free[low : high + 1].mean() for high in range(i, count)) for low in range(i + 1))
        for i in range(count)
    ]
