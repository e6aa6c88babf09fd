"""Every quantity against NumPy: on the activations, on the backward signals that `jax.vjp` cuts out, on the trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import DIGITS, STATISTICS, activations, build, digits, loss, signals

import gradflow as gf
from gradflow import nets
from gradflow.data.batches import indices
from gradflow.data.transforms import normalise
from gradflow.errors import BadInput
from gradflow.measuring import measure, reductions
from gradflow.measuring.reading import Reading
from gradflow.training import optimiser as optim
from gradflow.training.loop import Training
from gradflow.training.read import read

BATCH = 16
RATE, DECAY = 0.1, 0.01
UNITS = ("block01", "block02", "block03")
LAYERS = ("stem", *(f"{unit}/conv{layer}" for unit in UNITS for layer in (1, 2)), "head")
ACTIVATIONS = ("stem", *(f"{unit}{part}" for unit in UNITS for part in ("", "/conv1", "/conv2")), "head")


@pytest.fixture(scope="module")
def net():
    return build()


@pytest.fixture(scope="module")
def reading(net):
    return read(net, *digits(BATCH))


@pytest.fixture(scope="module")
def vectors(net):
    return signals(*nets.split(net), *digits(BATCH))


@pytest.fixture(scope="module")
def training(net):
    rate = optim.schedule("constant", RATE, 10)
    return Training(net, DIGITS, optim.optimiser("sgd", rate, 0.9, DECAY), batch=BATCH)


@pytest.fixture(scope="module")
def first_step(net, training):
    """The state before, the state after, and what was read."""
    state = training.start(net, 0)
    before = jax.device_get(state)
    state, arrays = training.step(state, 0, 0)
    return before, jax.device_get(state), Reading(1, training.spec, arrays)


def assert_all_close(ours, theirs, tolerance):
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=tolerance, atol=tolerance)


def layer_norms(tree):
    """NumPy's norm of each layer, kernel and bias together."""
    norms = {}
    for name in LAYERS:
        layer = tree
        for key in name.split("/"):
            layer = layer[key]
        norms[name] = np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(layer)]))
    return norms


def test_a_reading_has_every_quantity_and_every_place_in_the_order_of_the_net(first_step):
    values = first_step[2].values
    at = {
        **dict.fromkeys(("activation_mean", "activation_std", "zero_fraction"), ACTIVATIONS),
        "activation_gradient_norm": ACTIVATIONS,
        **dict.fromkeys(("identity_gradient_norm", "residual_gradient_norm", "path_cosine"), UNITS),
        **dict.fromkeys(("weight_norm", "gradient_norm", "update_norm"), LAYERS),
    }
    assert {quantity: tuple(vector) for quantity, vector in values.items()} == at
    assert at.keys() | {"loss", "train_error", "test_error"} == measure.QUANTITIES.keys()


def test_the_table_of_a_reading_has_every_number_once(first_step, reading):
    """Those of units and of layers with weights as well; what `read` read lacks the update."""
    for one in (first_step[2], reading):
        frame = one.to_frame().set_index(["quantity", "layer"])
        expected = {(quantity, layer): value for quantity, row in one.values.items() for layer, value in row.items()}
        assert frame["value"].to_dict() == expected | {("loss", ""): one.loss, ("train_error", ""): one.train_error}
        places = frame["position"].drop("", level="layer").droplevel("quantity").to_dict()
        assert places == {name: place for name, place in one.spec.position.items() if name in places}
        assert {*places} >= {*ACTIVATIONS}


def test_activation_summaries_are_numpys_of_the_activations(net, reading):
    captured = activations(*nets.split(net), digits(BATCH)[0])
    captured = {name: np.asarray(captured[name], np.float64) for name in ACTIVATIONS}
    assert_all_close(reading.values["activation_mean"], {name: x.mean() for name, x in captured.items()}, 1e-6)
    assert_all_close(reading.values["activation_std"], {name: x.std() for name, x in captured.items()}, 1e-5)
    zeros = {name: np.mean(x == 0) for name, x in captured.items()}
    assert_all_close(reading.values["zero_fraction"], zeros, 1e-6)
    assert 0.1 < zeros["block02"] < 0.9  # what comes out of a rectifier
    assert zeros["block01/conv1"] == 0  # what goes into one


