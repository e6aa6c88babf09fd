"""How it is drawn: the one look of all figures, their palette, panels, labels and marks, given numbers and words."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullLocator

from gradflow.claims.statistics import geometric_mean

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

WIDTH = 9.0  # inches; a README shows it about 830 pixels wide, which keeps 8.5 pt above 8 pt
GREY = "#787878"  # 4.4 to 1 against white as against #0d1117: no grey does better on both
# The Okabe-Ito palette, which colour-blind eyes tell apart.
NET_COLOURS = {"plain": "#D55E00", "residual": "#0072B2", "vgg": "#009E73", "nin": "#CC79A7", "googlenet": "#E69F00"}
NET_COLOURS |= {"cnn": "#882255", "alexnet": "#F0E442"}  # a perceptron is grey
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


def grid(lines: int, columns: int, height: float, title: str, note: str, **shared: Any) -> tuple[Figure, np.ndarray]:
    """Returns an empty figure with its title, its note and a grid of panels, each `height` inches tall."""
    width = WIDTH if columns > 1 else 0.7 * WIDTH
    title = textwrap.fill(title, int(9.8 * width))
    note = "\n".join(textwrap.fill(line, int(15.5 * width)) for line in note.splitlines())
    text = 0.3 * len(title.splitlines()) + 0.2 * len(note.splitlines()) + 0.4
    figure = Figure(figsize=(width, lines * height + text), layout="constrained")
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
    text = ", ".join(word.replace(" ", "\N{NO-BREAK SPACE}") for word in words if word)
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


def shade(net: str, place: int = 0, places: int = 1) -> tuple[float, float, float]:
    """Returns a net's colour, light for the first of several places (the shallowest depth) and dark for the last.

    Mixed with white or black in linear light, where luminance, and with it contrast on either page, is a plain sum.
    """
    linear = np.array(to_rgb(NET_COLOURS.get(net, GREY))) ** 2.2
    wanted = LIGHTEST * (DARKEST / LIGHTEST) ** rank(place, places)
    own = linear @ [0.2126, 0.7152, 0.0722]
    mixed = linear * wanted / own if wanted < own else 1 - (1 - linear) * (1 - wanted) / (1 - own)
    red, green, blue = mixed ** (1 / 2.2)
    return red, green, blue


def line_width(place: int, places: int) -> float:
    """Returns the width of a line, thin for the first of several places."""
    return 1.4 + 0.9 * rank(place, places)


def rank(place: int, places: int) -> float:
    """Returns 0 for the first place to 1 for the last, the middle if there is but one."""
    return place / (places - 1) if places > 1 else 0.5


def curve(ax: Axes, curves: Frame, color: Any, linewidth: float, zorder: float) -> tuple[float, float] | None:
    """Draws the runs (columns) thin, and band and geometric mean of those without a gap, with a dot at the output end.

    Returns position and height of the input end; None where there is nothing to draw.
    """
    whole = curves.dropna(axis=1)
    if curves.shape[1] > 1 or whole.empty:
        ax.plot(curves.index, curves.to_numpy(), color=color, linewidth=0.7, alpha=0.75, zorder=zorder)
    if whole.empty:
        drawn = curves.dropna(how="all")
        return None if drawn.empty else (drawn.index[0], drawn.iloc[0].mean())
    mean = whole.apply(geometric_mean, axis=1)
    ax.fill_between(mean.index, whole.min(axis=1), whole.max(axis=1), color=color, alpha=0.25, linewidth=0)
    look = {"linewidth": linewidth, "zorder": zorder, "marker": "o", "markersize": 4, "markevery": [-1]}
    ax.plot(mean.index, mean.to_numpy(), color=color, **look)
    return mean.index[0], mean.iloc[0]


def cells(ax: Axes, values: Frame, scale: LogNorm) -> float:
    """Draws values as colour over step (across) and position (up); returns where, across, they end."""
    borders = edges(values.columns, ratio=True), edges(values.index)
    ax.pcolormesh(*borders, values.to_numpy(), norm=scale, cmap="viridis", rasterized=True)
    coloured = np.flatnonzero(values.notna().any())
    return float(borders[0][coloured[-1] + 1 if len(coloured) else 0])


def edges(centres: Any, ratio: bool = False) -> np.ndarray:
    """Returns the borders of cells around the sorted centres, midway between neighbours (geometrically for a ratio)."""
    points = np.unique(np.asarray(centres, dtype=float))
    points = np.log(points) if ratio else points
    middle = (points[1:] + points[:-1]) / 2
    first, last = (middle[0] - points[0], points[-1] - middle[-1]) if len(middle) else (0.5, 0.5)
    borders = np.array([points[0] - first, *middle, points[-1] + last])
    return np.exp(borders) if ratio else borders


def shares(ax: Axes, share: Series, cosine: Series, labelled: bool) -> None:
    """Draws the identity's share, the rest above it, and the cosine on an axis of its own, at the right."""
    borders = edges(share.index)
    ax.stairs(share, borders, fill=True, color=shade("residual", 1, 2))
    ax.stairs(share.where(share.isna(), 1), borders, baseline=share, fill=True, color=shade("residual", 0, 2))
    ax.set(xlim=borders[[0, -1]], ylim=(0, 1), yticks=(0, 0.5, 1))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.grid(False)
    twin = ax.twinx()
    (line,) = twin.plot(cosine.index, cosine, color="#F0E442", linewidth=1.6)
    line.set_path_effects([withStroke(linewidth=3, foreground="black")])
    twin.set(ylim=(-1, 1), yticks=(-1, 0, 1), ylabel="cosine (yellow line)" if labelled else "")
    twin.tick_params(labelright=labelled, right=labelled)
    twin.grid(False)


def share_names(ax: Axes) -> None:
    """Writes which of the two shares is which."""
    for y, name, ink, place in ((0.1, "identity path", "white", 1), (0.9, "residual branch", "black", 0)):
        text = ax.text(0.03, y, name, color=ink, va="center", transform=ax.transAxes)
        text.set_path_effects([withStroke(linewidth=2, foreground=shade("residual", place, 2))])


def error_line(ax: Axes, whole: Frame, lost: Frame, color: Any, **look: Any) -> float:
    """Draws mean and band of the whole runs, each lost one thin up to a cross; returns the last height."""
    for run in lost:
        part = lost[run].dropna()
        ax.plot(part.index, part, color=color, marker="x", markevery=[-1], **{**look, "linewidth": 0.8})
    whole = whole.dropna()
    if whole.empty:
        return float(lost.ffill().iloc[-1].max()) if len(lost) else float("nan")
    ax.fill_between(whole.index, whole.min(axis=1), whole.max(axis=1), color=color, alpha=0.2, linewidth=0)
    ax.plot(whole.index, whole.mean(axis=1), color=color, **look)
    return float(whole.iloc[-1].mean())


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


def value_axis(ax: Axes, across: np.ndarray, values: Sequence[str], numeric: bool) -> None:
    """Sets a tick at each value of a setting; a logarithmic axis where the values are numbers far apart."""
    if numeric and across.min() > 0 and across.max() / across.min() >= 20:
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(across, values)
