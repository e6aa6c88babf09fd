"""Parameters and gradients by layer, whatever tree the user keeps them in."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def leaves(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by path: `blocks/0/query/kernel`; Linen's `params` in front is left out."""
    if isinstance(tree, nnx.State):
        tree = nnx.to_pure_dict(nnx.as_pure(tree))
    if isinstance(tree, Mapping) and "params" in tree:
        tree = tree["params"]
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = ((jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in found)
    return {path.removesuffix("/value"): leaf for path, leaf in named}


def layers(tree: Any) -> dict[str, dict[str, Any]]:
    """The floating-point arrays of each module, by its path: those that are its own."""
    found: dict[str, dict[str, Any]] = {}
    for path, leaf in leaves(tree).items():
        module, _, name = path.rpartition("/")
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            found.setdefault(module, {})[name] = leaf
    return found
