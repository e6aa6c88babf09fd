"""The training step as a pure function, `(state, batch) -> (state, readings)`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradflow import nets
from gradflow.arrays import Heads, Labels, Logits, Scalar
from gradflow.measuring.hooks import Recorder, make_sinks, no_hook
from gradflow.measuring.measure import ReadingSpec, measure_flow, measure_weights
from gradflow.nets import stack


class State(NamedTuple):
    """All that changes from step to step; with the seed and the data it decides what follows."""

    params: Any
    rest: Any  # running statistics of batch norm
    optimiser: Any
    step: jax.Array  # steps taken
    key: jax.Array  # raw key data, of the augmentation


def loss_and_error(logits: Logits, labels: Labels) -> tuple[Scalar, Scalar]:
    """Mean cross-entropy in nats, and the share of wrong answers; logits `(batch, classes)`, labels `(batch,)`."""
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
    return loss, jnp.mean(jnp.argmax(logits, axis=-1) != labels, dtype=loss.dtype)


def gradients(graph, points, params, rest, images, labels, read=True):
    """One forward and one backward pass: the gradient of the parameters, and what the hooks saw.

    Returns `(gradients, backward, forward, rest, loss, error)`; `backward` is the gradient of the sinks. Loss and error
    are those of the net's own answer; what is differentiated is the loss with those of auxiliary classifiers added.
    Unless `read`, what the hooks saw may be missing (nan).
    """

    def loss_of(params, sinks):
        recorder = Recorder(sinks) if points else no_hook
        answer, new_rest = nets.apply(graph, params, rest, images, recorder)
        logits, auxiliary, weight = answer if isinstance(answer, Heads) else Heads(answer, (), 0.0)
        loss, error = loss_and_error(logits, labels)
        others = sum(loss_and_error(other, labels)[0] for other in auxiliary)
        return loss + weight * others, (getattr(recorder, "forward", {}), new_rest, loss, error)

    sinks = make_sinks(points, stack.stacked_names(params), read)
    with nets.fast_gradients(True):
        found = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)(params, sinks)
    (_, (forward, rest, loss, error)), (gradient, backward) = found
    return gradient, backward, forward, rest, loss, error


def finite(readings: dict[str, jax.Array], read: jax.Array | bool) -> jax.Array:
    """Whether the loss, every weight gradient and, where they were `read`, every activation's spread are finite.

    The loss alone does not tell: XLA's maximum on CPUs may turn a nan into 0, so a ReLU can hide an overflow from it.
    """
    spread = jnp.where(read, readings["activation_std"], 0)
    return jnp.all(jnp.isfinite(jnp.concatenate([readings["loss"][None], readings["gradient_norm"], spread])))


def _where_read(read: Any, reading: Callable, *trees: Any) -> Any:
    """`reading(*trees)`; on a CPU nan where nothing is `read`: elsewhere a branch would make the device wait."""
    if jax.default_backend() != "cpu":
        return reading(*trees)
    shapes = jax.eval_shape(reading, *trees)
    missing = lambda *trees: jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)  # noqa: E731
    return jax.lax.cond(read, reading, missing, *trees)


def make_step(graph, points, layers, optimiser: optax.GradientTransformation) -> Callable:
    """The step `(state, images, labels, read, rate) -> (state, readings)`; without `points` only loss and error are
    read, and where `read` is false activations, their gradients, weights and updates need not be.

    The updates of `optimiser` are multiplied by `rate`: as an input, the learning rate is no part of what is compiled.
    """
    spec = ReadingSpec.of(points, layers) if points else None

    def step(state: State, images, labels, read=True, rate=1.0):
        gradient, backward, forward, rest, loss, error = gradients(
            graph, points, state.params, state.rest, images, labels, read
        )
        updates, moments = optimiser.update(gradient, state.optimiser, state.params)
        updates = jax.tree.map(lambda update: jnp.asarray(rate, update.dtype) * update, updates)
        params = optax.apply_updates(state.params, updates)
        readings = {"loss": loss, "train_error": error}
        if spec:
            readings |= measure_flow(spec, len(labels), forward, backward)
            norms = functools.partial(measure_weights, spec)
            readings |= norms(gradient_norm=nets.weighted_layers(gradient))
            readings |= _where_read(
                read,
                lambda params, updates: norms(weight_norm=params, update_norm=updates),
                nets.weighted_layers(state.params),
                nets.weighted_layers(updates),
            )
            readings["finite"] = finite(readings, read)
        return State(params, rest, moments, state.step + 1, state.key), readings

    return step
