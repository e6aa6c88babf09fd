"""A net's row of units as maps from one activation to the next, each with its two paths apart.

A unit computes y = h(x) + F(x): the shortcut h takes what its hook point `identity` gives it, the branch F the rest. In
a plain net there is no such point, and h is 0. Batch norm uses the statistics of the images at hand, held fixed: so
every unit maps each image for itself, before training as after it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from gradflow import nets
from gradflow.errors import BadInput
from gradflow.measuring.hooks import STACK_MARK, no_hook
from gradflow.training.read import as_images

_ADDS = 1e-3  # of the output's norm: what is off by more is not rounding


class Unit(NamedTuple):
    """A unit and the activation `(batch, ...)` that it is given."""

    name: str
    graph: Any
    state: Any
    x: jax.Array


class _Reached(Exception):
    """Carries an activation out of a forward pass that need not go on."""


def units_of(net: nnx.Module, images: Any) -> tuple[list[Unit], jax.Array]:
    """The units of a net, in order, with the input of each, and the output of the last.

    Images are `(batch, height, width, channel)`, as the net takes them. Raises `BadInput` for a net without units,
    images that it does not take, or units that are not h(x) + F(x).
    """
    names: Any = getattr(net, "units", ())
    if not isinstance(names, tuple) or not names or any(STACK_MARK in name for name in names):
        raise BadInput(
            "this net has no units to be taken one by one: legal are nets that name theirs in `units`, such as "
            "'plain', 'residual', 'mlp' and 'residual_mlp'"
        )
    images = as_images(images)
    if images.ndim != 4 or not images.size:
        raise BadInput(f"images {images.shape} are not legal: they are (batch, height, width, channel), one or more")
    held = nnx.clone(net)
    held.set_attributes(decay=0.0, raise_if_not_found=False)
    graph, params, rest = nets.split(held)
    try:
        x = _first_input(graph, names[0], params, rest, images)
    except (TypeError, ValueError) as error:
        raise BadInput(f"images {images.shape} do not fit the net: {str(error).splitlines()[0]}") from error
    units = []
    for name in names:
        unit = getattr(held, name)
        unit.train()
        graph, state = nnx.split(unit)
        state = _hold(graph, nnx.as_pure(state), x)
        unit.eval()
        graph, _ = nnx.split(unit)
        y, off = _output(graph, state, x)
        if off > _ADDS:
            raise BadInput(
                f"unit {name!r} does something after its addition, so the output is no sum of its units: legal are "
                "nets whose units add last, as those of order 'pre'"
            )
        units.append(Unit(name, graph, state, x))
        x = y
    return units, x


@functools.partial(jax.jit, static_argnums=(0, 1))
def _first_input(graph, name, params, rest, images):
    def stop(point, x):
        if point == name:
            raise _Reached(x)
        return x

    try:
        nets.apply(graph, params, rest, images, stop)
    except _Reached as reached:
        return reached.args[0]
    raise ValueError(f"the net does not pass its own unit {name!r}")


@functools.partial(jax.jit, static_argnums=0)
def _hold(graph, state, x):
    """The state of a unit whose running statistics are those of x."""
    unit = nnx.merge(graph, state, copy=True)
    unit(x, no_hook, "")
    return nnx.as_pure(nnx.state(unit))


@functools.partial(jax.jit, static_argnums=0)
def _output(graph, state, x):
    """The unit's output, and how far, relative to it, h(x) + F(x) is from that."""
    y = both(graph, state, x)
    apart = y - identity(graph, state, x, x) - branch(graph, state, x)
    return y, jnp.linalg.norm(apart.ravel()) / jnp.maximum(jnp.linalg.norm(y.ravel()), jnp.finfo(y.dtype).tiny)


def _paths(graph, state, into_identity, into_branch):
    unit = nnx.merge(graph, state, copy=True)
    return unit(into_branch, lambda point, x: into_identity if point == "/identity" else x, "")


def both(graph, state, x):
    """The unit: h(x) + F(x)."""
    return _paths(graph, state, x, x)


def branch(graph, state, x):
    """F(x): the unit with nothing on its shortcut."""
    return _paths(graph, state, jnp.zeros_like(x), x)


def identity(graph, state, x, t):
    """h(t), as h is linear; of a plain unit 0. Where h stands does not matter, x only says the shape."""
    return jax.jvp(lambda s: _paths(graph, state, s, x), (jnp.zeros_like(x),), (t,))[1]
