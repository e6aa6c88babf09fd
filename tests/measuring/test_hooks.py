"""The hook: what the sinks say equals `jax.vjp` cut at the same point, and listening changes nothing."""

import functools
import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from naive import DIGITS, build, digits, signals

from gradflow import nets
from gradflow.measuring import hooks, reductions
from gradflow.training import optimiser as optim
from gradflow.training.loop import Training
from gradflow.training.read import read
from gradflow.training.step import gradients

NETS = {
    "plain": ("plain", {}),
    "plain without normalisation": ("plain", {"normalisation": "none"}),
    "residual": ("residual", {}),
    "residual without normalisation": ("residual", {"normalisation": "none"}),
    "residual, shortcut B": ("residual", {"shortcut": "B", "normalisation": "none"}),
    "residual, shortcut C": ("residual", {"shortcut": "C"}),
    "residual, pre-activation": ("residual", {"order": "pre"}),
    "residual, scaled shortcuts": ("residual", {"shortcut_scale": 0.5, "normalisation": "none"}),
}


def assert_close(ours, theirs, tolerance):
    """Two dicts of numbers: the same keys in any order, the same values up to a relative tolerance."""
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=tolerance, err_msg=name)


# The norm of a point's gradient, against jax.vjp


@pytest.mark.parametrize(
    ("which", "dtype", "tolerance"),
    # In float32 those with identity paths are in test_measure.py.
    [(which, jnp.float64, 1e-10) for which in NETS] + [(which, jnp.float32, 1e-5) for which in list(NETS)[:2]],
)
def test_every_reading_is_the_norm_of_the_vjp_cut_at_its_point(which, dtype, tolerance):
    name, settings = NETS[which]
    with jax.enable_x64(dtype == jnp.float64):
        images, labels = digits(6)
        graph, params, rest, images = jax.tree.map(
            lambda leaf: leaf.astype(dtype), (*nets.split(build(name, **settings)), images)
        )
        points = nets.points_of(nnx.merge(graph, params, rest), images.shape[1:])
        run = jax.jit(lambda *arrays: gradients(graph, points, *arrays)[1])
        readings = run(params, rest, images, labels)
        vectors = signals(graph, params, rest, images, labels)
    theirs = {name: np.linalg.norm(vector) for name, vector in vectors.items()}
    assert {reading.dtype for reading in readings.values()} == {np.dtype(dtype)}
    paths = {f"block0{unit}/{path}" for unit in (1, 2, 3) for path in ("identity", "residual")}
    assert {"stem", "head", "block01", "block03/conv2", *(paths if name == "residual" else ())} <= readings.keys()
    assert min(theirs.values()) > 0
    assert_close(readings, theirs, tolerance)


# The norm of a point's gradient, against a closed form


class DeepLinear(nnx.Module):
    """Square orthogonal matrices, one after another."""

    def __init__(self, layers, width):
        rngs = nnx.Rngs(0)
        self.names = tuple(f"layer{layer:02}" for layer in range(1, layers + 1))
        for name in self.names:
            matrix = nnx.initializers.orthogonal()
            setattr(self, name, nnx.Linear(width, width, use_bias=False, kernel_init=matrix, rngs=rngs))

    def __call__(self, x, hook=hooks.no_hook):
        for name in self.names:
            x = hook(name, getattr(self, name)(x))
        return x


@pytest.fixture(scope="module")
def deep_linear():
    """The points of a deep linear net, and its readings as a function of the scale, compiled once."""
    layers, width = 31, 6
    graph, params, rest = nets.split(DeepLinear(layers, width))
    x, direction = jnp.ones((2, width)), np.random.default_rng(0).normal(size=(2, width))
    points = hooks.points(lambda hook, params, x: nets.apply(graph, params, rest, x, hook), params, x, layers=params)

    def loss_of(sinks, scale):
        scaled = jax.tree.map(lambda matrix: scale * matrix, params)
        logits, _ = nets.apply(graph, scaled, rest, x, hooks.Recorder(sinks))
        return jnp.sum(logits * direction)

    return points, functools.partial(jax.jit(jax.grad(loss_of)), hooks.make_sinks(points)), np.linalg.norm(direction)