def test_gradient_norms_and_the_cosine_are_those_of_the_backward_signals_themselves(reading, vectors):
    norms = {name: np.sqrt(BATCH) * np.linalg.norm(vector) for name, vector in vectors.items()}
    ours = reading.values
    assert_all_close(ours["activation_gradient_norm"], {name: norms[name] for name in ACTIVATIONS}, 1e-5)
    for path in ("identity", "residual"):
        assert_all_close(ours[f"{path}_gradient_norm"], {unit: norms[f"{unit}/{path}"] for unit in UNITS}, 1e-5)
    pairs = {unit: (vectors[f"{unit}/identity"].ravel(), vectors[f"{unit}/residual"].ravel()) for unit in UNITS}
    cosines = {unit: a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for unit, (a, b) in pairs.items()}
    assert_all_close(ours["path_cosine"], cosines, 1e-5)


def test_the_gradient_at_a_units_input_is_the_sum_of_what_came_back_on_its_two_paths(vectors):
    for unit in UNITS:
        both = vectors[f"{unit}/identity"] + vectors[f"{unit}/residual"]
        np.testing.assert_allclose(vectors[unit], both, atol=1e-5 * np.abs(both).max())


def test_an_identity_shortcut_brings_back_the_very_signal_that_entered_the_unit(net, reading, vectors):
    # block01 keeps its shape, so its shortcut is the identity, and its output is the input of block02 before the
    # rectifier: what comes back is the signal at block02 where block02's input is not zero.
    arriving = vectors["block02"] * (np.asarray(activations(*nets.split(net), digits(BATCH)[0])["block02"]) > 0)
    norm = np.sqrt(BATCH) * np.linalg.norm(arriving)
    np.testing.assert_allclose(vectors["block01/identity"], arriving, atol=1e-6 * np.abs(arriving).max())
    assert reading.values["identity_gradient_norm"]["block01"] == pytest.approx(norm, rel=1e-5)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), alike=st.floats(-1, 1), scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e20, 1e30]))
def test_cosine_from_three_norms_is_the_cosine_of_the_vectors(seed, alike, scale):
    a, other = np.random.default_rng(seed).normal(size=(2, 16))
    b = alike * a + 0.5 * other
    exact = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    norms = [np.linalg.norm(vector) * scale for vector in (a + b, a, b)]
    ours = measure.cosine(*(jnp.asarray([norm], jnp.float32) for norm in norms))
    np.testing.assert_allclose(ours, [exact], atol=1e-5)


def test_cosine_with_a_signal_that_is_zero_is_not_a_number_and_rounding_never_leaves_the_range():
    both, a, b = (
        jnp.asarray([1.0, 0.0, 2.0000002, 0.0]),
        jnp.asarray([1.0, 0.0, 1.0, 1.0]),
        jnp.asarray([0.0, 0.0, 1.0, 1.0]),
    )
    np.testing.assert_array_equal(measure.cosine(both, a, b), [np.nan, np.nan, 1, -1])


