"""The gradient at every unit of a residual net as the sum that it is: through the identities, and through the branches.

With `x_{i+1} = lambda h(x_i) + F(x_i)` unit by unit, the last unit's output is `x_L = H x_l + S(x_l)`: H is what the
scaled shortcuts between l and L do together, S the sum of all branches, each carried on by the shortcuts after it (He
et al. 2016, arXiv:1603.05027, equations 4 and 7). So the gradient of the loss is `H^T g_L + (dS/dx_l)^T g_L`, its
equations 5 and 8. Here the three terms are computed apart: the gradient by one backward pass of the whole net, H and S
by functions of their own.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from gradflow.errors import BadInput
from gradflow.kinds import checked
from gradflow.measuring.hooks import no_hook
from gradflow.training.read import check_batch
from gradflow.training.step import loss_and_error


class GradientPaths(NamedTuple):
    """What came back to one unit's input x_l; norms are root mean squares over examples of the per-example gradient."""

    unit: str
    gradient_norm: float  # of the loss with respect to x_l
    identity_norm: float  # of what comes through the shortcuts alone, H^T g_L
    branches_norm: float  # of what comes through the branches, (dS/dx_l)^T g_L
    error: float  # norm of the gradient minus the sum of the two, over the gradient's own where that is not 0


@checked
def gradient_paths(net: nnx.Module, images: Any, labels: Any) -> list[GradientPaths]:
    """The gradient at the input of every unit, split by equation 8 of He et al. 2016; by equation 5 where lambda is 1.

    `net` has pre-activation units (`order="pre"`), images are `(batch, height, width, channel)`, labels `(batch,)`;
    batch norm uses the batch's statistics, as in training. Nothing is updated. The error is rounding alone: about 1e-6
    in float32. Raises `BadInput` for a net without such units.
    """
    units = getattr(net, "units", ())
    if getattr(net, "order", None) != "pre" or not units or not all(getattr(net, name).shortcut for name in units):
        raise BadInput("this net has no units x + F(x): legal is a residual net of order pre")
    images, labels = check_batch(net, images, labels)
    net = nnx.clone(net)  # what runs a unit moves its running statistics, so each pass has a copy of its own
    net.train()
    row = [getattr(net, name) for name in units]
    inputs, gradients = _inputs_and_gradients(net, row, images, labels)
    last = gradients.pop()
    norm = lambda x: math.sqrt(len(x)) * float(jnp.linalg.norm(x.reshape(-1)))  # noqa: E731
    found = []
    for place, (x, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        (identity,) = jax.vjp(functools.partial(_identities, row[place:]), x)[1](last)
        (branches,) = jax.vjp(functools.partial(_branches, row[place:]), x)[1](last)
        error = norm(gradient - identity - branches) / (norm(gradient) or 1)
        found.append(GradientPaths(units[place], norm(gradient), norm(identity), norm(branches), error))
    return found


def _inputs_and_gradients(net: Any, row: Sequence[Any], images, labels) -> tuple[list[Any], list[Any]]:
    """The input of each unit; and the gradient of the loss there and, last of all, at the last unit's output."""
    inputs = [net.before_units(images)]
    for unit in row:
        inputs.append(unit(inputs[-1], no_hook, ""))

    def loss(shifts):
        """With a shift of 0 before every unit and after the last, whose gradient is that of what it is added to."""
        x = inputs[0]
        for unit, shift in zip(row, shifts[:-1], strict=True):
            x = nnx.clone(unit)(x + shift, no_hook, "")
        return loss_and_error(nnx.clone(net).after_units(x + shifts[-1]), labels)[0]

    return inputs[:-1], jax.grad(loss)([jnp.zeros_like(x) for x in inputs])


def _identities(row: Sequence[Any], x: jax.Array) -> jax.Array:
    """H x: what the shortcuts of the units make of x, one after another."""
    for unit in map(nnx.clone, row):
        x = unit.identity(x, no_hook, "")
    return x


def _branches(row: Sequence[Any], x: jax.Array) -> jax.Array:
    """S(x): the branches of the units, added up, each carried on by the shortcuts of the units after it."""
    total = None
    for unit in map(nnx.clone, row):
        branch = unit.residual(x, no_hook, "")
        total = branch if total is None else unit.identity(total, no_hook, "") + branch
        x = unit.identity(x, no_hook, "") + branch
    assert total is not None
    return total