@pytest.mark.parametrize("scale", [0.1, 0.5, 1, 2, 10])
def test_gradient_of_a_deep_orthogonal_net_is_a_power_of_its_scale(deep_linear, scale):
    points, readings_of, last = deep_linear
    assert [point.position for point in points] == list(range(1, 32))
    assert_close(readings_of(float(scale)), {name: last * scale ** (31 - place) for name, place, *_ in points}, 1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_norm_is_right_where_a_sum_of_squares_leaves_float32(scale):
    x = (np.random.default_rng(0).normal(size=(3, 5)) * scale).astype(np.float32)
    if scale != 1:  # a CPU takes what is smaller than 1e-38 for 0; a GPU (H200) keeps it to a digit or two
        assert float(jnp.sum(jnp.square(x))) < 1e-37 or jnp.isinf(jnp.sum(jnp.square(x)))
    gradient = jax.grad(lambda sink: jnp.sum(x * hooks.tap(jnp.zeros_like(x), sink)))(0.0)
    np.testing.assert_allclose(gradient, np.linalg.norm(x.astype(np.float64)), rtol=1e-6)


def test_norm_of_nothing_is_zero_and_of_what_is_not_finite_is_not_finite():
    assert reductions.norm(jnp.zeros((2, 3))) == 0
    assert np.isnan(reductions.norm(jnp.array([1.0, np.nan])))
    assert np.isnan(reductions.norm(jnp.array([np.inf, np.nan])))
    assert reductions.norm(jnp.array([1.0, -np.inf])) == np.inf


@pytest.mark.parametrize("shape", [(3, 5), (2**9, 2**9)])
@pytest.mark.parametrize("together", [list, jnp.stack])
def test_norms_of_several_arrays_are_those_of_each_whatever_their_scales(shape, together):
    assert (math.prod(shape) > reductions.LARGE) == (shape != (3, 5))
    draw = np.random.default_rng(0)
    for scales in ((1.0, 2.0, 3.0), (1e-30, 0.0, 1e30)):
        arrays = [(draw.normal(size=shape) * scale).astype(np.float32) for scale in scales]
        seen = jax.jit(reductions.norms)(together([jnp.asarray(x) for x in arrays]))
        np.testing.assert_allclose(seen, [np.linalg.norm(x.astype(np.float64)) for x in arrays], rtol=2e-6)


@pytest.mark.parametrize("mean", [0.0, 1.0, 1e4])
def test_a_summary_is_right_wherever_a_sum_in_float32_is_tried_first(mean):
    x = np.maximum(np.random.default_rng(0).normal(mean, 1, (40, 50, 20)), 0).astype(np.float32)
    expected = [x.mean(dtype=np.float64), x.std(dtype=np.float64), np.mean(x == 0)]
    for large in (reductions.LARGE, 2**14, 1):
        np.testing.assert_allclose(reductions.summary(jnp.asarray(x), large), expected, rtol=2e-5, atol=1e-6)


LARGE = (2, 300, 300, 2)  # where readings take one pass if the range allows it
assert math.prod(LARGE) > reductions.LARGE


@pytest.mark.parametrize("scale", [1e-36, 1e-25, 1e-15, 1e-10, 1.0, 1e10, 1e16, 1e25, 1e34])
def test_readings_of_a_large_array_are_right_over_the_whole_range(scale):
    x = (scale * np.random.default_rng(0).normal(size=LARGE)).astype(np.float32)
    wide = x.astype(float)
    np.testing.assert_allclose(reductions.norm(jnp.asarray(x)), np.linalg.norm(wide), rtol=1e-5)
    np.testing.assert_allclose(reductions.summary(jnp.asarray(x))[1], wide.std(), rtol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 0.5, 3.0, 10.0, 1000.0])
def test_the_spread_of_a_large_array_survives_its_mean(mean):
    x = (mean + np.random.default_rng(0).normal(size=LARGE)).astype(np.float32)
    wide = x.astype(float)
    summary = reductions.summary(jnp.asarray(x))
    np.testing.assert_allclose(summary[1], wide.std(), rtol=1e-5)
    np.testing.assert_allclose(summary[0], wide.mean(), atol=1e-5 * (1 + mean))


def test_zeros_of_a_large_array_are_counted_exactly_and_what_is_not_finite_shows():
    x = np.ones(LARGE, np.float32)
    x.flat[:12345] = 0
    x.flat[12345:20000] = -1e-30  # small, not zero
    np.testing.assert_allclose(reductions.summary(jnp.asarray(x))[2], 12345 / x.size, rtol=1e-5)
    assert float(reductions.norm(jnp.zeros(LARGE))) == 0
    for bad in (np.nan, np.inf):
        x.flat[-1] = bad
        assert not np.isfinite(reductions.norm(jnp.asarray(x)))
        assert not np.isfinite(reductions.summary(jnp.asarray(x))[1])


