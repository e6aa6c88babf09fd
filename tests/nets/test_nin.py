"""Network in Network against its published counts; a forward and a backward pass by hand; its two heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from naive import abstractly, batch_norm, build, check, convolve, digits, filled, pool

import gradflow as gf
from gradflow import nets
from gradflow.commands import describe
from gradflow.errors import BadInput
from gradflow.runs.train import build_net

# papers.md section 7: output and parameters of each layer, ten classes.
TABLE = [
    ("mlpconv1/conv", (32, 32, 192), 14_592), ("mlpconv1/mlp1", (32, 32, 160), 30_880),
    ("mlpconv1/mlp2", (32, 32, 96), 15_456), ("mlpconv2/conv", (16, 16, 192), 460_992),
    ("mlpconv2/mlp1", (16, 16, 192), 37_056), ("mlpconv2/mlp2", (16, 16, 192), 37_056),
    ("mlpconv3/conv", (8, 8, 192), 331_968), ("mlpconv3/mlp1", (8, 8, 192), 37_056),
    ("mlpconv3/mlp2", (8, 8, 10), 1_930),
]  # fmt: skip


def layers(**settings):
    return describe.layers("nin", **settings)


@pytest.mark.parametrize(("classes", "published"), [(10, 966_986), (100, 984_356)])
def test_the_number_of_parameters_is_the_published_one(classes, published):
    found, others = layers(classes=classes)
    assert sum(layer.parameters for layer in found) == published
    assert others == 0


def test_every_layer_has_the_shape_and_the_parameters_of_the_table():
    found, _ = layers()
    assert [(layer.name, layer.output, layer.parameters) for layer in found] == TABLE
    assert [layer.position for layer in found] == list(range(1, 10))
    for layer, kernel in zip(found, (5, 1, 1, 5, 1, 1, 3, 1, 1), strict=True):
        weights = layer.parameters - layer.output[-1]
        assert weights % kernel**2 == 0
        assert layer.multiply_adds == weights * layer.output[0] ** 2


def test_the_fully_connected_head_sees_all_pixels_of_the_class_maps():
    found, _ = layers(head="fc", classes=10)
    assert [tuple(layer[:3]) for layer in found[:9]] == TABLE
    assert found[9][:3] == ("head", (10,), 8 * 8 * 10 * 10 + 10)
    assert found[9].position == 10
    odd, _ = layers(head="fc", image=27)
    assert odd[-1].parameters == 6 * 6 * 10 * 10 + 10


def test_all_channels_but_the_classes_are_in_proportion_to_the_width():
    found, _ = layers(width=48)
    assert [layer.output[-1] for layer in found] == [48, 40, 24, 48, 48, 48, 48, 48, 10]


def by_hand(params, images, activation, sides, perturb=lambda name, x: x):
    x = images
    for number in (1, 2, 3):
        block = params[f"mlpconv{number}"]
        for layer in ("conv", "mlp1", "mlp2"):
            x = convolve(x, block[layer])
            if f"{layer}_norm" in block:
                x = batch_norm(x, block[f"{layer}_norm"])
            x = activation(perturb(f"mlpconv{number}/{layer}", x))
        if number < 3:
            x = pool(x, 3, 2, sides[number - 1], ("max", "mean")[number - 1])
    if "head" in params:
        x = x.reshape(len(x), -1) @ params["head"]["kernel"] + params["head"]["bias"]
    else:
        x = x.mean((1, 2))
    return perturb("head", x)


@pytest.mark.parametrize(
    ("head", "normalisation", "image", "sides"),
    [("pool", "none", 8, (4, 2)), ("pool", "batch", 7, (3, 1)), ("fc", "none", 7, (3, 1)), ("fc", "batch", 8, (4, 2))],
)
def test_the_net_is_what_one_writes_by_hand(head, normalisation, image, sides):
    given = {"normalisation": normalisation, "head": head, "image": image}
    graph, params, rest = filled("nin", classes=10, channels=1, width=8, dropout=0.0, **given)
    assert ("bias" in params["mlpconv1"]["conv"]) == (normalisation == "none")
    images = digits(5)[0][:, :image, :image]
    logits, _ = jax.jit(lambda *arrays: nets.apply(graph, *arrays))(params, rest, images)
    theirs = jax.jit(functools.partial(by_hand, activation=jax.nn.relu, sides=sides))(params, images)
    np.testing.assert_allclose(logits, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("setting", "legal"),
    [
        ({"depth": 18}, "it has 9"),
        ({"head": "max"}, "choose one of pool, fc"),
        ({"dropout": 1.0}, "from 0 to below 1"),
        ({"width": 0}, "at least 1"),
        ({"image": 3}, "at least 4 a side"),
        ({"activation": "swish"}, "relu, tanh"),
        ({"family": "imagenet"}, "has no setting 'family'"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_with_the_legal_ones(setting, legal):
    for attempt in (check, functools.partial(nets.build, classes=10, channels=1)):
        with pytest.raises(BadInput, match=legal) as raised:
            attempt("nin", **setting)
        assert "\n" not in str(raised.value)


def test_images_that_do_not_fit_are_refused():
    logits = lambda side, **given: build("nin", depth=9, **given)(jnp.zeros((2, side, side, 1))).shape  # noqa: E731
    assert abstractly(lambda: logits(4)) == (2, 10)
    with pytest.raises(BadInput, match="at least 4 pixels a side"):
        abstractly(lambda: logits(3))
    with pytest.raises(BadInput, match="made for 8x8 pixels"):
        abstractly(lambda: logits(9, head="fc", image=8))


def test_a_run_takes_its_settings():
    run = gf.Run(net="nin", head="fc", dropout=0.0, width=24)
    assert run.depth == 9
    assert (run.head, run.dropout, run.width) == ("fc", 0.0, 24)
    assert abstractly(lambda: build_net(run)).image == 8  # the digits'
    with pytest.raises(BadInput, match="has no setting 'variant'"):
        gf.Run(net="nin", variant="naive")
