"""Steps for who has none: a model, an optimiser and a loss, and what was read at each step; or one reading alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from gradflow.errors import BadInput
from gradflow.watching.pure import pure
from gradflow.watching.reading import WatchedReading, weight_norms
from gradflow.watching.value_and_grad import planned
from gradflow.watching.watch import Watched, watch


class RecordedStep:
    """`step(batch)` takes a training step and returns its reading; see `recorded_step`."""

    def __init__(
        self, watched: Watched, optimiser: optax.GradientTransformation, loss: Callable[..., Any], params: Any = None
    ):
        if not callable(getattr(optimiser, "init", None)):
            raise BadInput(f"the optimiser is a {type(optimiser).__name__}: legal is one of optax, as optax.adam(1e-3)")
        self.watched, self.optimiser, self.loss = watched, optimiser, loss
        self._graph, self.params, self.rest = _split(watched, params)
        self.moments = optimiser.init(self.params)
        self._step = jax.jit(self._pure_step, static_argnames="unread")

    def __call__(self, batch: Any, read: bool = True) -> WatchedReading:
        """One step on a batch: the reading before the update, and the norms of the update."""
        if wrong := [leaf for leaf in jax.tree.leaves(batch) if not hasattr(leaf, "dtype") and not jnp.isscalar(leaf)]:
            raise BadInput(f"the batch holds a {type(wrong[0]).__name__}: legal are arrays in tuples and dictionaries")
        given = self.params, self.rest, self.moments, batch
        self.params, self.rest, self.moments, reading = self._step(*given, unread=not read)
        if self._graph is not None:
            nnx.update(self.watched.model, self.params, self.rest)
        return reading

    def _pure_step(self, params, rest, moments, batch, unread):
        net = params if self._graph is None else nnx.merge(self._graph, params, rest, copy=True)
        given = pure(self.loss, net, (batch,), {}, False, nnx.Param)
        _, gradients, reading, plan = planned(self.watched, given, (batch,), {}, not unread)
        updates, moments = self.optimiser.update(gradients, moments, params)
        norms = weight_norms(plan, update_norm=updates)
        if unread:
            norms = {name: jnp.full_like(vector, jnp.nan) for name, vector in norms.items()}
        reading = WatchedReading(0, reading.spec, {**reading.arrays, **norms})
        rest = rest if self._graph is None else nnx.state(net, nnx.Not(nnx.Param))
        return optax.apply_updates(params, updates), rest, moments, reading


def recorded_step(
    model: Any, optimiser: optax.GradientTransformation, loss: Callable[..., Any], params: Any = None
) -> RecordedStep:
    """A compiled training step that reads: `step = gf.recorded_step(model, optax.adam(1e-3), loss)`, `step(batch)`.

    `model` is an `nnx.Module`, which is updated in place, a Linen module with its `params` (`step.params` are those
    after the last step), or `gf.watch(...)` of one. `loss(model, batch)`, of a Linen module `loss(params, batch)`, is
    the mean over the examples of a batch. `step(batch, read=False)` reads the loss alone. Raises `BadInput` for what
    cannot be watched.
    """
    return RecordedStep(as_watched(model), optimiser, loss, params)


def read_once(model: Any, batch: Any, loss: Callable[..., Any], params: Any = None) -> WatchedReading:
    """One reading of a model on one batch; nothing is updated. Arguments are those of `recorded_step`."""
    watched = as_watched(model)
    graph, params, rest = _split(watched, params)

    def read(params, rest):
        net = params if graph is None else nnx.merge(graph, params, rest, copy=True)
        return planned(watched, pure(_loss_alone(loss), net, (batch,), {}, False, nnx.Param), (batch,), {}, True)[2]

    return jax.jit(read)(params, rest)


def _loss_alone(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The loss without what it returns beside."""

    def alone(*arguments):
        found = loss(*arguments)
        return found[0] if isinstance(found, tuple) else found

    return alone


def as_watched(model: Any) -> Watched:
    """The model, watched. Raises `BadInput` for what is no model."""
    return model if isinstance(model, Watched) else watch(model)


def _split(watched: Watched, params: Any) -> tuple[Any, Any, Any]:
    if not watched.is_linen:
        graph, own, rest = nnx.split(watched.model, nnx.Param, ...)
        return graph, own, rest
    if params is None:
        raise BadInput("a Linen module has no parameters in it: give them as params=model.init(...)")
    return None, params, ()
