"""A net as a table: row by row as its paper prints it, or layer by layer."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from gradflow.commands.describe import Layer, layers, layers_and_pools

# Columns of GoogLeNet's table 1: the layers of an Inception module.
BRANCHES = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_projection")
FIGURES = ("parameters", "multiply-adds", "position")
FLUSH_LEFT = ("layer", "output", "kernels")

Row = dict[str, str]  # cells by column


def of_paper(name: str, **settings: Any) -> str:
    """One row for each layer, pool and module, and one for equal modules in a row; `settings` are those of
    `describe.layers`.

    Names are those of the hooks. Depth counts the layers that a row adds to the main path.
    """
    found, others = layers_and_pools(name, **settings)
    rows = [_row(list(modules)) for _, modules in groupby(_modules(found), _kind)]
    branches = [branch for branch in BRANCHES if any(branch in row for row in rows)]
    columns = ("layer", "output", "kernels", *branches, "depth", *FIGURES)
    return _printed(columns, [*rows, *_totals(found, others)])


def of_layers(name: str, **settings: Any) -> str:
    """One row for each weighted layer; `settings` are those of `describe.layers`."""
    found, others = layers(name, **settings)
    rows = [{"layer": layer.name, "output": _shape(layer.output)} | _figures([layer]) for layer in found]
    return _printed(("layer", "output", *FIGURES), [*rows, *_totals(found, others)])


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


def _printed(columns: Sequence[str], rows: Iterable[Row]) -> str:
    table = [columns, *([row.get(column, "") for column in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    sides = ["<" if column in FLUSH_LEFT else ">" for column in columns]
    lines = ("  ".join(map("{:{}{}}".format, cells, sides, widths)) for cells in table)
    return "\n".join(line.rstrip() for line in lines)
