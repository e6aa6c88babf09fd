"""What cannot be watched is said in one line, with what is legal; what can is read whatever goes in and comes out."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from flax_nets import Mlp

import gradflow as gf
from gradflow.errors import BadInput

X = jnp.arange(32.0).reshape(4, 8) / 32


def mean_loss(model, x):
    return jnp.mean(jnp.square(model(x)))


def twice_one_name(model, x):
    return jnp.mean(gf.tap("wide", model(x)))


REFUSED = {
    "a pattern that matches nothing": (
        {"points": ["wide", "narow"]},
        mean_loss,
        "no point is called 'narow': did you mean 'narrow'",
    ),
    "patterns that leave nothing": ({"points": ["!*"]}, mean_loss, "leave no point to read"),
    "a residual that is none": ({"residual": ["wide"]}, mean_loss, "'wide' has no identity path"),
    "a residual that is not there": ({"residual": ["bloks"]}, mean_loss, "no point is called 'bloks'"),
    "two points of one name": ({}, twice_one_name, "two points are called 'wide'"),
    "a loss that is an array": ({}, lambda model, x: model(x), r"the loss is an array \(4, 8\)"),
    "a loss that is an integer": (
        {},
        lambda model, x: jnp.int32(model(x).sum()),
        r"the loss is an array \(\) of int32",
    ),
    "a sum": (
        {},
        lambda model, x: jnp.sum((model(x) - 1) ** 2),
        "the loss is a sum over 4 examples: readings would be 4 times",
    ),
    "a model that is not called": (
        {},
        lambda model, x: jnp.mean(model.wide.kernel[...]),
        "calls no module of the watched model",
    ),
    "what does not fit": (
        {},
        lambda model, x: mean_loss(model, x[:, :3]),
        "the model cannot be traced with this batch: ",
    ),
    "no aux": ({"has_aux": True}, mean_loss, r"with has_aux=True it is \(loss, aux\)"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_one_line(what):
    how, loss, said = REFUSED[what]
    aux = {"has_aux": True} if how.pop("has_aux", False) else {}
    model = Mlp(nnx.Rngs(0))
    with pytest.raises(BadInput, match=said) as refused:
        gf.value_and_grad(loss, gf.watch(model, **how), **aux)(model, X)
    assert "\n" not in str(refused.value)
    assert len(gf.value_and_grad(mean_loss, gf.watch(model))(model, X)[2].spec.activations) == 2, (
        "nothing is left wrapped"
    )


def test_a_sum_is_read_where_that_is_meant():
    model = Mlp(nnx.Rngs(0))
    total = lambda model, x: jnp.sum(jnp.square(model(x)))  # noqa: E731
    ours = gf.value_and_grad(total, gf.watch(model, examples=1))(model, X)[2].values["activation_gradient_norm"]
    theirs = gf.value_and_grad(mean_loss, gf.watch(model))(model, X)[2].values["activation_gradient_norm"]
    entries = 32
    for name, norm in theirs.items():  # of the mean over entries, times the root of four examples
        assert ours[name] == pytest.approx(norm * entries / 4**0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: gf.watch(len), "cannot watch a builtin_function_or_method"),
        (lambda: gf.watch(Mlp(nnx.Rngs(0)), examples=0), "examples 0 is not legal"),
        (lambda: gf.value_and_grad(mean_loss, Mlp(nnx.Rngs(0))), "legal is what gf.watch"),  # pyright: ignore
        (
            lambda: gf.value_and_grad(mean_loss, gf.watch(Mlp(nnx.Rngs(0))))(Mlp(nnx.Rngs(0)), X, read="x"),
            "read 'x' is",
        ),
        (
            lambda: gf.value_and_grad(mean_loss, gf.watch(Mlp(nnx.Rngs(0))))(Mlp(nnx.Rngs(0)), X, read=jnp.ones(2)),
            "read .* is not legal",
        ),
        (
            lambda: gf.value_and_grad(lambda p, x: mean_loss(Mlp(nnx.Rngs(0)), x), gf.watch(Mlp(nnx.Rngs(0))))(3, X),
            "cannot differentiate by a int",
        ),
        (lambda: gf.recorded_step(Mlp(nnx.Rngs(0)), optax.sgd(0.1), mean_loss)(object()), "the batch holds a object"),
        (lambda: gf.tap("ids", jnp.arange(3)), "the point 'ids' is a ArrayImpl"),
        (lambda: gf.tap("", X), "the name '' is not legal"),
    ],
)
def test_what_is_no_model_or_value(call, said):
    with pytest.raises(BadInput, match=said):
        call()


def test_a_tap_is_a_point_wherever_it_stands_and_the_identity_elsewhere():
    def inner(x):
        return gf.tap("inner", jnp.tanh(x))

    assert gf.tap("anything", X) is X
    model = Mlp(nnx.Rngs(0))
    loss = lambda model, x: jnp.mean(jnp.square(jax.checkpoint(inner)(model(x))))  # noqa: E731
    reading = gf.value_and_grad(loss, gf.watch(model, points="inner"))(model, X)[2]
    y = jnp.tanh(model(X))
    assert reading.spec.activations == ("inner",)
    assert reading.values["activation_gradient_norm"]["inner"] == pytest.approx(
        float(2 * jnp.linalg.norm(2 * y / 32)), rel=1e-5
    )
    assert reading.spec.position["inner"] == 2


def test_functions_alone_are_watched_by_their_taps():
    class Empty(nnx.Module):
        pass

    def loss(params, x):
        for i, weight in enumerate(params):
            x = gf.tap(f"layer{i}", jnp.tanh(x @ weight))
        return jnp.mean(x**2)

    weights = [jax.random.normal(jax.random.key(i), (8, 8)) for i in range(3)]
    reading = gf.value_and_grad(loss, gf.watch(Empty()))(weights, X)[2]
    assert reading.spec.position == {"layer0": 1, "layer1": 2, "layer2": 3}


def test_every_kind_of_output_is_a_point():
    class Pair(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(8, 4, rngs=rngs)

        def __call__(self, x):
            y = self.dense(x)
            return {"mean": y, "spread": (jax.nn.softplus(y), jnp.argmax(y, -1))}

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.pair, self.scale = Pair(rngs), nnx.Param(jnp.ones((8, 8)))

        def __call__(self, x):
            found = self.pair(x @ self.scale[...])
            return found["mean"] * found["spread"][0]

    model = Net(nnx.Rngs(0))
    reading = gf.value_and_grad(mean_loss, gf.watch(model))(model, X)[2]
    assert set(reading.spec.activations) == {"pair/dense", "pair.mean", "pair.spread.0", "output"}