def test_norm_of_bfloat16_is_summed_in_float32():
    ones = jnp.ones(4096, jnp.bfloat16)  # a sum in bfloat16 stops at 256: 256 + 1 rounds to 256
    assert reductions.norm(ones) == 64
    assert reductions.norm(ones).dtype == jnp.float32


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_gradient_of_a_linear_conv_net_changes_by_the_square_of_its_gain_a_unit(scale):
    settings = {"normalisation": "none", "activation": "linear", "initialisation": f"delta_orthogonal({scale})"}
    norms = read(build("plain", depth=14, **settings), *digits(4)).values["activation_gradient_norm"]
    # Between these points, all within one stage, lie two square layers of stride 1.
    for here, after in [(1, "block02"), (2, "block03"), (4, "block05"), (6, "block06/conv2")]:
        np.testing.assert_allclose(norms[f"block0{here}"], scale**2 * norms[after], rtol=1e-5)


def test_reading_is_the_root_mean_square_of_the_examples_own_gradients():
    net, (images, labels) = build(normalisation="none"), digits(5)
    together = read(net, images, labels).values["activation_gradient_norm"]
    alone = [read(net, images[i : i + 1], labels[i : i + 1]).values["activation_gradient_norm"] for i in range(5)]
    twice = read(net, jnp.tile(images, (2, 1, 1, 1)), jnp.tile(labels, 2)).values["activation_gradient_norm"]
    assert_close(together, {name: np.sqrt(np.mean([one[name] ** 2 for one in alone])) for name in together}, 1e-5)
    assert_close(together, twice, 1e-5)


# Listening changes nothing


@pytest.mark.parametrize(("name", "normalisation"), [("plain", "none"), ("residual", "batch")])
def test_twenty_steps_with_hooks_and_without_end_in_the_same_parameters(name, normalisation):
    net, ends = build(name, normalisation=normalisation), {}
    for record in (True, False):
        sgd = optim.optimiser("sgd", optim.schedule("constant", 0.05, 20), 0.9, 1e-4)
        training = Training(net, DIGITS, sgd, batch=32, record=record)
        state, arrays = training.start(net, 0), {}
        for number in range(20):
            state, arrays = training.step(state, 0, number)
        assert ("activation_gradient_norm" in arrays) == record
        ends[record] = jax.device_get(state)
    _, start, _ = nets.split(net)
    for with_hooks, without, before in zip(
        *map(jax.tree.leaves, (ends[True].params, ends[False].params, start)), strict=True
    ):
        # The hooks change how XLA fuses and so how it rounds: 7e-7 seen with batch norm, none without.
        assert np.linalg.norm(with_hooks - without) <= 5e-6 * np.linalg.norm(without)
        assert np.linalg.norm(without - before) > 1e-3 * np.linalg.norm(without)
    np.testing.assert_array_equal(ends[True].key, ends[False].key)


# Under transformations


def flow(graph, points, params, rest, images, labels):
    """Gradients of the parameters, of the sinks, and the summaries."""
    return gradients(graph, points, params, rest, images, labels)[:3]


