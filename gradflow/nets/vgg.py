"""VGG (Simonyan and Zisserman 2014, arXiv:1409.1556, table 1): depth made of 3x3 layers, and of nothing else.

Five blocks of convolutions, twice as wide from block to block up to 512, a 2x2 max pool after each block, three fully
connected layers. Depth names the configuration: 11 is A, 13 B, 16 D, 19 E. The departures that the paper compares with:
`lrn` at depth 11 is A-LRN, variant `1x1` at depth 16 is C, and variant `5x5` is B with a single 5x5 layer in the place
of each pair of 3x3 layers (section 2.3), which leaves 8 layers with weights: depth 8.
"""

from typing import Literal

import jax
from flax import nnx

from gradflow.arrays import Images, Logits
from gradflow.errors import BadInput, at_least, share
from gradflow.measuring.hooks import Hook, no_hook
from gradflow.nets.layers.atoms import IMAGES, Activation, Atoms, Dropout, Padding, check_image_size
from gradflow.nets.layers.normalisations import Normalisation, local_response_normalisation
from gradflow.nets.layers.pooling import max_pool
from gradflow.nets.layers.streams import streams

# Table 1: the convolutions of each block, by variant and depth.
BLOCKS = {
    "paper": {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)},
    "1x1": {16: (2, 2, 3, 3, 3)},
    "5x5": {8: (1, 1, 1, 1, 1)},
}
WIDER = (1, 2, 4, 8, 8)  # channels of each block, in those of the first
HIDDEN = {"cifar": 8, "imagenet": 64}  # width of fc6 and fc7, in channels of the first block: 512 and 4096


def kernel(variant: str, layer: int) -> int:
    """The side of the kernel of the `layer`-th convolution of a block (from 1)."""
    if variant == "5x5":
        return 5
    return 1 if variant == "1x1" and layer == 3 else 3


class Net(nnx.Module):
    """Five blocks, a pool after each while the maps are larger than a pixel, fc6, fc7, classifier. Made for images of
    `image` pixels a side; raises `BadInput` when it gets others.
    """

    def __init__(self, depth, classes, channels, family, variant, width, lrn, dropout, image, atoms, rngs, side):
        self.image, self.lrn, self.activation, self.dtype = image, lrn, atoms.activation, atoms.dtype
        self.blocks, pixels = BLOCKS[variant][depth], image
        for block, (layers, wider) in enumerate(zip(self.blocks, WIDER, strict=True), start=1):
            for layer in range(1, layers + 1):
                # The bias stays where a norm follows, as in the published nets with batch norm.
                convolution = atoms.convolution(channels, wider * width, kernel(variant, layer), bias=0.0, rngs=rngs)
                setattr(self, f"conv{block}_{layer}", convolution)
                setattr(self, f"norm{block}_{layer}", atoms.normalisation(wider * width, rngs=rngs))
                channels = wider * width
            pixels = max(pixels // 2, 1)
        hidden = HIDDEN[family] * width
        self.fc6 = atoms.linear(pixels**2 * channels, hidden, rngs=rngs)
        self.fc7 = atoms.linear(hidden, hidden, rngs=rngs)
        self.head = atoms.linear(hidden, classes, rngs=rngs)
        self.dropout = Dropout(dropout, rngs=side)

    def __call__(self, images: Images, hook: Hook = no_hook) -> Logits:
        """Logits; `hook(name, x)` is called with the response of every layer."""
        check_image_size(self.image, images)
        x = images
        for block, layers in enumerate(self.blocks, start=1):
            for layer in range(1, layers + 1):
                name = f"{block}_{layer}"
                x = getattr(self, f"norm{name}")(getattr(self, f"conv{name}")(x))
                x = self.activation(hook(f"conv{name}", x))
                if self.lrn and name == "1_1":
                    x = local_response_normalisation(x)
            if x.shape[1] > 1:
                x = max_pool(x, 2, 2)
        x = x.reshape(len(x), -1)
        x = self.dropout(self.activation(hook("fc6", self.fc6(x))))
        x = self.dropout(self.activation(hook("fc7", self.fc7(x))))
        return hook("head", self.head(x))


def vgg(
    *,
    depth: int = 16,
    classes: int,
    channels: int,
    seed: int | jax.Array | None = 0,
    family: Literal["cifar", "imagenet"] = "cifar",
    variant: Literal["paper", "1x1", "5x5"] = "paper",
    width: int = 64,
    normalisation: Normalisation = "none",
    activation: Activation = "relu",
    initialisation: str = "glorot",
    padding: Padding = "zero",
    lrn: bool = False,
    dropout: float = 0.5,
    image: int | None = None,
    dtype=None,
) -> Net:
    """VGG for images of one size. Raises `BadInput` for what is not legal.

    Args:
        depth: Weighted layers: 11, 13, 16 or 19; 16 in variant 1x1, 8 in variant 5x5.
        classes: Of the classifier.
        channels: Of the images.
        seed: Of the weights.
        family: imagenet is the paper's net, with fc6 and fc7 of 4096; cifar has the same convolutions, leaves out pools
            when there is but one pixel left, and has fc6 and fc7 of 512.
        variant: Table 1; configuration C, whose third layers are 1x1; or B with one 5x5 layer for two 3x3 layers.
        width: Channels of the first block; all others are in proportion.
        normalisation: Between convolution and activation; the paper has none.
        activation: Of all layers but the last.
        initialisation: Of the weights: he, glorot, lecun, orthogonal or delta_orthogonal, each with an optional gain as
            in he(0.5); or normal(0.01) with its standard deviation. The paper says that glorot makes its own, by parts
            of a trained net, unnecessary (section 3.1).
        padding: What lies beyond the edge of a map: zeros, or with circular the opposite edge, so that no window sees a
            border.
        lrn: Local response normalisation after the first layer: configuration A-LRN, at depth 11 alone.
        dropout: The share of fc6 and fc7 that is dropped.
        image: The side of the images in pixels; by default 32, in family imagenet 224 and at least 32.
        dtype: Of the computation; None is that of the parameters, float32.
    """
    legal = BLOCKS[variant]
    if depth not in legal:
        raise BadInput(f"variant {variant!r} of vgg has no depth {depth}: choose one of {', '.join(map(str, legal))}")
    if lrn and depth != 11:
        raise BadInput(f"vgg has no LRN at depth {depth}: only configuration A has, depth 11")
    at_least("width", width, 1)
    share("dropout", dropout)
    image, least = IMAGES[family] if image is None else image, 32 if family == "imagenet" else 1
    if image < least:
        raise BadInput(f"images of {image}x{image} pixels are too small for vgg: it needs at least {least} a side")
    atoms = Atoms(normalisation, activation, initialisation, dtype, padding)
    rngs, side = streams(seed)
    rules = {"family": family, "variant": variant, "lrn": lrn, "dropout": dropout, "width": width, "image": image}
    return Net(depth, classes, channels, atoms=atoms, rngs=rngs, side=side, **rules)
