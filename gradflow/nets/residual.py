"""Plain and residual nets of any depth (He et al. 2015, arXiv:1512.03385): the shortcut is the only difference.

A unit computes `y = h(x) + F(x)`, where F is two 3x3 layers, or 1x1, 3x3, 1x1 in a bottleneck, and h is the shortcut.
A plain net is the same net with h left out. So twins have the same layers, the same names and, from the same seed, the
same initial weights; with option A also the same number of parameters.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gradflow.arrays import Images, Logits, Maps
from gradflow.errors import BadInput, at_least, share
from gradflow.measuring.hooks import Hook, no_hook
from gradflow.nets.layers.atoms import Activation, Atoms, Dropout, Padding, check_image_size
from gradflow.nets.layers.normalisations import Identity, Normalisation
from gradflow.nets.layers.pooling import max_pool
from gradflow.nets.layers.streams import streams
from gradflow.nets.stack import apply_units

WIDTHS = {"cifar": 16, "imagenet": 64}
# He 2015, table 1: the units of the four stages, and whether they are bottlenecks.
IMAGENET = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
EXPANSION = 4  # a bottleneck's output is this many times wider than its middle
LEAST_SCALE = 1e-6  # of a shortcut; 1 over that is the most
HIDDEN = 4  # hidden fully connected layers are this many times wider than the maps before them


def stages(family: str, depth: int) -> tuple[tuple[int, ...], bool]:
    """The number of units of each stage, and whether they are bottlenecks.

    `cifar`: (depth - 2) / 2 two-layer units spread as evenly as can be over three stages, extra units to the earlier
    ones; that is the paper's family (section 4.2) wherever depth = 6n + 2. `imagenet`: table 1.
    Raises `BadInput` for a depth that the family does not have, and names the legal ones nearby.
    """
    if family == "imagenet":
        if depth not in IMAGENET:
            raise BadInput(f"family 'imagenet' has no depth {depth}: choose one of {', '.join(map(str, IMAGENET))}")
        return IMAGENET[depth]
    if depth < 8 or depth % 2:
        below = max(8, depth // 2 * 2)
        raise BadInput(
            f"family 'cifar' has no depth {depth}: it must be even and at least 8, such as {below} or {below + 2}"
        )
    units = (depth - 2) // 2
    return tuple(units // 3 + (stage < units % 3) for stage in range(3)), False


def subsample(x: Maps, channels: int, stride: int) -> Maps:
    """Shortcut option A: every `stride`-th pixel, and zeros for the channels that x does not have. No parameters."""
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))


class Factor(nnx.Variable):
    """A number that scales a shortcut: not trained, and an input of the program, so that one serves all."""


class Unit(nnx.Module):
    """`y = f(h(x) + F(x))`. In order `post` (He 2015) a layer is convolution, norm, activation, and f is the
    activation; in order `pre` (He 2016, arXiv:1603.05027, figure 4e) it is norm, activation, convolution, and f is the
    identity. There the shortcut starts from x itself, as in equation 2, also where the shape changes; the authors' code
    lets the first norm and activation of such a unit stand before both paths. With a `scale` h(x) is multiplied by that
    (He 2016, equation 6).
    """

    def __init__(self, channels_in, layers, shortcut, scale: float | None, order, pooling, atoms: Atoms, rngs, side):
        self.shortcut, self.order = shortcut, order
        self.scale = None if scale is None else Factor(jnp.float32(scale))
        self.pools = pooling == "max" and layers[0][2] != 1
        if self.pools:  # the layer that strides elsewhere does not
            layers = [(kernel, channels, 1) for kernel, channels, _ in layers]
        self.activation, self.depth = atoms.activation, len(layers)
        width = channels_in
        for layer, (kernel, channels, stride) in enumerate(layers, start=1):
            setattr(self, f"conv{layer}", atoms.convolution(width, channels, kernel, stride, rngs=rngs))
            setattr(self, f"norm{layer}", atoms.normalisation(channels if order == "post" else width, rngs=rngs))
            width = channels
        self.channels, self.stride = width, layers[0][2]
        changes = self.stride != 1 or width != channels_in
        self.repeats = not (
            changes or self.pools
        )  # one after another: what it returns has the shape of what it is given
        self.projects = shortcut == "C" or (shortcut == "B" and changes)
        if self.projects:
            self.projection = atoms.convolution(channels_in, width, 1, self.stride, rngs=side)
            # After a pre-activation net's projection there is no norm: nothing may stand on the path but h.
            self.projection_norm = atoms.normalisation(width, rngs=side) if order == "post" else Identity()

    def as_twin(self) -> dict[str, Any]:
        """Makes the shortcut an input, and returns it by name: a plain unit is a residual one whose shortcut is zero.

        Where the shortcut is a projection, or was an input before, nothing changes.
        """
        if self.projects or self.scale is not None:
            return {}
        scale = np.float32(self.shortcut is not None)  # NumPy's: a step uses up an array of JAX's
        self.shortcut, self.scale = self.shortcut or "A", nnx.data(Factor(jnp.asarray(scale)))
        return {"scale": scale}

    def __call__(self, x: Maps, hook: Hook, name: str) -> Maps:
        """The unit's output, with the stride and the channels of F; its points have names that begin with `name`."""
        if self.pools:
            x = max_pool(x, 2, 2)
        x = hook(name, x)
        if self.shortcut is None:
            y = self.residual(x, hook, name)
        else:
            y = self.identity(hook(f"{name}/identity", x), hook, name)
            y = y + self.residual(hook(f"{name}/residual", x), hook, name)
        return self.activation(y) if self.order == "post" else y

    def identity(self, x: Maps, hook: Hook, name: str) -> Maps:
        """The shortcut h: option A, or a 1x1 projection; scaled, if it is."""
        if self.scale is not None:
            x = x * jax.lax.stop_gradient(self.scale.get_value()).astype(x.dtype)
        if self.projects:
            return hook(f"{name}/projection", self.projection_norm(self.projection(x)))
        return subsample(x, self.channels, self.stride)

    def residual(self, x: Maps, hook: Hook, name: str) -> Maps:
        """The branch F. What a layer's hook sees is its response: after its own norm, before the next activation."""
        for layer in range(1, self.depth + 1):
            convolution, norm = getattr(self, f"conv{layer}"), getattr(self, f"norm{layer}")
            if self.order == "pre":
                x = convolution(self.activation(norm(x)))
            else:
                x = norm(convolution(x if layer == 1 else self.activation(x)))
            x = hook(f"{name}/conv{layer}", x)
        return x


