"""A row of units; a long row of equal ones is one `lax.scan`: what the compiler sees of them does not grow with it.

For that `stack_units` puts the weights of such units into the arrays of one, with a leading axis and all their names:
`block02+block03`. So they lie in memory from step to step, and nothing is cut up or put together on the way.
`unstack` and `restack` translate trees between that and the form that a checkpoint has.
"""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from gradflow.errors import BadInput
from gradflow.measuring.hooks import STACK_MARK, Hook, scan, unstacked_names
from gradflow.nets.layers.normalisations import SAVED

# Equal units in a row from which on they are joined. On large maps beyond the 110 layers of He 2015, which have 18 a
# stage: a scan halves the temporary memory and costs 12 % of a step. On small ones it costs nothing (results/LOG.md).
LEAST, LEAST_ON_SMALL = 19, 3
SMALL = 2**14  # pixels in a batch


class Count(nnx.Variable):
    """How many of the units of a joined row there are, the first; where a row has none of it, all (`nets.padding`)."""


def apply_units(units: Mapping[str, nnx.Module], x: jax.Array, hook: Hook) -> jax.Array:
    """`x` sent through the units, `x = unit(x, hook, name)`, in order; joined ones are scanned.

    Readings have the names of their units and running statistics are kept in them, joined or not. Numbers agree to
    rounding.
    """
    for name, unit in units.items():
        x = _scanned(unit, name, x, hook) if STACK_MARK in name else unit(x, hook, name)  # pyright: ignore[reportCallIssue]
    return x


def _scanned(row: nnx.Module, name: str, x: jax.Array, hook: Hook) -> jax.Array:
    graph, units, state = nnx.split(row, Count, ...)
    count = row.count.get_value() if units else None  # pyright: ignore[reportAttributeAccessIssue]

    def body(hook, x, state):
        unit = nnx.merge(graph, units, state, copy=True)
        return unit(x, hook, ""), nnx.as_pure(nnx.state(unit, nnx.BatchStat))

    x, statistics = scan(body, hook, unstacked_names(name), x, nnx.as_pure(state), keep=SAVED, count=count)
    nnx.update(row, statistics)
    return x


def stack_units(net: nnx.Module, pixels: int) -> nnx.Module:
    """The same net, a copy in which long rows of equal units are one with all their weights; for batches of that many
    `pixels` in all their images. Raises `BadInput` for a part whose name has the mark that joins names.
    """
    if marked := [name for name in vars(net) if STACK_MARK in name]:
        raise BadInput(f"a part of this net is called {marked[0]!r}: legal are names without {STACK_MARK}")
    net, least = nnx.clone(net), LEAST_ON_SMALL if pixels <= SMALL else LEAST
    names = getattr(net, "units", ())  # of a user's own net this may be anything
    names = names if isinstance(names, tuple) and all(isinstance(name, str) for name in names) else ()
    split = {name: nnx.split(getattr(net, name)) for name in names}
    units = []
    for _, group in groupby(split, key=lambda name: kind(*split[name])):
        names = tuple(group)
        if len(names) >= least:
            stacked = jax.tree.map(_stack, *(split[name][1] for name in names))
            for name in names:
                delattr(net, name)
            setattr(net, STACK_MARK.join(names), nnx.merge(split[names[0]][0], stacked))
            names = (STACK_MARK.join(names),)
        units += names
    if units:
        net.units = tuple(units)  # pyright: ignore[reportAttributeAccessIssue]
    return net


def _stack(*leaves: Any) -> Any:
    """Equal arrays along a new first axis; numbers by NumPy, which has nothing to compile (50 ms a shape). Of a net
    without weights there are shapes alone.
    """
    if isinstance(leaves[0], jax.ShapeDtypeStruct):
        return jax.eval_shape(lambda *leaves: jnp.stack(leaves), *leaves)
    numbers = all(not isinstance(leaf, Tracer) and jnp.issubdtype(leaf.dtype, jnp.number) for leaf in leaves)
    return jnp.asarray(np.stack(leaves)) if numbers else jnp.stack(leaves)


def kind(graph, state) -> tuple[Any, ...]:
    """Equal for units of equal structure, settings and shapes."""
    return graph, tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state))


def stacked_names(params: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the joined units among a net's parameters."""
    return tuple(name for name in params if isinstance(name, str) and STACK_MARK in name)


def unstack(tree: Any) -> Any:
    """A tree with parameters, statistics or moments of a joined net in it, each unit by itself."""

    def unstack_node(node):
        if not isinstance(node, dict):
            return node
        found = {name: value for name, value in node.items() if name not in stacked_names(node)}
        for name in stacked_names(node):
            found |= {
                one: jax.tree.map(lambda leaf, i=i: leaf[i], node[name]) for i, one in enumerate(unstacked_names(name))
            }
        return found

    return jax.tree.map(unstack_node, tree, is_leaf=lambda node: isinstance(node, dict))


def restack(tree: Any, names: Iterable[str]) -> Any:
    """The inverse of `unstack`, for the `stacked_names` that the net has."""

    def stack_node(node):
        if not isinstance(node, dict):
            return node
        found = dict(node)
        for name in names:
            units = [found.pop(one) for one in unstacked_names(name) if one in found]
            if units:
                found[name] = jax.tree.map(_stack, *units)
        return found

    return jax.tree.map(stack_node, tree, is_leaf=lambda node: isinstance(node, dict))
