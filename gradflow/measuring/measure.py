"""What is read off one training step: (activations, their gradients, weights, updates) to named quantities.

Two pure functions: `ReadingSpec.of` says once, on the host, where a net is read; `measure` says, inside the step, what.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.errors import BadInput
from gradflow.measuring.hooks import STACK_MARK, Point, unstacked_names
from gradflow.measuring.reductions import LARGE, norm, norms


class Quantity(NamedTuple):
    """What a number in the tables is."""

    at: str  # "activation": every point; "unit": units with a shortcut; "layer": layers with weights; "net": the whole
    unit: str
    formula: str


# In float32 readings of a gradient are good to some 1e-6 of their value, with one exception: at the first steps of deep
# ReLU nets with batch norm rounding grows from layer to layer as the gradient does, and 56 layers are good to 1 to 3 %
# (in PyTorch as well). In float64 all are exact to 1e-10.
_GRADIENT = "gradient of the loss, root mean square over examples"
QUANTITIES = {
    "activation_mean": Quantity("activation", "activation", "mean over all entries of x"),
    "activation_std": Quantity("activation", "activation", "standard deviation over all entries of x"),
    "zero_fraction": Quantity("activation", "share, 0 to 1", "share of the entries of x that are exactly 0"),
    "activation_gradient_norm": Quantity("activation", _GRADIENT, "sqrt(B) ||dL/dx||_F"),
    "identity_gradient_norm": Quantity("unit", _GRADIENT, "sqrt(B) ||a||_F, a = what came back through the shortcut"),
    "residual_gradient_norm": Quantity("unit", _GRADIENT, "sqrt(B) ||b||_F, b = what came back through F"),
    "path_cosine": Quantity(
        "unit", "cosine, -1 to 1", "<a, b> / (||a|| ||b||), 2 <a, b> = |a+b|^2 - |a|^2 - |b|^2; nan where that cancels"
    ),
    "weight_norm": Quantity("layer", "weight", "||W||_F over the layer's kernel and bias, before the update"),
    "gradient_norm": Quantity("layer", "loss / weight", "||dL/dW||_F, L = mean loss of the batch, no weight decay"),
    "update_norm": Quantity("layer", "weight", "||W_after - W_before||_F, learning rate and weight decay included"),
    "loss": Quantity("net", "nats", "mean cross-entropy of the batch"),
    "train_error": Quantity("net", "share, 0 to 1", "share of the batch that is classified wrongly, while training"),
    "test_error": Quantity("net", "share, 0 to 1", "share of the whole test set that is classified wrongly"),
}


@dataclass(frozen=True)
class ReadingSpec:
    """Where a net is read: the names behind the vectors of `measure`, in the order of the forward pass."""

    activations: tuple[str, ...]
    units: tuple[str, ...]  # those with an identity and a residual path
    layers: tuple[str, ...]  # those with weights
    position: Mapping[str, int]
    # By `Quantity.at`: where these names are in the vectors of a program that reads more; None for all, in order.
    places: Mapping[str, np.ndarray] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, points: Iterable[Point], layers: Iterable[str]) -> "ReadingSpec":
        """From a net's hook points and the names of its weighted layers.

        Raises `BadInput` where there is no layer, or one whose name is that of no point: its position is not known.
        """
        position, layers = {point.name: point.position for point in points}, tuple(layers)
        if missing := [one for name in layers for one in unstacked_names(name) if one not in position]:
            raise BadInput(
                f"this net has weights at {missing[0]!r} and no point of that name: "
                f"where they are used it must call hook({missing[0]!r}, response)"
            )
        if not layers:
            raise BadInput("this net has no layer with a kernel: there is nothing to train, and no depth to read along")
        paths = tuple(name for name in position if name.endswith(("/identity", "/residual")))
        return cls(
            activations=tuple(name for name in position if name not in paths),
            units=tuple(name.removesuffix("/residual") for name in paths if name.endswith("/residual")),
            layers=tuple(sorted((one for name in layers for one in unstacked_names(name)), key=list(position).index)),
            position=position,
        )

    def names(self, quantity: str) -> tuple[str, ...]:
        """The names of the entries of a quantity's vector; the empty name where there is one number a step."""
        return self._at()[QUANTITIES[quantity].at]

    def _at(self) -> dict[str, tuple[str, ...]]:
        return {"activation": self.activations, "unit": self.units, "layer": self.layers, "net": ("",)}

    def within(self, program: "ReadingSpec", name_in: Callable[[str], str]) -> "ReadingSpec":
        """The same for vectors that were read by a program with more points, where a name is `name_in(name)`."""
        places = {at: [*map(names.index, map(name_in, self._at()[at]))] for at, names in program._at().items()}
        return replace(self, places={at: np.array(found, int) for at, found in places.items()})

    def of_vector(self, quantity: str, vector: Any) -> dict[str, float]:
        """`{name: number}` of what `measure` read of a quantity."""
        if self.places is not None:
            vector = np.asarray(vector)[self.places[QUANTITIES[quantity].at]]
        return dict(zip(self.names(quantity), map(float, vector), strict=True))


