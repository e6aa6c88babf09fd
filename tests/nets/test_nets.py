"""The nets: the papers' parameter counts, twins, stages, a forward pass by hand, and what bad settings get."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import DIGITS, abstractly, build, check, digits

from gradflow import nets
from gradflow.errors import BadInput
from gradflow.nets import residual
from gradflow.training import optimiser as optim
from gradflow.training.loop import Training
from gradflow.training.read import read

# He 2015, table 6, and papers.md section 1.5: shortcuts A (as plain), B and C; ten classes, three channels.
CIFAR = {
    20: (269_722, 272_474, 283_962),
    32: (464_154, 466_906, 489_594),
    44: (658_586, 661_338, 695_226),
    56: (853_018, 855_770, 900_858),
    110: (1_727_962, 1_730_714, 1_826_202),
}
CIFAR_1202 = (19_421_274, 19_424_026, 20_538_714)
# papers.md section 1.1: a thousand classes.
IMAGENET = {
    (18, "B"): 11_689_512,
    (34, "B"): 21_797_672,
    (50, "B"): 25_557_032,
    (101, "B"): 44_549_160,
    (152, "B"): 60_192_808,
    (18, "A"): 11_515_688,
    (34, "A"): 21_623_848,
}


def count(name, classes=10, **given):
    return nets.count_parameters(nets.abstract(name, classes=classes, channels=3, **given))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("residual", {"depth": 10, "width": 4, "shortcut": "B", "order": "pre"}),
        ("residual", {"depth": 8, "width": 8, "normalisation": "group", "initialisation": "orthogonal"}),
        ("mlp", {"depth": 3, "width": 8, "image": 8}),
        ("nin", {"width": 4}),
    ],
)
def test_an_abstract_net_is_the_net_but_for_the_numbers(name, given):
    real = nets.split(nets.build(name, classes=10, channels=1, **given))
    abstract = nets.split(nets.abstract(name, classes=10, channels=1, **given))
    assert abstract[0] == real[0]
    for shapes, arrays in zip(abstract[1:], real[1:], strict=True):
        kind = lambda leaf: (leaf.shape, leaf.dtype)  # noqa: E731
        assert jax.tree.map(kind, shapes) == jax.tree.map(kind, arrays)
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("depth", CIFAR)
def test_cifar_nets_have_the_published_number_of_parameters(depth):
    assert tuple(count("residual", depth=depth, shortcut=shortcut) for shortcut in "ABC") == CIFAR[depth]
    assert count("plain", depth=depth) == CIFAR[depth][0]


@pytest.mark.parametrize(("shortcut", "published"), list(zip("ABC", CIFAR_1202, strict=True)))
def test_the_net_of_1202_layers_has_the_published_number_of_parameters(shortcut, published):
    assert count("residual", depth=1202, shortcut=shortcut) == published


@pytest.mark.parametrize(("depth", "shortcut"), IMAGENET)
def test_imagenet_nets_have_the_published_number_of_parameters(depth, shortcut):
    given = {"classes": 1000, "depth": depth, "family": "imagenet"}
    assert count("residual", shortcut=shortcut, **given) == IMAGENET[depth, shortcut]
    if shortcut == "A":
        assert count("plain", **given) == IMAGENET[depth, shortcut]


def test_the_pre_activation_net_of_110_layers_has_the_published_number_of_parameters():
    assert count("residual", depth=110, order="pre") == 1_727_962


def test_a_net_of_values_counts_as_many_parameters_as_one_of_shapes():
    net = build(shortcut="C")
    assert nets.count_parameters(net) == abstractly(lambda: nets.count_parameters(build(shortcut="C")))
    assert nets.count_parameters(net) == sum(leaf.size for leaf in jax.tree.leaves(nets.split(net)[1]))


# Twins


def flat(net):
    """Every parameter by its path."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(nets.split(net)[1])}


def test_twins_have_the_same_names_and_weights_whatever_the_shortcut():
    plain = flat(build("plain"))
    for shortcut in "ABC":
        twin = flat(build(shortcut=shortcut))
        own = {name for name in twin if "projection" in name}
        assert twin.keys() - own == plain.keys()
        assert bool(own) == (shortcut != "A")
        for name in plain:
            np.testing.assert_array_equal(plain[name], twin[name], err_msg=name)


def test_another_seed_gives_every_kernel_other_weights():
    for (name, one), other in zip(flat(build(seed=0)).items(), flat(build(seed=1)).values(), strict=True):
        assert np.array_equal(one, other) != ("kernel" in name)


def test_no_two_kernels_of_a_net_start_alike():
    kernels = [np.ravel(leaf)[:4] for name, leaf in flat(build(shortcut="C")).items() if "kernel" in name]
    starts = np.array([kernel / np.linalg.norm(kernel) for kernel in kernels])
    assert len(np.unique(starts.round(4), axis=0)) == len(kernels) == 11


# Depth


