"""The few atoms that the nets share: convolution, normalisation, activation and initialisation, each by its name."""

import functools
import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import initializers
from jax import core
from jax.ad_checkpoint import checkpoint_name

from gradflow.convolution import convolve
from gradflow.errors import BadInput, choose

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


def delta_orthogonal(gain: float = 1.0, dtype=jnp.float32):
    """An orthogonal matrix at the centre tap of a kernel with odd sides, zero elsewhere (Xiao 2018, section 2.4).

    Where the layer narrows, the matrix is semi-orthogonal: it keeps the norm of the gradient, not of the activation.
    """

    def initialise(key, shape, dtype=dtype, out_sharding=None):
        del out_sharding
        *window, channels_in, channels_out = shape
        matrix = initializers.orthogonal(gain)(key, (channels_in, channels_out), dtype)
        centre = tuple(side // 2 for side in window)
        return jnp.zeros(shape, dtype).at[centre].set(matrix)

    return initialise


# Each takes the number in `name(number)`: the gain, or for `normal` the standard deviation.
INITIALISATIONS: dict[str, Callable[[float], Callable]] = {
    # Delving Deep into Rectifiers (He 2015, arXiv:1502.01852), equation 10: variance 2 / fan-in.
    "he": lambda gain: initializers.variance_scaling(2 * gain**2, "fan_in", "normal"),
    # Glorot and Bengio 2010: uniform of variance 2 / (fan-in + fan-out).
    "glorot": lambda gain: initializers.variance_scaling(gain**2, "fan_avg", "uniform"),
    "lecun": lambda gain: initializers.variance_scaling(gain**2, "fan_in", "normal"),
    "orthogonal": lambda gain: initializers.orthogonal(gain),
    "delta_orthogonal": delta_orthogonal,
    "normal": lambda deviation: initializers.normal(deviation),
}


@functools.cache  # one function a name, so that nets of one architecture share what is compiled
def initialiser(name: str) -> Callable:
    """The initialiser called `name`: `he`, `glorot`, `lecun`, `orthogonal`, `delta_orthogonal`, each with an optional
    gain as in `orthogonal(1.414)`, or `normal(0.01)` with its standard deviation.

    Raises `BadInput` for an unknown name or a number that is not a positive, finite one.
    """
    match = re.fullmatch(r"([a-z_]+)(?:\((.*)\))?", name)
    kind, number = match.groups() if match else (name, None)
    choose("initialisation", kind, INITIALISATIONS)
    if number is None:
        if kind == "normal":
            raise BadInput("initialisation 'normal' needs its standard deviation: write normal(0.01)")
        return _soon_compiled(INITIALISATIONS[kind](1.0))
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise BadInput(f"initialisation {name!r}: the number in brackets must be positive and finite: {kind}(0.5)")
    return _soon_compiled(INITIALISATIONS[kind](value))


def _soon_compiled(initialise: Callable) -> Callable:
    """An initialiser that compiles in a third of the time on a CPU: each shape is drawn once or a few times, so the
    code need not be fast.
    """
    quick = jax.jit(initialise, static_argnums=(1, 2), compiler_options={"xla_backend_optimization_level": 0})

    @functools.wraps(initialise)
    def draw(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        # Only the outermost function may have compile options, and these are for the CPU's compiler.
        if isinstance(key, core.Tracer) or jax.default_backend() != "cpu":
            return initialise(key, shape, dtype)
        return quick(key, tuple(shape), dtype)

    return draw


class Convolution(nnx.Module):
    """A square convolution without bias: `(batch, h, w, in)` to `(batch, ceil(h / stride), ceil(w / stride), out)`.

    An odd kernel is padded by half its width on every side, so that output (i, j) is centred on input
    (stride i, stride j) and lines up with a shortcut that subsamples.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, *, kernel_init, dtype, rngs):
        shape = (kernel, kernel, channels_in, channels_out)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.stride, self.padding, self.dtype = stride, kernel // 2, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """The maps, convolved."""
        dtype = self.dtype or jnp.promote_types(x.dtype, self.kernel.get_value().dtype)
        kernel = self.kernel.get_value().astype(dtype)
        return checkpoint_name(convolve(x.astype(dtype), kernel, self.stride, self.padding), KEPT)


class Linear(nnx.Linear):
    """The classifier: `(batch, in)` to `(batch, out)`, with a bias that starts at zero, float32 or wider."""

    def __init__(self, channels_in: int, channels_out: int, *, initialisation: str, rngs: nnx.Rngs):
        super().__init__(channels_in, channels_out, kernel_init=initialiser(initialisation), rngs=rngs)


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


def normalisation(name: str, channels: int, *, dtype=None, rngs: nnx.Rngs) -> Callable[[jax.Array], jax.Array]:
    """The normalisation called `name` over `channels` channels, with scale and shift.

    `batch`: over batch and pixels. `group`: at most 32 groups of at least 4 channels (Wu and He 2018). `layer`: one
    group, over channels and pixels.
    """
    if name == "none":
        return Identity()
    if name == "batch":
        return BatchNorm(channels, dtype=dtype)
    groups = 1 if name == "layer" else math.gcd(channels, min(32, max(1, channels // 4)))
    return nnx.GroupNorm(channels, num_groups=groups, epsilon=1e-5, dtype=dtype, rngs=rngs)


class Atoms:
    """What all layers of one net share: the normalisation, activation and initialisation, by name, and the dtype of the
    computation. Raises `BadInput` with the legal names.
    """

    def __init__(self, normalisation="batch", activation="relu", initialisation="he", dtype=None):
        self.normalisation_name = choose("normalisation", normalisation, NORMALISATIONS)
        self.activation = ACTIVATIONS[choose("activation", activation, ACTIVATIONS)]
        self.kernel_init = initialiser(initialisation)
        self.initialisation, self.dtype = initialisation, dtype

    def convolution(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, *, rngs) -> Convolution:
        """A `Convolution` of this net."""
        return Convolution(
            channels_in, channels_out, kernel, stride, kernel_init=self.kernel_init, dtype=self.dtype, rngs=rngs
        )

    def normalisation(self, channels: int, *, rngs) -> Callable[[jax.Array], jax.Array]:
        """A normalisation of this net over `channels` channels."""
        return normalisation(self.normalisation_name, channels, dtype=self.dtype, rngs=rngs)
