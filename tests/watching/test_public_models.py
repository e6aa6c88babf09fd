"""Models that come with Flax, which nobody here wrote: trained in a user's loop, recorded, drawn, and right."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import gradflow as gf

X = jax.random.normal(jax.random.key(0), (5, 6, 3))
Y = jax.random.normal(jax.random.key(1), (5, 6, 4))
OPTIMISER = optax.adam(1e-2)


def mean_square(y):
    return jnp.mean((y - Y) ** 2)


def by_vjp(rest, y):
    """sqrt(B) times the norm of the gradient at `y`, from which `rest` makes the loss."""
    value, pull = jax.vjp(rest, y)
    return len(X) ** 0.5 * float(jnp.linalg.norm(pull(jnp.ones_like(value))[0]))


def recurrent(seed):
    return nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(seed))), nnx.Linear(8, 4, rngs=nnx.Rngs(seed + 1))


def compiled_step(loss, watched):
    """A user's own step, `(params, moments) -> (params, moments, reading)`."""

    @jax.jit
    def step(params, moments):
        _, gradients, reading = gf.value_and_grad(loss, watched)(params, X)
        updates, moments = OPTIMISER.update(gradients, moments)
        return optax.apply_updates(params, updates), moments, reading

    return step


def trained(step, values, folder):
    """The losses of three steps in a loop that is recorded, as the table has them."""
    with gf.record(folder, settings={"net": "lstm", "depth": 2}) as log:
        for number in (1, 2, 3):
            values = step(*values)
            log(number, values[-1])
            values = values[:-1]
    return [*gf.load(folder, quantities=["loss"])["value"]]


def test_a_bidirectional_lstm_of_nnx(tmp_path):
    (forward, head), (backward, _) = recurrent(0), recurrent(2)
    model = nnx.Sequential(nnx.Bidirectional(forward, backward), head)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    watched = gf.watch(model)

    def loss(params, x):
        return mean_square(nnx.merge(graph, params, rest, copy=True)(x))

    step = compiled_step(loss, watched)
    reading = step(params, OPTIMISER.init(params))[-1]
    norms = reading.values["activation_gradient_norm"]
    inner: Any = model.layers[0]
    both = inner(X)
    cuts = {
        "layers/1": by_vjp(mean_square, model(X)),
        "layers/0": by_vjp(lambda y: mean_square(head(y)), both),
        "layers/0/forward_rnn.1": by_vjp(
            lambda y: mean_square(head(jnp.concatenate([y, both[..., 4:]], -1))), both[..., :4]
        ),
    }
    for name, norm in cuts.items():
        assert norms[name] == pytest.approx(norm, rel=2e-5), name
    naive = jax.grad(loss)(params, X)
    assert reading.values["gradient_norm"]["layers/1"] == pytest.approx(
        float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(naive["layers"][1])))), rel=2e-5
    )
    losses = trained(step, (params, OPTIMISER.init(params)), tmp_path)
    assert losses == sorted(losses, reverse=True)
    assert np.isfinite(losses).all()
    gf.plot_gradient_flow(model, X, lambda model, x: mean_square(model(x))).savefig(tmp_path / "flow.png")


class Head(linen.Module):
    """The last layer that any user puts on a model."""

    @linen.compact
    def __call__(self, x):
        forward, backward = (linen.RNN(linen.OptimizedLSTMCell(4), name=name) for name in ("forward", "backward"))
        return linen.Dense(4, name="head")(linen.Bidirectional(forward, backward, name="both")(x))


def test_a_bidirectional_lstm_of_linen(tmp_path):
    model = Head()
    params: Any = model.init(jax.random.key(0), X)
    loss = lambda params, x: mean_square(model.apply(params, x))  # noqa: E731
    watched = gf.watch(model, points=["both", "head"])

    step = compiled_step(loss, watched)
    reading = step(params, OPTIMISER.init(params))[-1]
    norms, dense = reading.values["activation_gradient_norm"], params["params"]["head"]
    _, state = model.apply(params, X, capture_intermediates=True)
    both = state["intermediates"]["both"]["__call__"][0]  # pyright: ignore
    head = lambda y: mean_square(y @ dense["kernel"] + dense["bias"])  # noqa: E731
    assert norms["both"] == pytest.approx(by_vjp(head, both), rel=2e-5)
    assert norms["head"] == pytest.approx(by_vjp(mean_square, model.apply(params, X)), rel=2e-5)
    losses = trained(step, (params, OPTIMISER.init(params)), tmp_path)
    assert losses == sorted(losses, reverse=True)
    gf.plot_gradient_flow(watched, X, loss, params=params).savefig(tmp_path / "flow.png")