def assert_trees_close(ours, theirs, tolerance):
    """Same structure; each array equal to within a share of its largest entry."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.max(np.abs(other)))


def test_seeds_under_vmap_read_what_each_reads_alone():
    images, labels = digits(6)
    each = [nets.split(build(seed=seed)) for seed in range(3)]
    points = nets.points_of(build(), images.shape[1:])
    graph = each[0][0]
    one = functools.partial(flow, graph, points)
    params, rest = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) for trees in list(zip(*each, strict=True))[1:]
    )
    together = jax.jit(jax.vmap(one, in_axes=(0, 0, None, None)))(params, rest, images, labels)
    assert {sink.shape for sink in together[1].values()} == {(3,)}
    assert len({float(norm) for norm in together[1]["block01"]}) == 3
    alone = jax.jit(one)
    for seed, (_, params, rest) in enumerate(each):
        theirs = alone(params, rest, images, labels)
        assert_trees_close(jax.tree.map(lambda leaf, seed=seed: leaf[seed], together), theirs, 1e-5)


def test_whole_forward_pass_under_remat_reads_the_same():
    images, labels = digits(6)
    net = build(normalisation="none")
    (graph, params, rest), points = nets.split(net), nets.points_of(net, images.shape[1:])

    def loss_of(params, sinks, wrap):
        def forward(params, sinks):
            recorder = hooks.Recorder(sinks)
            logits, _ = nets.apply(graph, params, rest, images, recorder)
            return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(6), labels]), recorder.forward

        return wrap(forward)(params, sinks)

    (_, forward), (gradient, backward) = jax.jit(
        jax.value_and_grad(functools.partial(loss_of, wrap=jax.checkpoint), argnums=(0, 1), has_aux=True)
    )(params, hooks.make_sinks(points))
    theirs = jax.jit(functools.partial(flow, graph, points))(params, rest, images, labels)
    assert_trees_close((gradient, backward, forward), theirs, 1e-5)


UNITS = ("unit1", "unit2", "unit3", "unit4")


def unit(hook, x, weights):
    """A residual unit of one layer."""
    x = hook("", x)
    identity, residual = hook("/identity", x), hook("/residual", x)
    return identity + jnp.tanh(hook("/layer", residual @ weights))


def unrolled(hook, stack, x):
    for name, weights in zip(UNITS, stack, strict=True):
        x = unit(lambda part, x, name=name: hook(name + part, x), x, weights)
    return hook("end", x)


def rematerialised(hook, stack, x):
    for name, weights in zip(UNITS, stack, strict=True):
        body = lambda hook, x, name=name, weights=weights: unit(lambda part, x: hook(name + part, x), x, weights)  # noqa: E731
        x = hooks.checkpoint(body, hook, x)
    return hook("end", x)


def scanned(hook, stack, x):
    body = lambda hook, x, weights: (unit(hook, x, weights), None)  # noqa: E731
    return hook("end", hooks.scan(body, hook, UNITS, x, stack)[0])


def stack_flow(forward, stack, x):
    """As `flow`, for a stack of units, with a loss that is not linear; what joint names hold under each name."""
    rows = [hooks.STACK_MARK.join(UNITS)] if forward is scanned else []
    sinks = hooks.make_sinks(hooks.points(forward, stack, x, layers=()), rows)

    def loss_of(stack, sinks):
        recorder = hooks.Recorder(sinks)
        return jnp.sum(jnp.sin(forward(recorder, stack, x))), recorder.forward

    (gradient, backward), summaries = jax.grad(loss_of, argnums=(0, 1), has_aux=True)(stack, sinks)
    return gradient, by_name(backward), by_name(summaries)


def by_name(readings):
    found = {}
    for joint, values in readings.items():
        names = hooks.unstacked_names(joint)
        found |= dict(zip(names, values, strict=True)) if len(names) > 1 else {joint: values}
    return {name: found[name] for name in names_of_the_stack()}


def stack_and_input():
    random = np.random.default_rng(0)
    return jnp.asarray(random.normal(size=(4, 5, 5)), jnp.float32), jnp.asarray(random.normal(size=(3, 5)), jnp.float32)


@pytest.mark.parametrize("forward", [rematerialised, scanned])
def test_a_stack_of_units_rematerialised_or_scanned_reads_what_it_reads_unrolled(forward):
    ours, theirs = (jax.jit(functools.partial(stack_flow, way))(*stack_and_input()) for way in (forward, unrolled))
    assert theirs[1].keys() == theirs[2].keys() == set(names_of_the_stack())
    assert_trees_close(ours, theirs, 1e-5)


@pytest.mark.parametrize("forward", [rematerialised, scanned])
def test_a_plain_callable_listens_to_a_stack_without_changing_it(forward):
    heard = []

    def hook(name, x):
        heard.append(name)
        return x

    ours = jax.grad(lambda stack, x: jnp.sum(forward(hook, stack, x)))(*stack_and_input())
    theirs = jax.grad(lambda stack, x: jnp.sum(unrolled(hooks.no_hook, stack, x)))(*stack_and_input())
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert list(dict.fromkeys(heard)) == names_of_the_stack()


def test_a_scanned_stack_has_the_points_and_positions_of_the_unrolled_one():
    layers = [f"{name}/layer" for name in UNITS]
    ours, theirs = (hooks.points(way, *stack_and_input(), layers=layers) for way in (scanned, unrolled))
    assert ours == theirs
    assert [point.position for point in ours][-1] == len(UNITS)


def test_a_scanned_stack_that_nobody_listens_to_is_one_scan():
    jaxpr = str(jax.make_jaxpr(functools.partial(scanned, hooks.no_hook))(*stack_and_input()))
    assert jaxpr.count("tanh") == 1


def names_of_the_stack():
    return [f"{name}{part}" for name in UNITS for part in ("", "/identity", "/residual", "/layer")] + ["end"]


def test_a_rematerialised_unit_is_computed_twice_and_an_unrolled_one_once():
    count = {
        way: str(jax.make_jaxpr(functools.partial(stack_flow, way))(*stack_and_input())).count("tanh")
        for way in (unrolled, rematerialised)
    }
    assert count[unrolled] == len(UNITS)
    assert count[rematerialised] == 2 * len(UNITS)


SHARDED = """
import json
import math
import jax
import numpy as np
from gradflow.data.load import load_data
from gradflow import nets
from gradflow.training import optimiser as optim
from gradflow.errors import BadInput
from gradflow.training.loop import Training

