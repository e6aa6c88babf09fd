"""Where a model is read: found by tracing its loss once, without computing anything."""

import contextlib
import fnmatch
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from gradflow.errors import BadInput, nearest
from gradflow.nets import dependencies, marks
from gradflow.nets.dependencies import Passed
from gradflow.nets.marks import Outside
from gradflow.watching.frames import numbered
from gradflow.watching.tracker import Found, Search
from gradflow.watching.watch import Watched


@dataclass(frozen=True, eq=False)
class Point:
    """One place of a model, and its names: several where it is in layers that are one scan or vmap."""

    found: Found
    name: str  # without the numbers of the iterations around it
    names: tuple[str, ...]  # in the order of the iterations, outer first
    positions: tuple[int, ...]
    chosen: tuple[int, ...]  # which of the names are read
    unit: bool  # what goes into the module comes back added to this, its output
    read_at: str  # the key of the point that is read for it: its own, or that of the same value before it

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many iterations there are of each scan and vmap around it."""
        return tuple(frame.size for frame in self.found.frames)

    @property
    def shared(self) -> tuple[int, ...]:
        """Those of the axes above that are time or examples: all their iterations are one point."""
        return tuple(axis for axis, frame in enumerate(self.found.frames) if not frame.stacked)


@dataclass(frozen=True, eq=False)
class Layer:
    """The weights of one module."""

    path: str
    names: tuple[str, ...]
    positions: tuple[int, ...]
    axis: int | None  # of the layers that are stacked in its arrays; None where that is not known


@dataclass(frozen=True, eq=False)
class Plan:
    """What is read of a model, in the order of the forward pass."""

    points: tuple[Point, ...]
    layers: tuple[Layer, ...]
    examples: int
    outside: Outside  # see `marks.is_another`; None where the loss is not differentiated by the model's parameters


def plan(watched: Watched, loss: Callable[[Any], Any], params: Any, examples: int | None) -> Plan:
    """Traces `loss(params) -> (loss, anything)` once. Raises `BadInput` for what cannot be watched, and says why."""
    shapes = watched.shapes(params)
    for outside in (marks.traces(params), None):
        search = Search(shapes, watched.root_is_point(shapes))
        with watched.traced(search, outside), in_one_line("the model cannot be traced with this batch"):
            closed, value = jax.make_jaxpr(lambda params: loss(params)[0], return_shape=True)(params)
        if search.called:
            break
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise BadInput(f"the loss is {_described(value)}: legal is one number, the mean over the examples of a batch")
    _check_mean(closed, examples if watched.examples is None else None)
    if not search.found:
        raise BadInput("the loss calls no module of the watched model: call the model in it, or mark values by gf.tap")
    flat = {found.path for found in search.found.values() if not _is_weighted(found, shapes)}
    weights = {found.path for found in search.found.values()} - flat
    points, passed = _points(closed, search, weights | watched.tied(shapes))
    _check_patterns(watched.points, [name for point in points for name in (*point.names, point.name)])
    chosen = [_chosen(watched, point) for point in points]
    _check_units(watched.residual, chosen)
    found = tuple(point for point in chosen if point.chosen)
    if not found:
        raise BadInput(f"the patterns {[*(watched.points or ())]} leave no point to read")
    for point in found:
        _check_passed(point.found, passed[point.found.key])
    return Plan(found, _layers(chosen, weights, search.frames.axes), watched.examples or examples or 1, outside)


def _points(closed: Any, search: Search, weights: set[str]) -> tuple[list[Point], dict[str, Passed]]:
    weighted = {key for key, found in search.found.items() if found.path in weights}

    def stacked(key: str, level: int) -> bool:
        scans = [frame for frame in search.found[key].frames if frame.kind == "scan"]
        return level < len(scans) and scans[level].stacked

    passed = dependencies.passed(closed, lambda key: int(key in weighted or not weighted), stacked)
    names = _names([search.found[key] for key in search.found if key in passed])
    same = dependencies.same(closed)

    def point(key: str, how: Passed) -> Point:
        found, before = search.found[key], same.get(key, key)
        read_at = before if search.found[before].frames == found.frames else key  # not where a vmap lies between
        return _point(found, how, names[found.call], search.entered, read_at)

    return [point(key, how) for key, how in passed.items()], passed


def _names(found: Sequence[Found]) -> dict[str, str]:
    """The name of each call. Of what was traced more often than it is used, the uses are counted."""
    root, names = marks.root_name(one.path for one in found), dict[str, str]()
    uses: Counter[str] = Counter()
    for one in found:
        if one.call not in names:
            uses[one.path] += 1
            names[one.call] = (one.path or root) + (f"@{uses[one.path]}" if uses[one.path] > 1 else "")
    return names


def _point(found: Found, how: Passed, name: str, entered: Mapping[str, Any], read_at: str) -> Point:
    stacked = [frame for frame in found.frames if frame.stacked]
    steps = iter(how.steps)
    steps = [next(steps, 0) if frame.kind == "scan" else 0 for frame in found.frames]
    moves = [step for step, frame in zip(steps, found.frames, strict=True) if frame.stacked]
    numbers = _indices([frame.size for frame in stacked])
    names = numbered(name, [(tuple(frame.prefixes), frame.size) for frame in stacked])
    part = found.key.removeprefix(found.call)
    return Point(
        found,
        name + part,
        tuple(one + part for one in names),
        tuple(how.position + sum(i * step for i, step in zip(at, moves, strict=True)) for at in numbers),
        (),
        how.residual and found.path != "" and entered.get(found.call) == (found.shape, found.dtype),
        read_at,
    )


def _indices(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    numbers: list[tuple[int, ...]] = [()]
    for size in sizes:
        numbers = [(*before, i) for before in numbers for i in range(size)]
    return numbers


def _is_weighted(found: Found, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> bool:
    """Whether a module has a matrix, or more, of its own: a scale or a bias does not make a net deeper."""
    stacked = sum(frame.stacked for frame in found.frames)
    own = shapes.get(found.path, {})
    return any("/" not in name and len(shape) - stacked > 1 for name, shape in own.items())


def _layers(points: Sequence[Point], weights: set[str], axes: Mapping[str, int | None]) -> tuple[Layer, ...]:
    found: dict[str, Layer] = {}
    for point in points:
        path = point.found.path
        if path in weights and point.name.startswith(path) and "@" not in point.name:
            part = point.found.key.removeprefix(point.found.call)
            names = tuple(name.removesuffix(part) for name in point.names)
            found.setdefault(path, Layer(path, names, point.positions, axes.get(path, 0)))
    return tuple(found.values())


# Which are read


def matches(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a name is that of a pattern, and none of one that leaves it out; with no patterns none is."""
    kept = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    left = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    of = lambda some: any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in some)  # noqa: E731
    return bool(patterns) and of(kept) and not of(left)


