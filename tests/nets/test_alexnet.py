"""AlexNet: the integers of papers.md section 6, the forward pass by hand, and two towers on two devices."""

import functools
import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from naive import build, check, respond

from gradflow import nets
from gradflow.commands import describe
from gradflow.errors import BadInput
from gradflow.training import platform as runtime
from gradflow.training import step as training

# papers.md, section 6.1: output, parameters.
TABLE = {
    "conv1": ((55, 55, 96), 34_944),
    "conv2": ((27, 27, 256), 307_456),
    "conv3": ((13, 13, 384), 885_120),
    "conv4": ((13, 13, 384), 663_936),
    "conv5": ((13, 13, 256), 442_624),
    "fc6": ((4096,), 37_752_832),
    "fc7": ((4096,), 16_781_312),
    "head": ((1000,), 4_097_000),
}
TOTALS = {"paper": 60_965_224, "ungrouped": 62_378_344, "one_tower": 61_100_840}
LAYERS = tuple(TABLE)


def alexnet(width: Any = 6, image: Any = 8, **settings: Any):
    return build("alexnet", depth=8, width=width, image=image, **settings)


def described(**settings):
    return describe.layers("alexnet", **settings)


def test_shapes_parameters_and_multiply_adds_are_those_of_the_paper():
    found, others = described(family="imagenet")
    assert {layer.name: (layer.output, layer.parameters) for layer in found} == TABLE
    assert [layer.position for layer in found] == list(range(1, 9))
    assert sum(layer.multiply_adds for layer in found) == 724_406_816
    assert others == 0


@pytest.mark.parametrize("variant", TOTALS)
def test_variants_have_the_published_number_of_parameters(variant):
    found, _ = described(family="imagenet", variant=variant)
    assert sum(layer.parameters for layer in found) == TOTALS[variant]


def test_the_net_of_one_tower_for_224_pixels_has_the_shapes_of_torchvision():
    found, _ = described(family="imagenet", variant="one_tower", image=224)
    maps = [(55, 55, 64), (27, 27, 192), (13, 13, 384), (13, 13, 256), (13, 13, 256)]
    assert [layer.output for layer in found] == [*maps, (4096,), (4096,), (1000,)]
    assert sum(layer.parameters for layer in found) == TOTALS["one_tower"]
    assert sum(layer.multiply_adds for layer in found) == 714_188_480


def test_overlapping_and_plain_pools_give_equal_shapes_in_both_families():
    for settings in ({"family": "imagenet"}, {"image": 32}, {"image": 13}):
        assert described(**settings) == described(pooling="plain", **settings)


def test_the_cifar_form_is_a_quarter_as_wide():
    found, _ = described()
    assert [layer.output for layer in found] == [
        (32, 32, 24), (16, 16, 64), (8, 8, 96), (8, 8, 96), (8, 8, 64), (1024,), (1024,), (10,)
    ]  # fmt: skip


@pytest.mark.parametrize(("variant", "width"), [("paper", 12), ("ungrouped", 9), ("one_tower", 5)])
def test_all_layers_scale_with_the_width(variant, width):
    full, _ = described(family="imagenet", variant=variant)
    found, _ = described(family="imagenet", variant=variant, width=width)
    for one, other in zip(found[:-1], full[:-1], strict=True):
        assert one.output[-1] * full[0].output[-1] == other.output[-1] * width


