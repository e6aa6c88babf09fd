"""The few atoms that the nets share: convolution, fully connected layer, dropout and activation."""

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec, get_abstract_mesh

from gradflow.arrays import Images
from gradflow.errors import BadInput, choose
from gradflow.nets.layers.convolution import convolve
from gradflow.nets.layers.initialisers import initialiser
from gradflow.nets.layers.normalisations import NORMALISATIONS, SAVED, normalisation

TOWER = "tower"  # the axis of a mesh along which the groups of convolutions lie apart

Padding = Literal["zero", "circular"]
PADDINGS = get_args(Padding)

IMAGES = {"cifar": 32, "imagenet": 224}  # the usual side of an image in pixels, by family of nets

Activation = Literal[
    "relu", "tanh", "sigmoid", "gelu", "silu", "elu", "selu", "softplus", "softsign", "leaky_relu", "linear"
]
ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
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


class Convolution(nnx.Module):
    """A square convolution: `(batch, h, w, in)` to `(batch, h', w', out)`, h' = (h + 2 padding - kernel) // stride + 1.

    Without `padding` an odd kernel is padded by half its width on every side, so that output (i, j) is centred on input
    (stride i, stride j) and lines up with a shortcut that subsamples. `bias`: what the biases start at, None for none.
    What lies beyond an edge is zero, or with `mode="circular"` the opposite edge: then every window is full. With
    `groups` each group of outputs sees its own share of the inputs alone (the towers of Krizhevsky 2012).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        stride: int = 1,
        *,
        padding: int | None = None,
        mode: Padding = "zero",
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
        self.circular = mode == "circular" and self.padding > 0

    def __call__(self, x: jax.Array) -> jax.Array:
        """The maps, convolved."""
        dtype = self.dtype or jnp.promote_types(x.dtype, self.kernel.get_value().dtype)
        x, kernel = x.astype(dtype), self.kernel.get_value().astype(dtype)
        convolution = functools.partial(convolve, stride=self.stride, padding=self.padding, circular=self.circular)
        y = checkpoint_name(_towers(convolution, self.groups)(x, kernel), SAVED)
        return y + self.bias.get_value().astype(dtype) if self.biased else y


def _towers(convolution: Callable, groups: int) -> Callable:
    """`convolution` of maps and kernel, in `groups` that do not meet.

    Where the mesh in use has an axis `tower` as long as that, each of its devices convolves the group that lies on it,
    and nothing is sent. (Left to XLA, each device gets half of every group: as much to do, and all inputs sent.)
    """
    if groups == 1:
        return convolution
    if get_abstract_mesh().shape.get(TOWER) == groups:
        apart = PartitionSpec(None, None, None, TOWER)
        return jax.shard_map(convolution, in_specs=(apart, apart), out_specs=apart, axis_names={TOWER})

    def in_turn(x, kernel):
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        return jnp.concatenate([convolution(*part) for part in parts], -1)

    return in_turn


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


def check_image_size(side: int | None, images: Images, least: int = 1) -> None:
    """Raises `BadInput` unless images have `side` pixels a side, which a fully connected layer was made for (None: any
    number), and `least` or more.
    """
    sides = images.shape[1:3]
    if min(sides) < least or (side and sides != (side, side)):
        legal = f"it is made for {side}x{side} pixels" if side else f"it needs at least {least} pixels a side"
        raise BadInput(f"images of {sides[0]}x{sides[1]} pixels do not fit this net: {legal}")


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


class Atoms:
    """What all layers of one net share: the normalisation, activation, initialisation and padding, by name, and the
    dtype of the computation. Raises `BadInput` with the legal names.
    """

    def __init__(self, normalisation="batch", activation="relu", initialisation="he", dtype=None, padding="zero"):
        self.normalisation_name = choose("normalisation", normalisation, NORMALISATIONS)
        self.activation = ACTIVATIONS[choose("activation", activation, ACTIVATIONS)]  # pyright: ignore[reportArgumentType]
        self.kernel_init = initialiser(initialisation)
        self.initialisation, self.dtype = initialisation, dtype
        self.padding = choose("padding", padding, PADDINGS)

    def convolution(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, *, rngs, **more: Any
    ) -> Convolution:
        """A `Convolution` of this net; `more` is its padding, bias, groups."""
        more |= {"mode": self.padding, "kernel_init": self.kernel_init, "dtype": self.dtype, "rngs": rngs}
        return Convolution(channels_in, channels_out, kernel, stride, **more)

    def linear(self, channels_in: int, channels_out: int, *, rngs, bias: float = 0.0) -> Linear:
        """A `Linear` of this net."""
        return Linear(channels_in, channels_out, initialisation=self.initialisation, bias=bias, rngs=rngs)

    def normalisation(self, channels: int, *, rngs, epsilon: float = 1e-5) -> Callable[[jax.Array], jax.Array]:
        """A normalisation of this net over `channels` channels."""
        return normalisation(self.normalisation_name, channels, epsilon=epsilon, dtype=self.dtype, rngs=rngs)
