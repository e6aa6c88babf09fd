"""The few atoms that the nets share: convolution, pooling, normalisation, dropout and activation."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from gradflow.arrays import Maps
from gradflow.convolution import convolve
from gradflow.errors import choose
from gradflow.initialisers import initialiser

# What a scanned unit keeps for its backward pass, by `jax.ad_checkpoint.checkpoint_name`: what convolutions and batch
# statistics cost is not paid twice, what lies between is computed again.
KEPT = "kept"

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "leaky_relu": jax.nn.leaky_relu,
    "linear": lambda x: x,
}
NORMALISATIONS = ("batch", "group", "layer", "none")


class Convolution(nnx.Module):
    """A square convolution: `(batch, h, w, in)` to `(batch, h', w', out)`, h' = (h + 2 padding - kernel) // stride + 1.

    Without `padding` an odd kernel is padded by half its width on every side, so that output (i, j) is centred on input
    (stride i, stride j) and lines up with a shortcut that subsamples. `bias`: what the biases start at, None for none.
    With `groups` each group of outputs sees its own share of the inputs alone (the towers of Krizhevsky 2012).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        stride: int = 1,
        *,
        padding: int | None = None,
        bias: float | None = None,
        groups: int = 1,
        kernel_init,
        dtype,
        rngs,
    ):
        shape = (kernel, kernel, channels_in // groups, channels_out)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        if bias is not None:
            self.bias = nnx.Param(jnp.full(channels_out, bias, jnp.float32))
        self.biased, self.groups = bias is not None, groups
        self.stride, self.padding, self.dtype = stride, kernel // 2 if padding is None else padding, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """The maps, convolved."""
        dtype = self.dtype or jnp.promote_types(x.dtype, self.kernel.get_value().dtype)
        x, kernel = x.astype(dtype), self.kernel.get_value().astype(dtype)
        towers = zip(jnp.split(x, self.groups, -1), jnp.split(kernel, self.groups, -1), strict=True)
        y = [convolve(part, weights, self.stride, self.padding) for part, weights in towers]
        y = checkpoint_name(y[0] if self.groups == 1 else jnp.concatenate(y, -1), KEPT)
        return y + self.bias.get_value().astype(dtype) if self.biased else y


class Linear(nnx.Linear):
    """A fully connected layer: `(batch, in)` to `(batch, out)`; biases start at `bias`; float32 or wider."""

    def __init__(self, channels_in: int, channels_out: int, *, initialisation: str, bias: float = 0.0, rngs: nnx.Rngs):
        super().__init__(
            channels_in,
            channels_out,
            kernel_init=initialiser(initialisation),
            bias_init=nnx.initializers.constant(bias),
            rngs=rngs,
        )


def max_pool(x: Maps, window: int, stride: int, padding: int = 0, partial: bool = False) -> Maps:
    """The largest of each window; with `partial` also of windows that reach over the far edges (Caffe's rounding up).

    `(batch, h, w, channel)` to `(batch, h', w', channel)`, h' = (h + 2 padding - window) / stride + 1, rounded down, or
    up with `partial`.
    """
    pads = [_pads(side, window, stride, padding, partial) for side in x.shape[1:3]]
    return nnx.max_pool(x, (window, window), (stride, stride), pads)  # pyright: ignore[reportArgumentType]


def average_pool(x: Maps, window: int, stride: int, padding: int = 0, partial: bool = False) -> Maps:
    """The mean of each window over the pixels that are there; windows as in `max_pool`."""
    pads = [_pads(side, window, stride, padding, partial) for side in x.shape[1:3]]
    return nnx.avg_pool(x, (window, window), (stride, stride), pads, count_include_pad=False)  # pyright: ignore[reportArgumentType]


def _pads(side: int, window: int, stride: int, padding: int, partial: bool) -> tuple[int, int]:
    """Zeros before and after; a window must begin inside the image or its leading padding."""
    windows = -(-(side + 2 * padding - window) // stride) + 1 if partial else 0
    while windows and (windows - 1) * stride >= side + padding:
        windows -= 1
    return padding, max(padding, (windows - 1) * stride + window - side - padding)


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


class Dropout(nnx.Module):
    """While training each entry is 0 with probability `rate` and divided by 1 - rate otherwise (Hinton 2012).

    So nothing is left to do in `eval()`, where the paper halves the outputs instead. The key is part of the net's
    running state: it moves on with every pass, so a resumed run drops what an undisturbed one does.
    """

    def __init__(self, rate: float, *, rngs: nnx.Rngs):
        self.rate, self.deterministic = rate, False  # the latter is what Flax's train() and eval() set
        self.key = nnx.BatchStat(jax.random.key_data(rngs.dropout()))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`x`, thinned out."""
        if self.deterministic or self.rate == 0:
            return x
        key, now = jax.random.split(jax.random.wrap_key_data(self.key.get_value()))
        self.key.set_value(jax.random.key_data(key))
        return jnp.where(jax.random.bernoulli(now, 1 - self.rate, x.shape), x / (1 - self.rate), 0)


class BatchNorm(nnx.Module):
    """Batch normalisation over batch and pixels (Ioffe and Szegedy 2015): shape kept, any number of leading axes.

    While training it uses the batch's statistics and moves the running ones, which it uses in `eval()`. Ours, not
    Flax's, for two reasons: Flax's decay of 0.99 stays stale in short runs and fakes a degradation, and its way of
    storing the running statistics makes tracing quadratic in depth (seven minutes at 1202 layers, flax 0.12.8).
    """

    def __init__(self, channels: int, *, decay: float = 0.9, epsilon: float = 1e-5, dtype=None):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.mean, self.variance = nnx.BatchStat(jnp.zeros(channels)), nnx.BatchStat(jnp.ones(channels))
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
            mean, variance = _statistics(jax.lax.stop_gradient(wide))
            self._move(self.mean, mean)
            self._move(self.variance, variance)
            inverse = jax.lax.rsqrt(variance + self.epsilon)
            mean, inverse = checkpoint_name(mean, KEPT), checkpoint_name(inverse, KEPT)
            y = _normalise(wide, mean, inverse, scale, bias)
        return y.astype(self.dtype or wide.dtype)

    def _move(self, running: nnx.BatchStat, now: jax.Array) -> None:
        old = running.get_value()
        running.set_value((self.decay * old + (1 - self.decay) * now).astype(old.dtype))


def _statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    return mean, jnp.maximum(jnp.mean(jnp.square(x), axes) - jnp.square(mean), 0)


@jax.custom_vjp
def _normalise(x, mean, inverse, scale, bias):
    """Batch norm given the statistics of x; its gradient is that of batch norm as a whole, statistics included.

    The rule (Ioffe and Szegedy 2015, section 3, the six equations of the backward pass, collected) is two sums and one
    pass, and keeps only x; found by automatic differentiation it takes four sums.
    """
    return (x - mean) * (scale * inverse) + bias


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


class Atoms:
    """What all layers of one net share: the normalisation, activation and initialisation, by name, and the dtype of the
    computation. Raises `BadInput` with the legal names.
    """

    def __init__(self, normalisation="batch", activation="relu", initialisation="he", dtype=None):
        self.normalisation_name = choose("normalisation", normalisation, NORMALISATIONS)
        self.activation = ACTIVATIONS[choose("activation", activation, ACTIVATIONS)]
        self.kernel_init = initialiser(initialisation)
        self.initialisation, self.dtype = initialisation, dtype

    def convolution(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, *, rngs, **more: Any
    ) -> Convolution:
        """A `Convolution` of this net; `more` is its padding, bias, groups."""
        more |= {"kernel_init": self.kernel_init, "dtype": self.dtype, "rngs": rngs}
        return Convolution(channels_in, channels_out, kernel, stride, **more)

    def linear(self, channels_in: int, channels_out: int, *, rngs, bias: float = 0.0) -> Linear:
        """A `Linear` of this net."""
        return Linear(channels_in, channels_out, initialisation=self.initialisation, bias=bias, rngs=rngs)

    def normalisation(self, channels: int, *, rngs, epsilon: float = 1e-5) -> Callable[[jax.Array], jax.Array]:
        """A normalisation of this net over `channels` channels."""
        return normalisation(self.normalisation_name, channels, epsilon=epsilon, dtype=self.dtype, rngs=rngs)
