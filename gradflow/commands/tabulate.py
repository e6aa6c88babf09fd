"""A net as a table: row by row as its paper prints it, or layer by layer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from gradflow import html_table, nets
from gradflow.commands.describe import Layer, layers_and_pools
from gradflow.plain_text import plain
from gradflow.training import platform

# Columns of GoogLeNet's table 1: the layers of an Inception module.
BRANCHES = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_projection")
FIGURES = ("parameters", "multiply-adds", "position")
FLUSH_LEFT = ("layer", "output", "kernels")

Row = dict[str, str]  # cells by column


@dataclass(frozen=True, repr=False)
class Description:
    """A net as a table, to print or to look at in a notebook.

    Attributes:
        net: Its name, with its settings that were given.
        layers: Its weighted layers, in the order of the forward pass: `pandas.DataFrame(description.layers)`.
        parameters: How many in all, those of normalisations included.
        multiply_adds: Of convolutions and products, for one image.
        columns: The headings of the table.
        rows: Its rows, the cells by heading.
    """

    net: str
    layers: tuple[Layer, ...]
    parameters: int
    multiply_adds: int
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def __repr__(self) -> str:
        return f"<{self._summary()}>"

    def _summary(self) -> str:
        counts = f"{self.parameters:,} parameters, {self.multiply_adds:,} multiply-adds"
        return f"{plain(self.net)}: {len(self.layers)} weighted layers, {counts}"

    def __str__(self) -> str:
        return "\n".join(_aligned(self.columns, self.rows))

    def _repr_html_(self) -> str:
        cells = ([row.get(column, "") for column in self.columns] for row in self.rows)
        return html_table.table(self.columns, cells, self._summary())


def describe(
    net: str,
    *,
    image: int | None = None,
    channels: int = 3,
    classes: int | None = None,
    layers: bool = False,
    **settings: Any,
) -> Description:
    """What a net is, without running it: `describe("residual", depth=56)`; no weight is drawn for it.

    A row for each layer, pool and module as the paper's table prints it, and one for equal modules in a row; names are
    those of the hooks, and depth counts the layers that a row adds to the main path. `print` shows it as
    `gradflow describe` does. Raises `BadInput` for an illegal setting, or an image that is too small.

    Args:
        net: A name from `gradflow list`, or a function of your own as FILE.py:FUNCTION.
        image: The image's side in pixels; by default 32, or that of the paper.
        channels: Of the image.
        classes: Of the classifier; by default 10, or that of the paper.
        layers: A row for each weighted layer instead.
        settings: Those of the net.
    """
    platform.check_devices()
    nets.complete(net, settings)  # none of what the data say
    found, others = layers_and_pools(net, image, channels, classes, **settings)
    weighted = tuple(layer for layer in found if layer.parameters)
    columns, rows = _by_layer(weighted) if layers else _by_module(found)
    given = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    parameters = others + sum(layer.parameters for layer in weighted)
    adds = sum(layer.multiply_adds for layer in weighted)
    rows = (*rows, *_totals(weighted, others))
    return Description(f"{net}({given})" if given else net, weighted, parameters, adds, columns, rows)


def _by_module(found: Sequence[Layer]) -> tuple[tuple[str, ...], list[Row]]:
    """Columns and rows as a paper's table has them."""
    rows = [_row(list(modules)) for _, modules in groupby(_modules(found), _kind)]
    branches = [branch for branch in BRANCHES if any(branch in row for row in rows)]
    return ("layer", "output", "kernels", *branches, "depth", *FIGURES), rows


def _by_layer(found: Sequence[Layer]) -> tuple[tuple[str, ...], list[Row]]:
    rows = [{"layer": layer.name, "output": _shape(layer.output)} | _figures([layer]) for layer in found]
    return ("layer", "output", *FIGURES), rows


def _modules(found: Iterable[Layer]) -> list[list[Layer]]:
    """Layers that lie in one module of the net, together; GoogLeNet's table has conv2_reduce and conv2 as one row."""
    return [list(group) for _, group in groupby(found, lambda layer: _module(layer).removesuffix("_reduce"))]


def _module(layer: Layer) -> str:
    return layer.name.rpartition("/")[0] or layer.name


def _last_name(layer: Layer) -> str:
    return layer.name.rpartition("/")[2]


def _main(found: Iterable[Layer]) -> list[Layer]:
    """Without the shortcuts' own layers, which no table shows."""
    return [layer for layer in found if _last_name(layer) != "projection"]


def _kind(module: Sequence[Layer]) -> Any:
    """Equal for units that a paper's table has as one row, though the first of them may have a stride."""
    if "/" not in module[0].name:
        return module[0].name
    return [(_last_name(layer), layer.window, layer.output) for layer in _main(module)]


def _row(modules: Sequence[Sequence[Layer]]) -> Row:
    first, last, found = modules[0], modules[-1][-1], [layer for module in modules for layer in module]
    names = dict.fromkeys([_module(first[-1]), _module(last)])
    row = {"layer": "..".join(names), "output": _shape(last.joined or last.output)}
    if _last_name(first[0]) in BRANCHES:
        row |= {_last_name(layer): str(layer.output[-1]) for layer in first}
    else:
        row["kernels"] = _kernels(first, len(modules))
    if last.parameters:
        row["depth"] = str(len({layer.position for layer in _main(found)}))
        row |= _figures(found)
    return row


def _kernels(module: Sequence[Layer], times: int) -> str:
    """`7x7, 64, stride 2` of a layer, `[3x3, 64; 3x3, 64] x3` of three units."""
    if len(module) == times == 1:
        return _kernel(module[0])
    inside = [_kernel(layer._replace(stride=1)) for layer in _main(module)]
    return f"[{'; '.join(inside)}]" + f" x{times}" * (times > 1)


def _kernel(layer: Layer) -> str:
    parts = [f"{layer.window}x{layer.window}" if layer.window else "fc"]
    parts += [str(layer.output[-1])] * (layer.parameters > 0)
    parts += [f"stride {layer.stride}"] * (layer.stride > 1)
    parts += [f"{layer.groups} towers"] * (layer.groups > 1)
    return ", ".join(parts)


def _figures(found: Sequence[Layer]) -> Row:
    parameters, multiply_adds = sum(layer.parameters for layer in found), sum(layer.multiply_adds for layer in found)
    positions = [layer.position for layer in _main(found) or found]
    ends = dict.fromkeys([min(positions), max(positions)])
    return dict(zip(FIGURES, (f"{parameters:,}", f"{multiply_adds:,}", "..".join(map(str, ends))), strict=True))


def _totals(found: Sequence[Layer], others: int) -> list[Row]:
    parameters = others + sum(layer.parameters for layer in found)
    total = {"layer": "total", **_figures(found), "parameters": f"{parameters:,}", "position": ""}
    return [{"layer": "normalisations", "parameters": f"{others:,}"}, total]


def _shape(output: Iterable[int]) -> str:
    return "x".join(map(str, output))


def _aligned(columns: Sequence[str], rows: Iterable[Row]) -> list[str]:
    """The lines of the table as text."""
    table = [columns, *([row.get(column, "") for column in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    sides = ["<" if column in FLUSH_LEFT else ">" for column in columns]
    lines = ("  ".join(map("{:{}{}}".format, cells, sides, widths)) for cells in table)
    return [line.rstrip() for line in lines]