@pytest.mark.parametrize(("depth", "units"), [(8, (1, 1, 1)), (18, (3, 3, 2)), (34, (6, 5, 5)), (56, (9, 9, 9))])
def test_stages_of_the_depths_that_design_names(depth, units):
    assert residual.stages("cifar", depth) == (units, False)


@settings(deadline=None)
@given(st.integers(4, 5000).map(lambda half: 2 * half))
def test_any_even_depth_is_spread_evenly_over_three_stages_and_the_earlier_get_more(depth):
    units, bottleneck = residual.stages("cifar", depth)
    assert len(units) == 3
    assert sum(units) == (depth - 2) / 2
    assert list(units) == sorted(units, reverse=True)
    assert units[0] - units[2] <= 1
    assert not bottleneck
    if depth % 6 == 2:
        assert len(set(units)) == 1


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_imagenet_stages_add_up_to_their_depth(depth):
    units, bottleneck = residual.stages("imagenet", depth)
    assert 2 + sum(units) * (3 if bottleneck else 2) == depth


@pytest.mark.parametrize(
    ("family", "depth", "nearby"),
    [
        ("cifar", 19, "such as 18 or 20"),
        ("cifar", 57, "such as 56 or 58"),
        ("cifar", 6, "such as 8 or 10"),
        ("cifar", 7, "such as 8 or 10"),
        ("cifar", -4, "such as 8 or 10"),
        ("imagenet", 20, "18, 34, 50, 101, 152"),
    ],
)
def test_an_illegal_depth_is_refused_with_legal_ones(family, depth, nearby):
    for attempt in (check, build):
        with pytest.raises(BadInput, match=nearby):
            attempt("residual", depth=depth, family=family)


# Bad settings


@pytest.mark.parametrize(
    ("setting", "legal"),
    [
        ({"family": "mnist"}, "cifar, imagenet"),
        ({"shortcut": "D"}, "A, B, C"),
        ({"order": "middle"}, "post, pre"),
        ({"normalisation": "instance"}, "batch, group, layer, none"),
        ({"activation": "swish"}, "relu, tanh, sigmoid, gelu"),
        ({"initialisation": "xavier"}, "he, glorot, lecun, orthogonal, delta_orthogonal, normal"),
        ({"width": 0}, "at least 1"),
        (
            {"heads": 8},
            "depth, .*family, width, shortcut, shortcut_scale, order, normalisation, activation, initialisation",
        ),
    ],
)
def test_a_wrong_setting_is_refused_with_the_legal_ones(setting, legal):
    for attempt in (check, build):
        with pytest.raises(BadInput, match=legal):
            attempt("residual", **{"depth": 8, **setting})


def test_an_unknown_net_is_refused_with_the_legal_ones():
    with pytest.raises(BadInput, match="choose one of plain, residual"):
        build("densenet")


def test_a_plain_net_has_no_shortcut_to_set():
    with pytest.raises(BadInput, match="net 'plain' has no setting 'shortcut'"):
        build("plain", shortcut="A")


@pytest.mark.parametrize(("family", "depth", "least"), [("cifar", 8, 4), ("imagenet", 18, 32)])
def test_an_image_with_fewer_pixels_than_the_total_stride_is_refused(family, depth, least):
    def logits(size):
        return build(depth=depth, family=family)(jnp.zeros((2, size, size, 1))).shape

    assert abstractly(lambda: logits(least)) == (2, 10)
    with pytest.raises(BadInput, match=f"needs at least {least} pixels a side"):
        abstractly(lambda: logits(least - 1))


# What a net computes


