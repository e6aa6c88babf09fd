"""The laws against what they are laws of: simulated sums, wide nets at initialisation, windows counted one by one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.claims import theory
from gradflow.nets.layers import initialisers


def test_laws_in_closed_form():
    assert gf.gradient_law("plain", "he") == 0
    assert gf.gradient_law("plain", "glorot") == pytest.approx(math.log10(2) / 2)
    assert gf.gradient_law("plain", "he(0.5)") == pytest.approx(math.log10(2))
    assert gf.gradient_law("plain", "glorot", "batch") == pytest.approx(-math.log10(math.pi / (math.pi - 1)) / 2)
    assert gf.gradient_law("residual", "he", "batch") is None
    assert gf.gradient_law("plain", "orthogonal") == gf.gradient_law("plain", "glorot")
    assert gf.gradient_law("plain", "glorot", "batch", "tanh") == pytest.approx(math.log10(0.39429449 / 0.46440290) / 2)


@pytest.mark.parametrize(
    "unknown", [{"initialisation": "normal(0.01)"}, {"activation": "gelu"}, {"normalisation": "layer"}, {"net": "vgg"}]
)
def test_what_no_law_is_known_of_is_none(unknown):
    assert gf.gradient_law(**{"net": "plain", **unknown}) is None
    if "initialisation" not in unknown:  # a course knows the widths
        assert gf.gradient_course(**{"net": "plain", "kernels": [(8, 8)] * 4, **unknown}) is None


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"padding": ("circular", "zero")}, "padding zero"),
        ({"activation": "gelu"}, "activation gelu"),
        ({"order": ("pre",)}, "order pre"),
        ({"normalisation": ("batch", "layer")}, "normalisation layer"),
    ],
)
def test_what_no_law_covers_is_refused_in_one_line(settings, named):
    with pytest.raises(gf.BadInput) as error:
        gf.check_law(depth=(8, 18), **settings)
    assert named in str(error.value)
    assert "\n" not in str(error.value)
    gf.check_law(padding=("circular",), activation=("relu", "tanh"), normalisation="none", learning_rate=0.1)


def test_moments_are_those_of_the_published_critical_point():
    """Pennington et al. 2017 (arXiv:1711.04735): tanh with sigma_w^2 = 1.05 is critical at sigma_b^2 =
    2.01e-5, so at the fixed point of the variance map its chi is 1. And of a sigmoid at 0 by its derivative, 1/4.
    """
    variance = 0.026
    for _ in range(1000):
        variance = 1.05 * theory.moments("tanh", variance).square + 2.01e-5
    assert 1.05 * theory.moments("tanh", variance).slope == pytest.approx(1, abs=1e-5)
    assert theory.moments("sigmoid", 1e-12) == pytest.approx((1 / 2, 1 / 4, 1 / 16))
    assert theory.moments("relu", 4.0) == pytest.approx((2 / math.sqrt(2 * math.pi), 2.0, 0.5), rel=1e-5)


@pytest.mark.parametrize("name", ["he", "glorot", "lecun(0.5)", "orthogonal(1.5)", "normal(0.01)"])
@pytest.mark.parametrize("kernel", [(3, 3, 1, 16), (3, 3, 16, 32), (64, 10)])
def test_the_variance_of_weights_is_that_of_the_drawn_ones(name, kernel):
    draws = [initialisers.initialiser(name)(jax.random.key(seed), kernel) for seed in range(20)]
    expected = np.mean(np.square(draws)) * math.prod(kernel[:-1])
    assert theory.weight_variance(name, kernel) == pytest.approx(expected, rel=0.1)


NUMPY = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: 1.0 * (x > 0)),
    "tanh": (np.tanh, lambda x: np.cosh(x) ** -2.0),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2),
}


def simulated(
    net: str, batch: bool, activation: str, variance: float, depth: int, width: int = 256
) -> dict[int, float]:
    """log10 gradient norms of one wide fully connected net, forward and backward by hand: the laws' second source.

    Batch norm over 128 examples, its backward pass in full.
    """
    draw, (phi, derivative) = np.random.default_rng(7), NUMPY[activation]
    weights = [draw.normal(size=(width, width)) * math.sqrt(variance / width) for _ in range(depth - 1)]
    shortcut = float(net == "residual")
    backs, x = [], draw.normal(size=(128, width))

    def layer(x, w):
        h = x @ w
        if not batch:
            return h, lambda g: g @ w.T
        deviation = h.std(0)
        h = (h - h.mean(0)) / deviation
        return h, lambda g: ((g - g.mean(0) - h * (g * h).mean(0)) / deviation) @ w.T

    def activated(h, back):
        return phi(h), lambda g: back(g * derivative(h))

    x, _ = activated(*layer(x, weights[0]))
    for first in range(1, depth - 2, 2):
        y, one = activated(*layer(x, weights[first]))
        y, two = layer(y, weights[first + 1])
        u = y + shortcut * x
        backs.append(lambda g, u=u, one=one, two=two: one(two(g * derivative(u))) + shortcut * g * derivative(u))
        x = phi(u)
    g = draw.normal(size=x.shape)
    norms = {1 + 2 * len(backs): np.log10(np.linalg.norm(g))}
    for unit in range(len(backs), 0, -1):
        g = backs[unit - 1](g)
        norms[2 * unit - 1] = np.log10(np.linalg.norm(g))
    return norms


@pytest.mark.parametrize(("batch", "variance"), [(False, 2.0), (False, 0.02), (True, 1.0)])
@pytest.mark.parametrize("activation", NUMPY)
@pytest.mark.parametrize("net", ["plain", "residual"])
def test_the_course_is_that_of_a_wide_net_in_numpy(net, batch, activation, variance):
    """Within a tenth of a decade over 14 layers, at every unit: variances of He and about of normal(0.01)."""
    seen = simulated(net, batch, activation, variance, depth=16)
    kernels = [(256, 256)] * 16
    told = gf.gradient_course(net, kernels, f"lecun({math.sqrt(variance)})", "batch" if batch else "none", activation)
    assert told is not None
    last = max(seen)
    for position, height in seen.items():
        assert height - seen[last] == pytest.approx(told[position], abs=0.1)


@pytest.mark.parametrize("variance", [2.0, 1.0, 0.5])
def test_the_share_that_passes_is_that_of_a_simulated_sum(variance):
    """Many numbers x <- relu(x + F), F normal, followed unit by unit: the second source of the density's course."""
    draw, branch = np.random.default_rng(0), variance**2 / 2
    x = y = np.maximum(draw.normal(size=200_000), 0)
    for _ in range(60):
        y = x + draw.normal(size=x.size) * math.sqrt(branch * np.mean(x**2))
        x = np.maximum(y, 0)
        x /= np.sqrt(np.mean(x**2))
    assert theory._passing(branch) == pytest.approx(np.mean(y > 0), abs=0.004)


