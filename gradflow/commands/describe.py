"""What a net is, layer by layer, without running it: output shapes, parameters, multiply-adds, positions."""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from gradflow import nets
from gradflow.measuring.hooks import Point, points
from gradflow.nets.layers.atoms import IMAGES
from gradflow.settings import ranges

CLASSES = {"cifar": 10, "imagenet": 1000}  # of the images that a family of nets is for
# What pools are called where a net is traced to the equations that it computes. The sum is the global average's.
POOLS = {"reduce_window_max": "max pool", "reduce_window_sum": "average pool", "reduce_sum": "average pool"}


class Layer(NamedTuple):
    """One weighted layer, or a pool, which has neither parameters nor a name of its own."""

    name: str
    output: tuple[int, ...]  # (height, width, channel) or (classes,)
    parameters: int
    multiply_adds: int  # for one image, as the papers count: those of convolutions and products
    position: int  # of a pool: that of what was last called before it
    window: int = 0  # the side of a kernel or a pool in pixels; 0 is a fully connected layer
    stride: int = 1
    groups: int = 1
    joined: tuple[int, ...] = ()  # after the last layer of an Inception module: all its branches


def layers(
    name: str, image: int | None = None, channels: int = 3, classes: int | None = None, **settings: Any
) -> tuple[list[Layer], int]:
    """The weighted layers of the net called `name`, in the order of the forward pass, and the number of all other
    parameters (scales and shifts of normalisations).

    Raises `BadInput` for an illegal setting, or an image that is too small.
    """
    found, others = layers_and_pools(name, image, channels, classes, **settings)
    return [layer for layer in found if layer.parameters], others


def layers_and_pools(
    name: str, image: int | None = None, channels: int = 3, classes: int | None = None, **settings: Any
) -> tuple[list[Layer], int]:
    """`layers`, with the pools that stand between them."""
    family = settings.get("family", "cifar")
    count = CLASSES.get(family, 10) if classes is None else classes
    for what, value in (("image", image), ("channels", channels), ("classes", count)):
        if value is not None:
            ranges.whole(what, value)
    net = nets.abstract(name, classes=count, channels=channels, image=image, **settings)
    # Without an image, a net that is made for one side knows which.
    side = image or getattr(net, "image", None) or IMAGES.get(family, 32)
    owners = nets.weighted_layers(nets.split(net)[1])
    points, equations = _traced(net, (side, side, channels), owners)
    adds, found, position = nets.multiply_adds(owners, points.values()), [], 0
    for equation in equations:
        if equation.primitive.name == "name" and equation.params["name"] in points:
            point = points[equation.params["name"]]
            position = point.position
            if point.name in owners:
                found.append(_layer(net, point, owners[point.name], adds[point.name]))
            elif found and found[-1].name.startswith(f"{point.name}/"):
                found[-1] = found[-1]._replace(joined=point.shape[1:])
        pool = _pool(equation, position)
        # A mean over windows is followed by the same pool of ones, which counts their pixels.
        if pool and not (found and pool._replace(output=found[-1].output) == found[-1]):
            found.append(pool)
    return found, nets.count_parameters(net) - sum(layer.parameters for layer in found)


def _traced(net: nnx.Module, image_shape: tuple[int, ...], owners: Iterable[str]) -> tuple[dict[str, Point], list[Any]]:
    """The points of a net by name, and the equations of its forward pass; a point's is called as the point is."""
    graph, params, rest = nets.split(net)
    images = jax.ShapeDtypeStruct((1, *image_shape), nets.dtype_of(params))
    traces = []

    def forward(hook, *arguments):
        named = lambda name, x: checkpoint_name(hook(name, x), name)  # noqa: E731
        traces.append(jax.make_jaxpr(lambda params, rest, x: nets.apply(graph, params, rest, x, named)[0])(*arguments))

    found = points(forward, params, rest, images, layers=owners)
    return {point.name: point for point in found}, [_inside(equation) for equation in traces[0].eqns]


def _inside(equation: Any) -> Any:
    """The one equation that has a backward rule of its own, as a pool has on a CPU; or the equation itself."""
    call = equation.params.get("call_jaxpr")
    return call.eqns[0] if call is not None and len(call.eqns) == 1 else equation


def _layer(net: nnx.Module, point: Point, params: dict[str, jax.Array], multiply_adds: int) -> Layer:
    module = functools.reduce(_child, point.name.split("/"), net)
    parameters = sum(array.size for array in params.values())
    window = params["kernel"].shape[0] if params["kernel"].ndim == 4 else 0
    stride, groups = getattr(module, "stride", 1), getattr(module, "groups", 1)
    return Layer(point.name, point.shape[1:], parameters, multiply_adds, point.position, window, stride, groups)


def _child(module: Any, name: str) -> Any:
    return module[int(name)] if name.isdigit() else getattr(module, name)


def _pool(equation: Any, position: int) -> Layer | None:
    """The pool that an equation is, if maps get smaller by it (those inside Inception modules keep their size)."""
    kind, given = equation.primitive.name, equation.params
    if kind == "reduce_sum" and given["axes"] == (1, 2) and equation.invars[0].aval.ndim == 4:
        window, stride = equation.invars[0].aval.shape[1], 1
    elif kind in POOLS and given.get("window_strides", (1, 1))[1] > 1:
        window, stride = given["window_dimensions"][1], given["window_strides"][1]
    else:
        return None
    return Layer(POOLS[kind], equation.outvars[0].aval.shape[1:], 0, 0, position, window, stride)
