"""VGG against its paper's tables: parameters, multiply-adds, shapes; a forward and a backward pass by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from naive import (
    abstractly,
    batch_norm,
    build,
    check,
    convolve,
    digits,
    filled,
    pool,
    respond,
)

import gradflow as gf
from gradflow import nets
from gradflow.commands import describe
from gradflow.errors import BadInput
from gradflow.runs.train import build_net

# papers.md section 9. Configuration: settings; parameters, with batch norm, those of convolutions; 1e9 multiply-adds.
TABLE = {
    "A": ({"depth": 11}, 132_863_336, 132_868_840, 9_220_480, 7.609),
    "A-LRN": ({"depth": 11, "lrn": True}, 132_863_336, 132_868_840, 9_220_480, 7.609),
    "B": ({"depth": 13}, 133_047_848, 133_053_736, 9_404_992, 11.308),
    "C": ({"depth": 16, "variant": "1x1"}, 133_638_952, 133_647_400, 9_996_096, 11.771),
    "D": ({"depth": 16}, 138_357_544, 138_365_992, 14_714_688, 15.470),
    "E": ({"depth": 19}, 143_667_240, 143_678_248, 20_024_384, 19.632),
}


def layers(**settings):
    return describe.layers("vgg", **settings)


@pytest.mark.parametrize("configuration", TABLE)
def test_parameters_and_multiply_adds_are_the_papers(configuration):
    settings, parameters, with_norm, of_convolutions, billions = TABLE[configuration]
    found, others = layers(family="imagenet", **settings)
    assert sum(layer.parameters for layer in found) == parameters
    assert others == 0
    assert sum(layer.parameters for layer in found if layer.name.startswith("conv")) == of_convolutions
    assert round(sum(layer.multiply_adds for layer in found) / 1e9, 3) == billions
    assert [layer.position for layer in found] == list(range(1, settings["depth"] + 1))
    found, others = layers(family="imagenet", normalisation="batch", **settings)
    assert sum(layer.parameters for layer in found) + others == with_norm


def test_every_layer_of_configuration_e_has_the_shape_of_table_1():
    found, _ = layers(family="imagenet", depth=19)
    side, shapes = 224, []
    for channels, count in zip((64, 128, 256, 512, 512), (2, 2, 4, 4, 4), strict=True):
        shapes += [(side, side, channels)] * count
        side //= 2
    assert [layer.output for layer in found] == [*shapes, (4096,), (4096,), (1000,)]
    assert [layer.name for layer in found][2:4] + [layer.name for layer in found][-4:] == [
        "conv2_1", "conv2_2", "conv5_4", "fc6", "fc7", "head"
    ]  # fmt: skip


def test_the_shallow_net_has_a_5x5_layer_for_each_pair_of_3x3_layers():
    (one, _), (two, _) = layers(family="imagenet", variant="5x5", depth=8), layers(family="imagenet", depth=13)
    assert [layer.position for layer in one] == list(range(1, 9))
    assert [layer.output for layer in one if layer.name.startswith("conv")] == [
        layer.output for layer in two if layer.name.endswith("_2")
    ]
    weights = {layer.name: layer.parameters - layer.output[-1] for layer in (*one, *two)}
    # Section 2.3, at equal channels in and out: one 5x5 layer has 25 C^2 weights, a pair of 3x3 layers 18 C^2.
    shallow = next(layer for layer in one if layer.name == "conv5_1")
    assert shallow.parameters - 512 == 25 * 512**2
    assert weights["conv5_1"] + weights["conv5_2"] == 18 * 512**2


def test_the_cifar_form_pools_while_there_is_more_than_a_pixel():
    for image, sides in ((32, [32, 16, 8, 4, 2]), (8, [8, 4, 2, 1, 1]), (7, [7, 3, 1, 1, 1]), (1, [1] * 5)):
        found, _ = layers(variant="5x5", depth=8, image=image)
        assert [layer.output[0] for layer in found[:5]] == sides
        assert [layer.output for layer in found[5:]] == [(512,), (512,), (10,)]
    found, _ = layers(depth=11, width=16)
    assert [layer.output[-1] for layer in found] == [16, 32, 64, 64, 128, 128, 128, 128, 128, 128, 10]


def by_hand(params, images, blocks, lrn):
    """On digits: pools after the first three blocks, then a pixel is left."""
    x = images
    for block, count in enumerate(blocks, start=1):
        for layer in range(1, count + 1):
            x = convolve(x, params[f"conv{block}_{layer}"])
            norm = params.get(f"norm{block}_{layer}")
            x = jnp.maximum(x if norm is None else batch_norm(x, norm), 0)
            if lrn and (block, layer) == (1, 1):
                x = respond(x)
        if block <= 3:
            x = pool(x, 2, 2, (4, 2, 1)[block - 1], "max")
    x = x[:, 0, 0]
    for name in ("fc6", "fc7"):
        x = jnp.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
    return x @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize(
    ("settings", "blocks", "kernels"),
    [
        ({"depth": 11}, (1, 1, 2, 2, 2), {3}),
        ({"depth": 11, "lrn": True}, (1, 1, 2, 2, 2), {3}),
        ({"depth": 13, "normalisation": "batch"}, (2, 2, 2, 2, 2), {3}),
        ({"depth": 16, "variant": "1x1"}, (2, 2, 3, 3, 3), {1, 3}),
        ({"depth": 8, "variant": "5x5"}, (1, 1, 1, 1, 1), {5}),
    ],
)
def test_a_net_is_what_one_writes_by_hand(settings, blocks, kernels):
    graph, params, rest = filled("vgg", classes=10, channels=1, width=4, dropout=0.0, image=8, **settings)
    assert {layer["kernel"].shape[0] for name, layer in params.items() if name.startswith("conv")} == kernels
    images = 30 * digits(5)[0]  # so that LRN, which is weak, does something
    logits, _ = jax.jit(lambda *arrays: nets.apply(graph, *arrays))(params, rest, images)
    theirs = jax.jit(functools.partial(by_hand, blocks=blocks, lrn=settings.get("lrn")))(params, images)
    np.testing.assert_allclose(logits, theirs, rtol=1e-4, atol=1e-4 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize(
    ("setting", "legal"),
    [
        ({"depth": 12}, "choose one of 11, 13, 16, 19"),
        ({"depth": 13, "variant": "1x1"}, "choose one of 16"),
        ({"depth": 13, "variant": "5x5"}, "choose one of 8"),
        ({"variant": "7x7"}, "choose one of paper, 1x1, 5x5"),
        ({"family": "mnist"}, "choose one of cifar, imagenet"),
        ({"depth": 16, "lrn": True}, "depth 16: only configuration A has, depth 11"),
        ({"variant": "5x5", "depth": 8, "lrn": True}, "depth 8: only configuration A has, depth 11"),
        ({"dropout": 1.0}, "from 0 to below 1"),
        ({"dropout": -0.1}, "from 0 to below 1"),
        ({"width": 0}, "at least 1"),
        ({"image": 0}, "at least 1"),
        ({"family": "imagenet", "image": 31}, "at least 32 a side"),
        ({"normalisation": "instance"}, "batch, group, layer, none"),
        ({"shortcut": "A"}, "has no setting 'shortcut'"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_with_the_legal_ones(setting, legal):
    for attempt in (check, functools.partial(nets.build, classes=10, channels=1)):
        with pytest.raises(BadInput, match=legal) as raised:
            attempt("vgg", **setting)
        assert "\n" not in str(raised.value)


def test_other_images_than_it_is_made_for_are_refused():
    with pytest.raises(BadInput, match="made for 8x8"):
        abstractly(lambda: build("vgg", depth=11, image=8)(jnp.zeros((1, 9, 8, 1))))


def test_a_variant_has_the_layers_of_its_depth():
    count = lambda **given: len(layers(**given)[0])  # noqa: E731
    assert (count(), count(variant="1x1"), count(variant="5x5", depth=8)) == (16, 16, 8)
    with pytest.raises(BadInput, match="variant '5x5' of vgg has no depth 16: choose one of 8"):
        layers(variant="5x5")


def test_a_run_takes_its_settings():
    assert gf.Run(net="vgg").depth == 16
    run = gf.Run(net="vgg", depth=8, variant="5x5")
    assert run.variant == "5x5"
    assert abstractly(lambda: build_net(run)).image == 8  # the digits'
