"""One reading of a net on one batch, without training it."""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gradflow import nets
from gradflow.errors import BadInput
from gradflow.measuring.measure import ReadingSpec, measure_flow, measure_weights
from gradflow.measuring.reading import Reading
from gradflow.nets import stack
from gradflow.settings import user_code
from gradflow.training.step import finite, gradients

_BATCH = "images (batch, height, width, channel) and integer labels (batch,), one or more"


def read(net: nnx.Module, images: Any, labels: Any) -> Reading:
    """One reading of a net on one batch: images `(batch, height, width, channel)`, used as they are, labels `(batch,)`.

    Nothing is updated, neither weights nor running statistics, so there is no `update_norm`. Raises `BadInput` for
    images or labels that do not fit, and for a net that cannot be read: each layer with weights needs a point.
    """
    images, labels = check_batch(net, images, labels)
    with _in_one_line(images):
        net = stack.stack_units(net, math.prod(images.shape[:3]))
        graph, params, rest = nets.split(net)
        points = nets.points_of(net, images.shape[1:], images.dtype)
        spec = ReadingSpec.of(points, nets.weighted_layers(params))
        return Reading(0, spec, _read(graph, points, params, rest, images, labels))


def check_batch(net: nnx.Module, images: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
    """Images `(batch, height, width, channel)` and labels `(batch,)` as arrays.

    Raises `BadInput` where they are none, where the net does not take the images, or a label is none of its classes.
    """
    images, labels = as_images(images), _as_array("labels", labels)
    if (
        images.ndim != 4
        or not images.size
        or labels.shape != images.shape[:1]
        or not jnp.issubdtype(labels.dtype, jnp.integer)
    ):
        raise BadInput(f"images {images.shape} with labels {labels.shape} of {labels.dtype}: legal are {_BATCH}")
    if not isinstance(net, nnx.Module):
        raise BadInput(f"the net is a {type(net).__name__}: legal is an nnx.Module, net(images, hook) -> logits")
    with _in_one_line(images):
        _check_labels(_logits(net, images), labels)
    return images, labels


def as_images(images: Any) -> jax.Array:
    """The images as an array of floating-point numbers. Raises `BadInput` for what is none."""
    return _as_array("images", images, float)


def _as_array(name: str, given: Any, dtype: Any = None) -> jax.Array:
    try:
        return jnp.asarray(given, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"{name} are no array: {user_code.in_words(error)}; legal are {_BATCH}") from error


@contextlib.contextmanager
def _in_one_line(images: jax.Array) -> Iterator[None]:
    """A net of the user's own may raise anything where it is called: that becomes a `BadInput`."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BadInput(f"the net cannot be read on images {images.shape}: {reason}") from error


def _logits(net: nnx.Module, images: jax.Array) -> Any:
    """The shape of a net's answer. Raises `BadInput` where it is none."""
    graph, params, rest = nets.split(net)
    logits, _ = jax.eval_shape(functools.partial(nets.apply, graph, train=False), params, rest, images)
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != len(images):
        found = type(logits).__name__ if shape is None else f"an array {shape}"
        raise BadInput(f"the net returns {found} for images {images.shape}: legal are logits (batch, classes)")
    return logits


def _check_labels(logits: Any, labels: jax.Array) -> None:
    """Raises `BadInput` where a label is none of the net's classes."""
    classes = logits.shape[-1]
    if ((labels < 0) | (labels >= classes)).any():
        low, high = int(labels.min()), int(labels.max())
        raise BadInput(f"labels from {low} to {high} are not legal: the net has the classes 0 to {classes - 1}")


@functools.partial(jax.jit, static_argnums=(0, 1))
def _read(graph, points, params, rest, images, labels):
    layers = nets.weighted_layers
    gradient, backward, forward, _, loss, error = gradients(graph, points, params, rest, images, labels)
    spec = ReadingSpec.of(points, layers(params))
    readings = {
        "loss": loss,
        "train_error": error,
        **measure_flow(spec, len(labels), forward, backward),
        **measure_weights(spec, weight_norm=layers(params), gradient_norm=layers(gradient)),
    }
    return readings | {"finite": finite(readings, True)}
