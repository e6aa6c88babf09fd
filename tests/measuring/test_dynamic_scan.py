"""The scan whose length is data against `jax.lax.scan` over rows that are cut to that length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow.measuring.dynamic_scan import dynamic_scan

ROWS = {
    "kernel": jax.random.normal(jax.random.key(0), (5, 3, 3)),
    "bias": jax.random.normal(jax.random.key(1), (5, 3)),
}
X = jax.random.normal(jax.random.key(2), (4, 3))


def step(x, row):
    """A layer, whose bias is used as it is and whose kernel is kept by the backward pass."""
    y = jnp.tanh(x @ row["kernel"] + row["bias"])
    return y, {"largest": jnp.max(y), "bias": 2 * row["bias"]}


def loss(scan, x, rows):
    x, outs = scan(step, x, rows)
    return jnp.sum(x**2) + jnp.sum(jnp.arange(len(outs["largest"])) * outs["largest"]) + jnp.sum(outs["bias"] ** 3)


def ours(count, x, rows, step=step):
    scan = lambda step, *given: dynamic_scan(count, step, *given)  # noqa: E731
    return jax.value_and_grad(lambda x, rows: loss(scan, x, rows), (0, 1))(x, rows)


@pytest.mark.parametrize("count", range(6))
def test_values_and_gradients_are_those_of_a_scan_over_that_many_rows_and_zero_beyond(count):
    cut = jax.tree.map(lambda leaf: leaf[:count], ROWS)
    value, (x, rows) = jax.value_and_grad(lambda x, rows: loss(jax.lax.scan, x, rows), (0, 1))(X, cut)
    our_value, (our_x, our_rows) = jax.jit(ours)(count, X, ROWS)
    np.testing.assert_allclose(our_value, value, rtol=1e-6)
    np.testing.assert_allclose(our_x, x, rtol=1e-5, atol=1e-6)
    for name, row in rows.items():
        np.testing.assert_allclose(our_rows[name][:count], row, rtol=1e-5, atol=1e-6)
        assert not our_rows[name][count:].any()
    x, outs = jax.jit(lambda *given: dynamic_scan(given[0], step, *given[1:]))(count, X, ROWS)
    x_of_scan, outs_of_scan = jax.lax.scan(step, X, cut)
    np.testing.assert_allclose(x, x_of_scan, rtol=1e-6)
    for name, out in outs_of_scan.items():
        np.testing.assert_allclose(outs[name][:count], out, rtol=1e-6)
        assert not outs[name][count:].any()


def test_one_program_serves_all_lengths():
    traced = []

    @jax.jit
    def compiled(count):
        traced.append(count)
        return ours(count, X, ROWS)[0]

    assert len({float(compiled(count)) for count in range(6)}) == 6
    assert len(traced) == 1


def test_what_a_checkpoint_recomputes_changes_nothing():
    plain, kept = jax.jit(ours)(3, X, ROWS), jax.jit(lambda *given: ours(*given, step=jax.checkpoint(step)))(3, X, ROWS)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6), plain, kept)


def test_arrays_of_the_rows_are_not_kept_a_second_time():
    """What the backward pass needs of the rows it reads from them: no step of the forward pass leaves its kernel."""
    jaxpr = jax.make_jaxpr(ours)(3, X, ROWS)
    forward, backward = (equation for equation in jaxpr.eqns if equation.primitive.name == "while")
    shapes = [[variable.aval.shape for variable in loop.outvars] for loop in (forward, backward)]
    kernels = ROWS["kernel"].shape
    assert [found.count(kernels) for found in shapes] == [0, 1]