def _chosen(watched: Watched, point: Point) -> Point:
    patterns = watched.points
    all_of_them = range(len(point.names))
    if patterns is not None:
        all_of_them = [i for i in all_of_them if matches(patterns, (point.names[i], point.name))]
    unit = point.unit and (watched.residual is None or matches(watched.residual, (*point.names, point.name)))
    return replace(point, chosen=tuple(all_of_them), unit=unit)


def _check_patterns(patterns: Sequence[str] | None, names: Sequence[str]) -> None:
    for pattern in patterns or ():
        bare = pattern.removeprefix("!")
        if not any(fnmatch.fnmatchcase(name, bare) for name in names):
            near = nearest(bare.strip("*/"), names)
            guess = f" did you mean {near!r}?" if near else ""
            shown = ", ".join(dict.fromkeys(names).keys())
            raise BadInput(f"no point is called {bare!r}:{guess} there are {_shortened(shown)}")


def _shortened(names: str) -> str:
    return names if len(names) <= 400 else names[:400].rpartition(",")[0] + ", ..."


def _check_units(patterns: Sequence[str] | None, points: Sequence[Point]) -> None:
    for pattern in patterns or ():
        named = [point for point in points if matches([pattern], (*point.names, point.name))]
        if not named:
            _check_patterns([pattern], [name for point in points for name in point.names])
        if not any(point.unit for point in named) and not pattern.startswith("!"):
            raise BadInput(
                f"{named[0].names[0]!r} has no identity path: what goes in does not come back added, as it is, to "
                "what comes out; legal are modules that return x + F(x)"
            )


# What cannot be watched


@contextlib.contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """A model of the user's own may raise anything while it is traced: that becomes a `BadInput`, which says what."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        if "custom_lin" in reason or "custom_vjp" in reason:  # of ours: the loss was traced before without
            reason = "a derivative that is taken forwards in it (jax.jvp, jacfwd, hessian) passes no reading on"
        raise BadInput(f"{what}: {reason}") from error


def _described(value: Any) -> str:
    return f"an array {value.shape} of {value.dtype}" if hasattr(value, "shape") else f"a {type(value).__name__}"


def _check_mean(closed: Any, examples: int | None) -> None:
    if examples and dependencies.is_sum_over(closed, examples):
        raise BadInput(
            f"the loss is a sum over {examples} examples: readings would be {examples} times those of the mean; return "
            "the mean, or say gf.watch(..., examples=1) to read the gradient of the sum as it is"
        )


def _check_passed(found: Found, how: Passed) -> None:
    """Raises `BadInput` for a point whose sink would not hold one reading."""
    scans = sum(frame.kind == "scan" for frame in found.frames)
    advice = f"leave it out, points=['*', '!{found.key}']"
    if how.inside:
        raise BadInput(f"the point {found.key!r} is inside a {how.inside}, which no reading comes out of: {advice}")
    if how.times > 1:
        raise BadInput(
            f"the point {found.key!r} is inside a function that JAX traced once and calls {how.times} times: its uses "
            f"cannot be told apart; take the inner jit or checkpoint off, or {advice}"
        )
    if len(how.steps) != scans or how.axes - len(found.shape) > len(found.frames) - scans:
        raise BadInput(
            f"the point {found.key!r} is inside a loop or a vmap that was not seen (jax.lax.map, fori_loop, or scan or "
            f"vmap imported by name): call it as jax.lax.scan or jax.vmap, or {advice}"
        )
