"""What is told by the gradients of sinks: numbers that the backward pass brings out of any transform.

A sink of a point holds two things. `flow` is as that of `hooks.tap`: its gradient is the norm of the point's. The
gradient of `told` is what the forward pass has seen there, and a last entry that is 1 where the point was passed once.
A sink of a residual unit brings the norms of the gradient's two parts and their cosine. No array of the size of an
activation is kept for any of it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow.measuring.hooks import OPEN
from gradflow.measuring.reductions import norm, summary

SEEN = 3  # numbers of the forward pass: mean, deviation, share of zeros
MANY = 2**14  # entries, from which on a branch saves more than it costs
PATHS = 3  # numbers of a unit: norm of the identity's part, of the residual's, their cosine


class Sink(NamedTuple):
    """Of one point, with a leading axis for each scan or vmap around it."""

    flow: jax.Array
    told: jax.Array


def read(x: jax.Array, sink: Sink) -> jax.Array:
    """The identity in `x`, whose backward pass fills the sink (of this iteration)."""
    return _tell(x, where_open(sink.flow, lambda x: summary(x, MANY), x), sink)


@jax.custom_vjp
def _tell(x, seen, sink):
    del seen, sink
    return x


def _tell_forward(x, seen, sink):
    return x, (seen, sink.flow)


def _tell_backward(saved, gradient):
    seen, flow = saved
    size = where_open(flow, lambda gradient: norm(gradient, flow.dtype, MANY), gradient)
    return gradient, jnp.zeros_like(seen), Sink(size, _counted(seen))


_tell.defvjp(_tell_forward, _tell_backward)


def _counted(numbers: jax.Array) -> jax.Array:
    return jnp.concatenate([numbers, jnp.ones(1, numbers.dtype)])


# A unit y = x + F(x): the gradient at y goes back to x unchanged through the identity, and the rest came through F.
# What arrives at y is kept until the gradient at x is there, as the sum in the backward pass does anyway.


def enter(x: jax.Array, sink: jax.Array, dtype: Any) -> tuple[jax.Array, Any]:
    """`x` itself, and what `leave` wants of it; `dtype` is that of y."""
    # Zeros that depend on x: under vmap they then have its axis, as what comes back through them has.
    return _enter(x, sink, jnp.where(jnp.zeros(x.shape, bool), x, jnp.zeros_like(x)).astype(dtype))


@jax.custom_vjp
def _enter(x, sink, carrier):
    del sink
    return x, carrier


def _enter_forward(x, sink, carrier):
    return (x, carrier), sink


def _enter_backward(sink, gradients):
    both, identity = gradients
    apart = tuple(gradient.astype(sink.dtype) for gradient in gradients)
    return both, where_open(sink[0], _parts, apart), jnp.zeros_like(identity)


_enter.defvjp(_enter_forward, _enter_backward)


def _parts(gradients: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Norms of the identity's and of the residual's part, and their cosine (nan where one is 0)."""
    both, identity = gradients
    residual = both - identity
    a, b = (norm(gradient, identity.dtype, MANY) for gradient in (identity, residual))
    cosine = jnp.sum((identity / jnp.where(a > 0, a, 1)) * (residual / jnp.where(b > 0, b, 1)))
    return _counted(jnp.stack([a, b, jnp.where((a > 0) & (b > 0), jnp.clip(cosine, -1, 1), jnp.nan)]))


@jax.custom_vjp
def leave(y: jax.Array, carrier: Any) -> jax.Array:
    """`y` itself; its gradient goes back through the carrier as well."""
    del carrier
    return y


def _leave_forward(y, carrier):
    del carrier
    return y, None


def _leave_backward(_, gradient):
    return gradient, gradient


leave.defvjp(_leave_forward, _leave_backward)


def where_open(sink: jax.Array, reading: Any, x: Any) -> jax.Array:
    """`reading(x)`; where the sink is closed nan and, for many entries on a CPU, nothing is computed."""
    if jax.tree.leaves(x)[0].size < MANY or jax.default_backend() != "cpu":
        return reading(x)
    shape = jax.eval_shape(reading, x)
    return jax.lax.cond(sink == OPEN, reading, lambda x: jnp.full(shape.shape, jnp.nan, shape.dtype), x)
