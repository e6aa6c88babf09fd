"""GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842): nine Inception modules, and classifiers on the way to the last one.

A module looks at the same maps through filters of several sizes at once and stacks what they see; 1x1 convolutions
before the larger filters keep that affordable (figure 2). Two auxiliary classifiers, on the maps of modules 4a and 4d,
send gradient into the middle of the net while it trains (section 5).
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from gradflow.arrays import Heads, Images, Logits, Maps
from gradflow.errors import BadInput, at_least, share
from gradflow.measuring.hooks import Hook, no_hook
from gradflow.nets.layers.atoms import IMAGES, Activation, Atoms, Dropout, Padding, check_image_size
from gradflow.nets.layers.normalisations import Normalisation, local_response_normalisation
from gradflow.nets.layers.pooling import average_pool, max_pool
from gradflow.nets.layers.streams import streams

# Table 1: channels of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
AUXILIARY = {"4a": "auxiliary1", "4d": "auxiliary2"}
AUXILIARY_WEIGHT, AUXILIARY_CONVOLUTION, AUXILIARY_HIDDEN, AUXILIARY_SIDE = 0.3, 128, 1024, 4
DROPOUT, AUXILIARY_DROPOUT = 0.4, 0.7
WIDTH = 64
TOTAL_STRIDE = {"cifar": 4, "imagenet": 32}


def depth_of(variant: str) -> int:
    """Weighted layers from the input to the logits: a module is two deep, a naive one has no reductions and is one."""
    return 4 + len(MODULES) * (1 if variant == "naive" else 2)


def add(net, name: str, channels_in: int, channels: int, kernel: int, stride: int = 1, *, atoms, epsilon, rngs) -> int:
    """Gives `net` the convolution `name` and its normalisation; returns the channels of its output."""
    bias = 0.0 if atoms.normalisation_name == "none" else None  # a norm's shift stands in for it
    setattr(net, name, atoms.convolution(channels_in, channels, kernel, stride, bias=bias, rngs=rngs))
    setattr(net, f"{name}_norm", atoms.normalisation(channels, epsilon=epsilon, rngs=rngs))
    return channels


def layer(net, name: str, x: Maps, hook: Hook, prefix: str = "") -> Maps:
    """What the convolution `name` of `net` makes of x, normalised and activated; the hook sees it before activation."""
    return net.activation(hook(prefix + name, getattr(net, f"{name}_norm")(getattr(net, name)(x))))


def average_parts(x: Maps, parts: int) -> Maps:
    """The mean of each of `parts` x `parts` parts, as equal as can be; they share pixels where the side is no multiple.

    `(batch, height, width, channel)` to `(batch, parts, parts, channel)`.
    """
    for axis in (1, 2):
        side = x.shape[axis]
        cuts = [(part * side // parts, -(-(part + 1) * side // parts)) for part in range(parts)]
        means = [jnp.mean(jax.lax.slice_in_dim(x, *cut, axis=axis), axis) for cut in cuts]
        x = jnp.stack(means, axis)
    return x


class Inception(nnx.Module):
    """One module: `(batch, height, width, in)` to `(batch, height, width, out)`, out being all branches together.

    Naive (figure 2a), the larger filters see all input maps, and the pooled maps are passed on as they are: the module
    has all its input's channels and its own on top.
    """

    def __init__(self, channels_in: int, widths: tuple[int, ...], variant: str, atoms, **more):
        one, reduced3, three, reduced5, five, projected = widths
        large = 3 if variant == "torchvision" else 5
        self.naive, self.activation = variant == "naive", atoms.activation
        more |= {"atoms": atoms}
        if not self.naive:
            add(self, "3x3_reduce", channels_in, reduced3, 1, **more)
            add(self, "5x5_reduce", channels_in, reduced5, 1, **more)
            add(self, "pool_projection", channels_in, projected, 1, **more)
        add(self, "1x1", channels_in, one, 1, **more)
        add(self, "3x3", channels_in if self.naive else reduced3, three, 3, **more)
        add(self, "5x5", channels_in if self.naive else reduced5, five, large, **more)
        self.channels = one + three + five + (channels_in if self.naive else projected)

    def __call__(self, x: Maps, hook: Hook, name: str) -> Maps:
        """The maps of all branches: those of 1x1, 3x3, 5x5 and pooling."""
        pooled = max_pool(x, 3, 1, padding=1)
        see = lambda branch, x: layer(self, branch, x, hook, f"{name}/")  # noqa: E731
        # The 3x3 branch counts as the main path: a layer beside it has the position of what was last called on it.
        if self.naive:
            three, one, five = see("3x3", x), see("1x1", x), see("5x5", x)
        else:
            reduced3, reduced5 = see("3x3_reduce", x), see("5x5_reduce", x)
            one, pooled = see("1x1", x), see("pool_projection", pooled)
            three, five = see("3x3", reduced3), see("5x5", reduced5)
        return hook(name, jnp.concatenate([one, three, five, pooled], axis=-1))


class Auxiliary(nnx.Module):
    """A classifier on the way: average pool, a 1x1 convolution, a hidden layer, dropout, logits (section 5).

    The paper averages windows of 5x5 with stride 3, which makes 4x4 of 14x14 maps; with `parts` the maps are averaged
    in that many parts a side, which small maps have too.
    """

    def __init__(self, channels_in, side, parts, scaled, classes, dropout, atoms, rngs, dropout_rngs, epsilon):
        self.parts, self.activation = parts, atoms.activation
        more: dict[str, Any] = {"atoms": atoms, "epsilon": epsilon, "rngs": rngs}
        width = add(self, "conv", channels_in, scaled(AUXILIARY_CONVOLUTION), 1, **more)
        pixels = (parts or (side - 5) // 3 + 1) ** 2
        self.fc = atoms.linear(pixels * width, scaled(AUXILIARY_HIDDEN), rngs=rngs)
        self.head = atoms.linear(scaled(AUXILIARY_HIDDEN), classes, rngs=rngs)
        self.dropout = Dropout(dropout, rngs=dropout_rngs)

    def __call__(self, x: Maps, hook: Hook, name: str) -> Logits:
        """Logits."""
        x = average_parts(x, self.parts) if self.parts else average_pool(x, 5, 3)
        x = layer(self, "conv", x, hook, f"{name}/")
        x = self.activation(hook(f"{name}/fc", self.fc(x.reshape(len(x), -1))))
        return hook(f"{name}/head", self.head(self.dropout(x)))


class Net(nnx.Module):
    """Stem, nine modules, global average pool, classifier; while training also the auxiliary classifiers' answers.

    The imagenet family's stem is that of table 1: a 7x7 layer of stride 2, a pool, a 1x1 and a 3x3 layer, a pool. The
    cifar family's has a 3x3 layer of stride 1 in the place of the first and no pools. Raises `BadInput` for images that
    are too small, or not those that the auxiliary classifiers are made for.
    """

    def __init__(self, classes, channels, family, variant, width, lrn, dropout, auxiliary, image, atoms, rngs, side):
        self.imagenet, self.variant, self.lrn = family == "imagenet", variant, lrn
        self.least, self.image = TOTAL_STRIDE[family], image if auxiliary else None
        self.activation, self.dtype = atoms.activation, atoms.dtype
        self.deterministic = False  # what Flax's train() and eval() set
        scaled = lambda given: max(1, round(given * width / WIDTH))  # noqa: E731
        more: Any = {"atoms": atoms, "epsilon": 1e-3 if variant == "torchvision" else 1e-5, "rngs": rngs}
        now = add(self, "conv1", channels, scaled(64), *((7, 2) if self.imagenet else (3, 1)), **more)
        now = add(self, "conv2_reduce", now, scaled(64), 1, **more)
        now = add(self, "conv2", now, scaled(192), 3, **more)
        # The auxiliary classifiers too draw from the side, so that the others' weights do not depend on them.
        auxiliary_more = more | {"rngs": side, "dropout_rngs": side, "scaled": scaled, "classes": classes}
        pixels = _side_at_module_4(image, self.imagenet)
        parts = None if self.imagenet and variant != "torchvision" else min(AUXILIARY_SIDE, pixels)
        self.modules = tuple(MODULES)
        for module, widths in MODULES.items():
            inception = Inception(now, tuple(map(scaled, widths)), variant, **more)
            setattr(self, f"inception{module}", inception)
            now = inception.channels
            if auxiliary and module in AUXILIARY:
                rate = AUXILIARY_DROPOUT if dropout is None else dropout
                classifier = Auxiliary(now, pixels, parts, dropout=rate, **auxiliary_more)
                setattr(self, AUXILIARY[module], classifier)
        self.dropout = Dropout(DROPOUT if dropout is None else dropout, rngs=side)
        self.head = atoms.linear(now, classes, rngs=rngs)

    def __call__(self, images: Images, hook: Hook = no_hook) -> Logits | Heads:
        """Logits, or while training with auxiliary classifiers all `Heads`; `hook(name, x)` is called with the response
        of every layer and with the output of every module.
        """
        check_image_size(self.image, images, self.least)
        auxiliary = []
        x = self._stem(images, hook)
        for module in self.modules:
            if module in ("4a", "5a"):
                window = 2 if self.variant == "torchvision" and module == "5a" else 3
                x = max_pool(x, window, 2, partial=True)
            x = getattr(self, f"inception{module}")(x, hook, f"inception{module}")
            if self.image and not self.deterministic and module in AUXILIARY:
                name = AUXILIARY[module]
                auxiliary.append(getattr(self, name)(x, hook, name))
        x = self.dropout(jnp.mean(x, axis=(1, 2)))
        logits = hook("head", self.head(x))
        return Heads(logits, tuple(auxiliary), AUXILIARY_WEIGHT) if auxiliary else logits

    def _stem(self, x: Maps, hook: Hook) -> Maps:
        normalise = local_response_normalisation if self.lrn else lambda x: x
        pool = (lambda x: max_pool(x, 3, 2, partial=True)) if self.imagenet else lambda x: x
        x = normalise(pool(layer(self, "conv1", x, hook)))
        x = layer(self, "conv2", layer(self, "conv2_reduce", x, hook), hook)
        return pool(normalise(x))


def _side_at_module_4(image: int, imagenet: bool) -> int:
    return -(-image // 2) // 8 if imagenet else image // 2


def least_side(family: str, variant: str, auxiliary: bool) -> tuple[int, str]:
    """The smallest legal side of the images in pixels, and why."""
    if auxiliary and family == "imagenet" and variant != "torchvision":
        return 80, " with auxiliary classifiers, which average 5x5 windows of its sixteenth"
    return TOTAL_STRIDE[family], ""


def googlenet(
    *,
    depth: int = 22,
    classes: int,
    channels: int,
    seed: int | jax.Array | None = 0,
    family: Literal["cifar", "imagenet"] = "cifar",
    variant: Literal["paper", "naive", "torchvision"] = "paper",
    width: int = WIDTH,
    normalisation: Normalisation | None = None,
    activation: Activation = "relu",
    initialisation: str = "glorot",
    padding: Padding = "zero",
    lrn: bool | None = None,
    dropout: float | None = None,
    auxiliary: bool = True,
    image: int | None = None,
    dtype=None,
) -> Net:
    """GoogLeNet for images of one size. Raises `BadInput` for what is not legal.

    Args:
        depth: Weighted layers: 22, in variant naive 13.
        classes: Of the classifier.
        channels: Of the images.
        seed: Of the weights.
        family: imagenet is table 1; cifar has the same layers for small images: maps get smaller only before modules 4a
            and 5a.
        variant: naive has the modules of figure 2a, one layer deep, whose channels grow from 192 to 4944; torchvision
            is what that library builds: 3x3 layers in the place of 5x5, a 2x2 pool before 5a, auxiliary classifiers
            that see all pixels, and batch norm with epsilon 0.001.
        width: Channels of the stem's first layer; all others are in proportion.
        normalisation: Between convolution and activation, in the place of the bias; by default none, in variant
            torchvision batch.
        activation: Of all layers but the last.
        initialisation: Of the weights: he, glorot, lecun, orthogonal or delta_orthogonal, each with an optional gain as
            in he(0.5); or normal(0.01) with its standard deviation. The paper does not say; its twin for Caffe has
            glorot.
        padding: What lies beyond the edge of a map: zeros, or with circular the opposite edge, so that no window sees a
            border.
        lrn: Two local response normalisations in the stem; by default on, but not in torchvision or beside another
            normalisation.
        dropout: The share that is dropped before every classifier; by default 0.4, and 0.7 in the auxiliary ones.
        auxiliary: Two classifiers on the way, in training only; each of their losses counts 0.3.
        image: The side of the images in pixels; by default 32, in family imagenet 224 and at least 80.
        dtype: Of the computation; None is that of the parameters, float32.
    """
    if depth != depth_of(variant):
        raise BadInput(f"variant {variant!r} of googlenet has no depth {depth}: it has {depth_of(variant)}")
    at_least("width", width, 1)
    share("dropout", dropout)
    image, (least, why) = IMAGES[family] if image is None else image, least_side(family, variant, auxiliary)
    if image < least:
        raise BadInput(
            f"images of {image}x{image} pixels are too small for googlenet: it needs at least {least} a side{why}"
        )
    own = "batch" if variant == "torchvision" else "none"
    atoms = Atoms(own if normalisation is None else normalisation, activation, initialisation, dtype, padding)
    if lrn is None:
        lrn = variant != "torchvision" and atoms.normalisation_name == "none"
    rngs, side = streams(seed)
    rules: Any = {"family": family, "variant": variant, "dropout": dropout, "image": image}
    rules |= {"width": width, "auxiliary": auxiliary, "lrn": lrn}
    return Net(classes, channels, atoms=atoms, rngs=rngs, side=side, **rules)