net = nets.build("residual", depth=8, classes=10, channels=1, width=4, seed=0)
sgd = optim.optimiser("sgd", optim.schedule("constant", 0.05, 20), 0.9, 1e-4)
training = Training(net, load_data("digits"), sgd, batch=32)
state, steps = training.start(net, 0), []
for number in range(3):
    state, arrays = training.step(state, 0, number)
    steps.append({name: np.asarray(array).tolist() for name, array in arrays.items()})
error = float(training.evaluate(state))
refused = ""
try:
    Training(net, load_data("digits"), sgd, batch=12)
except BadInput as problem:
    refused = str(problem)
print(json.dumps({"devices": jax.device_count(), "steps": steps, "test_error": error, "refused": refused}))
"""


def test_a_batch_on_eight_devices_reads_what_it_reads_on_one():
    def start(devices):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-W", "error", "-c", SHARDED]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    outputs = [process.communicate()[0] for process in map(start, (1, 8))]
    one, eight = map(json.loads, outputs)
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert one["refused"] == ""
    assert "batch 12 cannot be split over 8 devices" in eight["refused"]
    assert one["test_error"] == pytest.approx(eight["test_error"], abs=1 / len(DIGITS.test_labels) + 1e-6)
    for ours, theirs in zip(eight["steps"], one["steps"], strict=True):
        assert ours.keys() == theirs.keys()
        for quantity in theirs:
            np.testing.assert_allclose(ours[quantity], theirs[quantity], rtol=1e-4, atol=1e-5, err_msg=quantity)


# Names and positions


def test_a_name_used_twice_raises():
    x = jnp.ones(2)
    recorder = hooks.Recorder({"a": jnp.zeros(()), "a/b": jnp.zeros(()), "b+c": jnp.zeros(2)})
    recorder("a", x)
    recorder("b+c", x)
    with pytest.raises(ValueError, match="'a' is used twice"):
        recorder("a", x)
    with pytest.raises(ValueError, match="'a' is used twice"):
        hooks.points(lambda hook, x: hook("a", hook("a", x)), x, layers=())
    with pytest.raises(ValueError, match="'a' is used twice"):
        hooks.checkpoint(lambda hook, x: hook("a", x), recorder, x)
    with pytest.raises(ValueError, match=r"'b\+c' is used twice"):
        hooks.scan(lambda hook, x, _: (hook("", x), None), recorder, ("b", "c"), x, jnp.zeros(2))


def test_a_name_without_a_sink_raises():
    recorder = hooks.Recorder({"a": jnp.zeros(())})
    with pytest.raises(ValueError, match="no sink for 'b'"):
        recorder("b", jnp.ones(2))
    with pytest.raises(ValueError, match="no sink for 'b'"):
        hooks.checkpoint(lambda hook, x: hook("b", x), recorder, jnp.ones(2))


@pytest.mark.parametrize(
    ("family", "depth", "layers"), [("cifar", 8, 2), ("cifar", 20, 2), ("imagenet", 18, 2), ("imagenet", 50, 3)]
)
@pytest.mark.parametrize(
    ("name", "settings", "beside"),
    [("plain", {}, ("",)), ("residual", {"shortcut": "C"}, ("", "/identity", "/residual", "/projection"))],
)
def test_position_counts_the_weighted_layers_of_the_main_path(family, depth, layers, name, settings, beside):
    net = nets.abstract(name, depth=depth, family=family, width=4, classes=10, channels=1, **settings)
    points = nets.points_of(net, (32, 32, 1))
    expected = {"stem": 1, "head": depth}
    for unit in range((depth - 2) // layers):
        block, before = f"block{unit + 1:02}", 1 + unit * layers
        expected |= {block + part: before for part in beside}
        expected |= {f"{block}/conv{layer}": before + layer for layer in range(1, layers + 1)}
    assert {point.name: point.position for point in points} == expected
    positions = [point.position for point in points if not point.name.endswith("/projection")]
    assert positions == sorted(positions)
