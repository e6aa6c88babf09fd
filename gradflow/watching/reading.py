"""A reading of a watched model, which is a pytree: a step that is compiled returns it as it returns a loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from gradflow.measuring.hooks import STACK_MARK
from gradflow.measuring.measure import ReadingSpec, measure_flow, measure_weights
from gradflow.measuring.reading import Reading
from gradflow.watching import sinks, trees
from gradflow.watching.plan import Layer, Plan, Point


class Positions(dict[str, int]):
    """Name to position, hashable as what is compiled for it must be."""

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(tuple(self.items()))


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False, repr=False)
class WatchedReading(Reading):
    """What was read at one step of a loop of the user's own; `values` as `{quantity: {name: float}}`.

    Its leaves are arrays: of each quantity a vector over the names, and the scalars `loss` and `finite`. The step is 0:
    a loop counts its own. A value is nan where it was not read, and where no gradient passes.
    """

    def tree_flatten_with_keys(self) -> Any:
        """For JAX."""
        keys = sorted(self.arrays)
        return [(jax.tree_util.DictKey(key), self.arrays[key]) for key in keys], (self.step, self.spec, tuple(keys))

    def tree_flatten(self) -> Any:
        """For JAX."""
        keys = sorted(self.arrays)
        return [self.arrays[key] for key in keys], (self.step, self.spec, tuple(keys))

    @classmethod
    def tree_unflatten(cls, auxiliary: Any, leaves: Sequence[Any]) -> "WatchedReading":
        """For JAX."""
        step, spec, keys = auxiliary
        return cls(step, spec, dict(zip(keys, leaves, strict=True)))


def spec_of(plan: Plan) -> ReadingSpec:
    """The names behind the vectors of a reading."""
    places = {point.names[i]: point.positions[i] for point in plan.points for i in point.chosen}
    layers = {name: at for layer in plan.layers for name, at in zip(layer.names, layer.positions, strict=True)}
    order = sorted(places, key=places.__getitem__)
    units = {point.names[i] for point in plan.points if point.unit for i in point.chosen}
    return ReadingSpec(
        activations=tuple(order),
        units=tuple(name for name in order if name in units),
        layers=tuple(sorted(layers, key=layers.__getitem__)),
        position=Positions({**layers, **places}),
    )


def reading(
    plan: Plan, loss: Any, params: Any, gradients: Any, flow: Mapping[str, Any], units: Mapping[str, Any]
) -> WatchedReading:
    """From the gradients of the parameters and of the sinks, by key."""
    spec = spec_of(plan)
    arrays = {"loss": loss, **_flow(plan, spec, flow), **_paths(plan, spec, units)}
    arrays |= weight_norms(plan, weight_norm=params, gradient_norm=gradients)
    known = [i for i, layer in enumerate(_in_order(plan, spec)) if _is_known(layer, trees.layers(gradients))]
    norms = arrays["gradient_norm"][jnp.asarray(known)] if known else jnp.zeros(0)
    whole = jnp.isfinite(jnp.concatenate([jnp.atleast_1d(loss), norms]))
    return WatchedReading(0, spec, arrays | {"finite": jnp.all(whole)})


def _in_order(plan: Plan, spec: ReadingSpec) -> list[Layer]:
    """The layer of each of the names."""
    layers = {name: layer for layer in plan.layers for name in layer.names}
    return [layers[name] for name in spec.layers]


def _is_known(layer: Layer, arrays: Mapping[str, Any]) -> bool:
    """Whether a layer's norms are: it has arrays there, and it is known along which axis several layers lie in them."""
    return layer.path in arrays and (len(layer.names) == 1 or layer.axis is not None)


def _flow(plan: Plan, spec: ReadingSpec, flow: Mapping[str, sinks.Sink]) -> dict[str, Any]:
    forward, backward, names = {}, {}, {}
    for number, point in enumerate(plan.points):
        sink = flow[point.read_at]
        once = sink.told[..., -1] == 1
        seen = jnp.where(once[..., None], sink.told[..., :-1], jnp.nan)
        # Under names without a slash: those of many layers are joined, and a layer's own name may be anything.
        own = _joined(number, len(point.names))
        names |= {f"{number}.{i}": point.names[i] for i in point.chosen}
        forward[own] = _shared_summary(seen, point.shared).reshape(-1, sinks.SEEN)
        backward[own] = _shared_norm(jnp.where(once, sink.flow, jnp.nan), point.shared).reshape(-1)
    short = {name: key for key, name in names.items()}
    own = ReadingSpec(tuple(short[name] for name in spec.activations), (), (), {})
    return measure_flow(own, plan.examples, forward, backward)