class Net(nnx.Module):
    """Stem, units, global average pool, classifier.

    The cifar family's stem is one 3x3 layer (He 2015, section 4.2), the imagenet family's a 7x7 layer of stride 2 and a
    3x3 max pool of stride 2 (table 1). Raises `BadInput` when an image has fewer pixels a side than the total stride.
    """

    def __init__(
        self,
        depth,
        classes,
        channels,
        family,
        width,
        shortcut,
        scale,
        order,
        pooling,
        head,
        dropout,
        widen,
        atoms,
        rngs,
        side,
    ):
        units, bottleneck = stages(family, depth)
        self.imagenet, self.order, self.activation = family == "imagenet", order, atoms.activation
        self.total_stride = 2 ** (len(units) - 1) * (4 if self.imagenet else 1)
        self.dtype = atoms.dtype
        widths = [width * 2**stage if widen else width for stage in range(len(units))]
        last = widths[-1] * (EXPANSION if bottleneck else 1)
        self.stem = atoms.convolution(channels, width, *((7, 2) if self.imagenet else (3, 1)), rngs=rngs)
        # A pre-activation net normalises before each convolution, so its stem has no norm and its end has one.
        self.norm = atoms.normalisation(width if order == "post" else last, rngs=rngs)
        digits = max(2, len(str(sum(units))))
        names, channels_in = [], width
        for stage, count in enumerate(units):
            for first in (True,) + (False,) * (count - 1):
                name = f"block{len(names) + 1:0{digits}d}"
                layers = _layers(widths[stage], 2 if first and stage else 1, bottleneck)
                setattr(self, name, Unit(channels_in, layers, shortcut, scale, order, pooling, atoms, rngs, side))
                names.append(name)
                channels_in = layers[-1][1]
        self.units = tuple(names)
        self.hidden = ("fc1", "fc2") if head == "fc" else ()
        for name in self.hidden:  # as in AlexNet and VGG, four times as wide as what they are given
            setattr(self, name, atoms.linear(channels_in, HIDDEN * last, rngs=rngs))
            channels_in = HIDDEN * last
        self.dropout = Dropout(dropout, rngs=side)
        self.head = atoms.linear(channels_in, classes, rngs=rngs)

    def __call__(self, images: Images, hook: Hook = no_hook) -> Logits:
        """Logits; `hook(name, x)` is called at every point of the spine."""
        x = self.before_units(images, hook)
        x = apply_units({name: getattr(self, name) for name in self.units}, x, hook)
        return self.after_units(x, hook)

    def before_units(self, images: Images, hook: Hook = no_hook) -> Maps:
        """The stem: the input of the first unit."""
        check_image_size(None, images, self.total_stride)
        x = self.stem(images)
        if self.order == "post":
            x = self.activation(hook("stem", self.norm(x)))
        else:
            x = hook("stem", x)
        if self.imagenet:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
        return x

    def after_units(self, x: Maps, hook: Hook = no_hook) -> Logits:
        """From the output of the last unit to the logits."""
        if self.order == "pre":
            x = self.activation(self.norm(x))
        x = jnp.mean(x, axis=(1, 2))
        for name in self.hidden:
            x = self.dropout(self.activation(hook(name, getattr(self, name)(x))))
        return hook("head", self.head(x))


