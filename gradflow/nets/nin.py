"""Network in Network (Lin, Chen and Yan 2013, arXiv:1312.4400): a convolution whose filter is itself a small network.

Three mlpconv layers, each a convolution and a two-layer perceptron that slides along with it (two 1x1 convolutions),
with pools and dropout between; the last has one map a class, and the mean of a map is the class's logit (section 3.2).
The paper gives the structure; the widths and the initialisation are those of the authors' published CIFAR-10 net.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from gradflow.arrays import Images, Logits, Maps
from gradflow.errors import BadInput, at_least, share
from gradflow.measuring.hooks import Hook, no_hook
from gradflow.nets.layers.atoms import Activation, Atoms, Dropout, Padding, check_image_size
from gradflow.nets.layers.normalisations import Normalisation
from gradflow.nets.layers.pooling import average_pool, max_pool
from gradflow.nets.layers.streams import streams

# The kernel of each mlpconv layer and the channels of its three parts; the last has one a class.
MLPCONVS = ((5, (192, 160, 96)), (5, (192, 192, 192)), (3, (192, 192)))
DEPTH = 9
WIDTH = 192
LEAST = 4  # pixels a side that leave one after two pools


class Mlpconv(nnx.Module):
    """A convolution `conv` and the perceptron `mlp1`, `mlp2` on the channels of every pixel, each with its activation:
    `(batch, height, width, in)` to `(batch, height, width, out)`.
    """

    def __init__(self, channels_in: int, kernel: int, channels: tuple[int, ...], atoms: Atoms, rngs):
        self.activation = atoms.activation
        bias = 0.0 if atoms.normalisation_name == "none" else None  # a norm's shift stands in for it
        for name, side, width in zip(("conv", "mlp1", "mlp2"), (kernel, 1, 1), channels, strict=True):
            setattr(self, name, atoms.convolution(channels_in, width, side, bias=bias, rngs=rngs))
            setattr(self, f"{name}_norm", atoms.normalisation(width, rngs=rngs))
            channels_in = width

    def __call__(self, x: Maps, hook: Hook, name: str) -> Maps:
        """The maps after the last activation; its points have names that begin with `name`."""
        for layer in ("conv", "mlp1", "mlp2"):
            x = getattr(self, f"{layer}_norm")(getattr(self, layer)(x))
            x = self.activation(hook(f"{name}/{layer}", x))
        return x


class Net(nnx.Module):
    """Three mlpconv layers, the maps half as large from one to the next; the mean of each map, or a fully connected
    layer. Raises `BadInput` for images that are too small, or not those that the fully connected layer is made for.
    """

    def __init__(self, classes, channels, width, head, dropout, image, atoms, rngs, side):
        self.image, self.dtype = image if head == "fc" else None, atoms.dtype
        mlpconvs = []
        for kernel, widths in MLPCONVS:
            widths = tuple(max(1, round(given * width / WIDTH)) for given in widths)
            widths += (classes,) * (3 - len(widths))
            mlpconvs.append(Mlpconv(channels, kernel, widths, atoms, rngs))
            channels = widths[-1]
        self.mlpconv1, self.mlpconv2, self.mlpconv3 = mlpconvs
        self.dropout = Dropout(dropout, rngs=side)
        if head == "fc":
            self.head = atoms.linear((image // 2 // 2) ** 2 * classes, classes, rngs=rngs)

    def __call__(self, images: Images, hook: Hook = no_hook) -> Logits:
        """Logits; `hook(name, x)` is called with the response of every layer, and as `head` with the logits."""
        check_image_size(self.image, images, LEAST)
        x = self.mlpconv1(images, hook, "mlpconv1")
        x = self.dropout(max_pool(x, 3, 2, partial=True))
        x = self.mlpconv2(x, hook, "mlpconv2")
        x = self.dropout(average_pool(x, 3, 2, partial=True))
        x = self.mlpconv3(x, hook, "mlpconv3")
        x = jnp.mean(x, axis=(1, 2)) if self.image is None else self.head(x.reshape(len(x), -1))
        return hook("head", x)


def nin(
    *,
    depth: int = DEPTH,
    classes: int,
    channels: int,
    seed: int | jax.Array | None = 0,
    width: int = WIDTH,
    normalisation: Normalisation = "none",
    activation: Activation = "relu",
    initialisation: str = "normal(0.05)",
    padding: Padding = "zero",
    head: Literal["pool", "fc"] = "pool",
    dropout: float = 0.5,
    image: int = 32,
    dtype=None,
) -> Net:
    """The CIFAR net of nine weighted layers. Raises `BadInput` for what is not legal.

    Args:
        depth: Weighted layers: 9; the one of head fc is not counted.
        classes: Of the classifier.
        channels: Of the images.
        seed: Of the weights.
        width: Channels of the first convolution; all others but the last change in proportion.
        normalisation: Between convolution and activation, in the place of the bias.
        activation: Of all layers.
        initialisation: Of the weights: he, glorot, lecun, orthogonal or delta_orthogonal, each with an optional gain as
            in he(0.5); or normal(0.01) with its standard deviation.
        padding: What lies beyond the edge of a map: zeros, or with circular the opposite edge, so that no window sees a
            border.
        head: Global average pooling, or a fully connected layer from all pixels of the class maps (section 4.6).
        dropout: The share of the maps between mlpconv layers that is dropped.
        image: The side of the images in pixels, at least 4.
        dtype: Of the computation; None is that of the parameters, float32.
    """
    if depth != DEPTH:
        raise BadInput(f"nin has no depth {depth}: it has {DEPTH}")
    at_least("width", width, 1)
    share("dropout", dropout)
    if image < LEAST:
        raise BadInput(f"images of {image}x{image} pixels are too small for nin: it needs at least {LEAST} a side")
    atoms = Atoms(normalisation, activation, initialisation, dtype, padding)
    rngs, side = streams(seed)
    return Net(classes, channels, width, head, dropout, image, atoms, rngs, side)
