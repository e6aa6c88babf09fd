"""AlexNet (Krizhevsky, Sutskever, Hinton 2012, NIPS): five convolutions, three fully connected layers, two towers.

Section 3.5 and figure 2, for 227 pixels (the paper prints 224, which 11x11 windows 4 apart do not fit):

| layer | kernel / stride / padding | maps | towers | output | then |
|---|---|---|---|---|---|
| conv1 | 11x11 / 4 / 0 | 96 | | 55x55 | LRN, max pool 3x3 / 2: 27x27 |
| conv2 | 5x5 / 1 / 2 | 256 | 2 | 27x27 | LRN, max pool 3x3 / 2: 13x13 |
| conv3 | 3x3 / 1 / 1 | 384 | meet | 13x13 | |
| conv4 | 3x3 / 1 / 1 | 384 | 2 | 13x13 | |
| conv5 | 3x3 / 1 / 1 | 256 | 2 | 13x13 | max pool 3x3 / 2: 6x6 |
| fc6, fc7 | fully connected | | meet | 4096 | dropout 0.5 each |
| head | fully connected | | | 1000 | |

An activation follows each layer but the last and comes before normalisation and pool (section 3.3). Biases start at 1
in conv2, conv4, conv5, fc6 and fc7, at 0 elsewhere; weights at N(0, 0.01^2) (section 5).

Variants: `ungrouped` is the same net without towers; `one_tower` the later, narrower one that torchvision has.
Family `cifar` is a form of ours for 32 pixels: conv1 is 5x5 / 1 / 2, all layers a quarter as wide, and windows of
pools reach over the edge, so that maps are 16, 8, 4 pixels wide; all else as above.
"""

from typing import Literal, NamedTuple

import jax
from flax import nnx

from gradflow.arrays import Images, Logits
from gradflow.errors import BadInput, share
from gradflow.measuring.hooks import Hook, no_hook
from gradflow.nets.layers.atoms import Activation, Atoms, Dropout, Padding, check_image_size
from gradflow.nets.layers.normalisations import Normalisation, local_response_normalisation
from gradflow.nets.layers.pooling import max_pool
from gradflow.nets.layers.streams import streams


class Row(NamedTuple):
    """One convolution of the table."""

    kernel: int
    stride: int
    padding: int
    maps: int
    towers: int = 1
    bias: float = 0.0  # what the biases start at
    responds: bool = False  # local response normalisation follows
    pools: bool = False


PAPER = {
    "conv1": Row(11, 4, 0, 96, responds=True, pools=True),
    "conv2": Row(5, 1, 2, 256, towers=2, bias=1.0, responds=True, pools=True),
    "conv3": Row(3, 1, 1, 384),
    "conv4": Row(3, 1, 1, 384, towers=2, bias=1.0),
    "conv5": Row(3, 1, 1, 256, towers=2, bias=1.0, pools=True),
}
HIDDEN, UNITS = ("fc6", "fc7"), 4096
ONE_TOWER = {"conv1": 64, "conv2": 192, "conv3": 384, "conv4": 256, "conv5": 256}  # maps
# By what the width must be divisible, so that all layers scale in proportion and towers are equal.
VARIANTS = {"paper": 6, "ungrouped": 3, "one_tower": 1}
WIDTHS = {"paper": 96, "ungrouped": 96, "one_tower": 64}
FAMILIES = {"imagenet": 1, "cifar": 4}  # how many times narrower
POOLINGS = {"overlapping": 3, "plain": 2}  # the side of the windows, which lie 2 apart
DEPTH = 8