def _layers(channels: int, stride: int, bottleneck: bool) -> list[tuple[int, int, int]]:
    """F's layers as (kernel, channels, stride). Stride 2 is in the first one, as in the paper; torchvision differs."""
    if bottleneck:
        return [(1, channels, stride), (3, channels, 1), (1, EXPANSION * channels, 1)]
    return [(3, channels, stride), (3, channels, 1)]


def residual(
    *,
    depth: int = 18,
    classes: int,
    channels: int,
    seed: int | jax.Array | None = 0,
    family: Literal["cifar", "imagenet"] = "cifar",
    width: int | None = None,
    shortcut: Literal["A", "B", "C"] | None = "A",
    shortcut_scale: float | None = None,
    order: Literal["post", "pre"] = "post",
    normalisation: Normalisation = "batch",
    activation: Activation = "relu",
    initialisation: str = "he",
    padding: Padding = "zero",
    pooling: Literal["stride", "max"] = "stride",
    head: Literal["pool", "fc"] = "pool",
    dropout: float = 0.0,
    widen: bool = True,
    dtype=None,
) -> Net:
    """A residual net; with `shortcut=None` its plain twin.

    With `pooling`, `head`, `dropout` and `widen` it can break the rules of He 2015, section 3.3. Raises `BadInput` for
    what is not legal.

    Args:
        depth: Weighted layers: even and at least 8 in family cifar; 18, 34, 50, 101 or 152 in family imagenet.
        classes: Of the classifier.
        channels: Of the images.
        seed: Of the weights.
        family: For small images (He 2015, section 4.2) or for those of ImageNet (table 1).
        width: Channels of the first stage; by default 16, in family imagenet 64.
        shortcut: Where the shape changes A pads with zeros and B projects; C projects in every unit (section 4.1).
        shortcut_scale: The factor lambda of every shortcut, above 0 (He 2016, equation 6); by default 1.
        order: Normalisation and activation after each convolution, or before it (He 2016, figure 4e).
        normalisation: After each convolution, or before it in order pre.
        activation: Of all layers but the last.
        initialisation: Of the weights: he, glorot, lecun, orthogonal or delta_orthogonal, each with an optional gain as
            in he(0.5); or normal(0.01) with its standard deviation.
        padding: What lies beyond the edge of a map: zeros, or with circular the opposite edge, so that no window sees a
            border.
        pooling: How maps get smaller: by the stride of a convolution, or by a 2x2 max pool before it.
        head: Global average pooling and the classifier, or two hidden fully connected layers between them.
        dropout: The share of each hidden fully connected layer that is dropped; only with head fc.
        widen: Twice the channels where maps get half as wide.
        dtype: Of the computation; None is that of the parameters, float32.
    """
    stages(family, depth)
    share("dropout", dropout)
    if dropout and head != "fc":
        raise BadInput(f"dropout {dropout} is not legal without hidden layers: it must be 0, or head 'fc'")
    at_least("width", width, 1)
    if shortcut_scale is not None and not (shortcut and LEAST_SCALE <= shortcut_scale <= 1 / LEAST_SCALE):
        legal = f"from {LEAST_SCALE:g} to {1 / LEAST_SCALE:g}, in a net with shortcuts"
        raise BadInput(f"shortcut_scale {shortcut_scale} is not legal: it must be {legal}")
    width = WIDTHS[family] if width is None else width
    rules = {"pooling": pooling, "head": head, "dropout": dropout, "widen": widen}
    atoms = Atoms(normalisation, activation, initialisation, dtype, padding)
    rngs, side = streams(seed)
    shortcuts = {"shortcut": shortcut, "scale": shortcut_scale}
    return Net(
        depth, classes, channels, family, width, order=order, atoms=atoms, rngs=rngs, side=side, **shortcuts, **rules
    )


plain = functools.partial(residual, shortcut=None, shortcut_scale=None)
