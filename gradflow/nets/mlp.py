"""Multilayer perceptrons of any depth, plain and residual: the shortcut is the only difference.

The image, flattened, goes through a first layer (`stem`), units of one layer each, and a classifier. A unit computes
`y = h(x) + F(x)` as in He et al. 2015 (arXiv:1512.03385, equation 1): F is one fully connected layer, h the identity,
which fits everywhere because all units have one width. The plain net is the same net with h left out.
"""

import functools

import jax
from flax import nnx

from gradflow.arrays import Images, Logits
from gradflow.errors import at_least, choose
from gradflow.hooks import Hook, silent
from gradflow.nets.layers.atoms import Atoms, made_for
from gradflow.nets.stack import through

SHORTCUTS = ("A",)  # the identity; nothing changes shape, so there is nothing to pad or to project
ORDERS = ("post", "pre")
WIDTH = 256


class Unit(nnx.Module):
    """`y = f(h(x) + F(x))`, `(batch, width)` to the same shape. In order `post` F is product, norm, and f the
    activation; in order `pre` (He 2016, arXiv:1603.05027) F is norm, activation, product, and f the identity.

    In order `post` F is linear, so that the unit is a plain one with the identity added to its weights (He 2015,
    section 3.2, saw no advantage in that). In order `pre` it is not.
    """

    def __init__(self, width: int, shortcut: str | None, order: str, atoms: Atoms, rngs: nnx.Rngs):
        self.shortcut, self.order, self.activation = shortcut, order, atoms.activation
        self.fc = atoms.linear(width, width, rngs=rngs)
        self.norm = atoms.normalisation(width, rngs=rngs)

    def __call__(self, x: jax.Array, hook: Hook, name: str) -> jax.Array:
        """The unit's output; its points have names that begin with `name`."""
        x = hook(name, x)
        if self.shortcut is None:
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

    def __call__(self, images: Images, hook: Hook = silent) -> Logits:
        """Logits; `hook(name, x)` is called at every point of the spine."""
        made_for(self.image, images)
        x = self.stem(images.reshape(len(images), -1))
        x = self.activation(hook("stem", self.norm(x))) if self.order == "post" else hook("stem", x)
        x = through({name: getattr(self, name) for name in self.units}, x, hook)
        if self.order == "pre":
            x = self.activation(self.norm(x))
        return hook("head", self.head(x))


def check(
    *,
    depth: int,
    image: int = 32,
    width: int | None = None,
    shortcut: str | None = "A",
    order: str = "post",
    **atoms,
) -> None:
    """Raises `BadInput` with the legal values for anything that `residual_mlp` would not build; builds nothing."""
    at_least("depth", depth, 2)
    at_least("image", image, 1)
    at_least("width", width, 1)
    if shortcut is not None:
        choose("shortcut", shortcut, SHORTCUTS)
    choose("order", order, ORDERS)
    Atoms(**atoms)


def residual_mlp(
    *,
    depth: int,
    classes: int,
    channels: int,
    seed: int | jax.Array = 0,
    image: int = 32,
    width: int | None = None,
    shortcut: str | None = "A",
    order: str = "post",
    normalisation: str = "batch",
    activation: str = "relu",
    initialisation: str = "he",
    dtype=None,
) -> Net:
    """A perceptron of `depth` weighted layers, all hidden ones `width` (256) wide, for images of `image` pixels a side.

    `dtype` is that of the norms; products are in float32. Raises `BadInput` for what is not legal.
    """
    check(depth=depth, image=image, width=width, shortcut=shortcut, order=order)
    atoms = Atoms(normalisation, activation, initialisation, dtype)
    rngs = nnx.Rngs(jax.random.key(seed))
    return Net(depth, classes, channels, image, width or WIDTH, shortcut, order, atoms, rngs)


mlp = functools.partial(residual_mlp, shortcut=None)
