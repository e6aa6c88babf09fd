"""GoogLeNet against its paper's tables; forward and backward by hand, with the auxiliary losses; what a variant is."""

import functools
from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from naive import abstractly, batch_norm, build, check, convolve, digits, filled, loss, pool, respond, three_modules

import gradflow as gf
from gradflow import nets
from gradflow.arrays import Heads
from gradflow.commands import describe
from gradflow.errors import BadInput
from gradflow.nets import googlenet
from gradflow.nets.layers.normalisations import BatchNorm
from gradflow.runs.train import build_net
from gradflow.training.step import gradients

# papers.md section 8.1. Module: side and channels of its output, parameters, 1e6 multiply-adds.
TABLE = {
    "3a": (28, 256, 163_696, 128.0), "3b": (28, 480, 388_736, 304.3), "4a": (14, 512, 376_176, 73.6),
    "4b": (14, 512, 449_160, 87.9), "4c": (14, 512, 510_104, 99.9), "4d": (14, 528, 605_376, 118.5),
    "4e": (14, 832, 868_352, 170.0), "5a": (7, 832, 1_043_456, 51.1), "5b": (7, 1024, 1_444_080, 70.7),
}  # fmt: skip


def layers(**settings):
    return describe.layers("googlenet", **settings)


@pytest.mark.parametrize(
    ("settings", "without", "with_auxiliary"),
    [
        ({}, 6_998_552, 13_378_280),
        ({"normalisation": "batch"}, 7_005_832, 13_385_816),
        ({"variant": "torchvision"}, 6_624_904, 13_004_888),
    ],
)
def test_the_number_of_parameters_is_the_published_one(settings, without, with_auxiliary):
    def count(auxiliary):
        given = {"family": "imagenet", "classes": 1000, "channels": 3, "auxiliary": auxiliary, **settings}
        return nets.count_parameters(nets.abstract("googlenet", **given))

    assert (count(False), count(True)) == (without, with_auxiliary)


def test_every_module_has_the_shape_parameters_and_multiply_adds_of_the_table():
    found, _ = layers(family="imagenet", auxiliary=False)
    parameters, multiply_adds, channels = defaultdict(int), defaultdict(int), defaultdict(int)
    for layer in found:
        module = layer.name.split("/")[0]
        parameters[module] += layer.parameters
        multiply_adds[module] += layer.multiply_adds
        channels[module] += 0 if layer.name.endswith("reduce") else layer.output[-1]
        if module.startswith("inception"):
            assert layer.output[:2] == (TABLE[module[-2:]][0],) * 2
    for module, (_, width, count, millions) in TABLE.items():
        name = f"inception{module}"
        assert (channels[name], parameters[name]) == (width, count)
        assert round(multiply_adds[name] / 1e6, 1) == millions
    assert [layer.output for layer in found[:3]] == [(112, 112, 64), (56, 56, 64), (56, 56, 192)]
    assert [layer.parameters for layer in found[:3]] == [9_472, 4_160, 110_784]
    assert found[-1][:4] == ("head", (1000,), 1_025_000, 1_024_000)
    assert round(sum(multiply_adds.values()) / 1e9, 3) == 1.583


@pytest.mark.parametrize("auxiliary", [False, True])
def test_the_logits_are_22_layers_deep_and_a_branch_is_as_deep_as_it_is(auxiliary):
    found, _ = layers(auxiliary=auxiliary)
    position = {layer.name: layer.position for layer in found}
    assert [position[name] for name in ("conv1", "conv2_reduce", "conv2", "head")] == [1, 2, 3, 22]
    for number, module in enumerate(TABLE):
        for branch in ("3x3_reduce", "5x5_reduce", "1x1", "pool_projection"):
            assert position[f"inception{module}/{branch}"] == 4 + 2 * number
        assert position[f"inception{module}/3x3"] == position[f"inception{module}/5x5"] == 5 + 2 * number
    branches = {name: at for name, at in position.items() if name.startswith("auxiliary")}
    names = ("conv", "fc", "head")
    first, second = ({f"auxiliary{i}/{name}": at + j for j, name in enumerate(names)} for i, at in ((1, 10), (2, 16)))
    assert branches == (first | second if auxiliary else {})


