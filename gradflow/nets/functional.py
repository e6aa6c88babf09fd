"""A net as a pure function of trees: structure, parameters and running statistics, and what can be counted on them."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from flax import nnx

from gradflow.errors import BadInput
from gradflow.kinds import checked
from gradflow.measuring.hooks import Hook, Point, no_hook, points, unstacked_names
from gradflow.nets import dependencies
from gradflow.nets.calls import call_watched, takes_hook


@checked
def count_parameters(net: nnx.Module) -> int:
    """The number of trainable scalars (running statistics of batch norm are not)."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(net, nnx.Param)))


@checked
def split(net: nnx.Module) -> tuple[nnx.GraphDef, dict[str, Any], dict[str, Any]]:
    """A net's structure (hashable), its parameters and its running statistics, the latter two as plain nested dicts.

    The path of a layer in the parameters is its hook name: `params["block03"]["conv1"]["kernel"]`.
    """
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    return graph, _plain(params), _plain(rest)


@checked
def structure(net: nnx.Module) -> tuple[Any, ...]:
    """What a program that is compiled for a net depends on, hashable: all but the values of its arrays."""
    graph, *trees = split(net)
    leaves, tree = jax.tree.flatten(trees)
    return graph, tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def apply(graph, params, rest, images: jax.Array, hook: Hook = no_hook, train: bool = True) -> tuple[Any, Any]:
    """The net as a pure function: images `(batch, height, width, channel)` to logits and the new running statistics.

    A net that takes no hook passes it the outputs of its modules.

    While it trains a net with auxiliary classifiers has `arrays.Heads` in the place of logits.
    """
    # Without the copy, batch norm would write into variables of an outer trace.
    net = nnx.merge(graph, params, rest, copy=True)
    net.train() if train else net.eval()
    logits = net(images, hook) if takes_hook(net) else call_watched(net, images, hook)
    return logits, _plain(nnx.state(net, nnx.Not(nnx.Param)))


def _plain(state) -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.as_pure(state))


def dtype_of(params: Any) -> Any:
    """The dtype of the parameters. Raises `BadInput` where there are none."""
    for leaf in jax.tree.leaves(params):
        return leaf.dtype
    raise BadInput("this net has no parameters: there is nothing to train")


def weighted_layers(params: Any) -> dict[str, dict[str, Any]]:
    """The layers that have a kernel, by hook name (`block03/conv1`), each with its own parameters."""
    layers = {}
    for key, value in params.items():
        if not isinstance(value, dict):
            continue
        if "kernel" in value:
            layers[str(key)] = value  # a number in an nnx.List
        else:
            layers |= {f"{key}/{name}": layer for name, layer in weighted_layers(value).items()}
    return layers


def multiply_adds(layers: Mapping[str, Mapping[str, Any]], points: Iterable[Point]) -> dict[str, int]:
    """For each weighted layer those of one image, as the papers count: a kernel is used once for every output pixel."""
    return {
        point.name: layers[point.name]["kernel"].size * math.prod(point.shape[1:-1])
        for point in points
        if point.name in layers
    }


@checked
def points_of(net: nnx.Module, image_shape: tuple[int, ...], dtype: Any = None) -> tuple[Point, ...]:
    """The hook points of a net for images of `(height, width, channel)`, in order, without running it.

    The images are of `dtype`, or else of that of the parameters.
    """
    graph, params, rest = split(net)
    dtype = dtype_of(params) if dtype is None else dtype
    images = jax.ShapeDtypeStruct((1, *image_shape), dtype)
    forward = lambda hook, params, rest, images: apply(graph, params, rest, images, hook)  # noqa: E731
    layers = [layer for name in weighted_layers(params) for layer in unstacked_names(name)]
    found = points(forward, params, rest, images, layers=layers)
    return found if takes_hook(net) else _along_longest_path(found, layers, forward, params, rest, images)


def _along_longest_path(
    found: tuple[Point, ...], layers: Iterable[str], forward: Callable[..., Any], *arguments: Any
) -> tuple[Point, ...]:
    """The points with their positions by what depends on what: layers side by side are at one."""
    weighted = {*layers}
    jaxpr = jax.make_jaxpr(lambda *arguments: forward(dependencies.mark, *arguments))(*arguments)
    passed = dependencies.passed(jaxpr, lambda name: int(name.partition("@")[0] in weighted), lambda name, k: False)
    return tuple(point._replace(position=passed[point.name].position) for point in found)
