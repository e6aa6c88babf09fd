"""The numbers that are read off one array, right over the whole range of float32: its norm, mean, deviation, zeros.

A plain sum of squares in float32 leaves the range below 1e-19 and above 1e19, where vanishing and exploding gradients
live. In float64 it holds the square of every float32, so one pass does, whatever the array. A TPU has no float64, and
on a CPU many entries are summed several times as fast in float32: there the sum is in float32, and where it is not
safely inside the range all is divided by the largest entry first (as LAPACK's nrm2 does), which takes twice as long.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.arrays import Scalar

LARGE = 2**17  # entries; below, a branch costs more than it saves


def norm(x: jax.Array, dtype=jnp.float32) -> Scalar:
    """The Frobenius norm, right over the whole range of `dtype`."""
    x = x.astype(dtype)
    if _in_float64(x):
        with jax.enable_x64(True):
            return jnp.sqrt(jnp.sum(jnp.square(x.astype(np.float64)))).astype(dtype)
    if x.size < LARGE:
        return _scaled_norm(x)
    squares = _total(jnp.square(x))
    return jax.lax.cond(_safe(squares), lambda x: jnp.sqrt(squares), _scaled_norm, x)


def _in_float64(x) -> bool:
    """Whether sums over `x` are to be in float64."""
    platform = jax.default_backend()
    return x.dtype == jnp.float32 and platform != "tpu" and (platform != "cpu" or x.size < LARGE)


def _scaled_norm(x):
    largest = jnp.max(jnp.abs(x))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale * jnp.sqrt(jnp.sum(jnp.square(x / scale)))


def _safe(squares):
    """Whether a sum of squares lost nothing to the ends of float32: entries below 1e-19 hardly count in it."""
    return (squares > 1e-24) & (squares < 1e34)


def _total(x):
    """The sum, over channels last: on a CPU twice as fast as the sum over all axes at once."""
    return jnp.sum(jnp.sum(x, axis=tuple(range(x.ndim - 1))))


def summary(x: jax.Array) -> jax.Array:
    """Mean, standard deviation and share of exact zeros over all entries of an activation: shape `(3,)`."""
    x = jax.lax.stop_gradient(x).astype(jnp.promote_types(x.dtype, jnp.float32))
    if _in_float64(x):
        with jax.enable_x64(True):
            return _moments(x.astype(np.float64)).astype(x.dtype)
    count = jnp.asarray(x.size, x.dtype)
    mean = _total(x) / count
    zeros = jnp.clip(1 - _total(jnp.abs(jnp.sign(x))) / count, 0, 1)  # a share also after rounding
    return jnp.stack([mean, _deviation(x, mean, count), zeros])


def _moments(x):
    """The same of float64 that was float32: what is squared and subtracted loses nothing that was there."""
    mean = jnp.mean(x)
    variance = jnp.mean(jnp.square(x)) - jnp.square(mean)
    zeros = jnp.sum(x == 0, dtype=np.int32) / x.size
    return jnp.stack([mean, jnp.sqrt(jnp.maximum(variance, 0)), zeros])


def _deviation(x, mean, count):
    """From the sum of squares; where too much of that is the mean's, or it is out of range, from x - mean."""
    careful = lambda x: norm(x - mean, x.dtype) / jnp.sqrt(count)  # noqa: E731  jnp.std squares what it reads
    if x.size < LARGE:
        return careful(x)
    squares = _total(jnp.square(x))
    variance = squares / count - jnp.square(mean)
    return jax.lax.cond(_safe(squares) & (variance > 0.1 * jnp.square(mean)), lambda x: jnp.sqrt(variance), careful, x)
