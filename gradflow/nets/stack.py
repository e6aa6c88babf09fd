"""A row of units; a long row of equal ones is one `lax.scan`: what the compiler sees of them does not grow with it."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gradflow.hooks import Hook, scan
from gradflow.normalisations import KEPT

# Equal units in a row from which on they are scanned: beyond the 110 layers of He 2015, which have 18 a stage. At 56
# layers a scan halves the temporary memory, costs 12 % of a step at 32x32 and saves no compile time (results/LOG.md).
LEAST = 19


def through(units: Mapping[str, nnx.Module], x: jax.Array, hook: Hook) -> jax.Array:
    """`x` sent through the units, `x = unit(x, hook, name)`, in order; `LEAST` equal
    neighbours or more are scanned.

    Readings have the names of their units and running statistics are kept in them, scanned or not. Numbers agree to
    rounding.
    """
    split = {name: nnx.split(unit) for name, unit in units.items()}
    for _, group in groupby(units, key=lambda name: _kind(*split[name])):
        names = tuple(group)
        if len(names) < LEAST:
            for name in names:
                x = units[name](x, hook, name)  # pyright: ignore[reportCallIssue]
        else:
            x = _scanned(split[names[0]][0], {name: (units[name], split[name][1]) for name in names}, x, hook)
    return x


def _kind(graph, state) -> tuple[Any, ...]:
    """Equal for units of equal structure, settings and shapes."""
    return graph, tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state))


def _scanned(graph, units: Mapping[str, tuple[nnx.Module, Any]], x: jax.Array, hook: Hook) -> jax.Array:
    def body(hook, x, state):
        unit = nnx.merge(graph, state, copy=True)
        return unit(x, hook, ""), nnx.as_pure(nnx.state(unit, nnx.BatchStat))

    states = [nnx.as_pure(state) for _, state in units.values()]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    x, statistics = scan(body, hook, tuple(units), x, stacked, keep=KEPT)
    for i, (unit, _) in enumerate(units.values()):
        nnx.update(unit, jax.tree.map(lambda leaf, i=i: leaf[i], statistics))
    return x