def test_biases_and_weights_start_as_in_the_paper():
    net: Any = nets.build("alexnet", classes=10, channels=3)
    params = nets.split(net)[1]
    ones = {name for name in LAYERS if np.all(params[name]["bias"] == 1)}
    zeros = {name for name in LAYERS if np.all(params[name]["bias"] == 0)}
    assert ones == {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert zeros == {"conv1", "conv3", "head"}
    for name in LAYERS[:-1]:
        kernel = np.asarray(params[name]["kernel"])
        # A normal sample's deviation is known to 1 / sqrt(2 n).
        assert kernel.std() == pytest.approx(0.01, rel=4 / np.sqrt(2 * kernel.size))


# The forward pass by hand


def pool(x, window, partial):
    """The largest of the windows 2 apart; nothing is outside."""
    side = x.shape[1]
    out = -(-(side - window) // 2) + 1 if partial else (side - window) // 2 + 1
    x = jnp.pad(x, ((0, 0), (0, window), (0, window), (0, 0)), constant_values=-jnp.inf)
    cuts = [x[:, i : i + 2 * out : 2, j : j + 2 * out : 2] for i in range(window) for j in range(window)]
    return jnp.max(jnp.stack(cuts), axis=0)


def thin(x, keys):
    return jnp.where(jax.random.bernoulli(next(keys), 0.5, x.shape), 2 * x, 0)


def keys_of(rest):
    key = jax.random.wrap_key_data(rest["dropout"]["key"])
    while True:
        key, now = jax.random.split(key)
        yield now


def by_hand(params, rest, images, family, variant, lrn, window):
    keys, towers = keys_of(rest), 2 if variant == "paper" else 1
    first = (1, 2) if family == "cifar" else (4, 2 if variant == "one_tower" else 0)
    x = images
    for name, stride, padding, groups in (
        ("conv1", *first, 1),
        ("conv2", 1, 2, towers),
        ("conv3", 1, 1, 1),
        ("conv4", 1, 1, towers),
        ("conv5", 1, 1, towers),
    ):
        x = jax.lax.conv_general_dilated(
            x,
            params[name]["kernel"],
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        x = jnp.maximum(x + params[name]["bias"], 0)
        if lrn and name in ("conv1", "conv2"):
            x = respond(x)
        if name in ("conv1", "conv2", "conv5"):
            x = pool(x, window, family == "cifar" and window == 3)
    x = x.reshape(len(x), -1)
    for name in ("fc6", "fc7"):
        x = thin(x, keys) if variant == "one_tower" else x
        x = jnp.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
        x = x if variant == "one_tower" else thin(x, keys)
    return x @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize(
    ("family", "variant", "pooling", "lrn", "image"),
    [
        ("cifar", "paper", "overlapping", None, 8),
        ("cifar", "ungrouped", "plain", False, 11),
        ("cifar", "one_tower", "overlapping", True, 8),
        ("imagenet", "paper", "overlapping", None, 67),
        ("imagenet", "one_tower", "plain", None, 63),
    ],
)
def test_the_net_is_what_one_writes_by_hand(family, variant, pooling, lrn, image):
    net = alexnet(family=family, variant=variant, pooling=pooling, lrn=lrn, image=image, initialisation="he")
    graph, params, rest = nets.split(net)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * random.normal(size=leaf.shape).astype(np.float32), params)
    images = jnp.asarray(random.normal(size=(3, image, image, 1)), jnp.float32)
    logits, _ = jax.jit(lambda *arrays: nets.apply(graph, *arrays))(params, rest, images)
    window, lrn = 2 if pooling == "plain" else 3, variant != "one_tower" if lrn is None else lrn
    theirs = jax.jit(functools.partial(by_hand, family=family, variant=variant, lrn=lrn, window=window))(
        params, rest, images
    )
    np.testing.assert_allclose(logits, theirs, rtol=1e-4, atol=1e-4)


def test_one_step_of_the_net_of_the_paper_in_its_own_size():
    net = nets.build("alexnet", classes=1000, channels=3, family="imagenet")
    random = np.random.default_rng(0)
    images = jnp.asarray(random.normal(size=(2, 227, 227, 3)), jnp.float32)
    graph, params, rest = nets.split(net)
    points = nets.points_of(net, (227, 227, 3))
    run = jax.jit(lambda params: training.gradients(graph, points, params, rest, images, jnp.array([3, 777])))
    gradient, backward, forward, _, loss, _ = run(params)
    # The mean of exp over a thousand normal logits of deviation s is exp(s^2 / 2); the two right ones are within 4 s.
    spread = float(forward["head"][1])
    assert abs(float(loss) - np.log(1000) - spread**2 / 2) < 4 * spread
    to_bias = np.asarray(gradient["head"]["bias"])  # the mean of softmax less what is right
    assert to_bias.sum() == pytest.approx(0, abs=1e-5)
    assert set(np.flatnonzero(to_bias < 0)) == {3, 777}
    assert set(forward) == set(backward) == set(LAYERS)
    for name in LAYERS:
        norm = float(jnp.linalg.norm(gradient[name]["kernel"]))
        assert np.isfinite(norm)
        assert norm > 0


# Bad settings


@pytest.mark.parametrize(
    ("setting", "legal"),
    [
        ({"depth": 7}, "has no depth 7: it has 8 weighted layers"),
        ({"family": "mnist"}, "cifar, imagenet"),
        ({"variant": "two_towers"}, "paper, ungrouped, one_tower"),
        ({"width": 16}, "variant 'paper' needs a positive multiple of 6"),
        ({"width": 0}, "positive multiple of 6"),
        ({"width": 10, "variant": "ungrouped"}, "positive multiple of 3"),
        ({"image": 7}, "family 'cifar' needs at least 8 pixels a side"),
        ({"image": 32, "family": "imagenet"}, "family 'imagenet' needs at least 67 pixels a side"),
        ({"image": 62, "family": "imagenet", "variant": "one_tower"}, "needs at least 63 pixels a side"),
        ({"pooling": "max"}, "overlapping, plain"),
        ({"dropout": 1.0}, "from 0 to below 1"),
        ({"initialisation": "xavier"}, "he, glorot"),
        ({"shortcut": "A"}, "depth, .*family, variant, width, lrn, pooling, dropout"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_legal_ones(setting, legal):
    with pytest.raises(BadInput, match=legal):
        check("alexnet", **setting)
    with pytest.raises(BadInput, match=legal):
        nets.build("alexnet", classes=10, channels=3, **setting)


def test_images_of_another_size_are_refused():
    with pytest.raises(BadInput, match="images of 9x9 pixels do not fit this net: it is made for 8x8 pixels"):
        alexnet()(jnp.zeros((1, 9, 9, 1)))


# Training


TOWERS = """
import json, re
import jax, jax.numpy as jnp, numpy as np
from naive import digits
from gradflow.nets.layers import atoms as layers
from gradflow import nets
from gradflow.training import platform as runtime
from gradflow.training import step as training

net = nets.build("alexnet", classes=10, channels=1, image=8, width=12, initialisation="he")
graph, params, rest = nets.split(net)
points = nets.points_of(net, (8, 8, 1))
images, labels = digits(4)
step = jax.jit(lambda *arrays: training.gradients(graph, points, *arrays))
one = step(params, rest, images, labels)
mesh = runtime.tower_mesh()
assert mesh.shape == {"tower": 2}
apart = runtime.shard_towers(mesh, params)
with jax.set_mesh(mesh):
    arrays = (apart, *runtime.replicate(mesh, (rest, images, labels)))
    compiled = step.lower(*arrays).compile()
    two = compiled(*arrays)

def difference(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))

convolution = layers.Convolution(
    8, 8, 3, groups=2, kernel_init=jax.nn.initializers.normal(), dtype=None, rngs=layers.nnx.Rngs(0)
)
graph, state = layers.nnx.split(convolution)
def alone(kernel, x):
    return layers.nnx.merge(graph, layers.nnx.State({"kernel": state["kernel"].replace(kernel)}))(x)
with jax.set_mesh(mesh):
    place = runtime.shard_towers(mesh, {"kernel": convolution.kernel.get_value(), "x": jnp.ones((2, 6, 6, 8))})
    back = jax.jit(lambda kernel, x, y: jax.vjp(alone, kernel, x)[1](y))
    grouped = back.lower(place["kernel"], place["x"], place["x"]).compile().as_text()

print(json.dumps({
    "devices": jax.device_count(),
    "difference": jax.tree.map(difference, {"loss": two[4], "gradient": two[0], "points": two[1]},
                               {"loss": one[4], "gradient": one[0], "points": one[1]}),
    "held": {name: [array.addressable_shards[0].data.size / array.size for array in layer.values()]
             for name, layer in apart.items()},
    "gradient_held": two[0]["conv4"]["kernel"].addressable_shards[0].data.shape,
    "sent_by_a_grouped_convolution": re.findall(r"all-[a-z]+|collective-[a-z]+|reduce-scatter", grouped),
    "sent_by_the_net": len(re.findall(r"all-gather|all-reduce|collective-permute", compiled.as_text())),
}))
"""


def test_two_towers_on_two_devices_are_one_net_on_one():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": flags}
    process = subprocess.run(
        [sys.executable, "-c", TOWERS], env=environment, cwd=os.path.dirname(os.path.dirname(__file__)),
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    result = json.loads(process.stdout)
    assert result["devices"] == 2
    assert max(jax.tree.leaves(result["difference"])) < 1e-5
    assert len(jax.tree.leaves(result["difference"])) == 1 + 16 + 8
    assert result["held"] == {name: [0.5, 0.5] for name in LAYERS}
    assert result["gradient_held"] == [3, 3, 24, 24]
    assert result["sent_by_a_grouped_convolution"] == []
    assert result["sent_by_the_net"] > 0  # where the towers meet


def test_more_towers_than_devices_are_refused():
    count = jax.device_count()
    with pytest.raises(BadInput, match=f"{count + 1} towers need {count + 1} devices: there are {count}"):
        runtime.tower_mesh(count + 1)
