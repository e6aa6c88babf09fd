"""Nets of several depths, plain and residual, as one program: what they differ in is its input.

As sequences are padded to a common length, rows of equal units are filled up to one; how many of them there are, and
what their shortcuts are multiplied by, are numbers.
"""

from collections.abc import Mapping
from itertools import count, groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gradflow.measuring.hooks import STACK_MARK, unstacked_names
from gradflow.nets.stack import Count, kind, stacked_names, unstack

LENGTH = 9  # units of a row, the most of 56 layers (He et al. 2015, section 4.2); of longer ones twice, four times it
LEAST = 1 / 5  # of a padded net's rows: a net that has fewer of their units is smaller as it is, and soon compiled
STEPS = 1000  # a longer run loses more by what padding adds to a step (a tenth at 18 layers) than a program costs


class Padded(NamedTuple):
    """A net whose rows are joined and padded, and where the parts of the net that was padded are in it."""

    net: nnx.Module  # its units' arrays are shapes alone
    names: Mapping[str, str]  # {a unit of the net: its name in the padded one}
    inputs: Mapping[str, Mapping[str, Any]]  # {a unit of the net: arrays that the padded one has besides the unit's}

    def name(self, point: str) -> str:
        """The name in the padded net of a point, or of a layer, of the net."""
        unit, slash, part = point.partition("/")
        return self.names.get(unit, unit) + slash + part

    def pad(self, tree: Any) -> Any:
        """Parameters or moments of the net as those of the padded one: zeros for the units that it lacks."""
        return jax.tree.map(self._pad, tree, is_leaf=lambda node: isinstance(node, dict))

    def pad_rest(self, rest: Mapping[str, Any]) -> dict[str, Any]:
        """The same of all that is neither; what the padded net has besides it is added."""
        units = {name: {**rest.get(name, {}), **given} for name, given in self.inputs.items() if given}
        found = self._pad({**rest, **units})
        for row in stacked_names(dict.fromkeys(self.net.units)):  # pyright: ignore[reportAttributeAccessIssue]
            there = sum(name in self.names.values() for name in unstacked_names(row))
            found[row] = {**found.get(row, {}), "count": jnp.int32(there)}
        return found

    def unpad(self, tree: Any) -> Any:
        """The inverse of both."""
        return jax.tree.map(self._unpad, tree, is_leaf=lambda node: isinstance(node, dict))

    def _pad(self, node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        found = {self.names.get(name, name): value for name, value in node.items()}
        for row in stacked_names(dict.fromkeys(self.net.units)):  # pyright: ignore[reportAttributeAccessIssue]
            units = [found.pop(name) for name in unstacked_names(row) if name in found]
            if units:
                found[row] = jax.tree.map(lambda *leaves, row=row: _filled(leaves, row), *units)
        return found

    def _unpad(self, node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        rows = stacked_names(node)
        without = {row: {part: leaf for part, leaf in node[row].items() if part != "count"} for row in rows}
        one_by_one = unstack({**node, **without})
        found = {name: value for name, value in node.items() if name not in rows}
        for name, padded in self.names.items():
            if padded in one_by_one:
                found.pop(padded, None)
                found[name] = {
                    part: leaf for part, leaf in one_by_one[padded].items() if part not in self.inputs.get(name, ())
                }
                if not found[name]:
                    del found[name]
        return found


def pad_units(net: nnx.Module) -> Padded | None:
    """The net, a copy in which each unit that may be repeated is one of a padded row; None where there are too few."""
    names: Any = getattr(net, "units", ())  # of a user's own net this may be anything
    if not (isinstance(names, tuple) and any(getattr(getattr(net, str(name)), "repeats", False) for name in names)):
        return None
    net, new = nnx.clone(net), (f"unit{i}" for i in count(1))
    units = {name: getattr(net, name) for name in names}
    inputs = {name: unit.as_twin() for name, unit in units.items()}
    split = {name: nnx.split(unit) for name, unit in units.items()}
    found: dict[str, str] = {}
    padded: dict[str, nnx.Module] = {}
    for _, group in groupby(names, key=lambda name: kind(*split[name])):
        group = tuple(group)
        if units[group[0]].repeats:
            row = [next(new) for _ in range(_length(len(group)))]
            padded[STACK_MARK.join(row)] = _row(*split[group[0]], len(row))
        else:
            row = [next(new) for _ in group]
            padded |= zip(row, (units[name] for name in group), strict=True)
        found |= zip(group, row, strict=False)
    places = [name for row in stacked_names(padded) for name in unstacked_names(row)]
    if sum(unit.repeats for unit in units.values()) < LEAST * len(places):
        return None
    for name in names:
        delattr(net, name)
    for name, unit in padded.items():
        setattr(net, name, unit)
    net.units = tuple(padded)  # pyright: ignore[reportAttributeAccessIssue]
    return Padded(net, found, inputs)


def _row(graph: nnx.GraphDef, state: Any, length: int) -> nnx.Module:
    """A unit with the shapes of so many, and their number."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((length, *leaf.shape), leaf.dtype), state)
    unit = nnx.merge(graph, shapes)
    unit.count = Count(jax.ShapeDtypeStruct((), jnp.int32))
    return unit


def _length(units: int) -> int:
    length = LENGTH
    while length < units:
        length *= 2
    return length


def _filled(leaves: tuple[Any, ...], row: str) -> Any:
    """Equal arrays along a new first axis, and zeros up to the length of the row; by NumPy, which compiles nothing."""
    filled = np.zeros((len(unstacked_names(row)), *np.shape(leaves[0])), leaves[0].dtype)
    for i, leaf in enumerate(leaves):
        filled[i] = leaf
    return jnp.asarray(filled)
