"""VGG (Simonyan and Zisserman 2014, arXiv:1409.1556, table 1): depth made of 3x3 layers, and of nothing else.

Five blocks of convolutions, twice as wide from block to block up to 512, a 2x2 max pool after each block, three fully
connected layers. Depth names the configuration: 11 is A, 13 B, 16 D, 19 E. The departures that the paper compares with:
`lrn` at depth 11 is A-LRN, variant `1x1` at depth 16 is C, and variant `5x5` is B with a single 5x5 layer in the place
of each pair of 3x3 layers (section 2.3), which leaves 8 layers with weights: depth 8.
"""

from typing import Any

import jax
from flax import nnx

from gradflow.arrays import Images, Logits
from gradflow.errors import BadInput, at_least, choose, share
from gradflow.hooks import Hook, silent
from gradflow.nets.layers.atoms import Atoms, Dropout, made_for
from gradflow.nets.layers.normalisations import local_response_normalisation
from gradflow.nets.layers.pooling import max_pool

FAMILIES = ("cifar", "imagenet")
# Table 1: the convolutions of each block, by variant and depth.
BLOCKS = {
    "paper": {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)},
    "1x1": {16: (2, 2, 3, 3, 3)},
    "5x5": {8: (1, 1, 1, 1, 1)},
}
WIDER = (1, 2, 4, 8, 8)  # channels of each block, in those of the first
WIDTH = 64
HIDDEN = {"cifar": 8, "imagenet": 64}  # width of fc6 and fc7, in channels of the first block: 512 and 4096


def kernel(variant: str, layer: int) -> int:
    """The side of the kernel of the `layer`-th convolution of a block (from 1)."""
    if variant == "5x5":
        return 5
    return 1 if variant == "1x1" and layer == 3 else 3


def own_depth(variant: str) -> int:
    """The depth of a variant if nobody asks for another: 16 where there is a choice."""
    return 16 if 16 in BLOCKS[variant] else next(iter(BLOCKS[variant]))


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

    def __call__(self, images: Images, hook: Hook = silent) -> Logits:
        """Logits; `hook(name, x)` is called with the response of every layer."""
        made_for(self.image, images)
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


def check(
    *,
    depth: int | None = None,
    family: str = "cifar",
    variant: str = "paper",
    width: int | None = None,
    lrn: bool | None = None,
    dropout: float | None = None,
    image: int | None = None,
    **atoms,
) -> None:
    """Raises `BadInput` with the legal values for anything that `vgg` would not build; builds nothing."""
    choose("family", family, FAMILIES)
    legal = BLOCKS[choose("variant", variant, BLOCKS)]
    if depth not in (None, *legal):
        raise BadInput(f"variant {variant!r} of vgg has no depth {depth}: choose one of {', '.join(map(str, legal))}")
    if lrn and depth != 11:
        raise BadInput(f"vgg has no LRN at depth {depth or own_depth(variant)}: only configuration A has, depth 11")
    at_least("width", width, 1)
    share("dropout", dropout)
    least = 32 if family == "imagenet" else 1
    if image is not None and image < least:
        raise BadInput(f"images of {image}x{image} pixels are too small for vgg: it needs at least {least} a side")
    Atoms(**atoms)


def vgg(
    *,
    depth: int | None = None,
    classes: int,
    channels: int,
    seed: int | jax.Array = 0,
    family: str = "cifar",
    variant: str = "paper",
    width: int | None = None,
    normalisation: str = "none",
    activation: str = "relu",
    initialisation: str = "glorot",
    lrn: bool | None = None,
    dropout: float | None = None,
    image: int = 32,
    dtype=None,
) -> Net:
    """VGG of `depth` weighted layers (None: 16, or 8 in variant `5x5`) for images of `image` pixels a side; the first
    block has `width` channels (64) and all others change in proportion.

    Family `imagenet` is the paper's net: images of 224, fc6 and fc7 of 4096. Family `cifar` has the same convolutions,
    leaves out pools when there is but one pixel left, and has fc6 and fc7 of 512. `dropout` is that after fc6 and fc7
    (None: the paper's 0.5). A `normalisation` stands between convolution and activation; the paper has none, and says
    that the `glorot` initialisation makes its own, by parts of a trained net, unnecessary (section 3.1).
    `dtype` is that of the computation (None: that of the parameters, float32). Raises `BadInput` for what is not legal.
    """
    rules: Any = {"family": family, "variant": variant, "lrn": lrn, "dropout": dropout, "image": image}
    check(depth=depth, width=width, **rules)
    depth = own_depth(variant) if depth is None else depth
    atoms = Atoms(normalisation, activation, initialisation, dtype)
    key = jax.random.key(seed)
    # Dropout draws from a stream of its own, so that the weights do not depend on it.
    rngs, side = nnx.Rngs(key), nnx.Rngs(jax.random.fold_in(key, 1))
    rules |= {"dropout": 0.5 if dropout is None else dropout, "width": WIDTH if width is None else width}
    return Net(depth, classes, channels, atoms=atoms, rngs=rngs, side=side, **rules)
