"""Scanned units against unrolled ones, and the rules written out for a CPU against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradflow import convolution, nets, normalisations, training
from gradflow.convolution import LAYOUT
from gradflow.nets import stack


@pytest.mark.parametrize("net", ["plain", "residual"])
@pytest.mark.parametrize("normalisation", ["batch", "none"])
def test_scanned_and_unrolled_units_agree(monkeypatch, net, normalisation):
    built = nets.build(net, depth=26, classes=10, channels=1, seed=0, normalisation=normalisation)
    random = np.random.default_rng(0)
    images, labels = jnp.asarray(random.normal(size=(16, 8, 8, 1)), jnp.float32), jnp.arange(16) % 10
    graph, params, rest = nets.split(built)
    points = nets.points_of(built, (8, 8, 1))

    def everything():
        both = jax.jit(lambda params, rest: training.gradients(graph, points, params, rest, images, labels))
        return str(jax.make_jaxpr(both)(params, rest)), both(params, rest)

    plain_text, unrolled = everything()
    monkeypatch.setattr(stack, "LEAST", 3)
    text, scanned = everything()
    assert " scan[" in text
    assert " scan[" not in plain_text
    scanned, unrolled = (jax.tree.leaves_with_path(tree) for tree in (scanned, unrolled))
    assert [path for path, _ in scanned] == [path for path, _ in unrolled]
    for (path, one), (_, other) in zip(scanned, unrolled, strict=True):
        scale = float(jnp.max(jnp.abs(other))) or 1.0
        assert float(jnp.max(jnp.abs(one - other))) < 2e-4 * scale, path


@pytest.mark.parametrize(("depth", "scans"), [(110, 0), (128, 3)])
def test_deep_nets_are_scanned_and_no_others(depth, scans):
    graph, params, rest = nets.split(nets.build("residual", depth=depth, classes=10, channels=1))
    traced = jax.make_jaxpr(lambda images: nets.apply(graph, params, rest, images))(jnp.ones((1, 8, 8, 1)))
    assert sum(equation.primitive.name == "scan" for equation in traced.eqns) == scans


@pytest.mark.parametrize("side", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pixels", [8, 9])
def test_the_backward_convolutions_are_those_of_automatic_differentiation(side, stride, pixels):
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        x = jnp.asarray(random.normal(size=(4, pixels, pixels, 3)))
        kernel = jnp.asarray(random.normal(size=(side, side, 3, 5)))
        pads = [(side // 2, side // 2)] * 2
        plain = lambda x, w: lax.conv_general_dilated(  # noqa: E731
            x, w, (stride, stride), pads, dimension_numbers=LAYOUT
        )
        y, back = jax.vjp(plain, x, kernel)
        ours, ours_back = jax.vjp(lambda x, w: convolution.convolve(x, w, stride, side // 2), x, kernel)
        np.testing.assert_allclose(ours, y)
        gradient = jnp.asarray(random.normal(size=y.shape))
        for one, other in zip(ours_back(gradient), back(gradient), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pixels", [1, 2, 3])
def test_a_map_smaller_than_its_kernel_is_padded_first_and_gives_the_same(pixels, stride):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(4, pixels, pixels, 3)), jnp.float32)
    kernel = jnp.asarray(random.normal(size=(3, 3, 3, 5)), jnp.float32)
    plain = lambda x, w: lax.conv_general_dilated(x, w, (stride, stride), [(1, 1)] * 2, dimension_numbers=LAYOUT)  # noqa: E731
    own = lambda x, w: convolution.convolve(x, w, stride, 1)  # noqa: E731
    assert ("reduce_precision" in str(jax.make_jaxpr(own)(x, kernel))) == (pixels < 3)
    y, back = jax.vjp(plain, x, kernel)
    ours, ours_back = jax.vjp(own, x, kernel)
    np.testing.assert_allclose(ours, y, rtol=1e-5, atol=1e-5)
    gradient = jnp.asarray(random.normal(size=y.shape), jnp.float32)
    for one, other in zip(ours_back(gradient), back(gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_the_weight_gradient_in_pieces_is_that_of_the_whole_batch():
    random = np.random.default_rng(0)
    x, gradient = (jnp.asarray(random.normal(size=(64, 32, 32, 16)), jnp.float32) for _ in range(2))
    assert x.size >= convolution._PIECES_FROM
    pieces = convolution.weight_gradient(x, gradient, (3, 3, 16, 16), 1, 1)
    plain = lambda w: lax.conv_general_dilated(x, w, (1, 1), [(1, 1)] * 2, dimension_numbers=LAYOUT)  # noqa: E731
    (whole,) = jax.vjp(plain, jnp.zeros((3, 3, 16, 16)))[1](gradient)
    np.testing.assert_allclose(pieces, whole, atol=2e-5 * float(jnp.max(jnp.abs(whole))))


def test_batch_norms_own_rule_is_that_of_automatic_differentiation():
    def naive(x, scale, bias):
        mean, variance = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
        return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias

    def ours(x, scale, bias):
        norm = normalisations.BatchNorm(5)
        norm.scale.set_value(scale)
        norm.bias.set_value(bias)
        return norm(x)

    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        x, scale, bias = (jnp.asarray(random.normal(size=shape)) for shape in ((4, 3, 3, 5), (5,), (5,)))
        y, back = jax.vjp(naive, x, scale, bias)
        own, own_back = jax.vjp(ours, x, scale, bias)
        np.testing.assert_allclose(own, y, atol=1e-12)
        gradient = jnp.asarray(random.normal(size=y.shape))
        for one, other in zip(own_back(gradient), back(gradient), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)
