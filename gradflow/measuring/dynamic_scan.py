"""`jax.lax.scan` over the first of several rows, their number being data: one program serves rows of any number.

JAX differentiates a loop whose length is known when it is traced alone. So the backward pass is written here: a second
loop over what `jax.vjp` of each step left.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def dynamic_scan(count: jax.Array, step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, rows: Any) -> Any:
    """`step(carry, row) -> (carry, out)` over the first `count` of the `rows`, arrays with a leading axis.

    Returns `(carry, outs)` as `jax.lax.scan` does; the entries of `outs` from `count` on are zero, and so is the
    gradient of the rows there. Differentiable in reverse mode, once.
    """
    pulled: list[Any] = []  # the structure of a step's pullback, and which of its arrays lie in the rows

    @jax.custom_vjp
    def scan(count, carry, rows):
        def body(i, state):
            carry, out = step(state[0], _row(rows, i))
            return carry, _with_row(state[1], i, out)

        _, out = jax.eval_shape(step, carry, _row(rows, 0))
        return jax.lax.fori_loop(0, count, body, (carry, _empty(out, rows)))

    def forward(count, carry, rows):
        def one(carry, row):
            (carry, out), pullback = jax.vjp(step, carry, row)
            kept, structure = jax.tree.flatten(pullback)
            given = jax.tree.leaves(row)
            places = [next((place for place, leaf in enumerate(given) if leaf is one), None) for one in kept]
            pulled[:] = structure, places
            return carry, (out, [leaf for leaf, place in zip(kept, places, strict=True) if place is None])

        def body(i, state):
            carry, out = one(state[0], _row(rows, i))
            return carry, _with_row(state[1], i, out)

        _, out = jax.eval_shape(one, carry, _row(rows, 0))
        carry, (outs, kept) = jax.lax.fori_loop(0, count, body, (carry, _empty(out, rows)))
        return (carry, outs), (count, rows, kept)

    def backward(saved, gradients):
        count, rows, kept = saved
        structure, places = pulled

        def body(back, state):
            i = count - 1 - back
            given, own = jax.tree.leaves(_row(rows, i)), iter(_row(kept, i))
            leaves = [next(own) if place is None else given[place] for place in places]
            carry, row = jax.tree.unflatten(structure, leaves)((state[0], _row(gradients[1], i)))
            return carry, _with_row(state[1], i, row)

        return None, *jax.lax.fori_loop(0, count, body, (gradients[0], jax.tree.map(jnp.zeros_like, rows)))

    scan.defvjp(forward, backward)
    return scan(count, carry, rows)


def _row(rows: Any, i: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False), rows)


def _with_row(rows: Any, i: Any, row: Any) -> Any:
    return jax.tree.map(lambda leaf, one: jax.lax.dynamic_update_index_in_dim(leaf, one, i, 0), rows, row)


def _empty(row: Any, like: Any) -> Any:
    """Zeros for as many such rows as there are of those."""
    length = len(jax.tree.leaves(like)[0])
    return jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), row)
