"""Equinox models, which are written for one example and are trees: the names and numbers of the same net in NNX."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax_nets import next_word_loss, tokens

import gradflow as gf

eqx: Any = pytest.importorskip("equinox")
KEYS = jax.random.split(jax.random.key(0), 8)


class Attention(eqx.Module):
    query: Any
    key: Any
    value: Any
    out: Any

    def __init__(self, key):
        self.query, self.key, self.value, self.out = (eqx.nn.Linear(8, 8, key=one) for one in jax.random.split(key, 4))

    def __call__(self, x):
        query, key, value = (jax.vmap(layer)(x) for layer in (self.query, self.key, self.value))
        return jax.vmap(self.out)(jax.nn.softmax(query @ key.T) @ value)


class Block(eqx.Module):
    norm: Any
    attention: Any
    dense: Any

    def __init__(self, key):
        self.norm, self.attention = eqx.nn.LayerNorm(8), Attention(key)
        self.dense = eqx.nn.Linear(8, 8, key=key)

    def __call__(self, x):
        x = x + self.attention(jax.vmap(self.norm)(x))
        return x + jax.vmap(self.dense)(jnp.tanh(x))


class Net(eqx.Module):
    """Words of one example to logits; `how` says how the blocks are called."""

    embed: Any
    blocks: Any
    head: Any
    how: str = eqx.field(static=True)

    def __init__(self, how="loop"):
        self.embed, self.head = eqx.nn.Embedding(11, 8, key=KEYS[0]), eqx.nn.Linear(8, 11, key=KEYS[1])
        self.how = how
        self.blocks = eqx.filter_vmap(Block)(KEYS[2:4]) if how == "scan" else [Block(key) for key in KEYS[2:4]]

    def __call__(self, ids):
        x = jax.vmap(self.embed)(ids)
        if self.how == "scan":
            arrays, rest = eqx.partition(self.blocks, eqx.is_array)
            x, _ = jax.lax.scan(lambda x, block: (eqx.combine(block, rest)(x), None), x, arrays)
        for block in self.blocks if self.how != "scan" else ():
            call = {"loop": block, "checkpoint": eqx.filter_checkpoint(block), "jit": eqx.filter_jit(block)}[self.how]
            x = call(x)
        return jax.vmap(self.head)(x)


class NnxAttention(nnx.Module):
    def __init__(self, rngs):
        self.query, self.key, self.value, self.out = (nnx.Linear(8, 8, rngs=rngs) for _ in range(4))

    def __call__(self, x):
        query, key, value = self.query(x), self.key(x), self.value(x)
        return self.out(jax.nn.softmax(query @ jnp.swapaxes(key, 1, 2)) @ value)


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm, self.attention = (
            nnx.LayerNorm(8, epsilon=1e-5, use_fast_variance=False, rngs=rngs),
            NnxAttention(rngs),
        )
        self.dense = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm(x))
        return x + self.dense(jnp.tanh(x))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.embed, self.head = nnx.Embed(11, 8, rngs=rngs), nnx.Linear(8, 11, rngs=rngs)
        self.blocks = nnx.List([NnxBlock(rngs) for _ in range(2)])

    def __call__(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def with_weights_of(tree: Any) -> NnxNet:
    """The same net in NNX."""
    net, theirs = NnxNet(nnx.Rngs(0)), {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(eqx.filter(tree, eqx.is_inexact_array))[0]:
        theirs[jax.tree_util.keystr(path, simple=True, separator="/")] = leaf
    for path, module in nnx.iter_modules(net):
        own = "/".join(map(str, path))
        for name, here in (("kernel", "weight"), ("embedding", "weight"), ("scale", "weight"), ("bias", "bias")):
            if isinstance(getattr(module, name, None), nnx.Param):
                leaf = theirs[f"{own}/{here}"]
                getattr(module, name)[...] = leaf.T if name == "kernel" else leaf
    return net


def loss(model, batch):
    return next_word_loss(jax.vmap(model), batch)


@pytest.fixture(scope="module")
def expected():
    return nnx.jit(gf.value_and_grad(next_word_loss, gf.watch(with_weights_of(Net()))))(
        with_weights_of(Net()), tokens()
    )


@pytest.mark.parametrize("how", ["loop", "checkpoint", "jit", "scan"])
def test_names_and_numbers_are_those_of_the_same_net_in_nnx(expected, how):
    model = Net(how)
    value, gradients, reading = eqx.filter_jit(gf.value_and_grad(loss, gf.watch(model)))(model, tokens())
    assert float(value) == pytest.approx(float(expected[0]), rel=1e-5)
    theirs = expected[2]
    assert reading.values.keys() == theirs.values.keys()
    for quantity, values in theirs.values.items():
        assert reading.values[quantity].keys() == values.keys(), quantity
        assert reading.values[quantity] == pytest.approx(values, rel=1e-4, abs=2e-6), quantity
    assert reading.spec.position == theirs.spec.position
    assert "blocks/1/attention/query" in reading.spec.activations
    assert [*reading.values["path_cosine"]] == ["blocks/0", "blocks/1"]
    own = eqx.filter_jit(eqx.filter_value_and_grad(loss))(model, tokens())[1]
    assert jax.tree.structure(gradients) == jax.tree.structure(own)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradients, own)
    assert not any("__doc__" in vars(module) for _, module in modules_of(model)), "nothing is left written"


def modules_of(model):
    return [(path, x) for path, x in jax.tree_util.tree_flatten_with_path(model, is_leaf=is_linear)[0] if is_linear(x)]


def is_linear(x):
    return isinstance(x, eqx.nn.Linear)


def test_parameters_that_the_loss_puts_together_read_the_same(expected):
    model = Net()
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    grads = gf.value_and_grad(lambda params, batch: loss(eqx.combine(params, rest), batch), gf.watch(model))
    reading = jax.jit(grads)(params, tokens())[2]
    for name, norm in expected[2].values["activation_gradient_norm"].items():
        assert reading.values["activation_gradient_norm"][name] == pytest.approx(norm, rel=1e-4), name


def test_running_statistics_are_handed_on_and_are_no_points():
    class Stateful(eqx.Module):
        dense: Any
        norm: Any

        def __init__(self):
            self.dense = eqx.nn.Linear(8, 4, key=KEYS[0])
            self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch")

        def __call__(self, x, state):
            return self.norm(self.dense(x), state)

    def loss(model, state, x):
        y, state = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)
        return jnp.mean((y - x[:, :4]) ** 2), state

    model, state = eqx.nn.make_with_state(Stateful)()
    x = jax.random.normal(KEYS[1], (6, 8))
    grads = eqx.filter_jit(gf.value_and_grad(loss, gf.watch(model), has_aux=True))
    (_, new), _, reading = grads(model, state, x)
    assert reading.spec.activations == ("dense", "norm")
    before, after = jax.tree.leaves(state), jax.tree.leaves(new)
    assert not all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))

    def cut(shift):
        dense = lambda row, shift: model.norm(model.dense(row) + shift, state)  # noqa: E731
        y, _ = jax.vmap(dense, axis_name="batch", out_axes=(0, None))(x, shift)
        return jnp.mean((y - x[:, :4]) ** 2)

    norm = 6**0.5 * jnp.linalg.norm(jax.grad(cut)(jnp.zeros((6, 4))))
    assert reading.values["activation_gradient_norm"]["dense"] == pytest.approx(float(norm), rel=1e-4)


def test_an_equinox_model_is_trained_recorded_and_drawn(tmp_path):
    model = eqx.nn.MLP(8, 8, 16, 2, key=KEYS[0])
    x = jax.random.normal(KEYS[1], (6, 8))
    loss = lambda model, x: jnp.mean((jax.vmap(model)(x) - 1) ** 2)  # noqa: E731
    step = gf.recorded_step(model, optax.sgd(0.1), loss)
    with gf.record(tmp_path / "mine", settings={"net": "mlp", "depth": 3}) as log:
        for number in (1, 2, 3):
            log(number, step(x))
    assert loss(step.model, x) < loss(model, x)
    frame: Any = gf.load(tmp_path / "mine")
    assert {"layers/0", "layers/1", "layers/2"} < set(frame["layer"])
    assert {"update_norm", "weight_norm", "activation_gradient_norm"} < set(frame["quantity"])
    figure = gf.plot_gradient_flow(model, x, loss)
    assert len(figure.axes[0].lines) > 0
