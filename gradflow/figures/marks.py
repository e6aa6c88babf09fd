"""What is drawn into a panel: curves with their bands, films, shares of the gradient, errors."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from gradflow.claims.statistics import geometric_mean
from gradflow.figures.style import shade

# pandas types every `frame["x"]` as a union that no type checker can follow: inside this file tables are not checked.
Frame = Any
Series = Any


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


def law(ax: Axes, curves: Frame, slope: float, zorder: float) -> None:
    """Draws the line that falls by `slope` decades a layer towards the input, from the output end of the runs' mean.

    Nothing is drawn where there is no law (nan) or no run without a gap.
    """
    whole = curves.dropna(axis=1)
    if np.isnan(slope) or whole.empty:
        return
    across = np.array([whole.index[0], whole.index[-1]])
    height = geometric_mean(whole.iloc[-1]) * 10 ** (slope * (across - across[-1]))
    ax.plot(across, height, color="black", linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=zorder + 1)


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