@pytest.mark.parametrize("initialisation", ["he", "glorot"])
@pytest.mark.parametrize("net", ["plain", "residual"])
def test_a_wide_net_without_a_border_keeps_to_its_law(net, initialisation):
    """Slopes of 20 layers of one width, three seeds: a tenth of a decade a ten layers off at most."""
    images = np.random.default_rng(0).normal(size=(16, 4, 4, 1))
    labels, slopes = np.arange(16) % 10, []
    for seed in range(3):
        built = gf.nets.build(
            net, depth=20, width=64, widen=False, classes=10, channels=1, seed=seed,
            normalisation="none", initialisation=initialisation, padding="circular", pooling="stride",
        )  # fmt: skip
        norms = gf.read(built, images, labels).values["activation_gradient_norm"]
        units = [norms[f"block{unit:02d}"] for unit in range(1, 10)]
        slopes.append(np.polyfit(1 + 2 * np.arange(9), np.log10(units), 1)[0])
    law = gf.gradient_law(net, initialisation)
    assert law is not None
    assert np.mean(slopes) == pytest.approx(law, abs=0.02)


def test_with_batch_norm_a_wide_plain_net_explodes_nearly_by_its_law():
    """The law is of large batches of unlike examples; on noise in finite batches three quarters of it are seen."""
    images = np.random.default_rng(0).normal(size=(64, 4, 4, 1))
    built = gf.nets.build("plain", depth=20, width=64, widen=False, classes=10, channels=1, padding="circular")
    norms = gf.read(built, images, np.arange(64) % 10).values["activation_gradient_norm"]
    units = [norms[f"block{unit:02d}"] for unit in range(1, 10)]
    law = gf.gradient_law("plain", "he", "batch")
    assert law is not None
    assert np.polyfit(1 + 2 * np.arange(9), np.log10(units), 1)[0] == pytest.approx(law, rel=0.35)


@pytest.mark.parametrize("sides", [[8, 8, 8], [2, 2, 2, 2], [8, 4, 4], [16, 16, 8, 8, 4, 4], [1, 1]])
def test_the_borders_part_is_the_expectation_over_weights(sides):
    """A convolution with ones for squared weights passes squared gradients on: its transpose, pixel by pixel."""
    energy = jnp.full((1, sides[-1], sides[-1], 1), 1 / sides[-1] ** 2)
    ones = jnp.full((3, 3, 1, 1), 1 / 9)
    for before, after in zip(sides[-2::-1], sides[:0:-1], strict=True):
        forward = lambda x, stride=before // after: jax.lax.conv_general_dilated(  # noqa: E731
            x, ones, (stride, stride), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        (energy,) = jax.linear_transpose(forward, jnp.zeros((1, before, before, 1)))(energy)
    assert gf.border_decades(sides) == pytest.approx(-math.log10(float(energy.sum())) / 2, abs=1e-6)


def test_the_borders_part_of_many_layers_is_that_of_the_largest_eigenvalue():
    """On n pixels in a row each hands a third to itself and its neighbours: 1 + 2 cos(pi / (n + 1)), over 3."""
    for side in (2, 4, 8):
        factor = (1 + 2 * math.cos(math.pi / (side + 1))) / 3
        apart = gf.border_decades([side] * 101) - gf.border_decades([side] * 51)
        assert apart == pytest.approx(-50 * math.log10(factor), rel=1e-3)
