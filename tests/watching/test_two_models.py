"""Several models in one loss: the watched one is read, whichever is called first, and the other ones are not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from flax_nets import Mlp, gradients_by_vjp

import gradflow as gf

X = jax.random.normal(jax.random.key(0), (4, 8))
MODEL, TARGET = Mlp(nnx.Rngs(0)), Mlp(nnx.Rngs(1))
GRAPH, PARAMS = nnx.split(MODEL)
THEIRS = nnx.state(TARGET)


def bootstrapped(model, target, x):
    """As in deep Q learning: the target net comes first."""
    goal = jax.lax.stop_gradient(target(2 * x))
    return jnp.mean((model(x) - goal) ** 2)


def distilled(model, teacher, x):
    return jnp.mean((teacher(x) - model(x)) ** 2)


def made(params):
    return nnx.merge(GRAPH, params, copy=True)


@pytest.fixture(scope="module", params=[bootstrapped, distilled])
def loss(request):
    return request.param


HOW: dict[str, Any] = {
    "an argument": lambda loss: (loss, (MODEL, TARGET, X)),
    "from outside": lambda loss: (lambda model, x: loss(model, TARGET, x), (MODEL, X)),
    "a tree of parameters": lambda loss: (lambda own, other, x: loss(made(own), made(other), x), (PARAMS, THEIRS, X)),
}


@pytest.mark.parametrize("how", HOW)
def test_a_target_net_or_a_teacher_of_the_same_kind_is_no_second_use_of_the_model(loss, how):
    of_both, arguments = HOW[how](loss)
    reading = nnx.jit(gf.value_and_grad(of_both, gf.watch(MODEL)))(*arguments)[2]
    alone = nnx.List([MODEL])
    expected = gradients_by_vjp(alone, ["0/wide", "0/narrow"], lambda models, x: loss(models[0], TARGET, x), X)
    norms = reading.values["activation_gradient_norm"]
    assert {f"0/{name}": norm for name, norm in norms.items()} == pytest.approx(expected, rel=1e-5)


class LinenMlp(linen.Module):
    width: int

    @linen.compact
    def __call__(self, x):
        x = jnp.tanh(linen.Dense(self.width)(x))
        return linen.Dense(8)(x)


class Judge(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = jnp.tanh(linen.Dense(8)(x))
        return linen.Dense(1)(x)


def drawn(model, seed):
    """Parameters; drawn by NumPy, which has nothing to compile."""
    draw = np.random.default_rng(seed).normal
    shapes = jax.eval_shape(model.init, jax.random.key(0), X)
    return jax.tree.map(lambda leaf: jnp.asarray(draw(size=leaf.shape) / 3, leaf.dtype), shapes)


def of_linen(model, loss, *others):
    """The reading, and what it should be at the last layer."""
    params, *theirs = (drawn(one, seed) for seed, one in enumerate((model, *others)))
    grads = gf.value_and_grad(lambda params, theirs, x: loss(params, theirs, x, 0), gf.watch(model, examples=4))
    norms = jax.jit(grads)(params, theirs, X)[2].values["activation_gradient_norm"]
    gradient = jax.jit(jax.grad(lambda shift: loss(params, theirs, X, shift)))(jnp.zeros(X.shape))
    return norms, 2 * float(jnp.linalg.norm(gradient))


def test_the_same_in_linen():
    model = LinenMlp(6)
    norms, expected = of_linen(
        model,
        lambda params, theirs, x, shift: bootstrapped(
            lambda x: model.apply(params, x) + shift, lambda x: model.apply(theirs[0], x), x
        ),
        model,
    )
    assert norms.keys() == {"Dense_0", "Dense_1"}
    assert norms["Dense_1"] == pytest.approx(expected, rel=1e-5)


def test_a_linen_model_of_another_kind_that_has_modules_of_the_same_names():
    model, judge = LinenMlp(6), Judge()
    norms, expected = of_linen(
        model,
        lambda params, theirs, x, shift: jnp.mean(jnp.asarray(judge.apply(theirs[0], model.apply(params, x) + shift))),
        judge,
    )
    assert norms.keys() == {"Dense_0", "Dense_1"}
    assert norms["Dense_1"] == pytest.approx(expected, rel=1e-5)


def test_a_model_that_the_loss_is_not_differentiated_by_is_read_all_the_same():
    """The gradient of the input: no parameter of the model is trained."""
    square = lambda x: jnp.mean(MODEL(x) ** 2)  # noqa: E731
    norms = jax.jit(gf.value_and_grad(square, gf.watch(MODEL, examples=1)))(X)[2].values["activation_gradient_norm"]
    y = MODEL(X)
    assert norms["narrow"] == pytest.approx(float(jnp.linalg.norm(2 * y / y.size)), rel=1e-5)
    assert norms.keys() == {"wide", "narrow"}


@pytest.mark.parametrize(
    "beside",
    [jax.random.PRNGKey(0), jax.random.key(0), TARGET, THEIRS, nnx.state(nnx.BatchNorm(7, rngs=nnx.Rngs(0))), 0.5],
    ids=["two integers", "key", "model", "like the parameters", "state", "number"],
)
def test_what_is_given_beside_the_batch_does_not_count_as_examples(beside):
    square = lambda params, beside, x: jnp.mean(made(params)(x) ** 2)  # noqa: E731
    norms = nnx.jit(gf.value_and_grad(square, gf.watch(MODEL)))(PARAMS, beside, X)[2].values
    y = MODEL(X)
    expected = len(X) ** 0.5 * float(jnp.linalg.norm(2 * y / y.size))
    assert norms["activation_gradient_norm"]["narrow"] == pytest.approx(expected, rel=1e-5)


def test_arguments_of_different_lengths_are_asked_about():
    square = lambda params, statistics, x: jnp.mean(made(params)(x) ** 2)  # noqa: E731
    statistics = {"BatchNorm_0": {"mean": jnp.zeros(7)}}
    said = r"arrays of 4 and of 7 rows: say over how many examples it is a mean by gf.watch\(model, examples=...\)"
    with pytest.raises(gf.BadInput, match=said) as refused:
        gf.value_and_grad(square, gf.watch(MODEL))(PARAMS, statistics, X)
    assert "\n" not in str(refused.value)
    told = jax.jit(gf.value_and_grad(square, gf.watch(MODEL, examples=4)))(PARAMS, statistics, X)[2]
    assert told.values["activation_gradient_norm"]["narrow"] > 0
