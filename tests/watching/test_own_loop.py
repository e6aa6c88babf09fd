"""From a loop of one's own to tables and figures: NNX and Linen models, trained with optax, recorded and drawn."""

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from command_line import call
from flax import linen, nnx
from flax_nets import Mlp, Transformer, next_word_loss, tokens

import gradflow as gf
from gradflow.errors import BadInput


def square_loss(model, x):
    return jnp.mean(jnp.square(model(x) - 1))


def batches(count, examples=6):
    return [jax.random.normal(jax.random.key(i), (examples, 8)) for i in range(count)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two seeds of a transformer that its user trains in a loop of their own."""
    folder = tmp_path_factory.mktemp("own") / "mine"
    optimiser, batch = optax.adam(1e-2), tokens()
    models = [nnx.split(Transformer(nnx.Rngs(seed)), nnx.Param, ...) for seed in (0, 1)]
    graph, _, rest = models[0]  # no number in the rest decides anything: the rate of its dropout is 0
    watched, traces = gf.watch(nnx.merge(*models[0])), []

    def loss_fn(params, batch):
        traces.append(batch)
        model = nnx.merge(graph, params, rest, copy=True)
        return next_word_loss(model, batch), model(batch["inputs"]).shape

    @jax.jit
    def step(params, moments, batch):
        (loss, _), gradients, reading = gf.value_and_grad(loss_fn, watched, has_aux=True)(params, batch)
        updates, moments = optimiser.update(gradients, moments)
        return optax.apply_updates(params, updates), moments, loss, reading

    once = 0
    for seed, (_, params, _) in enumerate(models):
        moments = optimiser.init(params)
        with gf.record(folder, settings={"width": 8, "seed": seed}) as log:
            for number in range(3):
                params, moments, loss, reading = step(params, moments, batch)
                log(number + 1, reading)
                assert reading.loss == float(loss)
                once = len(traces) if (seed, number) == (0, 0) else once
    assert len(traces) == once  # nothing of ours makes JAX trace the second step, or the second seed, anew
    return folder


def test_a_recorded_loop_is_a_table_like_ours(recorded):
    frame: Any = gf.load(recorded)
    assert set(frame["seed"]) == {0, 1}
    assert set(frame["status"]) == {"done"}
    assert set(frame["step"]) == {1, 2, 3}
    assert {"activation_gradient_norm", "path_cosine", "gradient_norm", "loss"} < set(frame["quantity"])
    rows = frame[(frame["layer"] == "blocks/1/attention/query") & (frame["step"] == 1)]
    assert set(rows["position"]) == {6}
    assert gf.gradient_regime(frame).to_list() == ["undecided"]  # two seeds say little
    losses = frame[frame["quantity"] == "loss"].groupby("step")["value"].mean()
    assert losses[3] < losses[1]


@pytest.mark.parametrize("verb", ["plot", "diagnose"])
def test_the_command_line_works_on_it(recorded, verb):
    done = call(verb, recorded)
    assert done.code == 0, done
    assert verb != "plot" or (recorded / "gradient_norm.svg").is_file()


def test_the_same_settings_go_on_and_others_are_another_run(tmp_path):
    model = Mlp(nnx.Rngs(0))
    step = gf.recorded_step(model, optax.sgd(0.1), square_loss)
    readings = [step(x) for x in batches(4)]
    with gf.record(tmp_path / "mine", settings={"depth": 2}) as log:
        assert log.last_step == 0
        for number in (1, 2):
            log(number, readings[number - 1])
    with gf.record(tmp_path / "mine", settings={"depth": 2}) as log:
        assert log.last_step == 2
        for number in (2, 3, 4):
            log(number, readings[0 if number == 2 else number - 1], train_error=0.5)

    def fails():
        with gf.record(tmp_path / "mine", settings={"depth": 3}) as log:
            log(1, readings[0])
            raise RuntimeError("the loop of the user's own fails")

    with pytest.raises(RuntimeError):
        fails()
    with gf.record(tmp_path / "mine", settings={"depth": 4}) as log:
        log(1, readings[1])
    frame: Any = gf.load(tmp_path / "mine")
    losses = frame[(frame["quantity"] == "loss") & (frame["depth"] == 2)].sort_values("step")
    np.testing.assert_allclose(losses["value"], [reading.loss for reading in readings], rtol=1e-6)
    assert frame.groupby("depth")["status"].first().to_dict() == {2: "done", 3: "failed", 4: "done"}
    assert set(frame[frame["quantity"] == "train_error"]["step"]) == {3, 4}
    assert {"gradient_norm", "update_norm", "weight_norm"} < set(frame["quantity"])


def test_a_run_that_diverges_is_told_so_and_unread_steps_leave_no_rows(tmp_path):
    step = gf.recorded_step(Mlp(nnx.Rngs(0)), optax.sgd(0.1), square_loss)
    with gf.record(tmp_path, settings={"net": "mlp"}) as log:
        log(1, step(batches(1)[0], read=False))
        log(2, step(batches(1)[0]))
        log(3, step(batches(1)[0] * jnp.nan))
    frame: Any = gf.load(tmp_path)
    assert set(frame["status"]) == {"diverged"}
    assert set(frame[frame["quantity"] == "loss"]["step"]) == {1, 2, 3}
    assert set(frame[frame["quantity"] == "update_norm"]["step"]) == {2}


@pytest.fixture(scope="module")
def reading():
    """A reading of one point."""
    graph, state = nnx.split(Mlp(nnx.Rngs(0)))
    grads = gf.value_and_grad(square_loss, gf.watch(nnx.merge(graph, state), points=["wide"]))
    return jax.jit(lambda state, x: grads(nnx.merge(graph, state, copy=True), x)[2])(state, batches(1)[0])


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda log, reading: (log(2, reading), log(2, reading)), "step 2 comes after step 2"),
        (lambda log, reading: log(0, reading), "step 0 is not legal: it must be at least 1"),
        (lambda log, reading: log(2**31, reading), "step 2147483648 is not legal"),  # the store counts in 32 bits
        (lambda log, reading: log(True, reading), "step True is not legal"),
        (lambda log, reading: log(1, reading, train_error="x"), "train_error 'x' is not legal"),
        (
            lambda log, reading: log(1, reading, test_error=np.ones(2)),
            "test_error .* is not legal: it must be a number",
        ),
        (lambda log, reading: log(1, jax.tree.map(lambda x: x[None], reading)), "or several readings at once"),
        (lambda log, reading: jax.jit(lambda reading: log(1, reading))(reading), "cannot log what is being traced"),
        (lambda log, reading: log(1, 3.5), "cannot log a float"),
        (lambda log, reading: log(1, reading, accuracy=1.0), "cannot log 'accuracy'"),
    ],
)
def test_a_wrong_call_of_the_log_is_refused(tmp_path, reading, what, said):
    with pytest.raises(BadInput, match=said), gf.record(tmp_path, settings={}) as log:
        what(log, reading)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"step": 1}, "cannot be called 'step'"),
        ({"optimiser": optax.sgd(0.1)}, "is not legal: a setting is"),
        ({"seed": "one"}, "seed 'one' is not legal"),
        ({"seed": -1}, "seed -1 is not legal"),
        ([("depth", 8)], "are a dictionary"),
        ({"rate": math.inf}, "this rate is not legal: a number is finite"),
        ({"rate": math.nan}, "this rate is not legal"),
        ({"tokens": 10**5000}, "an integer has 64 bits"),
        ({"note": "two\rlines"}, "text is one line of visible characters"),
        ({"note": "\ud800"}, "text is one line of visible characters"),
        ({"note": ""}, "or else None"),
        ({"depth": "deep"}, "depth 'deep' is not legal: it must be int"),
        ({"net": 3}, "net 3 is not legal: it must be str"),
        ({"classes": "x"}, "classes 'x' is not legal: it must be int"),
    ],
)
def test_settings_that_no_table_can_hold_are_refused(tmp_path, settings, said):
    with pytest.raises(BadInput, match=said), gf.record(tmp_path, settings=settings):
        pass


def test_a_record_of_another_version_is_refused_in_one_line(tmp_path):
    with gf.record(tmp_path, settings={"depth": 1}):
        pass
    (config,) = tmp_path.rglob("config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"format": 1}))
    said = "has the results format 1, this version reads"
    with pytest.raises(BadInput, match=said) as refused, gf.record(tmp_path, settings={"depth": 1}):
        pass
    assert "\n" not in str(refused.value)


def test_a_run_has_one_writer(tmp_path):
    with (
        gf.record(tmp_path, settings={"depth": 1}) as log,
        pytest.raises(BadInput, match="another process"),
        gf.record(tmp_path, settings={"depth": 1}),
    ):
        pass
    assert log.last_step == 0


def test_one_call_draws_one_figure(tmp_path):
    class Deep(nnx.Module):
        def __init__(self, rngs, start):
            self.layers = nnx.List([nnx.Linear(8, 8, kernel_init=start, rngs=rngs) for _ in range(12)])

        def __call__(self, x):
            for layer in self.layers:
                x = jnp.tanh(layer(x))
            return x

    words = {}
    for deviation in (0.05, 0.35, 1.5):
        model = Deep(nnx.Rngs(0), nnx.initializers.normal(deviation))
        before = nnx.to_pure_dict(nnx.state(model))
        figure = gf.plot_gradient_flow(model, batches(1)[0], square_loss)
        jax.tree.map(np.testing.assert_array_equal, before, nnx.to_pure_dict(nnx.state(model)))
        words[deviation] = " ".join(text.get_text() for text in figure.texts)
        assert len(figure.axes[0].lines) > 0
    assert "falls by" in words[0.05]
    assert "Level" in words[0.35]
    assert "no interval" in words[0.35]
    flat = gf.plot_gradient_flow(nnx.Linear(8, 8, rngs=nnx.Rngs(0)), batches(1)[0], square_loss)
    assert "no depth" in " ".join(text.get_text() for text in flat.texts)
    figure.savefig(tmp_path / "flow.png")
    gf.plot.save(figure, tmp_path / "flow.svg")
    assert (tmp_path / "flow.png").stat().st_size > 5000
    assert (tmp_path / "flow.svg").read_bytes().startswith(b"<?xml")


# Linen


class LinenMlp(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(8, name="narrow")(jax.nn.gelu(linen.Dense(16, name="wide")(x)))


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = x + linen.MultiHeadDotProductAttention(2, name="attention")(linen.LayerNorm(name="norm1")(x))
        return x + LinenMlp(name="mlp")(linen.LayerNorm(name="norm2")(x))


class LinenTransformer(linen.Module):
    blocks: int = 2
    how: str = "loop"

    @linen.compact
    def __call__(self, ids):
        x = linen.Embed(11, 8, name="embed")(ids)
        if self.how == "scan":
            body = linen.scan(
                linen.remat(LinenScanned), variable_axes={"params": 0}, split_rngs={"params": True}, length=self.blocks
            )
            x, _ = body(name="blocks")(x, None)
        else:
            for i in range(self.blocks):
                x = LinenBlock(name=f"block{i}")(x)
        return linen.Dense(11, name="head")(linen.LayerNorm(name="norm")(x))


class LinenScanned(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        return LinenBlock(name="block")(x), None


def linen_loss(model):
    return lambda params, batch: next_word_loss(lambda ids: model.apply(params, ids), batch)


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(8, rngs=rngs), nnx.LayerNorm(8, rngs=rngs)
        self.attention, self.mlp = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs), Mlp(rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class NnxTransformer(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.block0, self.block1 = NnxBlock(rngs), NnxBlock(rngs)
        self.norm, self.head = nnx.LayerNorm(8, rngs=rngs), nnx.Linear(8, 11, rngs=rngs)

    def __call__(self, ids):
        return self.head(self.norm(self.block1(self.block0(self.embed(ids)))))


@pytest.fixture(scope="module")
def linen_reading():
    model = LinenTransformer()
    params = model.init(jax.random.key(0), tokens()["inputs"])
    grads = jax.jit(gf.value_and_grad(linen_loss(model), gf.watch(model)))
    return params, grads(params, tokens())[2]


def test_one_net_in_linen_and_in_nnx_has_one_reading(linen_reading):
    params, ours = linen_reading
    net = NnxTransformer(nnx.Rngs(0))
    graph, state, rest = nnx.split(net, nnx.Param, ...)
    nnx.replace_by_pure_dict(state, params["params"])
    loss = lambda state, batch: next_word_loss(nnx.merge(graph, state, rest, copy=True), batch)  # noqa: E731
    theirs = jax.jit(gf.value_and_grad(loss, gf.watch(net)))(state, tokens())[2]
    assert ours.spec.activations == theirs.spec.activations
    assert ours.spec.position == theirs.spec.position
    for quantity, values in theirs.values.items():
        assert ours.values[quantity].keys() == values.keys()
        for name, value in values.items():
            assert ours.values[quantity][name] == pytest.approx(value, rel=2e-4, abs=2e-6), (quantity, name)


def test_linen_layers_under_scan_and_remat_read_as_in_a_loop(linen_reading):
    params, expected = linen_reading
    model, own = LinenTransformer(how="scan"), params["params"]
    blocks = jax.tree.map(lambda *leaves: jnp.stack(leaves), own["block0"], own["block1"])
    stacked = {**{name: own[name] for name in ("embed", "norm", "head")}, "blocks": {"block": blocks}}
    reading = jax.jit(gf.value_and_grad(linen_loss(model), gf.watch(model)))({"params": stacked}, tokens())[2]
    for quantity in ("activation_gradient_norm", "gradient_norm", "path_cosine", "activation_std"):
        for name, value in expected.values[quantity].items():
            scanned = name.replace("block0", "blocks/0/block").replace("block1", "blocks/1/block")
            assert reading.values[quantity][scanned] == pytest.approx(value, rel=1e-4, abs=2e-6), (quantity, name)
            assert reading.spec.position[scanned] == expected.spec.position[name]


class LinenUnit(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        return x + jnp.tanh(linen.Dense(8, name="dense", bias_init=linen.initializers.normal(1.0))(x)), None


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_stacked_weights_are_told_apart_along_whatever_axis_they_lie(axis):
    def scanned(axis):
        axes: Any = {"params": axis}
        rngs: Any = {"params": True}
        return linen.scan(LinenUnit, variable_axes=axes, split_rngs=rngs, length=3)()

    x = batches(1)[0]
    params = scanned(0).init(jax.random.key(0), x, None)
    moved = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, axis), params)
    model = scanned(axis)
    grads = gf.value_and_grad(lambda params, x: jnp.mean(model.apply(params, x, None)[0] ** 2), gf.watch(model))
    values = jax.jit(grads)(moved, x)[2].values
    dense: Any = params["params"]["dense"]
    for i in range(3):
        norm = jnp.sqrt(jnp.sum(dense["kernel"][i] ** 2) + jnp.sum(dense["bias"][i] ** 2))
        (name,) = [name for name in values["weight_norm"] if f"{i}" in name]
        assert values["weight_norm"][name] == pytest.approx(float(norm), rel=1e-5)


def test_a_linen_model_is_trained_recorded_and_drawn(tmp_path, linen_reading):
    model, params = LinenTransformer(), linen_reading[0]
    watched = gf.watch(model, points=["block*", "embed", "head", "!*/attention/*"])
    step = gf.recorded_step(watched, optax.adam(1e-2), linen_loss(model), params=params)
    with gf.record(tmp_path, settings={"net": "lm", "depth": 2}) as log:
        for number in (1, 2, 3):
            log(number, step(tokens()))
    losses = gf.load(tmp_path, quantities=["loss"])["value"]
    assert losses.is_monotonic_decreasing
    gf.plot_gradient_flow(watched, tokens(), linen_loss(model), params=step.params).savefig(tmp_path / "flow.png")
    assert call("plot", tmp_path).code == 0


def test_what_the_loss_returns_beside_may_be_anything():
    model = Mlp(nnx.Rngs(0))
    loss = lambda model, x: (square_loss(model, x), {"name": "mlp", "none": None, "output": model(x)})  # noqa: E731
    graph, state = nnx.split(model)

    def step(state):
        grads = gf.value_and_grad(loss, gf.watch(model), has_aux=True)
        (_, aux), _, _ = grads(nnx.merge(graph, state, copy=True), batches(1)[0])
        assert (aux["name"], aux["none"]) == ("mlp", None)
        return aux["output"]

    assert jax.eval_shape(step, state).shape == (6, 8)  # nothing is compiled


def test_where_part_of_a_model_is_trained_the_norms_of_the_others_are_not_known():
    model = Mlp(nnx.Rngs(0))
    head = nnx.All(nnx.Param, nnx.PathContains("narrow"))
    grads = gf.value_and_grad(square_loss, gf.watch(model), wrt=head)
    _, gradients, reading = nnx.jit(grads)(model, batches(1)[0])
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradients)))
    assert reading.values["gradient_norm"] == pytest.approx({"wide": math.nan, "narrow": float(norm)}, nan_ok=True)
    assert reading.finite
    assert reading.values["activation_gradient_norm"]["wide"] > 0


def test_the_readings_of_a_loop_are_drawn_step_by_step_and_are_one_line_each():
    step = gf.recorded_step(Mlp(nnx.Rngs(0)), optax.sgd(0.1), square_loss)
    readings = [step(batches(1)[0]) for _ in range(3)]
    assert repr(readings[0]).startswith("<Reading of step 0: loss ")
    assert len(repr(readings[0])) < 120
    assert len(gf.plot.gradient_curves(readings).axes) == 3
    assert len(gf.plot.gradient_curves(readings[0]).axes) == 1
    gf.plot.film(readings)


def test_what_is_logged_after_the_end_is_not_lost_without_a_word(tmp_path):
    with gf.record(tmp_path) as log:
        pass
    with pytest.raises(BadInput, match="this record has ended"):
        log(
            1,
            gf.value_and_grad(square_loss, gf.watch(Mlp(nnx.Rngs(0)), points=["wide"]))(
                Mlp(nnx.Rngs(0)), batches(1)[0]
            )[2],
        )


@pytest.mark.parametrize("results", [3, None, b"x", "a" * 300])
def test_a_folder_that_is_none_is_one_line(results):
    with pytest.raises(BadInput, match=r"is no results folder|File name too long"), gf.record(results):
        pass


def test_text_stays_text_and_a_setting_may_be_anything_that_is_plain(tmp_path):
    """A reader of CSV takes a commit for a number; a momentum of 1 would be a division by 0 in a diagnosis."""
    odd = {
        "commit": "12e4567",
        "version": "007",
        "flag": "True",
        "tokens": 7 * 10**12,
        "momentum": 1.0,
        "scale": np.float32(2),
    }
    step = gf.recorded_step(Mlp(nnx.Rngs(0)), optax.sgd(0.1), square_loss)
    with gf.record(tmp_path, settings=odd) as log:
        log(1, step(batches(1)[0]))
    frame: Any = gf.load(tmp_path)
    assert {name: frame[name].iloc[0] for name in odd} == odd
    raw: Any = gf.load(next((tmp_path / "runs").glob("model*")))
    assert raw.equals(frame)
    assert len(gf.diagnose(frame.assign(optimiser="sgd"))) == 1
