"""Every net can be differentiated forwards, backwards and again, under vmap; the training step has its fast rules."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from naive import loss, three_modules

from gradflow import nets
from gradflow.arrays import Heads
from gradflow.nets import stack
from gradflow.nets.layers import pooling
from gradflow.nets.layers.convolution import convolve
from gradflow.nets.layers.normalisations import BatchNorm
from gradflow.training.step import gradients

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("plain", {"depth": 8, "width": 2}),
    "residual": ("residual", {"depth": 8, "width": 2, "padding": "circular"}),
    "residual, pre-activation, group norm": (
        "residual",
        {"depth": 8, "width": 4, "order": "pre", "normalisation": "group"},
    ),
    "residual that pools": ("residual", {"depth": 8, "width": 2, "pooling": "max", "shortcut": "B"}),
    "residual, joined": ("residual", {"depth": 16, "width": 2}),  # three equal units in a row are one scan
    "mlp": ("mlp", {"depth": 4, "width": 5, "image": 8}),
    "residual_mlp, joined": ("residual_mlp", {"depth": 6, "width": 5, "image": 8, "order": "pre"}),
    "cnn": ("cnn", {"width": 2, "image": 8, "lrn": True}),
    "alexnet": ("alexnet", {"width": 6, "image": 8, "dropout": 0.0}),
    "nin": ("nin", {"width": 4}),
    "vgg": ("vgg", {"depth": 11, "width": 2, "image": 8}),
    "googlenet": ("googlenet", {"width": 1, "image": 8, "depth": 10, "initialisation": "normal(0.1)"}),
}
LABELS = jnp.array([1, 7])


def random(seed: int, like: Any) -> Any:
    numbers = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(numbers.normal(size=leaf.shape), leaf.dtype), like)


def dot(one: Any, other: Any) -> float:
    return float(sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)))


def in_float64(name: str):
    """A net as a function of parameters and images, and values for these, in float64."""
    family, settings = CASES[name]
    with three_modules():
        net = nets.build(family, classes=10, channels=1, seed=3, **settings)
    net = stack.stack_units(net, 1) if "joined" in name else net
    assert ("joined" in name) == any("+" in unit for unit in getattr(net, "units", ()))
    graph, params, rest = nets.split(net)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)

    def forward(params, images):
        answer, _ = nets.apply(graph, params, rest, images)
        return answer.logits + sum(answer.auxiliary) if isinstance(answer, Heads) else answer

    return forward, params, random(0, jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float64))


@pytest.mark.parametrize("name", CASES)
def test_forwards_backwards_and_twice(name):
    """<u, J v> = <J^T u, v>; the Hessian is symmetric, <u, H v> = <H u, v>; under vmap it is the same."""
    with jax.enable_x64(True):
        forward, params, images = in_float64(name)
        inputs = params, images
        values, others = (
            jax.tree.map(lambda a, b: jnp.stack([a, b]), random(i, inputs), random(i + 1, inputs)) for i in (1, 3)
        )
        logits = random(5, jax.ShapeDtypeStruct((2, 10), jnp.float64))

        @jax.jit
        def products(values):
            push = lambda v: jax.jvp(forward, inputs, v)[1]  # noqa: E731
            total = lambda *inputs: loss(forward(*inputs), LABELS)  # noqa: E731
            curve = lambda v: jax.jvp(jax.grad(total, (0, 1)), inputs, v)[1]  # noqa: E731
            return jax.vmap(push)(values), jax.vjp(forward, *inputs)[1](logits), jax.vmap(curve)(values)

        pushed, pulled, curved = products(values)
        _, _, again = products(others)
        for i in range(2):
            pick = functools.partial(jax.tree.map, lambda leaf, i=i: leaf[i])
            assert dot(logits, pick(pushed)) == pytest.approx(dot(pulled, pick(values)), rel=1e-9)
            one, other = dot(pick(others), pick(curved)), dot(pick(again), pick(values))
            assert one == pytest.approx(other, rel=1e-8, abs=1e-10)
            assert one != 0


def test_a_hessian_vector_product_is_that_with_the_whole_hessian():
    with jax.enable_x64(True):
        net = nets.build("residual", depth=8, width=1, classes=2, channels=1, order="pre", activation="tanh")
        graph, params, rest = nets.split(net)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        images = random(0, jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float64))
        flat, restore = ravel_pytree(params)

        @jax.jit
        def total(flat):
            return loss(nets.apply(graph, restore(flat), rest, images)[0], jnp.array([0, 1]))

        step, v = 1e-5, random(1, flat)
        slope_along = lambda unit: jax.grad(total)(flat + step * unit) - jax.grad(total)(flat - step * unit)  # noqa: E731
        hessian = jax.lax.map(slope_along, jnp.eye(len(flat))) / (2 * step)
        product = jax.jit(lambda v: jax.jvp(jax.grad(total), (flat,), (v,))[1])(v)
        np.testing.assert_allclose(product, hessian @ v, rtol=1e-6, atol=1e-6 * np.abs(hessian).max())
        slope = (total(flat + step * v) - total(flat - step * v)) / (2 * step)
        np.testing.assert_allclose(jax.jvp(total, (flat,), (v,))[1], slope, rtol=1e-6)


LAYERS = {
    "convolution": lambda x: convolve(x, jnp.ones((3, 3, 2, 2)), 1, 1),
    "max pool": lambda x: pooling.max_pool(x, 2, 2),
    "batch norm": lambda x: BatchNorm(2)(x),
}


@pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="elsewhere convolutions and pools have no rules of their own"
)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_what_is_compiled_one_way_is_not_taken_for_the_other(layer):
    compiled = jax.jit(layer)
    x, v = (random(seed, jnp.ones((2, 4, 4, 2))) for seed in (0, 2))
    for _ in range(2):
        _, forwards = jax.jvp(compiled, (x,), (v,))
        with nets.fast_gradients(True):
            _, pull = jax.vjp(compiled, x)
            with pytest.raises(TypeError, match="forward-mode"):
                jax.jvp(compiled, (x,), (v,))
        u = random(1, forwards)
        assert dot(u, forwards) == pytest.approx(dot(pull(u), (v,)), rel=1e-4)


@pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="elsewhere convolutions and pools have no rules of their own"
)
def test_the_training_step_goes_back_by_the_rules_that_are_written_out():
    """The derived way scatters the gradient of a pool; the step has neither that nor a forward derivative."""
    graph, params, rest = nets.split(nets.build("vgg", depth=11, width=2, image=8, classes=10, channels=1))
    images = jnp.ones((2, 8, 8, 1))
    step = str(jax.make_jaxpr(lambda params: gradients(graph, (), params, rest, images, LABELS)[0])(params))
    derived = jax.grad(lambda params: loss(nets.apply(graph, params, rest, images)[0], LABELS))
    assert "select_and_scatter" in str(jax.make_jaxpr(derived)(params))
    assert "select_and_scatter" not in step
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda params: gradients(graph, (), params, rest, images, LABELS)[0], (params,), (params,))
