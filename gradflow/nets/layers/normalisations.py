"""The normalisations that the nets share: over the batch, over channels and pixels, over neighbouring channels."""

import functools
import math
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from gradflow.nets.layers.backward import fast_gradients

# What a scanned unit keeps for its backward pass, by `jax.ad_checkpoint.checkpoint_name`: what convolutions and batch
# statistics cost is not paid twice, what lies between is computed again.
SAVED = "saved"
Normalisation = Literal["batch", "group", "layer", "none"]
NORMALISATIONS = get_args(Normalisation)


def local_response_normalisation(
    x: jax.Array, neighbours: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
    """`a_i / (k + alpha sum_j a_j^2)^beta`, j over the `neighbours` channels around i (Krizhevsky 2012, section 3.3).

    `(..., channel)`, shape kept. alpha multiplies the sum, as in the paper; Caffe and PyTorch divide it by
    `neighbours`.
    """
    half, channels = neighbours // 2, x.shape[-1]
    squares = jnp.pad(jnp.square(x), ((0, 0),) * (x.ndim - 1) + ((half, half),))
    total = sum(squares[..., first : first + channels] for first in range(2 * half + 1))
    return x * (k + alpha * total) ** -beta


class BatchNorm(nnx.Module):
    """Batch normalisation over batch and pixels (Ioffe and Szegedy 2015): shape kept, any number of leading axes.

    While training it uses the batch's statistics and moves the running ones, which it uses in `eval()`. Ours, not
    Flax's, for two reasons: Flax's decay of 0.99 stays stale in short runs and fakes a degradation, and its way of
    storing the running statistics makes tracing quadratic in depth (seven minutes at 1202 layers, flax 0.12.8).
    """

    def __init__(self, channels: int, *, decay: float = 0.9, epsilon: float = 1e-5, dtype=None):
        ones, zeros = (functools.partial(fill, channels, jnp.float32) for fill in (jnp.ones, jnp.zeros))
        self.scale, self.bias = nnx.Param(ones()), nnx.Param(zeros())
        self.mean, self.variance = nnx.BatchStat(zeros()), nnx.BatchStat(ones())
        self.decay, self.epsilon, self.dtype = decay, epsilon, dtype
        self.use_running_average = False  # what Flax's train() and eval() set

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., channel)` normalised, in the same shape."""
        # The statistics are float32 at least, whatever the computation is in.
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        scale, bias = self.scale.get_value(), self.bias.get_value()
        if self.use_running_average:
            mean, inverse = self.mean.get_value(), jax.lax.rsqrt(self.variance.get_value() + self.epsilon)
            y = (wide - mean) * (scale * inverse) + bias
        else:
            fast = fast_gradients.value
            mean, variance = _statistics(jax.lax.stop_gradient(wide) if fast else wide)
            count = x.size // x.shape[-1]
            self._update_running(self.mean, mean)
            # Unbiased, as Ioffe and Szegedy 2015, algorithm 2; the batch itself is divided by the biased one.
            self._update_running(self.variance, variance * (count / max(count - 1, 1)))
            inverse = jax.lax.rsqrt(variance + self.epsilon)
            mean, inverse = checkpoint_name(mean, SAVED), checkpoint_name(inverse, SAVED)
            y = (_normalise if fast else _normalised)(wide, mean, inverse, scale, bias)
        return y.astype(self.dtype or wide.dtype)

    def _update_running(self, running: nnx.BatchStat, now: jax.Array) -> None:
        old = running.get_value()
        now = jax.lax.stop_gradient(now)
        running.set_value((self.decay * old + (1 - self.decay) * now).astype(old.dtype))


def _statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance by channel, in one pass over x.

    Of the distance from the mean of the first example, not of x itself: E[x^2] - E[x]^2 loses all its digits where the
    mean is large against the deviation.
    """
    axes = tuple(range(x.ndim - 1))
    near = jnp.mean(x[:1], axes)
    distance = x - near
    mean = jnp.mean(distance, axes)
    return near + mean, jnp.maximum(jnp.mean(jnp.square(distance), axes) - jnp.square(mean), 0)


def _normalised(x, mean, inverse, scale, bias):
    """Batch norm given the statistics of x."""
    return (x - mean) * (scale * inverse) + bias


@jax.custom_vjp
def _normalise(x, mean, inverse, scale, bias):
    """The same; its gradient is that of batch norm as a whole, statistics included.

    The rule (Ioffe and Szegedy 2015, section 3, the six equations of the backward pass, collected) is two sums and one
    pass, and keeps only x; found by automatic differentiation it takes four sums.
    """
    return _normalised(x, mean, inverse, scale, bias)


def _normalise_forward(x, mean, inverse, scale, bias):
    return _normalise(x, mean, inverse, scale, bias), (x, mean, inverse, scale)


def _normalise_backward(saved, gradient):
    x, mean, inverse, scale = saved
    axes = tuple(range(x.ndim - 1))
    to_bias = jnp.sum(gradient, axes)
    to_scale = jnp.sum(gradient * (x - mean), axes) * inverse
    count = x.size // x.shape[-1]
    to_x = (gradient - to_bias / count - (x - mean) * (inverse * to_scale / count)) * (scale * inverse)
    return to_x, jnp.zeros_like(mean), jnp.zeros_like(inverse), to_scale, to_bias


_normalise.defvjp(_normalise_forward, _normalise_backward)


class Identity(nnx.Module):
    """Stands where a normalisation could be and is not."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """`x` itself."""
        return x


def normalisation(
    name: str, channels: int, *, epsilon: float = 1e-5, dtype=None, rngs: nnx.Rngs
) -> Callable[[jax.Array], jax.Array]:
    """The normalisation called `name` over `channels` channels, with scale and shift.

    `batch`: over batch and pixels. `group`: at most 32 groups of at least 4 channels (Wu and He 2018). `layer`: one
    group, over channels and pixels.
    """
    if name == "none":
        return Identity()
    if name == "batch":
        return BatchNorm(channels, epsilon=epsilon, dtype=dtype)
    groups = 1 if name == "layer" else math.gcd(channels, min(32, max(1, channels // 4)))
    return nnx.GroupNorm(channels, num_groups=groups, epsilon=epsilon, dtype=dtype, rngs=rngs)
