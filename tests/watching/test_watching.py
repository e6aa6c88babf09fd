"""Models that never heard of gradflow are read in a loop of their own: every number against a cut by `jax.vjp`."""

import pytest
from flax import nnx
from flax_nets import Transformer, gradients_by_vjp, next_word_loss, tokens

import gradflow as gf

POINTS = ["embed", "blocks/0/norm1", "blocks/0/attention/query", "blocks/0/attention/key", "blocks/0/attention/value"]
POINTS += ["blocks/0/attention/out", "blocks/0/attention", "blocks/0/mlp/wide", "blocks/0/mlp", "blocks/0", "blocks/1"]
POINTS += ["blocks/1/norm2", "norm", "head"]


def read(model, batch, loss=next_word_loss, **how):
    return nnx.jit(gf.value_and_grad(loss, gf.watch(model, **how)))(model, batch)[2]


@pytest.fixture(scope="module")
def transformer():
    return Transformer(nnx.Rngs(0))


@pytest.fixture(scope="module")
def reading(transformer):
    return read(transformer, tokens())


@pytest.fixture(scope="module")
def cut(transformer):
    return gradients_by_vjp(transformer, POINTS, next_word_loss, tokens())


@pytest.mark.parametrize("path", POINTS)
def test_a_reading_is_the_gradient_where_the_net_is_cut(reading, cut, path):
    assert reading.values["activation_gradient_norm"][path] == pytest.approx(cut[path], rel=2e-5)


def test_every_module_is_a_point_at_the_end_of_its_longest_path(transformer, reading):
    called = {path for path, module in nnx.iter_modules(transformer) if callable(module) and path}
    assert set(reading.spec.activations) == {"/".join(map(str, path)) for path in called}
    at = reading.spec.position
    assert [at[f"blocks/0/attention/{name}"] for name in ("query", "key", "value", "out")] == [2, 2, 2, 3]
    assert [at[name] for name in ("embed", "blocks/0/mlp/narrow", "blocks/0", "blocks/1", "head")] == [1, 5, 5, 9, 10]
