"""A row of norms as one line of text: bars whose height is the logarithm."""

from collections.abc import Iterable, Sequence

import numpy as np

from gradflow.claims.statistics import finite_log10, geometric_mean

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Iterable[float]) -> str:
    """One bar a value, its height the logarithm within the range of all; a space where there is none.

    The range is taken as at least one decade, so that noise on equal values stays small.
    """
    logs = finite_log10(values)
    if not np.isfinite(logs).any():
        return " " * len(logs)
    low, high = np.nanmin(logs), np.nanmax(logs)
    levels = np.round(7 * ((logs - (low + high) / 2) / max(high - low, 1) + 0.5))
    return "".join(" " if np.isnan(level) else BARS[int(level)] for level in levels)


def shorten(values: Sequence[float], width: int) -> list[float]:
    """At most `width` values, each the geometric mean of its neighbours that have a logarithm (or nan)."""
    return [geometric_mean(part) for part in np.array_split(np.asarray(values, float), min(width, len(values)) or 1)]
