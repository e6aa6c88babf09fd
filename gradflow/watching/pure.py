"""A user's loss as a pure function of its parameters, whatever its first argument is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

from gradflow.errors import BadInput
from gradflow.watching import equinox


class Pure(NamedTuple):
    """`loss(params)` returns `(loss, (aux, states))`; `put_back(states)` updates the modules that were given."""

    params: Any
    loss: Callable[[Any], Any]
    put_back: Callable[[Any], None] | None


def pure(
    loss_fn: Callable[..., Any], first: Any, arguments: tuple, keywords: dict[str, Any], has_aux: bool, wrt: Any
) -> Pure:
    """The loss, of which modules among the arguments see copies: their changes are returned as states."""

    def called(first, arguments):
        found = loss_fn(first, *arguments, **keywords)
        if not has_aux:
            return found, None
        if not (isinstance(found, tuple) and len(found) == 2):
            raise BadInput(f"the loss returns a {type(found).__name__}: with has_aux=True it is (loss, aux)")
        return found

    if any(map(equinox.is_module, jax.tree.leaves(first, is_leaf=equinox.is_module))):
        return _of_modules_that_are_trees(called, first, arguments)
    nodes = {i: nnx.split(one) for i, one in enumerate(arguments) if isinstance(one, nnx.Pytree)}
    if not isinstance(first, nnx.Pytree) and not nodes:
        return Pure(first, lambda params: _with_states(called(params, arguments), ()), None)
    graph, params, rest = nnx.split(first, wrt, ...) if isinstance(first, nnx.Pytree) else (None, first, None)

    def loss(params):
        net = params if graph is None else nnx.merge(graph, params, rest, copy=True)
        copies = {i: nnx.merge(*parts, copy=True) for i, parts in nodes.items()}
        found = called(net, [copies.get(i, one) for i, one in enumerate(arguments)])
        own = nnx.state(net, nnx.Not(wrt)) if graph is not None else None
        return _with_states(found, (own, {i: nnx.state(copy) for i, copy in copies.items()}))

    def put_back(states):
        own, others = states
        if graph is not None:
            nnx.update(first, own)
        for i, state in others.items():
            nnx.update(arguments[i], state)

    return Pure(params, loss, put_back)


def _of_modules_that_are_trees(called: Callable[..., Any], first: Any, arguments: tuple) -> Pure:
    """As `equinox.filter_value_and_grad` differentiates. Every call gets arguments of its own: a state serves once."""
    params, rest = equinox.split(first)

    def loss(params):
        return _with_states(called(equinox.join(params, rest), jax.tree.map(lambda leaf: leaf, arguments)), ())

    return Pure(params, loss, None)


def _with_states(found: tuple[Any, Any], states: Any) -> tuple[jax.Array, Any]:
    loss, aux = found
    return loss, (aux, states)
