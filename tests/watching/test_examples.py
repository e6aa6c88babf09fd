"""The unit of a reading: over how many examples the loss is a mean, and that it is said where that is not known."""

import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import gradflow as gf

X = jnp.arange(32.0).reshape(4, 8) / 32
UNKNOWN = "how many examples the loss is a mean over is not known"


def model() -> nnx.Linear:
    return nnx.Linear(8, 4, rngs=nnx.Rngs(0))


def mean_loss(model: Any, x: jax.Array = X) -> jax.Array:
    return jnp.mean(jnp.square(model(x)))


def norm(reading: gf.Reading) -> float:
    (value,) = reading.values["activation_gradient_norm"].values()
    return value


@pytest.fixture(scope="module")
def of_four() -> float:
    """The norm that is right: sqrt(4) times that of the gradient of the mean."""
    return 2 * float(jnp.linalg.norm(jax.grad(lambda y: jnp.mean(jnp.square(y)))(model()(X))))


def test_a_batch_that_is_no_argument_is_said_with_the_line_of_the_caller(of_four):
    grads = gf.value_and_grad(mean_loss, gf.watch(model()))
    with pytest.warns(UserWarning, match=UNKNOWN) as told:
        reading = grads(model())[2]
    (warning,) = told
    assert Path(warning.filename).name == Path(__file__).name
    assert len(str(warning.message).splitlines()) == 1
    assert "gf.watch(model, examples=B)" in str(warning.message)
    assert norm(reading) == pytest.approx(of_four / 2)


def test_nothing_is_said_where_it_is_known_or_nothing_is_read(of_four):
    with warnings.catch_warnings(action="error"):
        assert norm(gf.value_and_grad(mean_loss, gf.watch(model()))(model(), X)[2]) == pytest.approx(of_four)
        assert norm(gf.value_and_grad(mean_loss, gf.watch(model(), examples=4))(model())[2]) == pytest.approx(of_four)
        gf.value_and_grad(mean_loss, gf.watch(model()))(model(), read=False)


@pytest.mark.parametrize(
    "read",
    [
        lambda: gf.recorded_step(model(), optax.sgd(0.1), lambda model, batch: mean_loss(model))(()),
        lambda: gf.plot_gradient_flow(model(), None, lambda model, batch: mean_loss(model)),
        lambda: jax.jit(lambda params: gf.value_and_grad(mean_loss, gf.watch(params))(params)[2])(model()),
    ],
)
def test_it_is_said_wherever_a_loss_is_read(read):
    with pytest.warns(UserWarning, match=UNKNOWN):
        read()


@pytest.mark.parametrize(
    "before",
    [jax.random.key(0), jax.random.PRNGKey(0), nnx.state(nnx.BatchNorm(3, rngs=nnx.Rngs(0))), model(), 0.5],
    ids=["a key", "an old key", "a state", "a module", "a number"],
)
def test_what_stands_before_the_batch_is_not_taken_for_it(before, of_four):
    loss = lambda model, before, x: mean_loss(model, x)  # noqa: E731
    assert norm(gf.value_and_grad(loss, gf.watch(model()))(model(), before, X)[2]) == pytest.approx(of_four)