def test_naive_modules_pass_on_all_their_input():
    found, _ = layers(family="imagenet", depth=13, variant="naive", auxiliary=False)
    assert len(found) == 3 + 9 * 3 + 1
    assert {layer.name.split("/")[1] for layer in found if "/" in layer.name} == {"1x1", "3x3", "5x5"}
    channels = 192
    for number, (module, widths) in enumerate(googlenet.MODULES.items()):
        own = {layer.name.split("/")[1]: layer for layer in found if layer.name.startswith(f"inception{module}/")}
        for branch, at, kernel in (("1x1", 0, 1), ("3x3", 2, 3), ("5x5", 4, 5)):
            assert own[branch].output[-1] == widths[at]
            assert own[branch].parameters == (channels * kernel**2 + 1) * widths[at]
            assert own[branch].position == 4 + number
        channels += widths[0] + widths[2] + widths[4]
    assert channels == 4944
    assert found[-1].parameters == (4944 + 1) * 1000
    assert found[-1].position == 13


def test_the_cifar_form_gets_smaller_twice_and_its_width_scales_everything():
    for image, sides in ((32, (32, 16, 8)), (8, (8, 4, 2)), (4, (4, 2, 1))):
        found, _ = layers(image=image, channels=1, width=16)
        outputs = {layer.name: layer.output for layer in found}
        assert (outputs["conv1"], outputs["conv2"]) == ((image, image, 16), (image, image, 48))
        for module, side in zip(("3a", "4a", "5b"), sides, strict=True):
            assert outputs[f"inception{module}/1x1"] == (side, side, googlenet.MODULES[module][0] // 4)
        parts = min(4, sides[1])
        assert outputs["auxiliary1/conv"] == (parts, parts, 32)
        assert outputs["auxiliary2/fc"] == (256,)


def by_hand(params, images, activation, point, lrn, torchvision=False):
    """All logits of the cifar form, on digits; `point` is called like a hook."""

    def layer(owner, name, x, prefix=""):
        x = convolve(x, owner[name])
        if f"{name}_norm" in owner:
            x = batch_norm(x, owner[f"{name}_norm"], 1e-3 if torchvision else 1e-5)
        return activation(point(prefix + name, x))

    def linear(owner, name, x):
        return x @ owner[name]["kernel"] + owner[name]["bias"]

    def inception(x, name):
        owner, see = params[name], functools.partial(layer, params[name], prefix=f"{name}/")
        pooled = pool(x, 3, 1, x.shape[1], "max", before=1)
        if "3x3_reduce" not in owner:
            branches = [see("1x1", x), see("3x3", x), see("5x5", x), pooled]
        else:
            branches = [see("1x1", x), see("3x3", see("3x3_reduce", x)), see("5x5", see("5x5_reduce", x))]
            branches += [see("pool_projection", pooled)]
        return point(name, jnp.concatenate(branches, -1))

    def auxiliary(x, name):  # of 4x4 maps, which are their own 4x4 parts
        x = layer(params[name], "conv", x, f"{name}/").reshape(len(x), -1)
        x = activation(point(f"{name}/fc", linear(params[name], "fc", x)))
        return point(f"{name}/head", linear(params[name], "head", x))

    respond_or_not = respond if lrn else lambda x: x
    x = respond_or_not(layer(params, "conv1", images))
    x = respond_or_not(layer(params, "conv2", layer(params, "conv2_reduce", x)))
    answers = []
    for module in sorted(name.removeprefix("inception") for name in params if name.startswith("inception")):
        if module in ("4a", "5a"):
            x = pool(x, 2 if module == "5a" and torchvision else 3, 2, x.shape[1] // 2, "max")
        x = inception(x, f"inception{module}")
        if module in ("4a", "4d") and "auxiliary1" in params:
            answers.append(auxiliary(x, {"4a": "auxiliary1", "4d": "auxiliary2"}[module]))
    return point("head", linear(params, "head", x.mean((1, 2)))), answers


def abstract(**settings) -> Any:
    """The net without weights."""
    return nets.abstract("googlenet", classes=10, channels=1, **settings)


def filled_short(**settings):
    with three_modules():
        depth = googlenet.depth_of(settings.get("variant", "paper"))
        return filled("googlenet", **{"depth": depth, "classes": 10, "channels": 1, "image": 8, **settings})


@pytest.fixture(scope="module")
def small():
    """The paper's net, and the compiled training pass; softplus, so that pools do not tie at zero."""
    graph, params, rest = filled_short(width=4, dropout=0.0, activation="softplus")
    images, labels = digits(6)
    images = 10 * images
    points = nets.points_of(nnx.merge(graph, params, rest), images.shape[1:])
    run = jax.jit(lambda params: gradients(graph, points, params, rest, images, labels))
    return points, params, images, labels, run


def test_gradients_are_those_of_a_net_by_hand_with_three_tenths_of_each_auxiliary_loss(small):
    points, params, images, labels, run = small

    @jax.jit
    def theirs(params, shifts):
        def total(params, shifts):
            shifted = lambda name, x: x + shifts[name]  # noqa: E731
            logits, answers = by_hand(params, images, jax.nn.softplus, shifted, lrn=True)
            main = loss(logits, labels)
            return main + 0.3 * loss(answers[0], labels) + 0.3 * loss(answers[1], labels), main

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(params, shifts)

    shifts = {point.name: jnp.zeros((6, *point.shape[1:])) for point in points}
    assert len(shifts) == 3 + 3 * 7 + 2 * 3 + 1
    ((total, main), (of_params, of_points)) = theirs(params, shifts)
    gradient, backward, forward, _, value, _ = run(params)
    assert list(forward) == sorted(shifts)
    np.testing.assert_allclose(value, main, rtol=1e-5)
    assert total > 1.2 * main
    for ours, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(of_params), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-3, atol=1e-4 * float(jnp.abs(other).max()))
    for name, vector in of_points.items():
        np.testing.assert_allclose(backward[name], np.linalg.norm(vector), rtol=1e-3, err_msg=name)


def test_thirty_steps_learn_a_batch_of_digits(small):
    _, params, _, _, run = small
    losses = []
    for _ in range(30):
        gradient, *_, value, _ = run(params)
        params = jax.tree.map(lambda leaf, slope: leaf - 0.02 * slope, params, gradient)
        losses.append(float(value))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


@pytest.mark.parametrize("variant", ["naive", "torchvision"])
def test_a_variant_without_auxiliary_classifiers_is_what_one_writes_by_hand(variant):
    graph, params, rest = filled_short(width=4, dropout=0.0, auxiliary=False, lrn=True, variant=variant)
    images = 10 * digits(5)[0]
    logits, _ = jax.jit(lambda *arrays: nets.apply(graph, *arrays))(params, rest, images)
    same = {"activation": jax.nn.relu, "point": lambda name, x: x, "lrn": True, "torchvision": variant == "torchvision"}
    theirs, _ = jax.jit(functools.partial(by_hand, **same))(params, images)
    np.testing.assert_allclose(logits, theirs, rtol=1e-3, atol=1e-4 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize(("variant", "epsilon"), [("paper", 1e-5), ("torchvision", 1e-3)])
def test_the_epsilon_of_batch_norm_is_the_variants(variant, epsilon):
    net = abstract(variant=variant, normalisation="batch")
    norms = {path[-1]: norm for path, norm in nnx.iter_modules(net) if isinstance(norm, BatchNorm)}
    assert {"conv1_norm", "3x3_norm", "conv_norm"} <= norms.keys()
    assert {norm.epsilon for norm in norms.values()} == {epsilon}


def test_the_auxiliary_classifiers_answer_while_training_only():
    graph, params, rest = filled_short(width=4)
    images = jnp.zeros((3, 8, 8, 1))
    training, _ = abstractly(lambda: nets.apply(graph, params, rest, images))
    assert isinstance(training, Heads)
    assert training.logits.shape == training.auxiliary[0].shape == training.auxiliary[1].shape == (3, 10)
    assert training.weight == 0.3
    names = []
    look = lambda name, x: (names.append(name), x)[1]  # noqa: E731
    answer, _ = abstractly(lambda: nets.apply(graph, params, rest, images, look, train=False))
    assert answer.shape == (3, 10)
    assert not [name for name in names if name.startswith("auxiliary")]
    assert names[-1] == "head"


def test_parts_of_a_map_are_as_equal_as_can_be():
    x = jnp.arange(14.0)[None, :, None, None] + 100 * jnp.arange(6.0)[None, None, :, None]
    parts = googlenet.average_parts(x, 4)[0, :, :, 0]
    rows, columns = [range(4), range(3, 7), range(7, 11), range(10, 14)], [(0, 1), (1, 2), (3, 4), (4, 5)]
    np.testing.assert_allclose(parts, [[np.mean(row) + 100 * np.mean(column) for column in columns] for row in rows])


def rates(net):
    return net.dropout.rate, net.auxiliary1.dropout.rate, net.auxiliary2.dropout.rate


def test_dropout_is_the_papers_unless_a_number_replaces_it():
    assert rates(abstract()) == (0.4, 0.7, 0.7)
    assert rates(abstract(dropout=0.2)) == (0.2, 0.2, 0.2)


def test_auxiliary_classifiers_change_no_weight():
    draw: Any = {"classes": 10, "channels": 1, "width": 1, "image": 8, "initialisation": "normal(0.1)"}
    weights = lambda **given: nets.split(nets.build("googlenet", **draw, **given))[1]  # noqa: E731
    with three_modules():
        draw |= {"depth": googlenet.depth_of("paper")}
        without, alone = weights(), weights(auxiliary=False)
    assert without.keys() - alone.keys() == {"auxiliary1", "auxiliary2"}
    jax.tree.map(np.testing.assert_array_equal, alone, {name: without[name] for name in alone})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"normalisation": "batch"}, False),
        ({"normalisation": "batch", "lrn": True}, True),
        ({"lrn": False}, False),
        ({"depth": 13, "variant": "naive"}, True),
        ({"variant": "torchvision"}, False),
    ],
)
def test_lrn_is_in_the_papers_net_without_another_normalisation(settings, expected):
    assert bool(abstract(**settings).lrn) == expected


