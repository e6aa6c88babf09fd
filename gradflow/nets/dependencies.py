"""What depends on what in a traced function: how many weighted layers lie before a point, and what is added to what.

Points are marked by JAX's `checkpoint_name`, which is the identity and stays visible in a jaxpr. A position is counted
along the longest path that leads to the point, so branches side by side (query, key and value) count once.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name

_OUT, _IN = "gradflow>", "gradflow<"
_SAME = ("convert_element_type", "copy", "copy_p", "sharding_constraint", "optimization_barrier", "reduce_precision")
_SAME += ("name",)
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "remat", "checkpoint")


def mark(name: str, x: jax.Array) -> jax.Array:
    """`x`, the value of the point `name`."""
    return checkpoint_name(x, _OUT + name)


def mark_input(name: str, x: jax.Array) -> jax.Array:
    """`x`, which goes into the module whose output is the point `name`."""
    return checkpoint_name(x, _IN + name)


@dataclass
class Passed:
    """One point, as it lies in a traced function."""

    position: int  # weighted layers on the longest path to it, its own included; in a scan of the first iteration
    steps: list[int] = field(default_factory=list)  # by how much it moves on in each enclosing scan, outer first
    times: int = 0  # how often it stands in the function
    inside: str | None = None  # a transform around it that no reading comes out of
    residual: bool = False  # what went into the module comes back added to its output
    axes: int = 0  # of the value as it lies in the function: more than its module sees, where vmaps are around


class _Value(NamedTuple):
    """What is known of one array: the layers before it, and the marked inputs that it is a sum with."""

    depth: int
    terms: dict[str, tuple[int, bool]]  # name: how often it is a term, whether anything was added


_NOTHING = _Value(0, {})


def passed(closed: Any, weight: Callable[[str], int], stacked: Callable[[str, int], bool]) -> dict[str, Passed]:
    """The marked points of a jaxpr, in order, by name.

    `weight(name)` is what passing the point adds to a position: 1 for a layer with weights, else 0. `stacked(name, k)`
    says whether the k-th scan around it, outer first, runs over layers (and not over time).
    """
    walk = _Walk(weight, stacked)
    walk.through(closed.jaxpr, [_NOTHING] * len(closed.jaxpr.invars))
    return walk.found


class _Walk:
    def __init__(self, weight: Callable[[str], int], stacked: Callable[[str, int], bool]):
        self.weight, self.stacked = weight, stacked
        self.found: dict[str, Passed] = {}
        self.loops, self.inside = 0, None

    def through(self, jaxpr: Any, inputs: list[_Value]) -> list[_Value]:
        known = dict(zip(jaxpr.invars, inputs, strict=True))
        look = lambda var: _NOTHING if hasattr(var, "val") else known.get(var, _NOTHING)  # noqa: E731
        for eqn in jaxpr.eqns:
            known.update(zip(eqn.outvars, self.equation(eqn, [look(var) for var in eqn.invars]), strict=True))
        return [look(var) for var in jaxpr.outvars]

    def equation(self, eqn: Any, inputs: list[_Value]) -> list[_Value]:
        kind = eqn.primitive.name
        if kind == "name":
            return [self.marked(eqn.params["name"], inputs[0], len(eqn.outvars[0].aval.shape))]
        if kind in _SAME:
            return inputs
        if kind in ("add", "add_any"):
            shapes = [var.aval.shape for var in (*eqn.invars, *eqn.outvars)]
            return [_added(inputs) if len(set(shapes)) == 1 else _Value(_deepest(inputs), {})]
        inner = [*_jaxprs(eqn)]
        if not inner:
            return [_Value(_deepest(inputs), {})] * len(eqn.outvars)
        if kind == "scan":
            return self.scan(eqn, inner[0], inputs)
        if kind == "cond":
            return self.branches(inner, inputs[1:])
        if kind in _CALLS and len(inner[0].invars) == len(inputs):
            return self.through(inner[0], inputs)
        return self.opaque(kind, eqn, inner, inputs)

    def marked(self, name: str, x: _Value, axes: int) -> _Value:
        if name.startswith(_IN):
            return _Value(x.depth, {**x.terms, name.removeprefix(_IN): (1, False)})
        if not name.startswith(_OUT):
            return x
        name = name.removeprefix(_OUT)
        depth = x.depth + self.weight(name)
        point = self.found.setdefault(name, Passed(depth, [0] * self.loops))
        point.times, point.axes = point.times + 1, axes
        point.inside = point.inside or self.inside
        point.residual = x.terms.get(name) == (1, True)
        return _Value(depth, x.terms)

    def scan(self, eqn: Any, body: Any, inputs: list[_Value]) -> list[_Value]:
        """The first iteration; where the scan runs over layers each further one moves on as that did."""
        level, before = self.loops, set(self.found)
        # What is carried has the rank that the body sees, what is scanned an axis more; jax 0.12 counts neither.
        carried, scanned = len(eqn.outvars) - _wider(eqn.outvars, body.outvars), _wider(eqn.invars, body.invars)
        constants = len(eqn.invars) - carried - scanned
        self.loops += 1
        outputs = self.through(body, [_Value(value.depth, {}) for value in inputs])
        self.loops -= 1
        inside = [name for name in self.found if name not in before]
        if not any(self.stacked(name, level) for name in inside):
            return [_Value(value.depth, {}) for value in outputs]
        starts = inputs[constants : constants + carried]
        moved = [after.depth - start.depth for start, after in zip(starts, outputs, strict=False)]
        for name in inside:
            self.found[name].steps[level] = max([0, *moved])
        more = eqn.params["length"] - 1
        moved += [max([0, *moved])] * (len(outputs) - carried)
        return [_Value(value.depth + more * step, {}) for value, step in zip(outputs, moved, strict=True)]

    def branches(self, inner: list[Any], inputs: list[_Value]) -> list[_Value]:
        ends = [self.through(branch, inputs) for branch in inner]
        return [_Value(_deepest(list(values)), {}) for values in zip(*ends, strict=True)]

    def opaque(self, kind: str, eqn: Any, inner: list[Any], inputs: list[_Value]) -> list[_Value]:
        """A transform that no reading comes out of: a point inside is told so."""
        outer, self.inside = self.inside, self.inside or kind
        depth = _deepest(inputs)
        ends = [depth]
        for jaxpr in inner:
            ends += [value.depth for value in self.through(jaxpr, [_Value(depth, {})] * len(jaxpr.invars))]
        self.inside = outer
        return [_Value(max(ends), {})] * len(eqn.outvars)


def _deepest(values: list[_Value]) -> int:
    return max((value.depth for value in values), default=0)


def _wider(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """How many of the values have another rank outside a loop than in its body."""
    return sum(len(one.aval.shape) != len(other.aval.shape) for one, other in zip(outside, inside, strict=True))


def _added(values: list[_Value]) -> _Value:
    terms: dict[str, tuple[int, bool]] = {}
    for value in values:
        for name, (count, _) in value.terms.items():
            terms[name] = terms.get(name, (0, True))[0] + count, True
    return _Value(_deepest(values), terms)


def same(closed: Any) -> dict[str, str]:
    """Of each point that is another one's value, and the only use of it, that other one: a module that returns what its
    last child returned.
    """
    found: dict[str, str] = {}
    _find_same(closed.jaxpr, found)
    return found


def _find_same(jaxpr: Any, found: dict[str, str]) -> None:
    uses = Counter(var for eqn in jaxpr.eqns for var in eqn.invars if not hasattr(var, "val"))
    uses.update(var for var in jaxpr.outvars if not hasattr(var, "val"))
    points: dict[Any, str] = {}  # of the values that are one, its name
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "name" and eqn.params["name"].startswith(_OUT):
            name, x = eqn.params["name"].removeprefix(_OUT), eqn.invars[0]
            if x in points and uses[x] == 1:
                found[name] = found.get(points[x], points[x])
            points[eqn.outvars[0]] = name
        for inner in _jaxprs(eqn):
            _find_same(inner, found)


def _jaxprs(eqn: Any) -> Iterator[Any]:
    for value in eqn.params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                yield one


def is_sum_over(closed: Any, examples: int) -> bool:
    """Whether the first output is for certain a plain sum over an axis of that length, which nothing divides."""
    return _summed(closed.jaxpr, closed.jaxpr.outvars[0], examples)


def _summed(jaxpr: Any, var: Any, examples: int) -> bool:
    made = {out: eqn for eqn in jaxpr.eqns for out in eqn.outvars}
    while not hasattr(var, "val") and var in made:
        eqn = made[var]
        kind, inner = eqn.primitive.name, [*_jaxprs(eqn)]
        if kind in ("neg", *_SAME):
            var = eqn.invars[0]
        elif kind in _CALLS and len(inner) == 1:
            return _summed(inner[0], inner[0].outvars[eqn.outvars.index(var)], examples)
        else:
            shape = eqn.invars[0].aval.shape if kind == "reduce_sum" else ()
            over = any(shape[axis] == examples for axis in eqn.params["axes"]) if shape else False
            return examples > 1 and over and not _scaled(jaxpr, eqn.invars[0])
    return False


def _scaled(jaxpr: Any, var: Any) -> bool:
    """Whether what is summed may have been weighted, and so divided, before: then nothing is certain."""
    made = {out: eqn for eqn in jaxpr.eqns for out in eqn.outvars}
    while not hasattr(var, "val") and var in made:
        eqn = made[var]
        kind, inner = eqn.primitive.name, [*_jaxprs(eqn)]
        if kind in _CALLS and len(inner) == 1:
            return _scaled(inner[0], inner[0].outvars[eqn.outvars.index(var)])
        if kind in ("mul", "div", "select_n") or inner:
            return True
        if kind not in ("neg", *_SAME):
            return False
        var = eqn.invars[0]
    return False
