"""How much memory nets take that train at the same time: compared with what there is before weights are drawn."""

from typing import Any

import jax
import optax

from gradflow.data import bounds
from gradflow.errors import BadInput

VARIABLE = "GRADFLOW_MAX_NET_BYTES"


def size(params: Any, optimiser: optax.GradientTransformation) -> int:
    """The bytes of weights, their gradients and the optimiser's state; of the weights shapes and dtypes are enough.

    Activations come on top, and are not counted.
    """
    return 2 * _bytes(params) + _bytes(jax.eval_shape(optimiser.init, params))


def check(size: int, what: str, count: int = 1, counted: str = "") -> None:
    """Raises `BadInput` where a net of that `size` is more than the bound, or where `count` of them at once are, which
    are `counted` in seeds or `--workers`.
    """
    bounds.check(size, f"{what}: weights, gradients and optimiser state alone", VARIABLE, _available)
    allowed = bounds.limit(VARIABLE, _available)
    if count * size > allowed:
        raise BadInput(
            f"{what}: weights, gradients and optimiser state alone would take {bounds.words(count * size)} of memory "
            f"in {count} {counted} at once; legal are at most {allowed // size} {counted}, or more where the "
            f"environment sets {VARIABLE}, now {bounds.words(allowed)}"
        )


def processes(workers: int) -> int:
    """How many of several workers share the memory that bounds a net: all on a CPU; a GPU's is what one was given."""
    return workers if jax.default_backend() == "cpu" else 1


def _available() -> int:
    """The bytes of one device, or of this machine where that is the CPU."""
    own = jax.local_devices()[0].memory_stats() or {}
    return own.get("bytes_limit") or bounds.machine()


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
