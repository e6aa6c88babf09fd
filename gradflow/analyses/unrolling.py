"""The sum that a residual net is, and how far an early activation reaches through it.

Let x_1 be the input of the first of L - 1 units and x_L the output of the last. He et al. 2016 (arXiv:1603.05027),
equation 4: x_L = x_1 + sum_i F(x_i). Where the shape changes on the way the shortcut h is no identity, but linear, so
that H_i, the product of those that follow unit i, carries each term to the end: x_L = H_0 x_1 + sum_i H_i F(x_i), and
equation 5 is, of the derivative by x_l, J_l = d x_L / d x_l = H + sum_{i >= l} D_i with H the product of the shortcuts
from unit l on and D_i = d H_i F(x_i) / d x_l. A plain net is the one whose h is 0: J is a product.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gradflow.analyses import units
from gradflow.analyses.units import Unit, units_of
from gradflow.data import bounds
from gradflow.errors import at_least
from gradflow.kinds import checked


class Sum(NamedTuple):
    """The terms of a net's last activation x_L, and how well they add up."""

    names: tuple[str, ...]  # of the units
    terms: jax.Array  # (unit + 1, batch, ...): H_0 x_1, then H_i F(x_i) of each unit
    output: jax.Array  # (batch, ...): x_L, as the net computes it
    shares: np.ndarray  # (unit + 1,): <term, x_L> / |x_L|^2, over all images; they add up to 1; one may be negative
    errors: np.ndarray  # (unit,): |x - sum of terms| at each unit's output over the bound of its rounding: below 1


class Influence(NamedTuple):
    """How strongly the input x_l of each unit acts on what follows, in multiples of what an identity would hand on.

    Of a derivative J of the activation x_m by x_l the number is |J|_F / sqrt(n_m), the Frobenius norm for each image
    and the root mean square over images, with n_m entries in x_m: how much longer or shorter a random small change of
    x_l arrives, in root mean square; an identity has 1.
    """

    names: tuple[str, ...]  # of the units
    total: np.ndarray  # (unit,): of J_l = d x_L / d x_l, by vector-Jacobian products, from x_L backwards
    forward: np.ndarray  # (unit,): the same by Jacobian-vector products, from x_l forwards
    identity: np.ndarray  # (unit,): of H, what the shortcuts alone hand on
    branches: np.ndarray  # (unit,): of J_l - H, what goes through one branch or more
    reach: np.ndarray  # (unit, unit): of d x_{m+1} / d x_l at [l, m]; nan where m < l
    terms: np.ndarray  # (unit,): of D_i, for the first unit's input
    error: float  # of H + sum_i D_i for the first unit's input: how far it is from J_1, relative to that


@checked
def unroll(net: nnx.Module, images: Any) -> Sum:
    """The sum that the last activation of `net` is, for images `(batch, height, width, channel)`, used as they are.

    Each error is over the bound for adding n numbers one by one, (n - 1) u sum |term| with u the unit roundoff (Higham
    2002, section 4.2); the sum that it is measured by is in float64. Batch norm uses the statistics of the images.
    Raises `BadInput` for a net without units, images that do not fit, or units that do not add last.
    """
    row, output = units_of(net, images)
    terms = jnp.zeros((len(row) + 1, *row[0].x.shape), row[0].x.dtype).at[0].set(row[0].x)
    errors = []
    for i, unit in enumerate(row, start=1):
        y, terms = _add(unit.graph, unit.state, unit.x, terms, i)
        errors.append(_rounding(y, terms, i))
    wide = np.asarray(output, np.float64).ravel()
    shares = np.asarray(terms, np.float64).reshape(len(terms), -1) @ wide / (wide @ wide)
    return Sum(tuple(unit.name for unit in row), terms, output, shares, np.array(errors))


def _rounding(y: jax.Array, terms: jax.Array, additions: int) -> float:
    """How far y is from the sum of its terms, over the bound for that many additions one by one."""
    wide = np.asarray(terms, np.float64).reshape(len(terms), -1)
    bound = additions * float(jnp.finfo(y.dtype).eps) / 2 * np.linalg.norm(wide, axis=1).sum()
    return float(np.linalg.norm(np.asarray(y, np.float64).ravel() - wide.sum(0)) / bound)


@functools.partial(jax.jit, static_argnums=0)
def _add(graph, state, x, terms, i):
    """The unit's output, and the terms carried there, its own in place i."""
    carried = jax.vmap(lambda term: units.identity(graph, state, x, term))(terms)
    return units.both(graph, state, x), carried.at[i].set(units.branch(graph, state, x))


