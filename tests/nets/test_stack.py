"""Scanned units against unrolled ones, and the rules written out for a CPU against automatic differentiation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from gradflow import nets
from gradflow.nets import stack
from gradflow.nets.layers import convolution, normalisations
from gradflow.nets.layers.convolution import LAYOUT
from gradflow.training import step as training
from gradflow.training.read import read


def everything(net, images, labels):
    """The text of the forward and backward pass, what it gives, and the readings, units one by one."""
    graph, params, rest = nets.split(net)
    points = nets.points_of(net, images.shape[1:])
    both = lambda params, rest: training.gradients(graph, points, params, rest, images, labels)  # noqa: E731
    traced = jax.jit(both).trace(params, rest)
    gradient, _, _, rest, loss, error = traced.lower().compile()(params, rest)
    return str(traced.jaxpr), stack.unstack((gradient, rest, loss, error))


# As small as nets can be that have a row of units in each of their stages.
SMALL: dict[str, dict[str, Any]] = {
    "plain": {"depth": 20, "width": 4},
    "residual": {"depth": 20, "width": 4},
    "residual_mlp": {"depth": 5, "width": 32, "image": 8},
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("normalisation", ["batch", "none"])
def test_scanned_and_unrolled_units_agree(monkeypatch, name, normalisation):
    monkeypatch.setattr(stack, "LEAST_ON_SMALL", 2)
    net = nets.build(name, classes=10, channels=1, seed=0, normalisation=normalisation, **SMALL[name])
    random = np.random.default_rng(0)
    images, labels = jnp.asarray(random.normal(size=(16, 8, 8, 1)), jnp.float32), jnp.arange(16) % 10
    plain_text, unrolled = everything(net, images, labels)
    stacked = stack.stack_units(net, pixels=16 * 64)
    assert len(stack.stacked_names(nets.split(stacked)[1])) == (1 if name == "residual_mlp" else 3)
    text, scanned = everything(stacked, images, labels)
    assert " scan[" in text
    assert " scan[" not in plain_text
    assert_close(scanned, unrolled)
    scanned = read(net, images, labels)
    monkeypatch.setattr(stack, "LEAST_ON_SMALL", 100)
    unrolled = read(net, images, labels)
    assert scanned.spec == unrolled.spec
    assert_close(scanned.arrays, unrolled.arrays)


def assert_close(ours, theirs):
    """The same paths, and numbers equal to 2e-4 of the largest of an array (float32, 20 layers)."""
    ours, theirs = (jax.tree.leaves_with_path(tree) for tree in (ours, theirs))
    assert [path for path, _ in ours] == [path for path, _ in theirs]
    for (path, one), (_, other) in zip(ours, theirs, strict=True):
        scale = float(jnp.max(jnp.abs(other))) or 1.0
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-4 * scale, err_msg=str(path))


@pytest.mark.parametrize(
    ("depth", "pixels", "scans"), [(56, 2**17, 0), (56, 2**12, 3), (110, 2**17, 0), (128, 2**17, 3)]
)
def test_deep_nets_are_scanned_and_on_small_images_less_deep_ones_as_well(depth, pixels, scans):
    net = stack.stack_units(nets.abstract("residual", depth=depth, classes=10, channels=1), pixels)
    graph, params, rest = nets.split(net)
    traced = jax.make_jaxpr(functools.partial(nets.apply, graph))(params, rest, jnp.ones((1, 8, 8, 1)))
    assert (
        sum(equation.primitive.name == "scan" for equation in traced.eqns) == scans == len(stack.stacked_names(params))
    )


def test_a_joined_net_has_the_points_of_the_net_and_its_trees_translate_there_and_back():
    net = nets.build("residual", depth=20, classes=10, channels=1, width=4)
    joined = stack.stack_units(net, 1)
    assert nets.points_of(joined, (8, 8, 1)) == nets.points_of(net, (8, 8, 1))
    assert nets.count_parameters(joined) == nets.count_parameters(net)
    _, params, rest = nets.split(net)
    _, joined_params, joined_rest = nets.split(joined)
    optimiser = optax.sgd(0.1, momentum=0.9)
    ours = (joined_params, joined_rest, optimiser.init(joined_params))
    theirs = (params, rest, optimiser.init(params))
    assert len(jax.tree.leaves(ours)) < len(jax.tree.leaves(theirs))
    assert_equal(stack.unstack(ours), theirs)
    assert_equal(stack.restack(theirs, stack.stacked_names(joined_params)), ours)


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


def xla_convolution(stride, padding, circular=False):
    """What XLA has for it, of maps that are wrapped beforehand where they are circular."""

    def convolve(x, kernel):
        sides = (padding, padding)
        x = jnp.pad(x, ((0, 0), sides, sides, (0, 0)), mode="wrap") if circular else x
        pads = [(0, 0) if circular else sides] * 2
        return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=LAYOUT)

    return convolve


def there_and_back(function, gradient, *arrays):
    """What a function gives, and the gradients of its arguments, compiled in one piece."""

    def both(gradient, *arrays):
        y, back = jax.vjp(function, *arrays)
        return y, *back(gradient)

    return jax.jit(both)(gradient, *arrays)


@pytest.mark.parametrize("side", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pixels", [8, 9])
@pytest.mark.parametrize("circular", [False, True])
def test_the_backward_convolutions_are_those_of_automatic_differentiation(side, stride, pixels, circular):
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        x = jnp.asarray(random.normal(size=(4, pixels, pixels, 3)))
        kernel = jnp.asarray(random.normal(size=(side, side, 3, 5)))
        gradient = jnp.asarray(random.normal(size=(4, -(-pixels // stride), -(-pixels // stride), 5)))
        y, *wanted = there_and_back(xla_convolution(stride, side // 2, circular), gradient, x, kernel)
        with nets.fast_gradients(True):
            own = lambda x, w: convolution.convolve(x, w, stride, side // 2, circular)  # noqa: E731
            ours, *found = there_and_back(own, gradient, x, kernel)
        np.testing.assert_allclose(ours, y)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pixels", [1, 2, 3])
@pytest.mark.parametrize("circular", [False, True])
def test_a_map_smaller_than_its_kernel_is_one_product_or_padded_first_and_gives_the_same(pixels, stride, circular):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(4, pixels, pixels, 3)), jnp.float32)
    kernel = jnp.asarray(random.normal(size=(3, 3, 3, 5)), jnp.float32)
    own = lambda x, w: convolution.convolve(x, w, stride, 1, circular)  # noqa: E731
    program = str(jax.make_jaxpr(own)(x, kernel))
    assert ("conv_general_dilated" not in program) == (pixels < 3 and stride == 1)
    assert ("reduce_precision" in program) == (pixels < 3 and stride == 2 and not circular)
    gradient = jnp.asarray(random.normal(size=(4, -(-pixels // stride), -(-pixels // stride), 5)), jnp.float32)
    y, *wanted = there_and_back(xla_convolution(stride, 1, circular), gradient, x, kernel)
    with nets.fast_gradients(True):
        ours, *found = there_and_back(own, gradient, x, kernel)
    np.testing.assert_allclose(ours, y, rtol=1e-5, atol=1e-5)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_the_weight_gradient_in_pieces_is_that_of_the_whole_batch():
    random = np.random.default_rng(0)
    x, gradient = (jnp.asarray(random.normal(size=(64, 32, 32, 16)), jnp.float32) for _ in range(2))
    assert x.size >= convolution._PIECES_FROM
    pieces = convolution.weight_gradient(x, gradient, (3, 3, 16, 16), 1, 1)
    (whole,) = jax.vjp(lambda w: xla_convolution(1, 1)(x, w), jnp.zeros((3, 3, 16, 16)))[1](gradient)
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
        gradient = jnp.asarray(random.normal(size=x.shape))
        own, *found = there_and_back(ours, gradient, x, scale, bias)
        y, *wanted = there_and_back(naive, gradient, x, scale, bias)
        np.testing.assert_allclose(own, y, atol=1e-12)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)
