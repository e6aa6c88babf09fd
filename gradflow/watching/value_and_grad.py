"""The gradient of a loss of the user's own, and a reading of it: one forward and one backward pass for both."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gradflow.errors import BadInput
from gradflow.kinds import checked
from gradflow.measuring import hooks
from gradflow.measuring.hooks import make_sinks
from gradflow.watching import equinox, sinks
from gradflow.watching import plan as plans
from gradflow.watching.pure import Pure, pure
from gradflow.watching.reading import WatchedReading, reading
from gradflow.watching.tracker import Reader
from gradflow.watching.watch import Watched


@checked
def value_and_grad(
    loss_fn: Callable[..., Any], watched: Any, *, has_aux: bool = False, wrt: Any = nnx.Param
) -> Callable[..., Any]:
    """As `jax.value_and_grad` and `nnx.value_and_grad`, and a reading of the watched model as a third result.

    `gf.value_and_grad(loss, watched)(params, batch)` returns `(loss, gradients, reading)`, with `has_aux`
    `((loss, aux), gradients, reading)`. The first argument is what the loss is differentiated by: a tree of parameters,
    from which `loss` makes the model (`nnx.merge`, `model.apply`); or the `nnx.Module` itself, whose `wrt` variables
    are and whose other ones (running statistics, counts of random numbers) are updated in place; or an Equinox module,
    as in `equinox.filter_value_and_grad`. It works inside `jax.jit`, `nnx.jit` and `equinox.filter_jit`, and the
    reading is a pytree. `read=False` reads nothing and costs nothing; an array there decides it at each step.

    The loss is a mean over the B examples of a batch and readings are `sqrt(B) ||dL/dx||`. B is the length of the
    first axis of the first array among the further arguments, modules, their states and keys apart. A loss that has its
    batch from elsewhere is read as of one example, which a warning says, unless `gf.watch(model, examples=B)` names B.

    Raises `BadInput`, when it is called, for what cannot be watched.
    """
    if not isinstance(watched, Watched):
        raise BadInput(f"the second argument is a {type(watched).__name__}: legal is what gf.watch(model) returns")
    try:
        nnx.filterlib.to_predicate(wrt)
    except (TypeError, ValueError) as error:
        raise BadInput(f"wrt {wrt!r} is not legal: it is a filter of nnx, such as nnx.Param ({error})") from error

    def value_and_grad_and_reading(first: Any, *arguments: Any, read: Any = True, **keywords: Any) -> Any:
        given = pure(loss_fn, first, arguments, keywords, has_aux, wrt)
        (loss, aux), gradients, found, _ = planned(watched, given, arguments, keywords, read)
        return ((loss, aux) if has_aux else loss), gradients, found

    return value_and_grad_and_reading


_UNKNOWN = (
    "how many examples the loss is a mean over is not known, as no array is among its arguments: gradients are read as "
    "of one example; give the batch to the loss as an argument, or say gf.watch(model, examples=B)"
)
_OURS = ("gradflow", "jax", "flax", "equinox", "jaxtyping", "beartype")


def _warn() -> None:
    """Says that it is not known, of the line of the nearest caller outside of this package and what it stands on."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(_UNKNOWN, stacklevel=level)


def planned(watched: Watched, given: Pure, arguments: tuple, keywords: Mapping[str, Any], read: Any) -> Any:
    """`((loss, aux), gradients, reading, plan)`; modules that were given are updated."""
    if wrong := [leaf for leaf in jax.tree.leaves(given.params) if not _has_gradient(leaf)]:
        raise BadInput(
            f"cannot differentiate by a {type(wrong[0]).__name__}: legal are arrays of floating-point numbers"
        )
    if getattr(read, "shape", ()) != () or isinstance(read, str):
        raise BadInput(f"read {repr(read)[:60]} is not legal: it is True, False or one of them in an array")
    examples = watched.examples or examples_of((*arguments, *keywords.values()), given.params)
    plan = plans.plan(watched, given.loss, given.params, examples)
    if isinstance(read, jax.Array) or read:
        if examples is None:
            _warn()
        (loss, (aux, states)), gradients, found = _read(watched, plan, given, read)
    else:
        (loss, (aux, states)), gradients = jax.value_and_grad(given.loss, has_aux=True)(given.params)
        found = _unread(watched, plan, given, loss)
    if given.put_back:
        given.put_back(states)
    return (loss, aux), gradients, found, plan