def spine(points: Iterable[str]) -> list[str]:
    """Returns those of a net's points that are its units or, where it has none, the layers of its main path.

    What is inside a module that is a point itself (`inception3a/1x1`) is not, nor what leads to an auxiliary answer.
    But where a net has so few modules (`encoder`, `head`) that they are no path, what is inside them is.
    """
    points = dict.fromkeys(points)
    units = [name for name in points if re.fullmatch(r"block\d+", name)]
    return units or _main(points)


_FEWEST = 4  # points of a main path, below which its modules are opened


def _main(points: Iterable[str]) -> list[str]:
    """The points that are in no other, or the parts of those; a numbered one is a layer and is not opened."""
    points, opened = list(points), set[str]()
    while True:
        inside = [name for name in points if name not in opened and not _above(name) & ({*points} - opened)]
        main = [name for name in inside if not name.startswith("auxiliary")]
        whole = [name for name in main if any(name in _above(other) for other in points)]
        parts = {name for name in whole if len(main) < 2 or not name[-1].isdigit()}
        if len(main) >= _FEWEST or not parts:
            return main
        opened |= parts


def _above(name: str) -> set[str]:
    """The names of what a point may be in: those that its own begins with."""
    parts = name.split("/")
    return {"/".join(parts[:cut]) for cut in range(1, len(parts))}


def measure_flow(
    spec: ReadingSpec, batch: int, forward: Mapping[str, Any], backward: Mapping[str, Any]
) -> dict[str, Any]:
    """The activation quantities, each a vector over `spec.names(quantity)`.

    `forward` holds the `hooks.summary` of each point, `backward` the Frobenius norm of its gradient. The loss is a mean
    over B = `batch` examples; sqrt(B) turns its gradient into the root mean square of the examples' own gradients
    (exactly so without batch norm, where the loss of one example depends on no other).
    """
    summaries = _gather(forward, spec.activations, 3)
    back = lambda names: jnp.sqrt(float(batch)) * _gather(backward, names)  # noqa: E731
    readings = {
        "activation_mean": summaries[:, 0],
        "activation_std": summaries[:, 1],
        "zero_fraction": summaries[:, 2],
        "activation_gradient_norm": back(spec.activations),
    }
    if spec.units:
        both, identity, residual = (
            back([name + path for name in spec.units]) for path in ("", "/identity", "/residual")
        )
        readings["identity_gradient_norm"] = identity
        readings["residual_gradient_norm"] = residual
        readings["path_cosine"] = cosine(both, identity, residual)
    return readings


def _gather(values: Mapping[str, jax.Array], names: Sequence[str], *shape: int) -> jax.Array:
    """The entries, each of that shape, at `names`: `(len(names), *shape)`. Under a joint name lie those of many."""
    found = [name for joint in values for name in unstacked_names(joint)]
    return _reorder(jnp.concatenate([value.reshape(-1, *shape) for value in values.values()]), found, names)


def _reorder(entries: jax.Array, found: Sequence[str], names: Sequence[str]) -> jax.Array:
    place = {name: i for i, name in enumerate(found)}
    return entries[np.array([place[name] for name in names])]


def cosine(both: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """The cosine between two vectors of norms `a` and `b` whose sum has the norm `both`.

    nan where one of them is so small against the other (in float32 about 1e-4) that the sum hardly knows of it.
    """
    largest, smallest = jnp.maximum(a, b), jnp.minimum(a, b)
    known = smallest > 1e3 * jnp.finfo(both.dtype).eps * largest
    both, a, b = both / largest, a / largest, b / largest  # squares of the norms themselves may leave float32
    return jnp.where(known, jnp.clip((both**2 - a**2 - b**2) / (2 * a * b), -1, 1), jnp.nan)


def measure_weights(
    spec: ReadingSpec, large: int = LARGE, **trees: Mapping[str, Mapping[str, Any]]
) -> dict[str, jax.Array]:
    """For each `quantity=tree`, tree = {layer: its arrays}, the layers' Frobenius norms over `spec.layers`.

    `large` is as for `reductions.norm`.
    """
    return {quantity: _layer_norms(tree, spec.layers, large) for quantity, tree in trees.items()}


def _layer_norms(layers: Mapping[str, Mapping[str, Any]], names: Sequence[str], large: int) -> jax.Array:
    """One norm a layer. Those of equal shape are read together, so that a deep net is not more to compile; a joined
    row is read where it lies.
    """
    kinds: dict[Any, list[str]] = {}
    for name, arrays in layers.items():
        kind = tuple((key, leaf.shape, leaf.dtype) for key, leaf in sorted(arrays.items()))
        kinds.setdefault(name if STACK_MARK in name else kind, []).append(name)
    found = []
    for members in kinds.values():
        rows = [_rows(layers, members, key) for key in sorted(layers[members[0]])]
        each = [norms(one, jnp.promote_types(one[0].dtype, jnp.float32), large) for one in rows]
        found.append(each[0] if len(each) == 1 else jax.vmap(lambda of: norm(of, of.dtype))(jnp.stack(each, 1)))
    read = [name for members in kinds.values() for joint in members for name in unstacked_names(joint)]
    return _reorder(jnp.concatenate(found), read, names)


def _rows(layers: Mapping[str, Mapping[str, Any]], members: Sequence[str], key: str) -> Any:
    """An array of each of several layers; where they are one joined row, that as it is."""
    return layers[members[0]][key] if STACK_MARK in members[0] else [layers[name][key] for name in members]
