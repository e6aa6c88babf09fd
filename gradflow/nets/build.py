"""The nets by name."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from gradflow.errors import BadInput, choose
from gradflow.nets import alexnet, cnn, googlenet, mlp, nin, residual, vgg
from gradflow.nets.functional import split


class Family(NamedTuple):
    """How a net is made: `build(**settings)` returns it, `check(**settings)` raises `BadInput` and costs nothing."""

    build: Callable[..., nnx.Module]
    check: Callable[..., None]
    depth: int  # that of the net if nobody asks for another
    image: int = 224  # the usual side of an image in pixels in family imagenet; 32 in family cifar


NETS = {
    "plain": Family(residual.plain, functools.partial(residual.check, shortcut=None), depth=18),
    "residual": Family(residual.residual, residual.check, depth=18),
    "mlp": Family(mlp.mlp, functools.partial(mlp.check, shortcut=None), depth=8),
    "residual_mlp": Family(mlp.residual_mlp, mlp.check, depth=8),
    "cnn": Family(cnn.cnn, cnn.check, depth=4),
    "alexnet": Family(alexnet.alexnet, alexnet.check, depth=8, image=227),
    "nin": Family(nin.nin, nin.check, depth=9),
    "vgg": Family(vgg.vgg, vgg.check, depth=16),
    "googlenet": Family(googlenet.googlenet, googlenet.check, depth=22),
}


def settings(name: str) -> tuple[str, ...]:
    """The settings that the net called `name` takes; raises `BadInput` with the legal names."""
    constructor = NETS[choose("net", name, NETS)].build
    fixed = getattr(constructor, "keywords", {})
    return tuple(key for key in inspect.signature(constructor).parameters if key not in fixed)


def check(name: str, **given: Any) -> None:
    """Raises `BadInput` if `build(name, **given)` would, without building."""
    legal = settings(name)
    for key in given:
        if key not in legal:
            raise BadInput(f"net {name!r} has no setting {key!r}: it has {', '.join(legal)}")
    NETS[name].check(**{key: value for key, value in given.items() if key not in ("classes", "channels", "seed")})


def usual_image(name: str, **given: Any) -> tuple[int, int]:
    """The side in pixels and the number of classes of the images that the paper of a net is about."""
    family = NETS[choose("net", name, NETS)]
    return (family.image, 1000) if given.get("family") == "imagenet" else (32, 10)


def build(
    name: str, *, classes: int, channels: int, seed: int | jax.Array = 0, image: int | None = None, **given: Any
) -> nnx.Module:
    """The net called `name` for images of `channels` channels: an `nnx.Module`, `net(images, hook=...) -> logits`.

    Images are `(batch, height, width, channel)`, logits `(batch, classes)`. The same seed gives the same weights.
    `image` is their side in pixels: nets with fully connected layers are made for it (None: the paper's), others
    take any. Raises `BadInput` for an unknown net or setting, or a value that the net does not have.
    """
    if "image" in settings(name):
        given["image"] = usual_image(name, **given)[0] if image is None else image
    if inspect.signature(NETS[name].build).parameters["depth"].default is inspect.Parameter.empty:
        given.setdefault("depth", NETS[name].depth)  # others know the depth of each of their variants
    check(name, **given)
    return NETS[name].build(classes=classes, channels=channels, seed=seed, **given)


def abstract(name: str, **given: Any) -> nnx.Module:
    """`build(name, **given)` with a `jax.ShapeDtypeStruct` in the place of every array: no weights are drawn, so that
    the largest net costs about a second.
    """
    graphs = []

    def parts(seed):
        # What does not depend on the seed is computed, the counts of draws above all: Flax takes time quadratic in
        # depth when they are traced (87 s instead of 8 at 1202 layers, flax 0.12.8).
        with jax.ensure_compile_time_eval():
            graph, params, rest = split(build(name, seed=seed, **given))
        graphs.append(graph)
        return params, rest

    params, rest = jax.eval_shape(parts, jax.ShapeDtypeStruct((), jnp.uint32))
    return nnx.merge(graphs[0], params, rest)
