"""What a net is, layer by layer, without running it: output shapes, parameters, multiply-adds, positions."""

from typing import Any, NamedTuple

import jax

from gradflow import nets
from gradflow.errors import BadInput


class Layer(NamedTuple):
    """One weighted layer."""

    name: str
    output: tuple[int, ...]  # (height, width, channel) or (classes,)
    parameters: int
    multiply_adds: int  # for one image, as the papers count: those of convolutions and products
    position: int


def layers(
    name: str, image: int | None = None, channels: int = 3, classes: int | None = None, **settings: Any
) -> tuple[list[Layer], int]:
    """The weighted layers of the net called `name`, in the order of the forward pass, and the number of all other
    parameters (scales and shifts of normalisations).

    Raises `BadInput` for an illegal setting, or an image that is too small.
    """
    usual_image, usual_classes = nets.usual_image(name, **settings)
    side, count = usual_image if image is None else image, usual_classes if classes is None else classes
    if min(side, count, channels) < 1:
        raise BadInput(f"image {side}, channels {channels} and classes {count} are not legal: each must be at least 1")
    net = nets.abstract(name, classes=count, channels=channels, image=side, **settings)
    owners = nets.weighted_layers(nets.split(net)[1])
    points = nets.points_of(net, (side, side, channels))
    adds, found = nets.multiply_adds(owners, points), []
    for point in points:
        if point.name in owners:
            parameters = sum(array.size for array in jax.tree.leaves(owners[point.name]))
            found.append(Layer(point.name, point.shape[1:], parameters, adds[point.name], point.position))
    return found, nets.count_parameters(net) - sum(layer.parameters for layer in found)


def table(name: str, image: int | None = None, channels: int = 3, classes: int | None = None, **settings: Any) -> str:
    """The layers as a table with totals, as `gradflow describe` prints it."""
    found, others = layers(name, image, channels, classes, **settings)
    rows = [("layer", "output", "parameters", "multiply-adds", "position")]
    for layer in found:
        shape = "x".join(map(str, layer.output))
        rows.append((layer.name, shape, f"{layer.parameters:,}", f"{layer.multiply_adds:,}", str(layer.position)))
    rows.append(("normalisations", "", f"{others:,}", "", ""))
    parameters, multiply_adds = others + sum(one.parameters for one in found), sum(one.multiply_adds for one in found)
    rows.append(("total", "", f"{parameters:,}", f"{multiply_adds:,}", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    )
