"""Schedules at the steps where they turn, and every optimiser against its formula written out in NumPy."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradflow.errors import BadInput
from gradflow.training import optimiser as optim

START = np.array([1.0, -2.0, 0.5])
# A quadratic bowl: the gradient depends on where we are, so an error of one step shows in the next.
CURVATURE = np.array([1.0, 0.5, 3.0])


def walk(optimiser, steps=8) -> Any:
    """Where `optimiser` goes from START in the bowl."""
    params: Any = jnp.asarray(START, jnp.float32)
    state = optimiser.init(params)
    for _ in range(steps):
        updates, state = optimiser.update(CURVATURE.astype(np.float32) * params, state, params)
        params = optax.apply_updates(params, updates)
    return params


def rates(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_step_schedule_is_that_of_the_paper():
    # He 2015, section 4.2: 0.1, divided by 10 at 32k and 48k iterations of 64k.
    schedule = optim.schedule("step", 0.1, 64_000)
    assert rates(schedule, [0, 31_999]) == pytest.approx([0.1, 0.1])
    assert rates(schedule, [32_000, 47_999]) == pytest.approx([0.01, 0.01])
    assert rates(schedule, [48_000, 63_999]) == pytest.approx([0.001, 0.001])


def test_cosine_schedule_is_half_a_cosine_down_to_zero():
    schedule, steps = optim.schedule("cosine", 0.4, 100), np.array([0, 25, 50, 75, 100])
    assert rates(schedule, steps) == pytest.approx(0.2 * (1 + np.cos(np.pi * steps / 100)), abs=1e-7)


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_warm_up_is_a_tenth_and_moves_nothing_after_it(name):
    # He 2015, section 4.2: 0.01 for about 400 iterations, "then we go back to 0.1".
    cold, warm = optim.schedule(name, 0.1, 1000), optim.schedule(name, 0.1, 1000, warmup=400)
    assert rates(warm, [0, 399]) == pytest.approx([0.01, 0.01])
    after = [400, 499, 500, 501, 749, 750, 999]
    assert rates(warm, after) == pytest.approx(rates(cold, after))


def test_constant_schedule_stays():
    assert rates(optim.schedule("constant", 0.3, 10), [0, 5, 10]) == pytest.approx([0.3] * 3)


@pytest.mark.parametrize("warmup", [-1, 11])
def test_warm_up_longer_than_the_run_is_refused(warmup):
    with pytest.raises(BadInput, match="choose 0 to 10"):
        optim.schedule("step", 0.1, 10, warmup)


@pytest.mark.parametrize("name", ["sgd", "nesterov"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sgd_is_its_formula_with_the_decay_in_the_gradient(name, momentum, decay):
    schedule = optim.schedule("step", 0.1, 8)
    x, velocity = START.copy(), np.zeros(3)
    for rate in (0.1,) * 4 + (0.01,) * 2 + (0.001,) * 2:
        gradient = CURVATURE * x + decay * x
        velocity = momentum * velocity + gradient
        x -= rate * (gradient + momentum * velocity if name == "nesterov" and momentum else velocity)
    np.testing.assert_allclose(walk(optim.optimiser(name, schedule, momentum, decay)), x, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_has_the_decay_in_the_gradient_and_adamw_beside_it(name, decay):
    rate, first, second = 0.1, 0.8, 0.999
    x, mean, square = START.copy(), np.zeros(3), np.zeros(3)
    for step in range(1, 9):
        gradient = CURVATURE * x + (decay * x if name == "adam" else 0)
        mean = first * mean + (1 - first) * gradient
        square = second * square + (1 - second) * gradient**2
        direction = mean / (1 - first**step) / (np.sqrt(square / (1 - second**step)) + 1e-8)
        x -= rate * (direction + (decay * x if name == "adamw" else 0))
    constant = optim.schedule("constant", rate, 8)
    np.testing.assert_allclose(walk(optim.optimiser(name, constant, first, decay)), x, rtol=1e-4)


def test_decay_in_the_gradient_and_beside_it_differ():
    constant = optim.schedule("constant", 0.1, 8)
    coupled, decoupled = (walk(optim.optimiser(name, constant, 0.9, 0.1)) for name in ("adam", "adamw"))
    assert np.abs(coupled - decoupled).max() > 1e-2


def test_unknown_names_are_refused_with_the_legal_ones():
    with pytest.raises(BadInput, match="step, cosine, constant"):
        optim.schedule("linear", 0.1, 10)
    with pytest.raises(BadInput, match="sgd, nesterov, adam, adamw"):
        optim.optimiser("lion", optim.schedule("constant", 0.1, 10), 0.9, 0.0)
