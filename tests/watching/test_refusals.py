"""What cannot be watched is said in one line, with what is legal; what can is read whatever goes in and comes out."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen, nnx
from flax_nets import Mlp

import gradflow as gf
from gradflow.errors import BadInput

X = jnp.arange(32.0).reshape(4, 8) / 32


def read(model, loss, **how):
    """The reading of a loss, compiled in one piece."""
    graph, state = nnx.split(model)
    grads = gf.value_and_grad(loss, gf.watch(model, **how))
    return jax.jit(lambda state: grads(nnx.merge(graph, state, copy=True), X)[2])(state)


def points(model, loss):
    """The points of a reading; nothing is compiled."""
    graph, state = nnx.split(model)
    grads = gf.value_and_grad(loss, gf.watch(model))
    return jax.eval_shape(lambda state: grads(nnx.merge(graph, state, copy=True), X)[2], state).spec.activations


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
    "no patterns": ({"points": []}, mean_loss, r"the patterns \[\] leave no point to read"),
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
    assert len(points(model, mean_loss)) == 2, "nothing is left wrapped"


def test_a_sum_is_read_where_that_is_meant():
    model = Mlp(nnx.Rngs(0))
    total = lambda model, x: jnp.sum(jnp.square(model(x)))  # noqa: E731
    ours = read(model, total, examples=1).values["activation_gradient_norm"]
    theirs = read(model, mean_loss).values["activation_gradient_norm"]
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
    reading = read(model, loss, points="inner")
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
    reading = jax.eval_shape(lambda weights: gf.value_and_grad(loss, gf.watch(Empty()))(weights, X)[2], weights)
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
    assert set(points(model, mean_loss)) == {"pair/dense", "pair.mean", "pair.spread.0", "output"}


class Tied(nnx.Module):
    """The first weights are the last ones: `attend` is a method that is called from outside."""

    def __init__(self, rngs):
        self.embed, self.dense = nnx.Embed(11, 8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, ids):
        return self.embed.attend(jnp.tanh(self.dense(self.embed(ids))))


class LinenTied(linen.Module):
    def setup(self):
        self.embed, self.dense = linen.Embed(11, 8), linen.Dense(8)

    def __call__(self, ids):
        return self.embed.attend(jnp.tanh(self.dense(self.embed(ids))))


def test_what_another_public_method_makes_of_an_array_is_a_use_of_its_module():
    ids, model, other = jnp.arange(12).reshape(4, 3) % 11, Tied(nnx.Rngs(0)), LinenTied()
    square = lambda model, ids: jnp.mean(jnp.square(model(ids)))  # noqa: E731
    reading = nnx.jit(gf.value_and_grad(square, gf.watch(model)))(model, ids)[2]
    assert reading.spec.activations == ("embed", "dense", "embed@2")
    assert [reading.spec.position[name] for name in reading.spec.activations] == [1, 2, 3]
    y = model(ids)
    norm = 2 * jnp.linalg.norm(2 * y / y.size)
    assert reading.values["activation_gradient_norm"]["embed@2"] == pytest.approx(float(norm), rel=1e-5)
    params: Any = {
        "params": {
            "embed": {"embedding": model.embed.embedding[...]},
            "dense": nnx.to_pure_dict(nnx.state(model.dense)),
        }
    }
    of_params = lambda params, ids: square(lambda ids: other.apply(params, ids), ids)  # noqa: E731
    theirs = jax.jit(gf.value_and_grad(of_params, gf.watch(other)))(params, ids)[2]
    for name, value in reading.values["activation_gradient_norm"].items():
        assert theirs.values["activation_gradient_norm"][name] == pytest.approx(value, rel=1e-5), name


def test_methods_are_points_of_a_model_that_is_never_called_itself():
    class Autoencoder(nnx.Module):
        def __init__(self, rngs):
            self.down, self.up = Mlp(rngs), nnx.Linear(8, 8, rngs=rngs)

        def encode(self, x):
            return self.down(x)

        def decode(self, code):
            return self.up(code)

    model = Autoencoder(nnx.Rngs(0))
    loss = lambda model, x: jnp.mean(jnp.square(model.decode(jnp.tanh(model.encode(x))) - x))  # noqa: E731
    reading = nnx.jit(gf.value_and_grad(loss, gf.watch(model)))(model, X)[2]
    assert set(reading.spec.activations) == {"down/wide", "down/narrow", "down", "up"}


def test_the_same_value_of_two_modules_is_read_once_and_has_both_names():
    model = nnx.Sequential(nnx.Linear(8, 8, rngs=nnx.Rngs(0)), nnx.Sequential(jnp.tanh, Mlp(nnx.Rngs(1))))
    reading = nnx.jit(gf.value_and_grad(mean_loss, gf.watch(model)))(model, X)[2]
    norms = reading.values["activation_gradient_norm"]
    assert norms["layers/1"] == norms["layers/1/layers/1"] == norms["layers/1/layers/1/narrow"]
    y = model(X)
    assert norms["layers/1"] == pytest.approx(float(2 * jnp.linalg.norm(2 * y / y.size)), rel=1e-5)

    class Twice(nnx.Module):
        """Returns what its child returned, which is used elsewhere as well: two gradients."""

        def __init__(self, rngs):
            self.dense = nnx.Linear(8, 8, rngs=rngs)

        def __call__(self, x):
            self.kept = nnx.Intermediate(self.dense(x))
            return self.kept[...]

    other = nnx.Sequential(Twice(nnx.Rngs(0)), jnp.tanh)
    both = lambda model, x: jnp.mean(model(x) ** 2) + jnp.mean(model.layers[0].kept[...])  # noqa: E731
    norms = gf.value_and_grad(both, gf.watch(other))(other, X)[2].values["activation_gradient_norm"]
    assert norms["layers/0/dense"] != pytest.approx(norms["layers/0"], rel=1e-3)
