"""The chain of numbers, by hand and by automatic differentiation."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

import gradflow as gf


def test_two_factors_by_hand():
    chain = gf.scalar_chain([0.0001, 0.01])
    assert chain.product == pytest.approx(1e-6)
    assert chain.terms == pytest.approx((1, 0.0001, 0.010001))
    assert chain.total == pytest.approx(1.010101)
    assert chain.product_gradient == pytest.approx((0.01, 0.0001))
    assert chain.total_gradient == pytest.approx((1.01, 1.0001))


@pytest.mark.parametrize("factors", [[0.5], [1e-4, 1e-2, 1e-4], [-2.0, 0.0, 3.0, 0.1], [-1.0, 2.0]])
def test_values_and_gradients_are_those_of_the_chain_run_unit_by_unit(factors):
    def plain(x, factors):
        return functools.reduce(lambda x, a: a * x, factors, x)

    def residual(x, factors):
        return functools.reduce(lambda x, a: x + a * x, factors, x)

    chain = gf.scalar_chain(factors)
    with jax.enable_x64(True):
        given = [jnp.asarray(factor) for factor in factors]
        for run, value, gradient in (
            (plain, chain.product, chain.product_gradient),
            (residual, chain.total, chain.total_gradient),
        ):
            found, (to_input, to_factors) = jax.value_and_grad(run, (0, 1))(jnp.asarray(1.0), given)
            assert float(found) == pytest.approx(value)
            assert float(to_input) == pytest.approx(value)
            assert list(map(float, to_factors)) == pytest.approx(list(gradient))
    assert math.fsum(chain.terms) == pytest.approx(chain.total)


@pytest.mark.parametrize("factors", [[], [1.0, math.inf], [math.nan]])
def test_no_factor_or_one_that_is_not_finite_is_refused(factors):
    with pytest.raises(gf.BadInput, match="not legal: give one or more finite numbers"):
        gf.scalar_chain(factors)