@checked
def influence(net: nnx.Module, images: Any, probes: int | None = 8, seed: int = 0) -> Influence:
    """How strongly each unit's input acts on the activations that follow, for images used as they are.

    By `probes` random normal vectors an image, whose products with J have |J|_F^2 as their mean square (Hutchinson
    1990); with None by all unit vectors, exactly. Batch norm uses the statistics of the images. Raises `BadInput` for a
    net without units, images that do not fit, units that do not add last, or Jacobians that do not fit into memory.
    """
    at_least("probes", probes, 1)
    row, output = units_of(net, images)
    largest = max(unit.x.nbytes for unit in row)
    number = max(_size(unit.x) for unit in row) if probes is None else probes
    bounds.check(3 * number * largest * (len(row) + 1), f"a Jacobian by {number} vectors an image")
    keys = jax.random.split(jax.random.key(seed), len(row) + 1)
    vectors = [_vectors(key, x, probes) for key, x in zip(keys, [unit.x for unit in row] + [output], strict=True)]
    total = _backward(row, vectors[-1], output, probes)
    reach, identity, branches = np.full((len(row),) * 2, np.nan), [], []
    for first, start in enumerate(vectors[:-1]):
        changes = through = start
        for last, unit in enumerate(row[first:], start=first):
            changes, through = _push(unit.graph, unit.state, unit.x, changes, through)
            reach[first, last] = _gain(changes, probes)
        identity.append(_gain(through, probes))
        branches.append(_gain(changes - through, probes))
    terms, error = _terms(row, vectors[0], probes)
    names = tuple(unit.name for unit in row)
    return Influence(names, total, reach[:, -1], np.array(identity), np.array(branches), reach, terms, error)


def _size(x: jax.Array) -> int:
    return math.prod(x.shape[1:])


def _vectors(key, x: jax.Array, probes: int | None) -> jax.Array:
    """(probe, batch, ...): random normal vectors, or all unit vectors, shaped as x."""
    if probes is not None:
        return jax.random.normal(key, (probes, *x.shape), x.dtype)
    basis = jnp.eye(_size(x), dtype=x.dtype).reshape(-1, 1, *x.shape[1:])
    return jnp.broadcast_to(basis, (len(basis), *x.shape))


def _gain(products: jax.Array, probes: int | None, size: int | None = None) -> float:
    """|J|_F / sqrt(size), root mean square over images, by its products (probe, batch, ...) with `_vectors`."""
    mean = np.square(np.asarray(products, np.float64)).sum() / products.shape[1] / (size or _size(products[0]))
    return math.sqrt(mean / (1 if probes is None else probes))


def _backward(row: list[Unit], vectors: jax.Array, output: jax.Array, probes: int | None) -> np.ndarray:
    """From the output to each unit's input."""
    found = []
    for unit in reversed(row):
        vectors = _pull(unit.graph, unit.state, unit.x, vectors)
        found.append(_gain(vectors, probes, _size(output)))
    return np.array(found[::-1])


def _terms(row: list[Unit], start: jax.Array, probes: int | None) -> tuple[np.ndarray, float]:
    """The gain of each D_i, for the first unit's input, and how far they and H are from J, relative to it."""
    changes = start
    parts = jnp.zeros((len(row) + 1, *start.shape), start.dtype).at[0].set(start)
    for i, unit in enumerate(row, start=1):
        changes, parts = _push_apart(unit.graph, unit.state, unit.x, changes, parts, i)
    wide = np.asarray(changes, np.float64)
    off = np.linalg.norm(np.asarray(parts, np.float64).sum(0) - wide)
    gains = np.array([_gain(part, probes) for part in parts[1:]])
    return gains, float(off / max(np.linalg.norm(wide), np.finfo(np.float64).tiny))


@functools.partial(jax.jit, static_argnums=0)
def _push(graph, state, x, changes, through):
    """Changes (probe, batch, ...) of x, sent through the unit, and `through`, sent through its shortcut alone."""
    send = jax.linearize(lambda x: units.both(graph, state, x), x)[1]
    return jax.vmap(send)(changes), jax.vmap(lambda t: units.identity(graph, state, x, t))(through)


@functools.partial(jax.jit, static_argnums=0)
def _push_apart(graph, state, x, changes, parts, i):
    """Changes sent through the unit; their parts sent through its shortcut, with what its branch adds in place i."""
    send = lambda function: jax.vmap(jax.linearize(lambda x: function(graph, state, x), x)[1])  # noqa: E731
    carried = jax.vmap(jax.vmap(lambda t: units.identity(graph, state, x, t)))(parts)
    return send(units.both)(changes), carried.at[i].set(send(units.branch)(changes))


@functools.partial(jax.jit, static_argnums=0)
def _pull(graph, state, x, vectors):
    """Vectors (probe, batch, ...) at the unit's output, multiplied by its Jacobian from the left."""
    _, back = jax.vjp(lambda x: units.both(graph, state, x), x)
    return jax.vmap(lambda vector: back(vector)[0])(vectors)
