"""What mean-field theory says of the gradient in an untrained ReLU net: by which factor a layer changes its norm.

The theory is of wide layers of one width with full windows, whose weights have mean 0 and variance s / fan-in. It takes
the weights of the backward pass for independent of those of the forward pass. A factor is told as a slope in decades a
layer, as `gradient_slope` measures it: positive where the gradient shrinks on its way to the input.
"""

import functools
import math
import re
from collections.abc import Sequence

import numpy as np

# The variance of a weight times the fan-in, at a gain of 1, for a layer whose input and output are equally wide.
VARIANCES = {"he": 2.0, "glorot": 1.0, "lecun": 1.0}


def gradient_law(net: str, initialisation: str = "he", normalisation: str = "none") -> float | None:
    """The slope of log10 gradient norm over layers at step 1, in decades a layer; None where there is no law for it.

    - `plain` without normalisation: the mask of a ReLU passes half of the squared gradient and a layer multiplies it by
      s, so the norm changes by sqrt(s / 2) a layer: not at all by He's initialisation, by 2^(-1/2) by Glorot's (He et
      al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852, section 2.2, equations 13 and 14 and what follows).
    - `plain` with batch norm: it grows by sqrt(pi / (pi - 1)) a layer, in large batches of unlike examples (Yang et al.
      2019, arXiv:1902.08129), whatever the initialisation, as batch norm divides by its scale.
    - `residual` (shortcut A, order post) without normalisation: a unit, two layers, multiplies the squared gradient by
      (1 + s^2 / 2) p, where p is the share of outputs that its last ReLU passes: `_passing`.

    Of other initialisations than he, glorot and lecun it knows nothing. It is about ReLUs, whatever the net has.
    """
    match = re.fullmatch(r"([a-z_]+)(?:\((.*)\))?", initialisation)
    kind, gain = match.groups() if match else (initialisation, None)
    if kind not in VARIANCES:
        return None
    variance = VARIANCES[kind] * float(gain or 1) ** 2
    if net == "plain" and normalisation == "none":
        return 0.0 - math.log10(variance / 2) / 2
    if net == "plain" and normalisation == "batch":
        return -math.log10(math.pi / (math.pi - 1)) / 2
    if net == "residual" and normalisation == "none":
        branch = variance**2 / 2
        return -math.log10((1 + branch) * _passing(branch)) / 4
    return None


def border_decades(sides: Sequence[int]) -> float:
    """By how many decades zero padding alone lessens the gradient's norm, for 3x3 layers on square maps.

    `sides` are those of the maps from the first layer's input to the last layer's output, in pixels; from one to the
    next they stay or are halved by a stride of 2. A window at the border sees fewer of its nine inputs than the
    initialisation counts on: along one axis a pixel hands a third of its squared gradient to each neighbour that is
    there. With all edges joined (circular padding) nothing is lost. Norms are over all pixels of a map.
    """
    # Squared gradient by pixel along one axis; the other axis has the same, so their product has the norm `sum`.
    gradient = np.full(sides[-1], 1 / sides[-1])
    for before, after in zip(sides[-2::-1], sides[:0:-1], strict=True):
        stride, handed = before // after, np.zeros(before + 2)
        for tap in range(3):  # output i is centred on input stride * i, which has the place 1 + stride * i here
            handed[tap : tap + stride * after : stride] += gradient / 3
        gradient = handed[1:-1]
    return -math.log10(gradient.sum())


@functools.cache
def _passing(branch: float, cells: int = 1000, units: int = 100) -> float:
    """The share of x + F that is positive after many units x <- relu(x + F), F normal with `branch` times the mean
    square of x.

    The density of x, scaled to a mean square of 1, is followed from unit to unit on a grid until it stays.
    """
    step = 12 / cells
    x = step * np.arange(cells)
    noise = np.exp(-((step * np.arange(-cells + 1, cells)) ** 2) / (2 * branch)) / math.sqrt(2 * math.pi * branch)
    density, zero, passing = np.exp(-(x**2) / 4) / math.sqrt(4 * math.pi), 0.5, 0.5  # relu of a normal x
    for _ in range(units):
        density = step * np.convolve(density, noise)[cells - 1 : 2 * cells - 1] + zero * noise[cells - 1 :]
        passing = float(step * (density.sum() - density[0] / 2))
        zero, root = 1 - passing, math.sqrt(float(step * (density @ x**2)))
        density = np.interp(x * root, x, density, right=0) * root
    return passing
