"""What a run's net is like by its settings alone: the outputs of each layer, its window, the sides of its maps.

No weights are drawn, no data are read and no user's file is run: a row of the table of runs is all there is.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flax import nnx

from gradflow import nets
from gradflow.claims.theory import border_decades
from gradflow.errors import BadInput
from gradflow.runs import variation

# Images whose size the table does not say: (side, channels) that are usual, the likeliest first.
_USUAL = ((32, 3), (224, 3), (28, 1), (64, 3), (96, 3), (128, 3), (48, 3), (256, 3), (16, 3), (8, 1), (16, 1), (32, 1))

# What changes no layer's shape: nets that differ in these alone are looked at once.
_SHAPELESS = {"initialisation": "he", "activation": "relu", "normalisation": "none", "padding": "zero", "dropout": 0.0}


@dataclass(frozen=True)
class Layer:
    """A weighted layer: a kernel of `side` x `side` (1 of a fully connected one) and the maps that it gives."""

    name: str
    position: int
    outputs: int  # channels, or units
    side: int
    stride: int
    pixels: int  # the side of its maps; 1 of a fully connected one


@dataclass(frozen=True)
class Geometry:
    """The weighted layers of a net in the order of the forward pass."""

    layers: tuple[Layer, ...]
    settings: Mapping[str, Any]  # those of the net, at their defaults where the table has none
    sized: bool  # whether the side of the images, and so that of the maps, is known

    @property
    def chain(self) -> bool:
        """Whether each layer follows on the one before: no branches (what a shortcut adds is not counted)."""
        return [layer.position for layer in self.layers] == [*range(1, len(self.layers) + 1)]

    def border(self) -> float | None:
        """By how many decades zero padding lessens the gradient between the last 3x3 layer and the first.

        Between two pools it is `border_decades`; after one the gradient is taken for even again. None where the sides
        of the maps are not known, the net is no chain, or a layer on maps of several pixels has a larger window.
        """
        windows = [layer for layer in self.layers[1:] if layer.side > 1]
        if not (self.sized and self.chain) or any(layer.side != 3 for layer in windows):
            return None
        rows: list[list[int]] = []
        for layer in windows:
            if not rows or rows[-1][-1] != layer.pixels * layer.stride:
                rows.append([layer.pixels * layer.stride])
            rows[-1].append(layer.pixels)
        return sum(map(border_decades, rows))


def geometry(run: Mapping[str, Any]) -> Geometry | None:
    """That of a row of the table of runs; None of a net that does not come with gradflow, or not with these settings.

    The side of the images is the run's `image_size`, that of the digits, or a usual one that gives its `multiply_adds`.
    """
    known = {key: variation.clean(value) for key, value in run.items()}
    name, legal = known.get("net"), nets.settings(known["net"]) if known.get("net") in nets.NETS else {}
    try:
        given = {key: _whole(known[key]) for key in legal if known.get(key) is not None}
        settings = nets.complete(str(name), given) if legal else {}
    except BadInput:  # of another version
        return None
    if not settings:
        return None
    side = _whole(known.get("image_size")) or (8 if known.get("data") == "digits" else None)
    usual = ((side, 1),) if side else _USUAL
    shaping = tuple((settings | {key: value for key, value in _SHAPELESS.items() if key in settings}).items())
    layers, sized = _layers(str(name), shaping, usual, None if side else _whole(known.get("multiply_adds")))
    return Geometry(layers, settings, sized) if layers else None


def _whole(value: Any) -> Any:
    """A number of a column that has gaps, which pandas makes a float, as it was."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@functools.lru_cache(maxsize=256)
def _layers(name: str, settings: tuple, usual: tuple, multiply_adds: int | None) -> tuple[tuple[Layer, ...], bool]:
    """The layers, and whether their maps are those of the run; none where the images are too small for the net."""
    layers = ()
    for side, channels in usual:
        try:
            layers, counted = _built(name, settings, side, channels)
        except BadInput:
            continue
        if len(usual) == 1 or counted == multiply_adds:
            return layers, True
    return layers, False


def _built(name: str, settings: tuple, side: int, channels: int) -> tuple[tuple[Layer, ...], int]:
    """The layers of the net for such images, and their multiply-adds."""
    net = nets.abstract(name, classes=10, channels=channels, image=side, **dict(settings))
    weights = nets.weighted_layers(nets.split(net)[1])
    modules = {"/".join(map(str, path)): module for path, module in nnx.iter_modules(net)}
    layers, points = [], nets.points_of(net, (side, side, channels))
    for point in points:
        if point.name in weights:
            *window, _, outputs = weights[point.name]["kernel"].shape
            pixels = point.shape[1] if window else 1
            stride = getattr(modules[point.name], "stride", 1)
            side_of_window = window[0] if window else 1
            layers.append(Layer(point.name, point.position, outputs, side_of_window, stride, pixels))
    on_path = [layer for layer in layers if not layer.name.startswith("auxiliary") and "projection" not in layer.name]
    return tuple(on_path), sum(nets.multiply_adds(weights, points).values())
