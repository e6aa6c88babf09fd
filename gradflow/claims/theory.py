"""What mean-field theory says of the gradient in an untrained net: by which factor a layer changes its norm.

The theory is of wide layers with full windows, whose weights have mean 0 and variance s / fan-in, and whose biases are
0. It takes the weights of the backward pass for independent of those of the forward pass. A factor is told as a slope
in decades a layer, as `gradient_slope` measures it: positive where the gradient shrinks on its way to the input.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gradflow.errors import BadInput, at_least
from gradflow.kinds import checked
from gradflow.settings import ranges

# The variance of a weight times the fan-in, at a gain of 1, for a layer whose input and output are equally wide.
VARIANCES = {"he": 2.0, "glorot": 1.0, "lecun": 1.0, "orthogonal": 1.0}
_CELLS = 2000  # in which a normal variable between -10 and 10 deviations is integrated
_NEURONS = 20_000  # that are followed through a residual net, each with the noise of its own branch


class Moments(NamedTuple):
    """Of an activation phi of a normal variable: what a layer does to signal and gradient depends on these alone."""

    mean: float  # E[phi]
    square: float  # E[phi^2], the mean included
    slope: float  # E[phi'^2]: the share of the squared gradient that it passes


def _sigmoid(x: Any) -> Any:
    return 0.5 + 0.5 * np.tanh(x / 2)


# Each with its derivative.
ACTIVATIONS: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * (1 - _sigmoid(x))),
}


# What of a net the laws are about: without a border, no projection and nothing but the identity on the path.
COVERED = {"padding": ("circular",), "order": ("post",), "shortcut": ("A",), "family": ("cifar",)}
COVERED |= {"pooling": ("stride",), "normalisation": ("none", "batch"), "activation": tuple(ACTIVATIONS)}


@checked
def check_law(**settings: Any) -> None:
    """Raises `BadInput` for a setting, one value or a tuple of several, of which `gradient_law` and `gradient_course`
    know nothing: before runs that are to be judged by them.
    """
    for name, value in settings.items():
        for one in value if isinstance(value, tuple) else (value,):
            if name in COVERED and not (isinstance(one, str) and one in COVERED[name]):
                legal = " or ".join(COVERED[name])
                raise BadInput(f"{name} {one} is not legal here: the laws that this experiment judges by need {legal}")


def moments(activation: str, variance: float) -> Moments:
    """Those of the activation of a normal variable with mean 0 and this variance; `ACTIVATIONS` are known."""
    phi, derivative = ACTIVATIONS[activation]
    z = 20 * (np.arange(_CELLS) + 0.5) / _CELLS - 10
    weight = np.exp(-(z**2) / 2)
    weight, x = weight / weight.sum(), math.sqrt(variance) * z
    return Moments(*(float(weight @ y) for y in (phi(x), phi(x) ** 2, derivative(x) ** 2)))


def weight_variance(initialisation: str, kernel: Sequence[int]) -> float | None:
    """s: the variance of a weight times the fan-in, for a kernel `(..., in, out)`; None for an unknown initialisation.

    Where a layer is wider than its fan-in, orthogonal weights have rows, not columns, of length one.
    """
    kind, number = _named(initialisation)
    *window, channels_in, channels_out = kernel
    area = math.prod(window)
    fan_in, fan_out, gain = area * channels_in, area * channels_out, (1.0 if number is None else number) ** 2
    if kind == "normal":
        return fan_in * gain
    if kind not in VARIANCES:
        return None
    same = VARIANCES[kind] * gain
    return same * {"glorot": 2 * fan_in / (fan_in + fan_out), "orthogonal": min(1, fan_in / channels_out)}.get(kind, 1)


def _named(initialisation: str) -> tuple[str, float | None]:
    match = re.fullmatch(r"([a-z_]+)(?:\((.*)\))?", initialisation)
    kind, number = match.groups() if match else (initialisation, None)
    try:
        return kind, None if number is None else float(number)
    except ValueError:
        raise BadInput(f"initialisation {initialisation!r} is not legal: in brackets stands a number") from None


@checked
def gradient_course(
    net: str,
    kernels: Sequence[Sequence[int]],
    initialisation: str = "he",
    normalisation: str = "none",
    activation: str = "relu",
) -> dict[int, float] | None:
    """log10 of the gradient norm at step 1 by position (weighted layers passed), 0 at the last; None without a law.

    `kernels` are the shapes `(..., in, out)` of the layers in order, first the stem, last the classifier. Images have a
    mean square of 1. A plain net is followed from layer to layer, a `residual` one (shortcut A, order post) from unit
    to unit of two layers. The squared norm changes on its way back

    - through a layer by s E[phi'(h)^2], h normal with variance s E[x^2], x the layer's input: Poole et al. 2016
      (arXiv:1606.05340), Schoenholz et al. 2017 (arXiv:1611.01232), where s = sigma_w^2. E[x^2] goes from layer to
      layer by the same s, so what is found is that of these layers, not that of the fixed point.
    - with batch norm, in large batches, by E[phi'(h)^2] / Var[phi(h)], h standard normal, whatever s is: the batch norm
      before divides by the deviation of the layer's input. For ReLU that is pi / (pi - 1) (Yang et al. 2019,
      arXiv:1902.08129), for the others the same derivation.
    - through a residual unit x <- phi(x + F) as `_units` says.
    """
    if any(len(kernel) < 2 or min(kernel) < 1 for kernel in kernels) or not len(kernels):
        raise BadInput(
            "kernels are the shapes (..., in, out) of one layer or more, each two numbers or more, from 1 on"
        )
    variances = [weight_variance(initialisation, kernel) for kernel in kernels]
    if activation not in ACTIVATIONS or normalisation not in ("none", "batch") or None in variances:
        return None
    if net not in ("plain", "residual"):
        return None
    kept = [min(1.0, kernel[-2] / kernel[-1]) for kernel in kernels]
    follow = _layers if net == "plain" else functools.partial(_units, kept=kept)
    heights = follow([one for one in variances if one is not None], normalisation == "batch", activation)
    return {position: height - heights[max(heights)] for position, height in heights.items()}


def _layers(variances: Sequence[float], batch: bool, activation: str) -> dict[int, float]:
    """log10 of the gradient norm, but for a constant, at the output of each layer; the stem's has position 1."""
    square, centred, factors = 1.0, 1.0, []
    for variance in variances[:-1]:
        after = moments(activation, 1.0 if batch else variance * square)
        factors.append(after.slope * (1 / centred if batch else variance))
        square, centred = after.square, after.square - after.mean**2
    behind = np.cumsum(np.log10(factors)[:0:-1])[::-1] / 2
    return dict(enumerate([*behind.tolist(), 0.0], start=1))


def _units(variances: Sequence[float], batch: bool, activation: str, kept: Sequence[float]) -> dict[int, float]:
    """The same at the input of each unit x <- phi(x + F) of two layers and at the last one's output.

    F is normal, and independent of x, with the variance v = s E[phi(h)^2], h that of the first layer (with batch norm
    v = 1). Many neurons are followed through all units, each with noise of its own, and then their squared gradients
    back: g(x) = phi'(x + F)^2 g' through the identity and, alike to all, b times the mean of it through the branch,
    b = s s E[phi'(h)^2] (with batch norm E[phi'(h)^2] / (Var[phi(h)] Var[x])). So it is not forgotten that a neuron
    which passes little in one unit passes little in the next. Where the unit widens, the identity has zeros for the
    share of channels that x lacks.
    """
    (phi, derivative), draw = ACTIVATIONS[activation], np.random.default_rng(0)
    x = phi(math.sqrt(1.0 if batch else variances[0]) * draw.normal(size=_NEURONS))
    passed = []
    for layer in range(1, len(variances) - 2, 2):
        first, second = variances[layer : layer + 2]
        inside = moments(activation, 1.0 if batch else first * float(np.mean(x**2)))
        centred = inside.square - inside.mean**2
        back = inside.slope * (1 / (centred * float(np.var(x))) if batch else first * second)
        through = draw.random(_NEURONS) < kept[layer]
        noise = math.sqrt(1.0 if batch else second * inside.square)
        u = x * through + noise * draw.normal(size=_NEURONS)
        passed.append((through, derivative(u) ** 2, back))
        x = phi(u)
    gradient, height = np.ones(_NEURONS), 0.0
    heights = {1 + 2 * len(passed): height}
    for unit in range(len(passed), 0, -1):
        through, slope, back = passed[unit - 1]
        before = slope * gradient
        gradient = before * through + back * before.mean()
        height += math.log10(gradient.mean()) / 2
        gradient /= gradient.mean()
        heights[2 * unit - 1] = height
    return heights


@checked
def gradient_law(
    net: str,
    initialisation: str = "he",
    normalisation: str = "none",
    activation: str = "relu",
    depth: int = 18,
) -> float | None:
    """The slope of log10 gradient norm over layers at step 1, in decades a layer; None where there is no law for it.

    The layers are equally wide. What is said of ReLUs holds at any depth; of tanh and sigmoid it is the mean slope over
    a net of `depth` layers, as these see ever other inputs (`gradient_course`).

    - `plain` without normalisation: the mask of a ReLU passes half of the squared gradient and a layer multiplies it by
      s, so the norm changes by sqrt(s / 2) a layer: not at all by He's initialisation, by 2^(-1/2) by Glorot's (He et
      al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852, section 2.2, equations 13 and 14 and what follows).
    - `plain` with batch norm: it grows by sqrt(pi / (pi - 1)) a layer, in large batches of unlike examples (Yang et al.
      2019, arXiv:1902.08129), whatever the initialisation, as batch norm divides by its scale.
    - `residual` (shortcut A, order post) without normalisation: a unit, two layers, multiplies the squared gradient by
      (1 + s^2 / 2) p, where p is the share of outputs that its last ReLU passes: `_passing`.

    Of other initialisations than he, glorot, lecun and orthogonal it knows nothing: by normal(0.01) the slope depends
    on the width. Nor is it known of a residual net with batch norm, whose slope is not the same along its depth.
    """
    kind, gain = _named(initialisation)
    if kind not in VARIANCES or net not in ("plain", "residual") or normalisation not in ("none", "batch"):
        return None
    variance = VARIANCES[kind] * (1 if gain is None else gain) ** 2
    if net == "residual" and normalisation == "batch":
        return None
    if activation != "relu":
        return _mean_slope(net, initialisation, normalisation, activation, depth)
    if normalisation == "batch":
        return -math.log10(math.pi / (math.pi - 1)) / 2
    if net == "plain":
        return 0.0 - math.log10(variance / 2) / 2
    branch = variance**2 / 2
    return -math.log10((1 + branch) * _passing(branch)) / 4


def _mean_slope(net: str, initialisation: str, normalisation: str, activation: str, depth: int) -> float | None:
    at_least("depth", depth, 4 if net == "residual" else 3)  # a slope has two points
    ranges.check("depth", depth)
    course = gradient_course(net, [(1, 1)] * depth, initialisation, normalisation, activation)
    return None if course is None else float(np.polyfit(list(course), list(course.values()), 1)[0])


@checked
def border_decades(sides: Sequence[int]) -> float:
    """By how many decades zero padding alone lessens the gradient's norm, for 3x3 layers on square maps.

    `sides` are those of the maps from the first layer's input to the last layer's output, in pixels; from one to the
    next they stay or are halved by a stride of 2. A window at the border sees fewer of its nine inputs than the
    initialisation counts on: along one axis a pixel hands a third of its squared gradient to each neighbour that is
    there. With all edges joined (circular padding) nothing is lost. Norms are over all pixels of a map.
    """
    if not len(sides) or min(sides) < 1 or any(after > before for before, after in itertools.pairwise(sides)):
        raise BadInput(
            f"sides {tuple(sides)} are not legal: they are one or more, from 1 on, and none is more than before"
        )
    ranges.check("image", int(sides[0]))
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
