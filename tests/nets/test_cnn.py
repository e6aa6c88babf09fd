"""The four-layer net: parameters against another framework's published integer, the forward pass by hand, readings."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from naive import abstractly, build, check, convolve, pool, respond

from gradflow import nets
from gradflow.commands import describe
from gradflow.errors import BadInput


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


def by_hand(params, images, lrn, window):
    x = images
    for name, summary in (("conv1", "max"), ("conv2", "mean"), ("conv3", "mean")):
        x = pool(jnp.tanh(convolve(x, params[name])), window, 2, x.shape[1] // 2, summary)
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


def test_dropout_is_off_unless_asked_for():
    assert [abstractly(lambda given=given: four_layers(**given)).dropout.rate for given in ({}, {"dropout": 0.5})] == [
        0,
        0.5,
    ]


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
