"""The numbers that are read off one array, right over the whole range of float32: its norm, mean, deviation, zeros.

A plain sum of squares in float32 leaves the range below 1e-19 and above 1e19, where vanishing and exploding gradients
live. In float64 it holds the square of every float32, so one pass does, whatever the array. A TPU has no float64, and
on a CPU many entries are summed several times as fast in float32: there the sum is in float32, and where it is not
safely inside the range all is divided by the largest entry first (as LAPACK's nrm2 does), which takes twice as long.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.arrays import Scalar

LARGE = 2**17  # entries; below, a branch costs more than it saves


def norm(x: jax.Array, dtype=jnp.float32, large: int = LARGE) -> Scalar:
    """The Frobenius norm, right over the whole range of `dtype`.

    From `large` entries on, a sum in that dtype is tried first, where it is the faster one.
    """
    x = x.astype(dtype)
    careful = _norm_in_float64 if _has_float64(x) else _scaled_norm
    if not _is_summed_first(x, large):
        return careful(x)
    squares = _total(jnp.square(x))
    return jax.lax.cond(_safe(squares), lambda x: jnp.sqrt(squares), careful, x)


def norms(arrays: Sequence[jax.Array] | jax.Array, dtype=jnp.float32, large: int = LARGE) -> jax.Array:
    """`norm` of each of several arrays of one shape, or of one's rows, as a vector.

    Small ones are read as one, so that many are not more to compile; large ones where they lie, and they share one
    branch: under `vmap` each would compute both sides of its own. `large` is as for `norm`.
    """
    stack = lambda arrays: arrays if isinstance(arrays, jax.Array) else jnp.stack(arrays)  # noqa: E731
    arrays = jax.tree.map(lambda x: x.astype(dtype), arrays)
    one = jax.eval_shape(lambda arrays: arrays[0], arrays)
    if not _is_summed_first(one, large):
        return jax.vmap(lambda x: norm(x, dtype))(stack(arrays))
    careful = _norm_in_float64 if _has_float64(one) else _scaled_norm
    squares = jnp.stack([_total(jnp.square(x)) for x in arrays])
    return jax.lax.cond(
        jnp.all(_safe(squares)), lambda _: jnp.sqrt(squares), lambda arrays: jax.vmap(careful)(stack(arrays)), arrays
    )


def summary(x: jax.Array, large: int = LARGE) -> jax.Array:
    """Mean, standard deviation and share of exact zeros over all entries of an activation: shape `(3,)`.

    `large` is as for `norm`.
    """
    x = jax.lax.stop_gradient(x).astype(jnp.promote_types(x.dtype, jnp.float32))
    careful = _summary_in_float64 if _has_float64(x) else _scaled_summary
    if not _is_summed_first(x, large):
        return careful(x)
    mean, squares = _total(x) / x.size, _total(jnp.square(x))
    zeros = jnp.clip(1 - _total(jnp.square(jnp.sign(x))) / x.size, 0, 1)  # a share also after rounding
    variance = squares / x.size - jnp.square(mean)
    known = _safe(squares) & (variance > 0.1 * jnp.square(mean))  # else too much of the sum is the mean's
    return jax.lax.cond(known, lambda x: jnp.stack([mean, jnp.sqrt(variance), zeros]), careful, x)


def _has_float64(x) -> bool:
    return x.dtype == jnp.float32 and jax.default_backend() != "tpu"


def _is_summed_first(x, large: int = LARGE) -> bool:
    """Whether a sum in the array's own dtype is tried first, because a careful one takes several times as long."""
    return x.size >= large and (jax.default_backend() == "cpu" or not _has_float64(x))


def _safe(squares):
    """Whether a sum of squares lost nothing to the ends of float32: entries below 1e-19 hardly count in it."""
    return (squares > 1e-24) & (squares < 1e34)


def _total(x):
    """The sum, over channels last: on a CPU twice as fast as the sum over all axes at once."""
    return jnp.sum(jnp.sum(x, axis=tuple(range(x.ndim - 1))))


def _norm_in_float64(x):
    with jax.enable_x64(True):
        return jnp.sqrt(jnp.sum(jnp.square(x.astype(np.float64)))).astype(x.dtype)


def _summary_in_float64(x):
    """What is squared and subtracted loses nothing that was in float32."""
    with jax.enable_x64(True):
        wide = x.astype(np.float64)
        mean = jnp.mean(wide)
        variance = jnp.mean(jnp.square(wide)) - jnp.square(mean)
        zeros = jnp.sum(wide == 0, dtype=np.int32) / x.size
        return jnp.stack([mean, jnp.sqrt(jnp.maximum(variance, 0)), zeros]).astype(x.dtype)


def _scaled_norm(x):
    largest = jnp.max(jnp.abs(x))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale * jnp.sqrt(jnp.sum(jnp.square(x / scale)))


def _scaled_summary(x):
    count = jnp.asarray(x.size, x.dtype)
    mean = _total(x) / count
    zeros = jnp.mean(x == 0, dtype=x.dtype)
    return jnp.stack([mean, _scaled_norm(x - mean) / jnp.sqrt(count), zeros])  # jnp.std squares what it reads
