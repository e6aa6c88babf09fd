"""The one look of all figures: width, colours by net and lightness by place, lines and fonts."""

from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

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
