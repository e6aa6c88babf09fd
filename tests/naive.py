"""What several tests share: small nets on the digits, and the gradient at a point by jax.grad alone."""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import nets
from gradflow.data.load import load_data
from gradflow.data.transforms import normalise, statistics
from gradflow.nets import googlenet
from gradflow.nets.layers.streams import Checked

DIGITS = load_data("digits")
STATISTICS = statistics(DIGITS.train_images, "channel")


def digits(count):
    """The first normalised images and labels."""
    return normalise(DIGITS.train_images[:count], *STATISTICS), jnp.asarray(DIGITS.train_labels[:count])


def build(name="residual", depth: Any = 8, width: Any = 4, channels: Any = 1, **settings) -> Any:
    """A net for the digits, as small as can be unless told otherwise."""
    return nets.build(name, depth=depth, classes=10, channels=channels, width=width, **settings)


def check(name, image=None, **settings):
    """What a `Run` asks of the settings of its net, and of the images of its data: no weights are drawn."""
    settings = nets.complete(name, settings)
    if image is not None:
        with contextlib.suppress(Checked):
            nets.NETS[name](classes=10, channels=1, seed=None, image=image, **settings)


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
def _of_shifts(graph, params, rest, images, labels, shifts):
    """The gradient of the loss with respect to what is added at every point."""

    def shifted(shifts):
        return loss(nets.apply(graph, params, rest, images, lambda name, x: x + shifts[name])[0], labels)

    return jax.grad(shifted)(shifts)


def signals(graph, params, rest, images, labels):
    """The gradient of the loss at every point, by name: that of a zero of the point's shape which is added there."""
    shapes = jax.eval_shape(activations, graph, params, rest, images)
    shifts = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    return {
        name: np.asarray(gradient, np.float64)
        for name, gradient in _of_shifts(graph, params, rest, images, labels, shifts).items()
    }


def filled(name, seed=0, **settings):
    """A net's structure, parameters and state, the parameters drawn by numpy instead of compiled initialisers: kernels
    of variance 2 / fan-in, and biases and scales that are not all alike.
    """
    graph, params, rest = abstractly(lambda: nets.split(nets.build(name, **settings)))
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = random.standard_normal(leaf.shape, np.float32)
        if path[-1].key == "kernel":
            noise *= np.float32((2 / np.prod(leaf.shape[:-1])) ** 0.5)
            return jnp.asarray(noise)
        return jnp.asarray(float(path[-1].key == "scale") + 0.1 * noise)

    def start(path, leaf):
        return jnp.full(leaf.shape, float(path[-1].key == "variance"), leaf.dtype)

    return graph, jax.tree_util.tree_map_with_path(draw, params), jax.tree_util.tree_map_with_path(start, rest)


@contextlib.contextmanager
def three_modules():
    """A GoogLeNet made here has three of its nine modules, those around which something happens: a third to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(googlenet, "MODULES", {name: googlenet.MODULES[name] for name in ("4a", "4d", "5a")})
        yield


# Layers by hand


def convolve(x, layer, stride=1):
    """Half the kernel of zeros on every side, and the bias if there is one."""
    kernel = layer["kernel"]
    pad = kernel.shape[0] // 2
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=numbers)
    return y + layer.get("bias", 0)


def batch_norm(x, layer, epsilon=1e-5):
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / jnp.sqrt(variance + epsilon) * layer["scale"] + layer["bias"]


def pool(x, window, stride, outputs, how, before=0):
    """The largest (of equals, the first) or the mean of what windows hold, `outputs` a side; they may reach over the
    edges.
    """
    after = max(0, (outputs - 1) * stride + window - before - x.shape[1])
    edge = (before, after)
    x = jnp.pad(x, ((0, 0), edge, edge, (0, 0)), constant_values={"max": -jnp.inf, "mean": jnp.nan}[how])
    reach = [slice(first, first + (outputs - 1) * stride + 1, stride) for first in range(window)]
    parts = [x[:, rows, columns] for rows in reach for columns in reach]
    if how == "mean":
        return jnp.nanmean(jnp.stack(parts), 0)
    return functools.reduce(lambda best, other: jnp.where(best >= other, best, other), parts)


def respond(x):
    """Local response normalisation over five channels, channel by channel."""
    last = x.shape[-1]
    sums = [jnp.square(x[..., max(0, at - 2) : min(last, at + 3)]).sum(-1) for at in range(last)]
    return x / (2 + 1e-4 * jnp.stack(sums, -1)) ** 0.75
