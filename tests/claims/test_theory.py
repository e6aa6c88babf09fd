"""The laws against what they are laws of: simulated sums, wide nets at initialisation, windows counted one by one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.claims import theory


def test_laws_in_closed_form():
    assert gf.gradient_law("plain", "he") == 0
    assert gf.gradient_law("plain", "glorot") == pytest.approx(math.log10(2) / 2)
    assert gf.gradient_law("plain", "he(0.5)") == pytest.approx(math.log10(2))
    assert gf.gradient_law("plain", "glorot", "batch") == pytest.approx(-math.log10(math.pi / (math.pi - 1)) / 2)
    assert gf.gradient_law("residual", "he", "batch") is None
    assert gf.gradient_law("plain", "orthogonal") is None


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