@pytest.mark.parametrize(
    ("setting", "legal"),
    [
        ({"depth": 18}, "it has 22"),
        ({"depth": 22, "variant": "naive"}, "it has 13"),
        ({"variant": "v3"}, "choose one of paper, naive, torchvision"),
        ({"family": "mnist"}, "choose one of cifar, imagenet"),
        ({"dropout": 1.0}, "from 0 to below 1"),
        ({"width": 0}, "at least 1"),
        ({"image": 3}, "at least 4 a side"),
        ({"family": "imagenet", "image": 79}, "at least 80 a side with auxiliary"),
        ({"family": "imagenet", "image": 31, "auxiliary": False}, "at least 32 a side"),
        ({"normalisation": "instance"}, "batch, group, layer, none"),
        ({"head": "fc"}, "has no setting 'head'"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_with_the_legal_ones(setting, legal):
    for attempt in (check, functools.partial(nets.build, classes=10, channels=1)):
        with pytest.raises(BadInput, match=legal) as raised:
            attempt("googlenet", **setting)
        assert "\n" not in str(raised.value)


def test_images_that_do_not_fit_are_refused():
    def logits(side, **given):
        with three_modules():
            depth = googlenet.depth_of("paper")
            return abstractly(lambda: build("googlenet", depth=depth, **given)(jnp.zeros((2, side, side, 1))))

    assert logits(4, auxiliary=False).shape == (2, 10)
    assert logits(32, auxiliary=False, family="imagenet").shape == (2, 10)
    assert logits(80, image=80, family="imagenet").logits.shape == (2, 10)
    with pytest.raises(BadInput, match="at least 4 pixels a side"):
        logits(3, auxiliary=False)
    with pytest.raises(BadInput, match="made for 8x8 pixels"):
        logits(9, image=8)


def test_a_run_takes_its_settings():
    run = gf.Run(net="googlenet", variant="torchvision", width=16, auxiliary=False)
    assert run.depth == 22
    assert run.auxiliary is False
    assert abstractly(lambda: build_net(run.replace(auxiliary=True))).image == 8  # the digits'
    assert "head" not in run.settings