def by_hand(params, images, shortcut, order, scale):
    """The net of 8 layers, written out: stem, three units (the second and third of stride 2), pool, classifier."""

    def convolve(x, layer, stride=1):
        kernel = layer["kernel"]
        pad = kernel.shape[0] // 2
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=numbers)

    def normalise(x, norm):
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) / jnp.sqrt(variance + 1e-5) * norm["scale"] + norm["bias"]

    def rectify(x):
        return jnp.maximum(x, 0)

    x = convolve(images, params["stem"])
    if order == "post":
        x = rectify(normalise(x, params["norm"]))
    for name, stride in (("block01", 1), ("block02", 2), ("block03", 2)):
        unit = params[name]
        if order == "post":
            y = rectify(normalise(convolve(x, unit["conv1"], stride), unit["norm1"]))
            y = normalise(convolve(y, unit["conv2"]), unit["norm2"])
        else:
            y = convolve(rectify(normalise(x, unit["norm1"])), unit["conv1"], stride)
            y = convolve(rectify(normalise(y, unit["norm2"])), unit["conv2"])
        if shortcut == "C" or (shortcut == "B" and stride == 2):
            h = scale * convolve(x, unit["projection"], stride)
            y = y + (normalise(h, unit["projection_norm"]) if order == "post" else h)
        elif shortcut:
            h = scale * x[:, ::stride, ::stride]
            y = y + jnp.concatenate([h, jnp.zeros((*h.shape[:3], y.shape[3] - h.shape[3]))], axis=3)
        x = rectify(y) if order == "post" else y
    if order == "pre":
        x = rectify(normalise(x, params["norm"]))
    return x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize(
    ("shortcut", "order", "scale"),
    [
        (None, "post", None),
        ("A", "post", None),
        ("B", "post", None),
        ("C", "post", None),
        (None, "pre", None),
        ("A", "pre", None),
        ("B", "pre", None),
        ("A", "post", 0.5),
        ("A", "pre", 0.5),
        ("B", "pre", 2.0),
    ],
)
def test_a_net_of_eight_layers_is_what_one_writes_by_hand(shortcut, order, scale):
    which = {"shortcut": shortcut, "shortcut_scale": scale} if shortcut else {"name": "plain"}
    graph, params, rest = nets.split(build(order=order, **which))
    random = np.random.default_rng(0)  # so that scale and shift of the norms and the bias are not 1 and 0
    params = jax.tree.map(lambda leaf: leaf + 0.2 * random.normal(size=leaf.shape).astype(np.float32), params)
    images = digits(5)[0]
    logits, _ = jax.jit(lambda *arrays: nets.apply(graph, *arrays))(params, rest, images)
    theirs = jax.jit(lambda *arrays: by_hand(*arrays, shortcut=shortcut, order=order, scale=scale or 1))(params, images)
    np.testing.assert_allclose(logits, theirs, rtol=1e-4, atol=1e-4)


def test_seeds_can_be_built_under_vmap():
    weights = jax.vmap(lambda seed: nets.split(build(seed=seed))[1])(jnp.arange(2))
    for seed in range(2):
        for ours, theirs in zip(
            jax.tree.leaves(weights), jax.tree.leaves(nets.split(build(seed=seed))[1]), strict=True
        ):
            np.testing.assert_allclose(ours[seed], theirs, rtol=1e-6)


COMING_DEFAULT = """
import json
import flax
from gradflow.training import optimiser as optim
from gradflow.training.loop import Training
from gradflow.training.read import read
from naive import DIGITS, build, digits

net = build(depth=20)  # deep enough for units to be joined
readings = [read(net, *digits(8))]
training = Training(net, DIGITS, optim.optimiser("sgd", optim.schedule("constant", 0.05, 2), 0.9, 0.0), batch=16)
readings += training.readings(training.start(net, 0), 0, 2)
modes = flax.config.nnx_graph_mode, flax.config.nnx_graph_updates
print(json.dumps({"modes": modes, "losses": [reading.loss for reading in readings]}))
"""


def test_nets_build_train_and_read_the_same_under_the_coming_defaults_of_flax():
    environment = os.environ | {"NNX_GRAPH_MODE": "false", "NNX_GRAPH_UPDATES": "false"}
    command = [sys.executable, "-W", "error", "-c", COMING_DEFAULT]
    process = subprocess.run(
        command,
        env=environment,
        cwd=os.path.dirname(os.path.dirname(__file__)),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    result = json.loads(process.stdout)
    assert result["modes"] == [False, False]
    net = build(depth=20)
    training = Training(net, DIGITS, optim.optimiser("sgd", optim.schedule("constant", 0.05, 2), 0.9, 0.0), batch=16)
    here = [read(net, *digits(8)), *training.readings(training.start(net, 0), 0, 2)]
    assert result["losses"] == pytest.approx([reading.loss for reading in here], rel=1e-5)


# Twins that break a rule of He 2015, section 3.3


def test_a_net_that_pools_has_the_weights_and_the_shapes_of_the_one_that_strides():
    strided, pooled = build(depth=14, shortcut="A"), build(depth=14, shortcut="A", pooling="max")
    for (name, one), other in zip(flat(strided).items(), flat(pooled).values(), strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)
    shapes = [{p.name: p.shape for p in nets.points_of(net, (8, 8, 1))} for net in (strided, pooled)]
    ends = [name for name in shapes[0] if "/conv" in name or name == "head"]
    assert {name: shapes[0][name] for name in ends} == {name: shapes[1][name] for name in ends}
    assert shapes[1]["block03"] == (1, 4, 4, 4)  # pooled before the unit: the point is where both paths meet


def test_a_net_that_does_not_widen_has_the_parameters_of_its_table():
    # Stem, six units of two 3x3 layers, thirteen norms of scale and shift, head.
    assert count("residual", depth=14, width=5, widen=False) == 27 * 5 + 12 * 9 * 25 + 13 * 2 * 5 + 5 * 10 + 10


def test_hidden_layers_add_the_parameters_of_their_table():
    more = count("residual", depth=8, width=4, head="fc") - count("residual", depth=8, width=4)
    assert more == (16 * 64 + 64) + (64 * 64 + 64) + 64 * 10 - 16 * 10
