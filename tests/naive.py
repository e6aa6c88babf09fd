"""What several tests share: small nets on the digits, and the gradient at a point the long way, by cutting there."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import data, nets

DIGITS = data.load("digits")
STATISTICS = data.statistics(DIGITS.train_images, "channel")


def digits(count):
    """The first normalised images and labels."""
    return data.normalise(DIGITS.train_images[:count], *STATISTICS), jnp.asarray(DIGITS.train_labels[:count])


def build(name="residual", depth: Any = 8, width: Any = 4, channels: Any = 1, **settings) -> Any:
    """A net for the digits, as small as can be unless told otherwise."""
    return nets.build(name, depth=depth, classes=10, channels=channels, width=width, **settings)


def abstractly(function):
    """What `function()` returns when arrays have shapes and no values: a net of any size costs nothing."""
    results = []
    jax.eval_shape(lambda: results.append(function()))
    return results[0]


def loss(logits, labels):
    """Mean cross-entropy, written out."""
    right = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jnp.mean(jnp.log(jnp.sum(jnp.exp(logits), axis=1)) - right)


@functools.partial(jax.jit, static_argnums=0)
def activations(graph, params, rest, images):
    """The activation at every point, by name."""
    values = {}

    def capture(name, x):
        values[name] = x
        return x

    nets.apply(graph, params, rest, images, capture)
    return values


@functools.partial(jax.jit, static_argnums=0)
def _cut(graph, params, rest, images, labels, values, at):
    """`jax.vjp` of the rest of the net: where `at` is true the value is replaced by an independent variable."""

    def tail(values):
        replace = lambda name, x: jnp.where(at[name], values[name], x)  # noqa: E731
        return loss(nets.apply(graph, params, rest, images, replace)[0], labels)

    mean, backward = jax.vjp(tail, values)
    return backward(jnp.ones_like(mean))[0]


def signals(graph, params, rest, images, labels):
    """The gradient of the loss at every point, by name: one cut and one `jax.vjp` a point."""
    values = activations(graph, params, rest, images)
    nowhere = dict.fromkeys(values, False)
    cut = functools.partial(_cut, graph, params, rest, images, labels, values)
    return {name: np.asarray(cut(nowhere | {name: True})[name], np.float64) for name in values}
