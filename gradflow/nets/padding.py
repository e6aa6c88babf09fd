"""Nets that differ in depth as one program: rows of equal units are filled up with units that are skipped.

As sequences are padded to a common length, so that a program compiled for that serves all of them.
"""

from collections.abc import Iterator, Mapping
from itertools import count, groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gradflow.hooks import STACK_MARK, unstacked_names
from gradflow.nets.stack import Count, kind, stacked_names, unstack

LENGTH = 9  # units of a row, the most of 56 layers (He et al. 2015, section 4.2); of longer ones twice, four times it
_COUNT = "count"


class Padded(NamedTuple):
    """A net whose rows are joined and padded, and where the parts of the net that was padded are in it."""

    net: nnx.Module  # its units' arrays are shapes alone
    names: Mapping[str, str]  # {a unit of the net: its name in the padded one}

    def name(self, point: str) -> str:
        """The name in the padded net of a point, or of a layer, of the net."""
        unit, slash, part = point.partition("/")
        return self.names.get(unit, unit) + slash + part

    def pad(self, state: Any) -> Any:
        """Parameters, statistics or moments of the net as those of the padded one: zeros for units that it lacks."""
        rows = [name for name in self.net.units if STACK_MARK in name]  # pyright: ignore[reportAttributeAccessIssue]

        def pad_node(node):
            if not isinstance(node, dict):
                return node
            found = {self.names.get(name, name): value for name, value in node.items()}
            for row in rows:
                units = [found.pop(name) for name in unstacked_names(row) if name in found]
                if units:
                    found[row] = jax.tree.map(lambda *leaves, row=row: _filled(leaves, row), *units)
            return found

        return jax.tree.map(pad_node, state, is_leaf=lambda node: isinstance(node, dict))

    def with_counts(self, rest: Mapping[str, Any]) -> dict[str, Any]:
        """Padded statistics, and how many units each row has."""
        there, found = {*self.names.values()}, dict(rest)
        for row in self.net.units:  # pyright: ignore[reportAttributeAccessIssue]
            if STACK_MARK in row:
                count = sum(name in there for name in unstacked_names(row))
                found[row] = {**found.get(row, {}), _COUNT: jnp.int32(count)}
        return found

    def unpad(self, state: Any) -> Any:
        """The inverse of `pad`, and how many units there are left out."""
        name_of = {padded: name for name, padded in self.names.items()}

        def unpad_node(node):
            if not isinstance(node, dict):
                return node
            rows = stacked_names(node)
            kept = {
                name: {part: leaf for part, leaf in value.items() if part != _COUNT} if name in rows else value
                for name, value in node.items()
            }
            found = unstack({name: value for name, value in kept.items() if value or name not in rows})
            units = {one for row in rows for one in unstacked_names(row)}
            return {
                name_of.get(name, name): value
                for name, value in found.items()
                if name in name_of or name not in units
            }

        return jax.tree.map(unpad_node, state, is_leaf=lambda node: isinstance(node, dict))


def pad_units(net: nnx.Module) -> Padded | None:
    """The net, a copy in which each unit that may be repeated is one of a padded row; None where there is none."""
    names = getattr(net, "units", ())
    if not (isinstance(names, tuple) and any(getattr(getattr(net, str(name)), "repeats", False) for name in names)):
        return None
    net, new, found, units = nnx.clone(net), _names(), {}, []
    split = {name: nnx.split(getattr(net, name)) for name in names}
    repeats = {name: getattr(net, name).repeats for name in names}
    for name in names:
        delattr(net, name)
    for _, group in groupby(split, key=lambda name: kind(*split[name])):
        group = tuple(group)
        if not repeats[group[0]]:
            for name in group:
                found[name] = next(new)
                setattr(net, found[name], nnx.merge(*split[name]))
                units.append(found[name])
            continue
        row = [next(new) for _ in range(_length(len(group)))]
        found |= dict(zip(group, row, strict=False))
        graph, state = split[group[0]]
        unit = nnx.merge(graph, jax.tree.map(lambda leaf, row=row: _shape(leaf, len(row)), state))
        unit.count = Count(jax.ShapeDtypeStruct((), jnp.int32))
        units.append(STACK_MARK.join(row))
        setattr(net, units[-1], unit)
    net.units = tuple(units)  # pyright: ignore[reportAttributeAccessIssue]
    return Padded(net, found)


def _names() -> Iterator[str]:
    return (f"unit{i}" for i in count(1))


def _length(units: int) -> int:
    length = LENGTH
    while length < units:
        length *= 2
    return length


def _shape(leaf: Any, length: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((length, *leaf.shape), leaf.dtype)


def _filled(leaves: tuple[Any, ...], row: str) -> Any:
    """Equal arrays along a new first axis, and zeros up to the length of the row; by NumPy, which compiles nothing."""
    filled = np.zeros((len(unstacked_names(row)), *np.shape(leaves[0])), leaves[0].dtype)
    for i, leaf in enumerate(leaves):
        filled[i] = leaf
    return jnp.asarray(filled)
