"""The four-layer net: parameters against another framework's published integer, the forward pass by hand, readings."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from naive import build, check, digits, signals

import gradflow as gf
from gradflow import nets
from gradflow.commands import describe
from gradflow.errors import BadInput
from gradflow.training import step as training


def four_layers(width: Any = 4, image: Any = 8, **settings: Any):
    return build("cnn", depth=4, width=width, image=image, **settings)


def test_shapes_parameters_and_multiply_adds_are_those_of_the_published_net():
    found, others = describe.layers("cnn")
    assert [(layer.name, layer.output) for layer in found] == [
        ("conv1", (32, 32, 32)),
        ("conv2", (16, 16, 32)),
        ("conv3", (8, 8, 64)),
        ("head", (10,)),
    ]
    # Caffe's cifar10_full, made after the same cuda-convnet file.
    assert sum(layer.parameters for layer in found) == 89_578
    assert others == 0
    assert [layer.multiply_adds for layer in found] == [75 * 32 * 1024, 800 * 32 * 256, 800 * 64 * 64, 1024 * 10]
    assert [layer.position for layer in found] == [1, 2, 3, 4]


def windows(x, window):
    """Windows 2 apart, `(9 or 4, batch, h // 2, w // 2, channel)`; nan where they reach over the far edge."""
    side = x.shape[1]
    x = jnp.pad(x, ((0, 0), (0, window), (0, window), (0, 0)), constant_values=jnp.nan)
    last = 2 * (side // 2)
    return jnp.stack([x[:, i : i + last : 2, j : j + last : 2] for i in range(window) for j in range(window)])


def respond(x):
    squares = jnp.pad(x**2, ((0, 0), (0, 0), (0, 0), (2, 2)))
    total = jnp.stack([squares[..., i : i + 5].sum(-1) for i in range(x.shape[-1])], -1)
    return x / (2 + 1e-4 * total) ** 0.75


def by_hand(params, images, lrn, window):
    x = images
    for name, summarise in (("conv1", jnp.nanmax), ("conv2", jnp.nanmean), ("conv3", jnp.nanmean)):
        x = jax.lax.conv_general_dilated(
            x, params[name]["kernel"], (1, 1), [(2, 2)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = summarise(windows(jnp.tanh(x + params[name]["bias"]), window), axis=0)
        if lrn and name != "conv3":
            x = respond(x)
    return x.reshape(len(x), -1) @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize(
    ("lrn", "pooling", "image"),
    [(False, "overlapping", 8), (True, "overlapping", 11), (False, "plain", 8), (True, "plain", 11)],
)
def test_the_net_is_what_one_writes_by_hand(lrn, pooling, image):
    net = four_layers(image=image, lrn=lrn, pooling=pooling, activation="tanh")
    graph, params, rest = nets.split(net)
    random = np.random.default_rng(0)  # so that biases are not 0
    params = jax.tree.map(lambda leaf: leaf + 0.1 * random.normal(size=leaf.shape).astype(np.float32), params)
    images = jnp.asarray(random.normal(size=(3, image, image, 1)), jnp.float32)
    logits, _ = jax.jit(lambda *arrays: nets.apply(graph, *arrays))(params, rest, images)
    twin = functools.partial(by_hand, lrn=lrn, window=2 if pooling == "plain" else 3)
    theirs = jax.jit(twin)(params, images)
    np.testing.assert_allclose(logits, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"lrn": True}, {"normalisation": "batch", "activation": "tanh"}])
def test_every_reading_is_the_norm_of_the_vjp_cut_at_its_point(settings):
    net = four_layers(**settings)
    images, labels = digits(4)
    split, points = nets.split(net), nets.points_of(net, images.shape[1:])
    run = jax.jit(lambda *arrays: training.gradients(split[0], points, *arrays)[1])
    readings = run(*split[1:], images, labels)
    theirs = signals(*split, images, labels)
    assert list(readings) == ["conv1", "conv2", "conv3", "head"]
    for name, vector in theirs.items():
        np.testing.assert_allclose(readings[name], np.linalg.norm(vector), rtol=1e-5, err_msg=name)


def test_nets_that_differ_in_regularisation_start_with_the_same_weights():
    plain = nets.split(four_layers())[1]
    for setting in ({"dropout": 0.5}, {"lrn": True}, {"pooling": "plain"}, {"activation": "tanh"}):
        twin = nets.split(four_layers(**setting))[1]
        jax.tree.map(np.testing.assert_array_equal, plain, twin)


def test_dropout_is_before_the_classifier_and_off_unless_asked_for():
    images = digits(16)[0]
    seen = {}

    def look(name, x):
        seen.setdefault(name, []).append(np.asarray(x))
        return x

    net = four_layers(dropout=0.5)
    net(images, look)
    net(images, look)
    for name in ("conv1", "conv2", "conv3"):
        np.testing.assert_array_equal(*seen[name])
    assert (seen["head"][0] != seen["head"][1]).any()
    np.testing.assert_array_equal(four_layers()(images), four_layers(dropout=0.0)(images))


@pytest.mark.parametrize(
    ("setting", "legal"),
    [
        ({"depth": 5}, "has no depth 5: it has 4 weighted layers"),
        ({"family": "imagenet"}, "no setting 'family': it has depth"),
        ({"image": 7}, "image 7 is not legal: it must be at least 8"),
        ({"width": 0}, "at least 1"),
        ({"pooling": "max"}, "overlapping, plain"),
        ({"dropout": 1.0}, "from 0 to below 1"),
        ({"dropout": -0.1}, "from 0 to below 1"),
        ({"activation": "swish"}, "relu, tanh"),
        ({"shortcut": "A"}, "depth, .*width, lrn, dropout, pooling"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_legal_ones(setting, legal):
    for attempt in (check, build):
        with pytest.raises(BadInput, match=legal):
            attempt("cnn", **{"depth": 4, **setting})


def test_images_of_another_size_are_refused():
    with pytest.raises(BadInput, match="images of 9x9 pixels do not fit this net: it is made for 8x8 pixels"):
        four_layers()(jnp.zeros((1, 9, 9, 1)))


def test_training_on_the_digits_learns():
    run = gf.Run(net="cnn", width=8, normalisation="batch", steps=30, batch=32, learning_rate=0.1, evaluations=0)
    losses = [reading.loss for reading in gf.train(run)]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