@pytest.mark.parametrize("ratio", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
def test_a_cosine_is_right_or_not_a_number_where_one_path_is_far_smaller(ratio):
    """Of right-angled and of parallel vectors; three norms in float32 know nothing of a path a millionth as long."""
    for alike in (0.0, 0.5, 1.0):
        both = np.sqrt(1 + 2 * alike * ratio + ratio**2)
        ours = measure.cosine(*(jnp.asarray([norm], jnp.float32) for norm in (both, 1.0, ratio)))[0]
        assert np.isnan(ours) or ours == pytest.approx(alike, abs=2e-3)
        assert np.isnan(ours) == (ratio <= 1e-4)


def test_in_float64_a_reading_is_read_in_float64():
    with jax.enable_x64(True):
        net, (images, labels) = build(), digits(BATCH)
        images = np.asarray(images, np.float64)
        ours = read(net, images, labels)
        assert ours.arrays["activation_gradient_norm"].dtype == np.float64
        graph, params, rest = jax.tree.map(lambda leaf: leaf.astype(np.float64), nets.split(net))
        theirs = {name: np.linalg.norm(vector) for name, vector in signals(graph, params, rest, images, labels).items()}
        norms = ours.values["activation_gradient_norm"]
        # Weights are float32, and so are the gradients where they end: beyond that a step of float64 agrees.
        assert_all_close(norms, {name: np.sqrt(BATCH) * theirs[name] for name in norms}, 1e-9)


def test_a_net_with_batch_norm_trains_in_float64():
    with jax.enable_x64(True):
        readings = list(gf.train(gf.Run(net="residual", depth=8, steps=3, batch=16, evaluations=1)))
    assert readings[-1].loss < readings[0].loss
    assert readings[-1].finite


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_reading_of_a_broken_pixel_is_not_finite(net, broken):
    images, labels = digits(BATCH)
    assert read(net, images, labels).finite
    assert not read(
        net, np.asarray(images).copy() + np.where(np.arange(64).reshape(8, 8, 1) == 9, broken, 0), labels
    ).finite


@pytest.mark.parametrize("size", [7, 1000, 425 * 17, 2**17 + 3])
def test_a_share_of_zeros_is_never_below_zero(size):
    for zeros in (0, 1, size - 1, size):
        x = jnp.asarray(np.arange(size) >= zeros, jnp.float32)
        share = float(reductions.summary(x)[2])
        assert 0 <= share <= 1
        assert share == pytest.approx(zeros / size, abs=1e-6)


def test_weight_gradient_and_update_norms_are_numpys_of_the_trees(net, first_step):
    before, after, reading = first_step
    graph, params, rest = nets.split(net)
    chosen = indices(0, 0, BATCH, len(DIGITS.train_images))
    images = normalise(DIGITS.train_images[chosen], *STATISTICS)
    labels = jnp.asarray(DIGITS.train_labels[chosen])
    mean, gradient = jax.jit(
        jax.value_and_grad(lambda params: loss(nets.apply(graph, params, rest, images)[0], labels))
    )(params)
    moved = jax.tree.map(np.subtract, after.params, before.params)
    assert reading.loss == pytest.approx(float(mean), rel=1e-5)
    assert_all_close(reading.values["weight_norm"], layer_norms(before.params), 1e-6)
    assert_all_close(reading.values["gradient_norm"], layer_norms(gradient), 1e-5)
    assert_all_close(reading.values["update_norm"], layer_norms(moved), 1e-5)
    # The first step of SGD, momentum or not: the rate times the gradient of loss and decay.
    expected = jax.tree.map(
        lambda weight, slope: -RATE * (slope + DECAY * weight), before.params, jax.device_get(gradient)
    )
    for ours, theirs in zip(jax.tree.leaves(moved), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_train_error_is_the_share_of_wrong_answers(net, reading):
    images, labels = digits(BATCH)
    logits = nets.apply(*nets.split(net), images)[0]
    assert reading.train_error == pytest.approx(np.mean(np.argmax(logits, axis=1) != np.asarray(labels)))


def test_read_updates_nothing(net):
    before = jax.tree.map(np.array, nets.split(net)[1:])
    read(net, *digits(BATCH))
    for ours, theirs in zip(jax.tree.leaves(nets.split(net)[1:]), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_read_equals_the_first_reading_of_training_on_the_same_batch(net, first_step):
    chosen = indices(0, 0, BATCH, len(DIGITS.train_images))
    images, labels = (np.asarray(array)[chosen] for array in (DIGITS.train_images, DIGITS.train_labels))
    ours = read(net, np.asarray(normalise(images, *STATISTICS)), labels)
    theirs = first_step[2]
    assert (ours.step, theirs.step) == (0, 1)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
    assert ours.train_error == pytest.approx(theirs.train_error)
    assert ours.test_error is None
    assert ours.values.keys() == theirs.values.keys() - {"update_norm"}
    for quantity, vector in ours.values.items():
        assert_all_close(vector, theirs.values[quantity], 1e-5)


def test_a_plain_net_has_no_paths_to_read():
    points = nets.points_of(build("plain"), (8, 8, 1))
    spec = measure.ReadingSpec.of(points, LAYERS)
    assert (spec.activations, spec.units, spec.layers) == (ACTIVATIONS, (), LAYERS)
    assert spec.names("loss") == ("",)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 8, 8)), np.zeros(2, int)),
        (np.zeros((2, 8, 8, 1)), np.zeros(3, int)),
        (np.zeros((2, 8, 8, 1)), np.zeros((2, 10), int)),
        (np.zeros((2, 8, 8, 1)), np.zeros(2)),
        (None, None),
        ("x", [0, 1]),
        ([[1], [1, 2]], [0, 1]),
        (np.zeros((2, 8, 8, 1)), [2**40, 0]),
    ],
)
def test_read_refuses_what_is_not_a_batch(net, images, labels):
    with pytest.raises(BadInput, match=r"legal are images \(batch, height, width, channel\) and integer labels"):
        read(net, images, labels)
