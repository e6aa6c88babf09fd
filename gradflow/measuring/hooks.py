"""The hook: an identity with a side argument, the sink, whose gradient is defined to be a reading of the gradient.

A net names the points of its spine, `x = hook("block03", x)`. With `no_hook` nothing happens. With a `Recorder` the
point also leaves a summary of the activation in the forward pass and, through the sink, the norm of its gradient in the
backward pass. So one `jax.value_and_grad` over `(params, sinks)` trains the net and measures its gradient flow. No
buffer of the size of an activation is kept and no host callback is made: it works under jit, vmap, scan, remat and a
sharded batch.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow.errors import BadInput
from gradflow.measuring.dynamic_scan import dynamic_scan
from gradflow.measuring.reductions import norm, summary

Hook = Callable[[str, jax.Array], jax.Array]
Sinks = dict[str, jax.Array]
# Layers beside the main path, which do not make the net deeper (the papers count as we do): a shortcut's own, and all
# but one branch of an Inception module.
SIDE_LAYERS = ("projection", "1x1", "5x5_reduce", "5x5", "pool_projection")
# A branch that does not come back: its points go on from where it leaves, and the main path knows nothing of it.
SIDE_BRANCH = "auxiliary"
STACK_MARK = "+"  # between the names of equal units that are one scan
OPEN, CLOSED = 0, 1  # a sink that is read at this step, and one that is not
BRANCH = 2**12  # entries of a point, from which on a branch around its reading costs a CPU less than the reading


def unstacked_names(name: str) -> tuple[str, ...]:
    """The names behind a joint one: of `a+b/part` they are `a/part` and `b/part`; of any other it is itself."""
    units, slash, part = name.partition("/")
    return tuple(unit + slash + part for unit in units.split(STACK_MARK))


def no_hook(name: str, x: jax.Array) -> jax.Array:
    """The hook that does nothing: what a net uses when it is not recorded."""
    del name
    return x


@jax.custom_vjp
def tap(x: jax.Array, sink: jax.Array) -> jax.Array:
    """The identity in `x`. By definition the gradient of `sink` (a scalar) is the Frobenius norm of that of `x`; of a
    closed one it is of no meaning.
    """
    del sink
    return x


def _tap_forward(x, sink):
    return x, sink


def _tap_backward(sink, gradient):
    return gradient, _if_open(sink, lambda gradient: norm(gradient, sink.dtype), gradient)


tap.defvjp(_tap_forward, _tap_backward)


def _if_open(sink, reading: Callable[[jax.Array], jax.Array], x) -> jax.Array:
    """`reading(x)`; where the sink is closed nan, and nothing is computed.

    On a CPU and for many entries, that is: elsewhere a branch would make the device wait for the host.
    """
    if x.size < BRANCH or jax.default_backend() != "cpu":
        return reading(x)
    shape = jax.eval_shape(reading, x)
    return jax.lax.cond(sink == OPEN, reading, lambda x: jnp.full(shape.shape, jnp.nan, shape.dtype), x)


def _require_new(name: str, seen: Mapping[str, Any]) -> None:
    if name in seen:
        raise BadInput(f"the hook name {name!r} is used twice: every point of a net needs a name of its own")


def _check_point(name: Any, x: Any) -> None:
    """Raises `BadInput` for a point that a net cannot have."""
    if not isinstance(name, str) or not name or not name.isprintable() or STACK_MARK in name:
        raise BadInput(f"the hook name {name!r} is not legal: it must be text in one line, without {STACK_MARK}")
    if not jnp.issubdtype(getattr(x, "dtype", type(x)), jnp.floating):
        kind = getattr(x, "dtype", type(x).__name__)
        raise BadInput(f"the point {name!r} is of {kind}: legal are arrays of floating-point numbers")


class Recorder:
    """The hook of one pass: every named point leaves its `summary` in `forward` and its gradient's norm in its sink.

    Raises `BadInput` when a name is used twice, `ValueError` when it has no sink.
    """

    def __init__(self, sinks: Mapping[str, jax.Array]):
        self.sinks = sinks
        self.forward: dict[str, jax.Array] = {}

    def __call__(self, name: str, x: jax.Array) -> jax.Array:
        """`x` itself, recorded."""
        _require_new(name, self.forward)
        if name not in self.sinks:
            raise ValueError(f"no sink for {name!r}: make the sinks from the points of this very net")
        sink = self.sinks[name]
        self.forward[name] = _if_open(sink, summary, x)
        return tap(x, sink)


class Point(NamedTuple):
    """One named place of a forward pass."""

    name: str
    position: int  # weighted layers passed on the way from the input: 0 is the input, the depth of the net the logits
    shape: tuple[int, ...]  # of the activation, batch first
    dtype: Any


class _Search:
    """The hook that finds the points of a pass. Positions are counted along the main path and on from where a branch
    leaves it.
    """

    def __init__(self, layers: Iterable[str]):
        self.counted = {name for name in layers if name.rsplit("/", 1)[-1] not in SIDE_LAYERS}
        self.found: dict[str, Point] = {}
        self.passed = {"main": 0}

    def __call__(self, name: str, x: jax.Array) -> jax.Array:
        _check_point(name, x)
        first = name.split("/", 1)[0]
        path = first if first.startswith(SIDE_BRANCH) else "main"
        self.passed.setdefault(path, self.passed["main"])
        self.passed[path] += name in self.counted
        self._add(Point(name, self.passed[path], x.shape, x.dtype))
        return x

    def _add(self, point: Point) -> None:
        _require_new(point.name, self.found)
        self.found[point.name] = point

    def repeat(self, names: Sequence[str], known: int, passed: int) -> None:
        """Equal units: the points after the first `known` were of the unit `names[0]`, entered at position `passed`."""
        points, layers = list(self.found.values())[known:], self.passed["main"] - passed
        for i, name in enumerate(names[1:], start=1):
            for point in points:
                part = point.name.removeprefix(names[0])
                self._add(point._replace(name=name + part, position=point.position + i * layers))
        self.passed["main"] += layers * (len(names) - 1)


def points(forward: Callable[..., Any], *arguments: Any, layers: Iterable[str]) -> tuple[Point, ...]:
    """The points that `forward(hook, *arguments)` passes, in order, found by tracing it without computing anything.

    `layers` names the weighted layers: passing one moves the position on by one, unless it lies beside the main path.
    Raises `BadInput` for a point without a legal name of its own, or of what is no floating-point array.
    """
    search = _Search(layers)
    jax.eval_shape(lambda *arguments: forward(search, *arguments), *arguments)
    return tuple(search.found.values())


def make_sinks(points: Iterable[Point], rows: Iterable[str] = (), read: Any = True) -> Sinks:
    """One sink a point, open if `read`. Its dtype is that of the reading: float32, or float64 where the net computes in
    float64.

    Where units are one scan, which the joint names in `rows` say, a point of theirs has one sink with an entry a unit.
    """
    row = {unit: joint for joint in rows for unit in unstacked_names(joint)}
    sinks: Sinks = {}
    for point in points:
        unit, slash, part = point.name.partition("/")
        name = row.get(unit, unit) + slash + part
        shape = (len(unstacked_names(name)),) if unit in row else ()
        dtype = jnp.promote_types(point.dtype, jnp.float32)
        sinks[name] = jnp.broadcast_to(jnp.where(read, OPEN, CLOSED).astype(dtype), shape)
    return sinks


def checkpoint(body: Callable[[Hook, Any], Any], hook: Hook, x: Any) -> Any:
    """`body(hook, x)` whose activations are recomputed in the backward pass (`jax.checkpoint`), readings included."""

    def inner(x, sinks):
        recorder = Recorder(sinks)
        return body(recorder, x), recorder.forward

    if not isinstance(hook, Recorder):
        return jax.checkpoint(lambda x: body(hook, x))(x)
    y, forward = jax.checkpoint(inner)(x, hook.sinks)
    _add_summaries(hook, forward)
    return y


def scan(
    body: Callable[[Hook, Any, Any], tuple[Any, Any]],
    hook: Hook,
    names: Sequence[str],
    carry: Any,
    stacked: Any,
    keep: str | None = None,
    count: jax.Array | None = None,
) -> tuple[Any, Any]:
    """A stack of equal units as one `lax.scan`, recorded under their joint name, with a leading axis of `len(names)`.

    `body(hook, carry, unit) -> (carry, out)` calls the hook with `""` or `"/part"`, which stands for `names[i]` + that
    in the i-th unit; the sinks are those of `make_sinks(points, rows=["+".join(names)])`. `stacked` holds the units'
    parameters with a leading axis of `len(names)`, and so does what is returned of `out`. With `keep`, the
    backward pass recomputes all but what has that `checkpoint_name`. With a `count` (int32) only so many of the units
    are passed; what is read and returned of the others is zero. For a hook that is neither `no_hook` nor a `Recorder`
    (another function) the stack is unrolled.
    """
    if isinstance(hook, _Search):  # nothing is computed: one unit tells of all
        known, passed = len(hook.found), hook.passed["main"]
        unit = jax.tree.map(lambda leaf: leaf[0], stacked)
        carry, out = body(lambda part, x: hook(names[0] + part, x), carry, unit)
        hook.repeat(names, known, passed)
        return carry, jax.tree.map(lambda leaf: jnp.stack([leaf] * len(names)), out)
    if not (hook is no_hook or isinstance(hook, Recorder)):
        outs = []
        for i, name in enumerate(names):
            named = lambda part, x, name=name: hook(name + part, x)  # noqa: E731
            carry, out = body(named, carry, jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
            outs.append(out)
        return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)
    row = STACK_MARK.join(names)
    sinks: dict[str, jax.Array] = {}
    if isinstance(hook, Recorder):
        own = [name for name in hook.sinks if name == row or name.startswith(row + "/")]
        sinks = {name.removeprefix(row): hook.sinks[name] for name in own}

    def step(carry, unit_and_sinks):
        unit, sinks = unit_and_sinks
        recorder = Recorder(sinks) if isinstance(hook, Recorder) else no_hook
        carry, out = body(recorder, carry, unit)
        return carry, (out, getattr(recorder, "forward", {}))

    if keep:
        policy = jax.checkpoint_policies.save_only_these_names(keep)
        step = jax.checkpoint(step, prevent_cse=False, policy=policy)
    repeat = jax.lax.scan if count is None else functools.partial(dynamic_scan, count)
    carry, (out, forward) = repeat(step, carry, (stacked, sinks))
    if isinstance(hook, Recorder):
        _add_summaries(hook, {row + part: values for part, values in forward.items()})
    return carry, out


def _add_summaries(hook: Recorder, forward: Mapping[str, jax.Array]) -> None:
    for name in forward:
        _require_new(name, hook.forward)
    hook.forward.update(forward)
