"""A watched model reads the same numbers under every transform that its user may have around it, or is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax_nets import Mlp, Transformer, gradient_by_vjp, next_word_loss, tokens

import gradflow as gf
from gradflow.errors import BadInput


def read(model, batch, loss=next_word_loss, **how):
    graph, state = nnx.split(model)
    grads = gf.value_and_grad(loss, gf.watch(model, **how))
    return jax.jit(lambda state: grads(nnx.merge(graph, state, copy=True), batch)[2])(state)


def assert_same(ours, theirs, rtol=1e-5, atol=1e-7):
    assert ours.values.keys() == theirs.values.keys()
    for quantity, values in theirs.values.items():
        assert ours.values[quantity].keys() == values.keys()
        for name, value in values.items():
            assert ours.values[quantity][name] == pytest.approx(value, rel=rtol, abs=atol), (quantity, name)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
    names = {name for values in theirs.values.values() for name in values}
    assert {name: ours.spec.position[name] for name in names} == {name: theirs.spec.position[name] for name in names}


@pytest.fixture(scope="module")
def looped():
    model = Transformer(nnx.Rngs(0), blocks=2)
    return model, read(model, tokens())


def with_weights_of(model, how):
    """The same net with its blocks under a transform."""
    other = Transformer(nnx.Rngs(1), blocks=len(model.blocks), how=how)
    if how == "scan":
        states = [nnx.state(block) for block in model.blocks]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[nnx.filter_state(s, nnx.Param) for s in states])
        nnx.update(other.blocks, stacked)
    else:
        nnx.update(other.blocks, nnx.state(model.blocks))
    for name in ("embed", "norm", "head"):
        nnx.update(getattr(other, name), nnx.state(getattr(model, name)))
    return other


@pytest.mark.parametrize("how", ["scan", "remat"])
def test_layers_under_a_flax_transform_read_as_in_a_loop(looped, how):
    model, expected = looped
    assert_same(read(with_weights_of(model, how), tokens()), expected, rtol=2e-5, atol=2e-6)


def test_examples_under_vmap_are_one_point(looped):
    model, expected = looped

    def loss(model, batch):
        logits = jax.vmap(lambda ids: model(ids[None])[0])(batch["inputs"])
        return next_word_loss(lambda ids: logits, batch)

    assert_same(read(model, tokens(), loss), expected, rtol=2e-5, atol=2e-6)


def test_stacked_and_shared_modules_in_one_scan_over_time():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.unrolled = True
            self.cell, self.head = nnx.GRUCell(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            carry = jnp.zeros((len(x), 4))
            for at in range(x.shape[1]) if self.unrolled else ():
                carry, _ = self.cell(carry, x[:, at])
            if not self.unrolled:
                step = nnx.scan(
                    lambda carry, cell, x: cell(carry, x)[0], in_axes=(nnx.Carry, None, 1), out_axes=nnx.Carry
                )
                carry = step(carry, self.cell, x)
            return self.head(carry)

    model, x = Net(nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (5, 6, 3))
    loss = lambda model, x: jnp.mean(model(x) ** 2)  # noqa: E731
    apart = read(model, x, loss).values["activation_gradient_norm"]
    model.unrolled = False
    whole = read(model, x, loss, points=["cell/*", "head"]).values["activation_gradient_norm"]
    assert set(whole) < {name.partition("@")[0] for name in apart}
    for name, value in whole.items():
        of_each = [norm for other, norm in apart.items() if other.partition("@")[0] == name]
        assert len(of_each) == (1 if name == "head" else 6)
        assert value == pytest.approx(np.linalg.norm(of_each), rel=1e-5)


def test_an_ensemble_under_vmap_has_a_number_a_member():
    make = nnx.vmap(lambda rngs: nnx.Linear(3, 2, rngs=rngs), in_axes=0, out_axes=0)
    members = [nnx.Linear(3, 2, rngs=nnx.Rngs(seed)) for seed in range(3)]

    class Ensemble(nnx.Module):
        def __init__(self, rngs):
            self.members = make(rngs.split(3))

        def __call__(self, x):
            return jnp.mean(nnx.vmap(lambda member, x: jnp.tanh(member(x)), in_axes=(0, None))(self.members, x), 0)

    model, x = Ensemble(nnx.Rngs(0)), jnp.arange(12.0).reshape(4, 3) / 10
    nnx.update(model.members, jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(nnx.state, members)))
    reading = read(model, x, lambda model, x: jnp.mean(model(x)))
    assert list(reading.spec.activations) == ["members/0", "members/1", "members/2"]
    assert {*map(reading.spec.position.__getitem__, reading.spec.activations)} == {1}
    for i, member in enumerate(members):
        slope = 1 - jnp.tanh(member(x)) ** 2
        norm = 2 * jnp.linalg.norm(slope / (3 * slope.size))
        assert reading.values["activation_gradient_norm"][f"members/{i}"] == pytest.approx(float(norm), rel=1e-5)
        weights = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(nnx.state(member))))
        assert reading.values["weight_norm"][f"members/{i}"] == pytest.approx(float(weights), rel=1e-5)


def test_convolutions_and_batch_norm_used_twice():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 2, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(2, rngs=rngs)
            self.head = nnx.Linear(2, 3, rngs=rngs)

        def __call__(self, x):
            for _ in range(2):
                x = jax.nn.relu(self.norm(self.conv(x)))
            return self.head(x.mean((1, 2)))

    model, x = Net(nnx.Rngs(0)), jax.random.normal(jax.random.key(1), (6, 5, 5, 2))
    loss = lambda model, x: jnp.mean(jax.nn.logsumexp(model(x), -1))  # noqa: E731
    graph, state = nnx.split(model)
    before = np.array(model.norm.mean[...])
    reading = nnx.jit(gf.value_and_grad(loss, gf.watch(model)))(model, x)[2]
    assert list(reading.spec.activations) == ["conv", "norm", "conv@2", "norm@2", "head"]
    assert [reading.spec.position[name] for name in reading.spec.activations] == [1, 1, 2, 2, 3]

    def cut(shifts):
        net = nnx.merge(graph, state, copy=True)
        y = x
        for first, second in shifts:
            y = jax.nn.relu(net.norm(net.conv(y) + first) + second)
        return jnp.mean(jax.nn.logsumexp(net.head(y.mean((1, 2))), -1))

    gradients = jax.tree.leaves(jax.jit(jax.grad(cut))([(jnp.zeros_like(x),) * 2] * 2))
    expected = [6**0.5 * float(jnp.linalg.norm(gradient)) for gradient in gradients]
    seen = [reading.values["activation_gradient_norm"][name] for name in ("conv", "norm", "conv@2", "norm@2")]
    np.testing.assert_allclose(seen, expected, rtol=2e-5)
    assert np.abs(np.array(model.norm.mean[...]) - before).max() > 1e-4, "running statistics go back into the model"


def square_loss(model, x):
    return jnp.mean(jnp.square(model(x).astype(jnp.float32)))


def test_bfloat16_and_float32_are_one_reading_but_for_rounding():
    x = jax.random.normal(jax.random.key(0), (4, 8))
    low, high = (nnx.List([Mlp(nnx.Rngs(0), dtype)]) for dtype in (jnp.bfloat16, jnp.float32))
    loss = lambda models, x: square_loss(models[0], x)  # noqa: E731
    ours, theirs = read(low[0], x, square_loss), read(high[0], x, square_loss)
    for name, value in theirs.values["activation_gradient_norm"].items():
        assert ours.values["activation_gradient_norm"][name] == pytest.approx(value, rel=0.03), name
        cut = gradient_by_vjp(low, f"0/{name}", loss, x)
        assert ours.values["activation_gradient_norm"][name] == pytest.approx(cut, rel=0.01)
    assert ours.arrays["activation_gradient_norm"].dtype == jnp.float32


def test_gradients_and_loss_are_those_without_watching(looped):
    model, _ = looped
    ours = nnx.jit(gf.value_and_grad(next_word_loss, gf.watch(model)))(model, tokens())
    theirs = nnx.jit(nnx.value_and_grad(next_word_loss))(model, tokens())
    assert jax.tree.structure(ours[1]) == jax.tree.structure(theirs[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), ours[:2], theirs)


def test_dropout_draws_what_it_draws_without_watching():
    def net():
        rngs = nnx.Rngs(0)
        return nnx.Sequential(nnx.Linear(8, 8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs), nnx.Linear(8, 8, rngs=rngs))

    models, x = (net(), net()), jax.random.normal(jax.random.key(0), (4, 8))
    grads = gf.value_and_grad(square_loss, gf.watch(models[0])), nnx.value_and_grad(square_loss)
    losses = [[float(nnx.jit(grad)(model, x)[0]) for _ in range(2)] for grad, model in zip(grads, models, strict=True)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0][0] != losses[0][1], "the second step draws anew"
    reading = nnx.jit(grads[0])(models[0], x)[2]
    assert reading.spec.activations == ("layers/0", "layers/1", "layers/2")
    assert 0.1 < reading.values["zero_fraction"]["layers/1"] < 0.9


def test_accumulation_over_microbatches_in_a_scan():
    model, x = Mlp(nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (8, 8))
    graph, params = nnx.split(model)
    grads = gf.value_and_grad(lambda params, x: square_loss(nnx.merge(graph, params), x), gf.watch(model))

    @jax.jit
    def accumulate(params, x):
        return jax.lax.scan(lambda carry, part: (carry, grads(params, part)[2]), 0, x.reshape(2, 4, 8))[1]

    readings = accumulate(params, x)
    for i in range(2):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], readings)
        assert_same(one, read(model, x[4 * i : 4 * i + 4], square_loss))


def test_what_is_not_read_costs_nothing_and_reads_nan():
    model, x = Mlp(nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (8, 8))
    graph, params = nnx.split(model)
    grads = gf.value_and_grad(lambda params, x: square_loss(nnx.merge(graph, params), x), gf.watch(model))
    plain = jax.value_and_grad(lambda params, x: square_loss(nnx.merge(graph, params), x))
    steps = {
        "read": lambda params: grads(params, x),
        "not read": lambda params: grads(params, x, read=False),
        "plain": lambda params: plain(params, x),
    }
    compiled = {name: jax.jit(step).lower(params).compile() for name, step in steps.items()}
    analyses: dict[str, Any] = {name: one.cost_analysis() for name, one in compiled.items()}
    cost = {name: one["flops"] for name, one in analyses.items()}
    assert cost["plain"] <= cost["not read"] <= cost["plain"] + 8 < cost["read"]  # whether the loss is finite is asked
    off, on = compiled["not read"](params)[2], compiled["read"](params)[2]
    assert jax.tree.structure(off) == jax.tree.structure(on)
    assert np.isnan([*off.values["activation_gradient_norm"].values()]).all()
    assert off.loss == pytest.approx(on.loss)
    by_flag = jax.jit(lambda params, flag: grads(params, x, read=flag)[2])
    assert_same(by_flag(params, True), on)
    assert by_flag(params, False).loss == pytest.approx(on.loss)


def test_residual_paths_are_those_of_the_two_paths_apart():
    class Unit(nnx.Module):
        def __init__(self, rngs):
            self.mlp = Mlp(rngs)

        def __call__(self, x):
            return self.mlp(jnp.tanh(x)) + x

    stack: Any = nnx.Sequential(Unit(nnx.Rngs(0)), jnp.tanh, Unit(nnx.Rngs(1)))
    x = jax.random.normal(jax.random.key(0), (4, 8))
    values = read(stack, x, square_loss).values
    assert list(values["identity_gradient_norm"]) == ["layers/0", "layers/2"]

    def apart(through, around):
        y = around + stack.layers[0].mlp(jnp.tanh(through))
        return square_loss(stack.layers[2], jnp.tanh(y))

    residual, identity = jax.jit(jax.grad(apart, (0, 1)))(x, x)
    for quantity, gradient in (("identity_gradient_norm", identity), ("residual_gradient_norm", residual)):
        assert values[quantity]["layers/0"] == pytest.approx(2 * float(jnp.linalg.norm(gradient)), rel=2e-5)
    cosine = jnp.vdot(identity, residual) / (jnp.linalg.norm(identity) * jnp.linalg.norm(residual))
    assert values["path_cosine"]["layers/0"] == pytest.approx(float(cosine), abs=1e-5)
    only = read(stack, x, square_loss, residual=["layers/2"]).values
    assert list(only["path_cosine"]) == ["layers/2"]
    assert "path_cosine" not in read(stack, x, square_loss, residual=[]).values
    with pytest.raises(BadInput, match="'layers/0/mlp' has no identity path"):
        read(stack, x, square_loss, residual=["layers/0/mlp"])


SUMS = {
    "as it is": (lambda x, y: y + x, True),
    "inside a jit": (lambda x, y: jax.jit(jnp.add)(x, y), True),
    "in another dtype": (lambda x, y: (x.astype(jnp.bfloat16) + y.astype(jnp.bfloat16)).astype(x.dtype), True),
    "a ReLU after it": (lambda x, y: jax.nn.relu(x + y), False),
    "scaled": (lambda x, y: 0.5 * x + y, False),
    "twice": (lambda x, y: x + y + x, False),
    "subtracted": (lambda x, y: y - x, False),
    "in part": (lambda x, y: jnp.where(x > 0, x, 0) + y, False),
    "not at all": (lambda x, y: y, False),
}


@pytest.mark.parametrize("how", SUMS)
def test_only_what_comes_back_as_it_is_is_an_identity_path(how):
    add, found = SUMS[how]

    class Sum(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(8, 8, rngs=rngs)

        def __call__(self, x):
            return add(x, self.dense(x))

    reading = read(nnx.Sequential(Sum(nnx.Rngs(0)), jnp.tanh), jnp.ones((2, 8)), square_loss)
    assert list(reading.values.get("identity_gradient_norm", {})) == ["layers/0"] * found


class Unit(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x):
        return x + jnp.tanh(self.dense(x))


class Recomputed(Unit):
    __call__ = nnx.remat(Unit.__call__)


class Compiled(Unit):
    __call__ = nnx.jit(Unit.__call__)


class Skipped(Unit):
    def __call__(self, x):
        return nnx.cond(x.sum() > 1e9, lambda dense, x: dense(x), lambda dense, x: x, self.dense, x)


def of_units(kind):
    model = nnx.Sequential(kind(nnx.Rngs(0)), kind(nnx.Rngs(1)))
    return [read(model, jnp.ones((2, 8)) / 8, square_loss) for _ in range(2)]  # what JAX kept of the first is not used


@pytest.mark.parametrize("kind", [Recomputed, Compiled])
def test_calls_that_are_transformed_where_they_are_written(kind):
    expected = of_units(Unit)[0]
    for reading in of_units(kind):
        assert_same(reading, expected, rtol=1e-5, atol=1e-6)


def test_as_many_examples_under_vmap_as_layers_under_scan():
    """Both loops have one length: the parameters tell which is which."""
    units = [Unit(nnx.Rngs(i)) for i in range(3)]

    class Scanned(nnx.Module):
        def __init__(self, rngs):
            self.units = nnx.vmap(lambda rngs: Unit(rngs), in_axes=0, out_axes=0)(rngs.split(3))

        def __call__(self, x):
            return nnx.scan(lambda unit, x: unit(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(self.units, x)

    model, x = Scanned(nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (3, 8))
    nnx.update(model.units, jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(nnx.state, units)))
    expected = read(nnx.Sequential(*units), x, square_loss).values
    graph, params = nnx.split(model)
    loss = lambda params, x: square_loss(jax.vmap(lambda row: nnx.merge(graph, params, copy=True)(row)), x)  # noqa: E731
    ours = jax.jit(gf.value_and_grad(loss, gf.watch(model)))(params, x)[2].values
    for quantity in ("activation_gradient_norm", "gradient_norm", "path_cosine", "activation_std"):
        for name, value in expected[quantity].items():
            assert ours[quantity][name.replace("layers/", "units/")] == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_a_branch_that_is_not_taken_reads_nan_and_what_is_around_it_a_number():
    values = of_units(Skipped)[0].values["activation_gradient_norm"]
    assert np.isnan(values["layers/0/dense"])
    assert values["layers/0"] > 0


def test_no_second_copy_of_the_activations_is_kept():
    model = nnx.Sequential(*[Unit(nnx.Rngs(i)) for i in range(12)])
    graph, params = nnx.split(model)
    x = jnp.ones((4096, 8))
    loss = lambda params, x: square_loss(nnx.merge(graph, params, copy=True), x)  # noqa: E731
    steps = [jax.value_and_grad(loss), gf.value_and_grad(loss, gf.watch(model))]
    analyses: list[Any] = [jax.jit(step).lower(params, x).compile().memory_analysis() for step in steps]
    plain, read = (one.temp_size_in_bytes for one in analyses)
    assert read - plain < 6 * x.nbytes  # a copy would be 24 of them


INSIDE = {
    "a custom_vjp": "custom_vjp_call",
    "jax.lax.map": "was not seen",
    "an inner jit, twice": "take the inner jit",
    "vmap by another name": "was not seen",
    "jax.jvp": "a derivative that is taken forwards in it",
}


@pytest.mark.parametrize("how", INSIDE)
def test_a_transform_that_no_reading_comes_out_of_is_refused_in_one_line(how):
    model, x = nnx.Sequential(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), jnp.tanh), jnp.ones((4, 3))
    graph, state = nnx.split(model)
    pure = lambda state, x: nnx.merge(graph, state, copy=True)(x)  # noqa: E731
    custom = jax.custom_vjp(pure)
    custom.defvjp(lambda state, x: (pure(state, x), (state, x)), lambda saved, g: saved)
    inner, vmap = jax.jit(pure), jax.vmap
    forward = {
        "a custom_vjp": custom,
        "jax.lax.map": lambda state, x: jax.lax.map(lambda row: pure(state, row), x),
        "an inner jit, twice": lambda state, x: inner(state, inner(state, x)),
        "vmap by another name": lambda state, x: vmap(lambda row: pure(state, row))(x),
        "jax.jvp": lambda state, x: jax.jvp(lambda x: pure(state, x), (x,), (x,))[1],
    }[how]
    with pytest.raises(BadInput, match=INSIDE[how]) as refused:
        gf.value_and_grad(lambda state, x: jnp.mean(forward(state, x) ** 2), gf.watch(model))(state, x)
    assert "\n" not in str(refused.value)