def _has_gradient(leaf: Any) -> bool:
    try:
        return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    except TypeError:  # it is no number
        return False


def _unread(watched: Watched, plan: plans.Plan, given: Pure, loss: jax.Array) -> WatchedReading:
    """A reading of the same structure in which the loss alone is read."""
    shapes = jax.eval_shape(lambda params: _read(watched, plan, given._replace(params=params), True)[2], given.params)
    nothing = {name: jnp.full(leaf.shape, jnp.nan, leaf.dtype) for name, leaf in shapes.arrays.items() if leaf.shape}
    return WatchedReading(0, shapes.spec, {**nothing, "loss": loss, "finite": jnp.isfinite(loss)})


def examples_of(arguments: Sequence[Any], params: Any) -> int | None:
    """The length of the first axis of each argument's first array: models, their states and random keys apart, and what
    is like the parameters, as those of a target net are.

    Raises `BadInput` where the arguments do not agree.
    """
    kind = _kind(params)
    lengths = {length for one in arguments if (length := _first_length(one)) is not None and _kind(one) != kind}
    if len(lengths) > 1:
        given = " and of ".join(map(str, sorted(lengths)))
        raise BadInput(
            f"the loss is given arrays of {given} rows: say over how many examples it is a mean by "
            "gf.watch(model, examples=...)"
        )
    return next(iter(lengths), None)


def _kind(tree: Any) -> tuple[Any, list[Any]]:
    return jax.tree.structure(tree), [getattr(leaf, "shape", None) for leaf in jax.tree.leaves(tree)]


def _first_length(argument: Any) -> int | None:
    for leaf in jax.tree.leaves(argument, is_leaf=_is_no_batch):
        if getattr(leaf, "shape", ()) and not (_is_no_batch(leaf) or _is_key(leaf)):
            return leaf.shape[0]
    return None


def _is_no_batch(x: Any) -> bool:
    """Whether it is a model, or its state."""
    return isinstance(x, nnx.Pytree | nnx.State) or equinox.is_module(x) or equinox.is_state(x)


def _is_key(x: Any) -> bool:
    """Whether it is a random key, of which those of `jax.random.PRNGKey` are two integers."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key) or (x.shape == (2,) and x.dtype == jnp.uint32)


def _read(watched: Watched, plan: plans.Plan, given: Pure, read: Any) -> Any:
    shapes = watched.shapes(given.params)
    root = watched.root_is_point(shapes)
    flow = {point.read_at: _sink(point, read) for point in plan.points}
    units = {point.found.call: _unit_sink(point, read) for point in plan.points if point.unit}
    frames = {point.found.call: (point.found.dtype, len(point.sizes)) for point in plan.points}

    def loss(params, flow, units):
        reader = Reader(shapes, root, flow, {key: (sink, *frames[key]) for key, sink in units.items()})
        with watched.traced(reader, plan.outside):
            found = given.loss(params)
        if missed := [key for key in flow if key not in reader.met]:
            raise BadInput(f"the point {missed[0]!r} was passed in one trace of the loss and not in the next one")
        return found

    with plans.in_one_line("the loss cannot be differentiated and read"):
        found = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(given.params, flow, units)
    value, (gradients, flow, units) = found
    return value, gradients, reading(plan, value[0], given.params, gradients, flow, units)


def _sink(point: plans.Point, read: Any) -> sinks.Sink:
    own = hooks.Point(point.found.key, 0, point.found.shape, point.found.dtype)
    flow = jnp.broadcast_to(make_sinks([own], read=read)[own.name], point.sizes)
    return sinks.Sink(flow, jnp.zeros((*point.sizes, sinks.SEEN + 1), flow.dtype))


def _unit_sink(point: plans.Point, read: Any) -> jax.Array:
    flow = _sink(point, read).flow
    return jnp.broadcast_to(flow[..., None], (*point.sizes, sinks.PATHS + 1))
