"""How much memory a net takes while it trains: compared with what there is before any weight is drawn."""

from typing import Any

import jax
import optax
from flax import nnx

from gradflow import nets
from gradflow.data import bounds

VARIABLE = "GRADFLOW_MAX_NET_BYTES"


def check(net: nnx.Module, optimiser: optax.GradientTransformation, what: str) -> None:
    """Raises `BadInput` where weights, their gradients and the optimiser's state alone are more than the bound.

    Of the net shapes and dtypes are enough (`nets.abstract`). Activations come on top, and are not counted.
    """
    _, params, _ = nets.split(net)
    size = 2 * _bytes(params) + _bytes(jax.eval_shape(optimiser.init, params))
    bounds.check(size, f"{what}: weights, gradients and optimiser state alone", VARIABLE, _available)


def _available() -> int:
    """The bytes of one device, or of this machine where that is the CPU."""
    own = jax.local_devices()[0].memory_stats() or {}
    return own.get("bytes_limit") or bounds.machine()


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
