"""A point has the name of its module, and none has that of another one, however the modules are called."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx
from flax_nets import Mlp, gradients_by_vjp

import gradflow as gf

X = jax.random.normal(jax.random.key(0), (4, 8))


def square(model, x):
    return jnp.mean((model(x) - 1) ** 2)


class Net(nnx.Module):
    """Its last layer is called as our name for the output of a model."""

    def __init__(self, rngs, own=False):
        self.hidden, self.output = nnx.Linear(8, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)
        self.scale = nnx.Param(jnp.full(4, 0.5)) if own else 1

    def __call__(self, x):
        return jnp.tanh(self.output(jnp.tanh(self.hidden(x)))) * self.scale


class LinenNet(linen.Module):
    own: bool

    @linen.compact
    def __call__(self, x):
        scale = self.param("scale", linen.initializers.constant(0.5), (4,)) if self.own else 1
        return jnp.tanh(linen.Dense(4, name="output")(jnp.tanh(linen.Dense(8, name="hidden")(x)))) * scale


@pytest.mark.parametrize("own", [False, True])
def test_a_layer_called_output_is_a_layer_and_the_output_of_the_model_is_another_point(own):
    net, other = Net(nnx.Rngs(0), own), LinenNet(own)
    reading = nnx.jit(gf.value_and_grad(square, gf.watch(net)))(net, X)[2]
    norms = reading.values["activation_gradient_norm"]
    expected = gradients_by_vjp(net, ["hidden", "output"], square, X)
    assert {name: norms[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert {**reading.spec.position} == {"hidden": 1, "output": 2} | ({"model output": 2} if own else {})
    assert reading.values["gradient_norm"].keys() == {"hidden", "output"}

    params: Any = {"params": nnx.to_pure_dict(nnx.state(net))}
    of_params = lambda params, x: square(lambda x: other.apply(params, x), x)  # noqa: E731
    theirs = jax.jit(gf.value_and_grad(of_params, gf.watch(other)))(params, X)[2]
    assert theirs.values["activation_gradient_norm"] == pytest.approx(norms, rel=1e-5)
    assert theirs.spec.position == reading.spec.position


def test_a_linen_layer_alone_is_its_own_output():
    layer = linen.Dense(4)
    params: Any = {"params": nnx.to_pure_dict(nnx.state(nnx.Linear(8, 4, rngs=nnx.Rngs(0))))}
    of_params = lambda params, x: square(lambda x: layer.apply(params, x), x)  # noqa: E731
    values = jax.jit(gf.value_and_grad(of_params, gf.watch(layer)))(params, X)[2].values
    y: Any = layer.apply(params, X)
    assert values["activation_gradient_norm"] == pytest.approx(
        {"output": 2 * float(jnp.linalg.norm(2 * (y - 1) / y.size))}, rel=1e-5
    )
    assert values["gradient_norm"].keys() == {"output"}


def test_two_modules_of_one_path_are_refused_in_one_line():
    class Slash(nnx.Module):
        def __init__(self, rngs):
            dense = lambda: nnx.Linear(8, 8, rngs=rngs)  # noqa: E731
            self.heads = nnx.Dict({"a/b": dense(), "a": nnx.Dict(b=dense())})

        def __call__(self, x):
            heads: Any = self.heads
            return heads["a/b"](heads["a"]["b"](x))

    with pytest.raises(gf.BadInput, match="two modules have the path 'heads/a/b'") as refused:
        gf.watch(Slash(nnx.Rngs(0)))
    assert "\n" not in str(refused.value)


def test_an_ensemble_that_is_the_whole_model_has_a_number_in_front():
    members = [Mlp(nnx.Rngs(seed)) for seed in range(3)]
    ensemble = nnx.vmap(lambda rngs: Mlp(rngs), in_axes=0, out_axes=0)(nnx.Rngs(0).split(3))
    nnx.update(ensemble, jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(nnx.state, members)))
    each = lambda model, x: nnx.vmap(lambda member, x: member(x), in_axes=(0, None))(model, x)  # noqa: E731
    loss = lambda model, x: square(lambda x: each(model, x), x)  # noqa: E731
    norms = nnx.jit(gf.value_and_grad(loss, gf.watch(ensemble)))(ensemble, X)[2].values["activation_gradient_norm"]
    assert norms.keys() == {f"{i}/{name}" for i in range(3) for name in ("wide", "narrow")}
    for i, member in enumerate(members):
        y = member(X)
        assert norms[f"{i}/narrow"] == pytest.approx(2 * float(jnp.linalg.norm(2 * (y - 1) / (3 * y.size))), rel=1e-5)


def test_a_layer_that_shares_the_weights_of_another_one_makes_the_net_deeper():
    layers = [nnx.Linear(8, 8, rngs=nnx.Rngs(seed)) for seed in range(3)]
    layers[1].kernel = layers[0].kernel
    model = nnx.Sequential(layers[0], jnp.tanh, layers[1], jnp.tanh, layers[2])
    reading = nnx.jit(gf.value_and_grad(square, gf.watch(model)))(model, X)[2]
    assert {**reading.spec.position} == {"layers/0": 1, "layers/2": 2, "layers/4": 3}
    gradients = nnx.jit(nnx.grad(square))(model, X)["layers"]
    norms = {f"layers/{i}": sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradients[i])) ** 0.5 for i in (0, 4)}
    assert reading.values["gradient_norm"] == pytest.approx(jax.tree.map(float, norms), rel=1e-5)


@pytest.fixture(scope="module")
def bridged():
    head = nnx.bridge.ToNNX(linen.Dense(4), rngs=nnx.Rngs(1))
    nnx.bridge.lazy_init(head, X)
    return nnx.Sequential(nnx.Linear(8, 8, rngs=nnx.Rngs(0)), head)


def test_a_linen_module_that_is_bridged_into_nnx_is_a_module_as_any(bridged):
    reading = nnx.jit(gf.value_and_grad(square, gf.watch(bridged)))(bridged, X)[2]
    y = bridged(X)
    expected = 2 * float(jnp.linalg.norm(2 * (y - 1) / y.size))
    assert reading.values["activation_gradient_norm"]["layers/1"] == pytest.approx(expected, rel=1e-5)
    assert {**reading.spec.position} == {"layers/0": 1, "layers/1": 2}


def test_a_model_that_has_shapes_and_no_weights_yet_tells_where_to_read():
    model = Mlp(nnx.Rngs(0))
    graph, params = nnx.split(model)
    loss = lambda params, x: square(nnx.merge(graph, params, copy=True), x)  # noqa: E731
    abstract = nnx.eval_shape(lambda: Mlp(nnx.Rngs(0)))
    ours, theirs = (jax.jit(gf.value_and_grad(loss, gf.watch(one)))(params, X)[2] for one in (abstract, model))
    assert ours.values == theirs.values
