"""Multilayer perceptrons of any depth, plain and residual: the shortcut is the only difference.

The image, flattened, goes through a first layer (`stem`), units of one layer each, and a classifier. A unit computes
`y = h(x) + F(x)` as in He et al. 2015 (arXiv:1512.03385, equation 1): F is one fully connected layer, h the identity,
which fits everywhere because all units have one width. The plain net is the same net with h left out.
"""

import functools
from typing import Literal

import jax
from flax import nnx

from gradflow.arrays import Images, Logits
from gradflow.errors import at_least
from gradflow.measuring.hooks import Hook, no_hook
from gradflow.nets.layers.atoms import Activation, Atoms, check_image_size
from gradflow.nets.layers.normalisations import Normalisation
from gradflow.nets.layers.streams import streams
from gradflow.nets.stack import apply_units


class Unit(nnx.Module):
    """`y = f(h(x) + F(x))`, `(batch, width)` to the same shape. In order `post` F is product, norm, and f the
    activation; in order `pre` (He 2016, arXiv:1603.05027) F is norm, activation, product, and f the identity.

    In order `post` F is linear, so that the unit is a plain one with the identity added to its weights (He 2015,
    section 3.2, saw no advantage in that). In order `pre` it is not.
    """

    def __init__(self, width: int, shortcut: bool, order: str, atoms: Atoms, rngs: nnx.Rngs):
        self.shortcut, self.order, self.activation = shortcut, order, atoms.activation
        self.fc = atoms.linear(width, width, rngs=rngs)
        self.norm = atoms.normalisation(width, rngs=rngs)

    def __call__(self, x: jax.Array, hook: Hook, name: str) -> jax.Array:
        """The unit's output; its points have names that begin with `name`."""
        x = hook(name, x)
        if not self.shortcut:
            y = self.residual(x, hook, name)
        else:
            y = hook(f"{name}/identity", x)
            y = y + self.residual(hook(f"{name}/residual", x), hook, name)
        return self.activation(y) if self.order == "post" else y

    def residual(self, x: jax.Array, hook: Hook, name: str) -> jax.Array:
        """The branch F."""
        x = self.norm(self.fc(x)) if self.order == "post" else self.fc(self.activation(self.norm(x)))
        return hook(f"{name}/fc", x)


class Net(nnx.Module):
    """First layer, units, classifier. Raises `BadInput` for images of another size than the net was made for."""

    def __init__(self, depth, classes, channels, image, width, shortcut, order, atoms, rngs):
        self.image, self.order, self.activation = image, order, atoms.activation
        self.stem = atoms.linear(image * image * channels, width, rngs=rngs)
        # A pre-activation net normalises before each product: of its first layer the first unit does, here is the last.
        self.norm = atoms.normalisation(width, rngs=rngs)
        digits = max(2, len(str(depth - 2)))
        self.units = tuple(f"block{unit:0{digits}d}" for unit in range(1, depth - 1))
        for name in self.units:
            setattr(self, name, Unit(width, shortcut, order, atoms, rngs))
        self.head = atoms.linear(width, classes, rngs=rngs)

    def __call__(self, images: Images, hook: Hook = no_hook) -> Logits:
        """Logits; `hook(name, x)` is called at every point of the spine."""
        check_image_size(self.image, images)
        x = self.stem(images.reshape(len(images), -1))
        x = self.activation(hook("stem", self.norm(x))) if self.order == "post" else hook("stem", x)
        x = apply_units({name: getattr(self, name) for name in self.units}, x, hook)
        if self.order == "pre":
            x = self.activation(self.norm(x))
        return hook("head", self.head(x))


def perceptron(
    *,
    shortcut: bool,
    depth: int = 8,
    classes: int,
    channels: int,
    seed: int | jax.Array | None = 0,
    image: int = 32,
    width: int = 256,
    order: Literal["post", "pre"] = "post",
    normalisation: Normalisation = "batch",
    activation: Activation = "relu",
    initialisation: str = "he",
    dtype=None,
) -> Net:
    """A perceptron whose units have a `shortcut`, the identity, or have none. Raises `BadInput` for what is not legal.

    Args:
        shortcut: Whether units have one.
        depth: Weighted layers, at least 2.
        classes: Of the classifier.
        channels: Of the images.
        seed: Of the weights.
        image: The side of the images in pixels.
        width: Of all hidden layers.
        order: Normalisation and activation after each product, or before it (He 2016, figure 4e).
        normalisation: After each product, or before it in order pre.
        activation: Of all layers but the last.
        initialisation: Of the weights: he, glorot, lecun, orthogonal or delta_orthogonal, each with an optional gain as
            in he(0.5); or normal(0.01) with its standard deviation.
        dtype: Of the norms; products are in float32.
    """
    at_least("depth", depth, 2)
    at_least("image", image, 1)
    at_least("width", width, 1)
    atoms = Atoms(normalisation, activation, initialisation, dtype)
    rngs, _ = streams(seed)
    return Net(depth, classes, channels, image, width, shortcut, order, atoms, rngs)


residual_mlp = functools.partial(perceptron, shortcut=True)
mlp = functools.partial(perceptron, shortcut=False)
