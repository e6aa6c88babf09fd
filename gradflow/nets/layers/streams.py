"""The random streams that a net draws from."""

import jax
from flax import nnx


class Checked(Exception):
    """Raised where a net would draw its first weight and no weights are wanted: its settings are legal."""


def streams(seed: int | jax.Array | None) -> tuple[nnx.Rngs, nnx.Rngs]:
    """The stream of a net's weights, and a second one for what must leave these as they are: the keys of dropout, the
    projections of shortcuts, auxiliary classifiers.

    A constructor calls it when all its settings are known to be legal. Without a seed it raises `Checked`.
    """
    if seed is None:
        raise Checked
    key = jax.random.key(seed)
    return nnx.Rngs(key), nnx.Rngs(jax.random.fold_in(key, 1))
