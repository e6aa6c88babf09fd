"""The perceptrons: parameters by a closed form, twins, the forward pass by hand, readings against `jax.vjp`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from naive import build, check, digits, signals

import gradflow as gf
from gradflow import nets
from gradflow.commands import describe
from gradflow.errors import BadInput
from gradflow.figures import rows


def perceptron(name="residual_mlp", depth: Any = 5, width: Any = 6, image: Any = 8, **settings: Any):
    return build(name, depth=depth, width=width, image=image, **settings)


def flat(net):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(nets.split(net)[1])}


def test_the_net_of_three_layers_for_mnist_has_as_many_parameters_as_everybody_counts():
    net = nets.build("mlp", depth=3, width=256, image=28, channels=1, classes=10, normalisation="none")
    assert nets.count_parameters(net) == 784 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10 == 269_322


@pytest.mark.parametrize("depth", [2, 3, 9])
@pytest.mark.parametrize("normalisation", ["batch", "none"])
def test_depth_is_the_number_of_weighted_layers(depth, normalisation):
    width, image, channels = 5, 4, 3
    given: Any = {"depth": depth, "width": width, "normalisation": normalisation}
    found, others = describe.layers("residual_mlp", image=image, channels=channels, classes=7, **given)
    units = [f"block{unit:02}/fc" for unit in range(1, depth - 1)]
    assert [layer.name for layer in found] == ["stem", *units, "head"]
    assert [layer.position for layer in found] == list(range(1, depth + 1))
    assert [layer.output for layer in found] == [(width,)] * (depth - 1) + [(7,)]
    kernels = [image * image * channels * width] + [width * width] * (depth - 2) + [width * 7]
    assert [layer.multiply_adds for layer in found] == kernels
    assert sum(layer.parameters for layer in found) == sum(kernels) + width * (depth - 1) + 7
    assert others == (2 * width * (depth - 1) if normalisation == "batch" else 0)


def test_twins_have_the_same_names_and_weights():
    plain, residual = flat(perceptron("mlp")), flat(perceptron())
    assert plain.keys() == residual.keys()
    for name in plain:
        np.testing.assert_array_equal(plain[name], residual[name], err_msg=name)


def test_units_have_the_names_that_verdicts_look_for_and_the_positions_of_their_layers():
    points = nets.points_of(perceptron(depth=4), (8, 8, 1))
    assert [(point.name, point.position) for point in points] == [
        ("stem", 1),
        ("block01", 1), ("block01/identity", 1), ("block01/residual", 1), ("block01/fc", 2),
        ("block02", 2), ("block02/identity", 2), ("block02/residual", 2), ("block02/fc", 3),
        ("head", 4),
    ]  # fmt: skip


def by_hand(params, images, shortcut, order):
    def product(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    def normalise(x, norm):
        return (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) * norm["scale"] + norm["bias"]

    x = product(images.reshape(len(images), -1), params["stem"])
    if order == "post":
        x = jnp.maximum(normalise(x, params["norm"]), 0)
    for name in ("block01", "block02", "block03"):
        unit = params[name]
        if order == "post":
            y = normalise(product(x, unit["fc"]), unit["norm"])
            x = jnp.maximum(x + y if shortcut else y, 0)
        else:
            y = product(jnp.maximum(normalise(x, unit["norm"]), 0), unit["fc"])
            x = x + y if shortcut else y
    if order == "pre":
        x = jnp.maximum(normalise(x, params["norm"]), 0)
    return product(x, params["head"])


@pytest.mark.parametrize("name", ["mlp", "residual_mlp"])
@pytest.mark.parametrize("order", ["post", "pre"])
def test_a_net_of_five_layers_is_what_one_writes_by_hand(name, order):
    graph, params, rest = nets.split(perceptron(name, order=order))
    random = np.random.default_rng(0)  # so that scale and shift of the norms and the biases are not 1 and 0
    params = jax.tree.map(lambda leaf: leaf + 0.2 * random.normal(size=leaf.shape).astype(np.float32), params)
    images = digits(5)[0]
    logits, _ = jax.jit(lambda *arrays: nets.apply(graph, *arrays))(params, rest, images)
    theirs = jax.jit(functools.partial(by_hand, shortcut=name != "mlp", order=order))(params, images)
    np.testing.assert_allclose(logits, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("setting", "legal"),
    [
        ({"depth": 1}, "depth 1 is not legal: it must be at least 2"),
        ({"width": 0}, "at least 1"),
        ({"image": 0}, "at least 1"),
        ({"shortcut": "B"}, "no setting 'shortcut': it has depth"),
        ({"order": "middle"}, "post, pre"),
        ({"normalisation": "instance"}, "batch, group, layer, none"),
        ({"family": "imagenet"}, "depth, .*width, order"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_legal_ones(setting, legal):
    for attempt in (check, perceptron):
        with pytest.raises(BadInput, match=legal):
            attempt("residual_mlp", **{"depth": 4, **setting})


def test_images_of_another_size_are_refused():
    with pytest.raises(BadInput, match="images of 9x9 pixels do not fit this net: it is made for 8x8 pixels"):
        perceptron()(jnp.zeros((1, 9, 9, 1)))


@pytest.mark.parametrize("name", ["mlp", "residual_mlp"])
def test_a_net_is_read_at_its_units_and_a_residual_one_on_both_paths(name):
    net = perceptron(name, order="pre")
    images, labels = digits(6)
    values = gf.read(net, images, labels).values
    frame = pd.DataFrame({"run": "a", "layer": list(values["activation_gradient_norm"])})
    assert list(rows.units(frame)["layer"]) == ["block01", "block02", "block03"]
    assert ("path_cosine" in values) == (name == "residual_mlp")
    if name == "residual_mlp":
        theirs = signals(*nets.split(net), images, labels)
        a, b = theirs["block02/identity"], theirs["block02/residual"]
        cosine = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
        assert values["path_cosine"]["block02"] == pytest.approx(cosine, abs=1e-4)