def table(family: str, variant: str, width: int | None, lrn: bool | None = None) -> dict[str, Row]:
    """The convolutions of a form of the net; `width` is the number of maps of the first.

    Raises `BadInput` for a width that is not legal.
    """
    narrower, step = FAMILIES[family], VARIANTS[variant]
    full = WIDTHS[variant]
    width = full // narrower if width is None else width
    if width < 1 or width % step:
        raise BadInput(f"width {width} is not legal: variant {variant!r} needs a positive multiple of {step}")
    rows = dict(PAPER)
    if variant == "one_tower":
        rows = {name: row._replace(maps=ONE_TOWER[name]) for name, row in rows.items()}
        rows["conv1"] = rows["conv1"]._replace(padding=2)
    if variant != "paper":
        rows = {name: row._replace(towers=1) for name, row in rows.items()}
    if not (variant != "one_tower" if lrn is None else lrn):
        rows = {name: row._replace(responds=False) for name, row in rows.items()}
    if family == "cifar":
        rows["conv1"] = rows["conv1"]._replace(kernel=5, stride=1, padding=2)
    return {name: row._replace(maps=row.maps * width // full) for name, row in rows.items()}


def pool(family: str, pooling: str) -> tuple[int, bool]:
    """The side of the windows, and whether they reach over the edge: maps come out equally wide in both poolings."""
    window = POOLINGS[pooling]
    return window, family == "cifar" and window == 3


def last_side(rows: dict[str, Row], image: int, window: int, partial: bool) -> int:
    """The side of the maps that fc6 is given; below 1 when the image is too small."""
    side = image
    for row in rows.values():
        side = (side + 2 * row.padding - row.kernel) // row.stride + 1
        if row.pools:
            side = (side + partial - window) // 2 + 1
        if side < 1:
            break
    return side


class Net(nnx.Module):
    """The table, layer by layer. Raises `BadInput` for images of another size than the net was made for."""

    def __init__(self, classes, channels, family, variant, image, width, lrn, pooling, dropout, atoms, rngs, side):
        rows = table(family, variant, width, lrn)
        self.image, self.activation = image, atoms.activation
        self.window, self.partial = pool(family, pooling)
        # The paper thins out what fc6 and fc7 give; torchvision's net, the one of one tower, what they are given.
        self.drops_before = variant == "one_tower"
        self.rows = tuple((name, row.responds, row.pools) for name, row in rows.items())
        for name, row in rows.items():
            more = {"padding": row.padding, "bias": row.bias, "groups": row.towers}
            setattr(self, name, atoms.convolution(channels, row.maps, row.kernel, row.stride, rngs=rngs, **more))
            setattr(self, f"{name}_norm", atoms.normalisation(row.maps, rngs=rngs))
            channels = row.maps
        channels *= last_side(rows, image, self.window, self.partial) ** 2
        for name in HIDDEN:
            units = UNITS * rows["conv1"].maps // WIDTHS[variant]
            setattr(self, name, atoms.linear(channels, units, bias=1.0, rngs=rngs))
            setattr(self, f"{name}_norm", atoms.normalisation(units, rngs=rngs))
            channels = units
        self.dropout = Dropout(dropout, rngs=side)
        self.head = atoms.linear(channels, classes, rngs=rngs)

    def __call__(self, images: Images, hook: Hook = no_hook) -> Logits:
        """Logits; `hook(name, x)` is called at every point of the spine."""
        check_image_size(self.image, images)
        x = images
        for name, responds, pools in self.rows:
            x = self.layer(name, x, hook)
            if responds:
                x = local_response_normalisation(x)
            if pools:
                x = max_pool(x, self.window, 2, partial=self.partial)
        x = x.reshape(len(x), -1)
        for name in HIDDEN:
            x = (
                self.layer(name, self.dropout(x), hook)
                if self.drops_before
                else self.dropout(self.layer(name, x, hook))
            )
        return hook("head", self.head(x))

    def layer(self, name: str, x: jax.Array, hook: Hook) -> jax.Array:
        """One layer with its norm and activation; its hook sees the response between the two."""
        return self.activation(hook(name, getattr(self, f"{name}_norm")(getattr(self, name)(x))))


def alexnet(
    *,
    classes: int,
    channels: int,
    depth: int = DEPTH,
    seed: int | jax.Array | None = 0,
    family: Literal["cifar", "imagenet"] = "cifar",
    variant: Literal["paper", "ungrouped", "one_tower"] = "paper",
    image: int | None = None,
    width: int | None = None,
    lrn: bool | None = None,
    pooling: Literal["overlapping", "plain"] = "overlapping",
    dropout: float = 0.5,
    normalisation: Normalisation = "none",
    activation: Activation = "relu",
    initialisation: str = "normal(0.01)",
    padding: Padding = "zero",
    dtype=None,
) -> Net:
    """AlexNet for images of one size. Raises `BadInput` for what is not legal.

    Args:
        classes: Of the classifier.
        channels: Of the images.
        depth: Weighted layers: 8.
        seed: Of the weights.
        family: imagenet is the paper's net, cifar a form of ours for images of 32 pixels.
        variant: paper has two towers; ungrouped is the same without; one_tower is the later, narrower net, which
            torchvision has for images of 224 pixels.
        image: The side of the images in pixels; by default 32, in family imagenet 227.
        width: Maps of conv1, others are in proportion; by default 96 (one_tower: 64), in family cifar a quarter of it.
        lrn: Local response normalisation after conv1 and conv2; by default on, in one_tower off.
        pooling: Windows of 3x3 that overlap, or of 2x2 that do not; both lie 2 apart.
        dropout: The share of fc6 and fc7 that is dropped.
        normalisation: Between convolution and activation.
        activation: Of all layers but the last.
        initialisation: Of the weights: he, glorot, lecun, orthogonal or delta_orthogonal, each with an optional gain as
            in he(0.5); or normal(0.01) with its standard deviation.
        padding: What lies beyond the edge of a map: zeros, or with circular the opposite edge, so that no window sees a
            border.
        dtype: Of the convolutions; None is that of the parameters, float32.
    """
    if depth != DEPTH:
        raise BadInput(f"net 'alexnet' has no depth {depth}: it has {DEPTH} weighted layers")
    rows, windows = table(family, variant, width, lrn), pool(family, pooling)
    if image is None:
        image = 227 if family == "imagenet" else 32
    if last_side(rows, image, *windows) < 1:
        least = next(side for side in range(1, 256) if last_side(rows, side, *windows) > 0)
        raise BadInput(f"image {image} is not legal: family {family!r} needs at least {least} pixels a side")
    share("dropout", dropout)
    atoms = Atoms(normalisation, activation, initialisation, dtype, padding)
    rngs, side = streams(seed)
    form = {"family": family, "variant": variant, "image": image, "width": width, "lrn": lrn, "pooling": pooling}
    return Net(classes, channels, **form, dropout=dropout, atoms=atoms, rngs=rngs, side=side)
