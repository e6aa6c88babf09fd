"""Steps for who has none: a model, an optimiser and a loss, and what was read at each step; or one reading alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from gradflow.errors import BadInput
from gradflow.kinds import checked
from gradflow.watching import equinox
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
        self._join, self.params, self.rest = _split(watched, params)
        self.moments = optimiser.init(self.params)
        self._step = jax.jit(self._pure_step, static_argnames="unread")

    def __call__(self, batch: Any, read: bool = True) -> WatchedReading:
        """One step on a batch: the reading before the update, and the norms of the update."""
        if wrong := [leaf for leaf in jax.tree.leaves(batch) if not (hasattr(leaf, "dtype") or _is_number(leaf))]:
            raise BadInput(f"the batch holds a {type(wrong[0]).__name__}: legal are arrays in tuples and dictionaries")
        given = self.params, self.rest, self.moments, batch
        self.params, self.rest, self.moments, reading = self._step(*given, unread=not read)
        if isinstance(self.watched.model, nnx.Module):
            nnx.update(self.watched.model, self.params, self.rest)
        return reading

    @property
    def model(self) -> Any:
        """The model as it is after the last step; a Linen module, as ever, without its parameters."""
        return self._join(self.params, self.rest) if self.watched.is_equinox else self.watched.model

    def _pure_step(self, params, rest, moments, batch, unread):
        net = self._join(params, rest)
        given = pure(self.loss, net, (batch,), {}, False, nnx.Param)
        _, gradients, reading, plan = planned(self.watched, given, (batch,), {}, not unread)
        updates, moments = self.optimiser.update(gradients, moments, params)
        norms = weight_norms(plan, update_norm=updates)
        if unread:
            norms = {name: jnp.full_like(vector, jnp.nan) for name, vector in norms.items()}
        reading = WatchedReading(0, reading.spec, {**reading.arrays, **norms})
        rest = nnx.state(net, nnx.Not(nnx.Param)) if isinstance(net, nnx.Module) else rest
        return optax.apply_updates(params, updates), rest, moments, reading


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, (bool, int, float, complex))


@checked
def recorded_step(
    model: Any, optimiser: optax.GradientTransformation, loss: Callable[..., Any], params: Any = None
) -> RecordedStep:
    """A compiled training step that reads: `step = gf.recorded_step(model, optax.adam(1e-3), loss)`, `step(batch)`.

    `model` is an `nnx.Module`, which is updated in place, an Equinox module (`step.model` is the one after the last
    step), a Linen module with its `params` (`step.params` are those after the last step), or `gf.watch(...)` of one.
    `loss(model, batch)`, of a Linen module `loss(params, batch)`, is the mean over the examples of a batch; how many
    that are is known by `batch`: see `watch`. `step(batch, read=False)` reads the loss alone. Raises `BadInput` for
    what cannot be watched.
    """
    return RecordedStep(as_watched(model), optimiser, loss, params)


def read_once(model: Any, batch: Any, loss: Callable[..., Any], params: Any = None) -> WatchedReading:
    """One reading of a model on one batch; nothing is updated. Arguments are those of `recorded_step`."""
    watched = as_watched(model)
    join, params, rest = _split(watched, params)

    def read(params, rest):
        net = join(params, rest)
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
    """`(join, params, rest)`: what is trained, the other arrays, and what joins them to a loss's first argument."""
    model = watched.model
    if watched.is_linen and params is None:
        raise BadInput("a Linen module has no parameters in it: give them as params=model.init(...)")
    if watched.is_linen:
        return lambda params, rest: params, params, ()
    if watched.is_equinox:
        own, others = equinox.split(model)
        return lambda params, rest: equinox.join(params, others), own, ()
    graph, own, rest = nnx.split(model, nnx.Param, ...)
    return lambda params, rest: nnx.merge(graph, params, rest, copy=True), own, rest