def _joined(number: int, count: int) -> str:
    return STACK_MARK.join(f"{number}.{i}" for i in range(count))


def _shared_norm(norms: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The norm of what has these norms in its iterations."""
    if not axes:
        return norms
    largest = jnp.max(norms, axes, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    return jnp.squeeze(scale * jnp.sqrt(jnp.sum(jnp.square(norms / scale), axes, keepdims=True)), axes)


def _shared_summary(seen: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Mean, deviation and share of zeros of what has these in its iterations."""
    if not axes:
        return seen
    mean, deviation, zeros = jnp.moveaxis(seen, -1, 0)
    spread = jnp.sqrt(jnp.mean(jnp.square(deviation), axes) + jnp.var(mean, axes))
    return jnp.stack([jnp.mean(mean, axes), spread, jnp.mean(zeros, axes)], -1)


def _paths(plan: Plan, spec: ReadingSpec, units: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The quantities of the residual units."""
    if not spec.units:
        return {}
    found = {}
    for point in plan.points:
        if point.unit and point.found.key in units:
            rows = _unit(units[point.found.key], point).reshape(-1, sinks.PATHS)
            found |= {point.names[i]: rows[i] for i in point.chosen}
    identity, residual, cosine = jnp.stack([found[name] for name in spec.units], 1)
    scale = jnp.sqrt(jnp.asarray(plan.examples, identity.dtype))
    named = (scale * identity, scale * residual, cosine)
    return dict(zip(("identity_gradient_norm", "residual_gradient_norm", "path_cosine"), named, strict=True))


def _unit(sink: jax.Array, point: Point) -> jax.Array:
    told = jnp.where(sink[..., -1:] == 1, sink[..., :-1], jnp.nan)
    if not point.shared:
        return told
    identity, residual, cosine = jnp.moveaxis(told, -1, 0)
    whole = [_shared_norm(norms, point.shared) for norms in (identity, residual)]
    least = jnp.finfo(told.dtype).tiny
    shares = [jnp.expand_dims(jnp.maximum(norm, least), point.shared) for norm in whole]
    products = jnp.nan_to_num(cosine) * (identity / shares[0]) * (residual / shares[1])
    return jnp.stack([*whole, jnp.sum(products, point.shared)], -1)


def weight_norms(plan: Plan, **given: Any) -> dict[str, jax.Array]:
    """For each `quantity=tree` the norms of each layer's own arrays in the tree: nan of a layer that has none there, as
    one that is not trained; nothing where no layer has.
    """
    order = spec_of(plan).layers
    names = {f"{number}.{i}": name for number, layer in enumerate(plan.layers) for i, name in enumerate(layer.names)}
    short = {name: key for key, name in names.items()}
    own = ReadingSpec((), (), tuple(short[name] for name in order), {})
    found = {}
    for quantity, tree in given.items():
        arrays = trees.layers(tree)
        if any(layer.path in arrays for layer in plan.layers):
            rows = {_joined(i, len(layer.names)): _rows(arrays, layer) for i, layer in enumerate(plan.layers)}
            found |= measure_weights(own, sinks.MANY, **{quantity: rows})
    return found


def _rows(arrays: Mapping[str, Mapping[str, jax.Array]], layer: Layer) -> dict[str, jax.Array]:
    """The arrays of a layer; of stacked ones with one leading axis for all of them, nan where they are not known."""
    count = len(layer.names)
    if not _is_known(layer, arrays):
        return {"unknown": jnp.full((count, 1) if count > 1 else 1, jnp.nan)}
    if count == 1 or layer.axis is None:
        return dict(arrays[layer.path])
    return {key: jnp.moveaxis(leaf, layer.axis, 0).reshape(count, -1) for key, leaf in arrays[layer.path].items()}
