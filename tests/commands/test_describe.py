"""The table of a net against the papers' integers, and against what the compiled net itself says it computes."""

import re

import jax
import jax.numpy as jnp
import pytest

from gradflow import nets
from gradflow.commands import describe, tabulate
from gradflow.errors import BadInput

# papers.md computes these from the layer tables of He et al. 2015 (section 4.2 and table 1).
CIFAR = {20: 40_551_040, 32: 68_862_592, 44: 97_174_144, 56: 125_485_696, 110: 252_887_680}


def total(name, **settings):
    layers, others = describe.layers(name, **settings)
    return sum(layer.multiply_adds for layer in layers), others + sum(layer.parameters for layer in layers)


@pytest.mark.parametrize("depth", CIFAR)
def test_multiply_adds_of_the_cifar_family_are_the_papers(depth):
    assert total("plain", depth=depth)[0] == total("residual", depth=depth)[0] == CIFAR[depth]


@pytest.mark.parametrize(
    ("depth", "shortcut", "billions", "printed"),
    [(18, "A", 1.795, 1.8), (18, "B", 1.814, 1.8), (34, "A", 3.644, 3.6), (34, "B", 3.664, 3.6), (50, "B", 3.858, 3.8),
     (101, "B", 7.570, 7.6), (152, "B", 11.282, 11.3)],
)  # fmt: skip
def test_multiply_adds_of_the_imagenet_family_are_the_papers(depth, shortcut, billions, printed):
    adds, _ = total("residual", depth=depth, family="imagenet", shortcut=shortcut)
    assert round(adds / 1e9, 3) == billions
    assert adds / 1e9 == pytest.approx(printed, abs=0.07)  # the paper's own rounding


def test_parameters_of_the_table_add_up_to_those_of_the_net():
    _, parameters = total("residual", depth=20, shortcut="C")
    assert parameters == 283_962


def test_shapes_are_those_of_the_computation():
    graph, params, rest = nets.split(nets.abstract("residual", depth=14, classes=7, channels=1, width=4))
    seen = {}

    def look(name, x):
        seen[name] = x.shape[1:]
        return x

    forward = lambda params, rest, x: nets.apply(graph, params, rest, x, look)  # noqa: E731
    jax.eval_shape(forward, params, rest, jnp.zeros((2, 11, 11, 1)))
    layers, _ = describe.layers("residual", image=11, channels=1, classes=7, depth=14, width=4)
    assert {layer.name: layer.output for layer in layers} == {layer.name: seen[layer.name] for layer in layers}
    assert [layer.position for layer in layers] == list(range(1, 15))


def test_multiply_adds_are_half_the_operations_that_xla_counts():
    net = nets.abstract("plain", depth=8, classes=10, channels=3, normalisation="none", activation="linear")
    graph, params, rest = nets.split(net)
    image = jnp.zeros((1, 32, 32, 3))
    forward = jax.jit(lambda params, rest, x: nets.apply(graph, params, rest, x)[0])
    cost = forward.lower(params, rest, image).cost_analysis()
    # XLA leaves out the products with the zero padding and adds the pooling and the bias: within 8 %, whichever way.
    assert cost
    assert cost["flops"] / 2 == pytest.approx(total("plain", depth=8)[0], rel=0.08)


def rows(name, **settings):
    """The cells of each printed row but for the heading, normalisations and total; empty ones are left out."""
    return [re.split("  +", line) for line in str(tabulate.describe(name, **settings)).splitlines()[1:-2]]


@pytest.mark.parametrize("layers", [False, True])
def test_the_printed_table_ends_with_the_totals(layers):
    last = str(tabulate.describe("residual", layers=layers, depth=20)).splitlines()[-1].split()
    assert last == ["total", "269,722", "40,551,040"]


def test_layer_by_layer_each_has_its_position():
    lines = [
        line.split() for line in str(tabulate.describe("residual", layers=True, depth=8, shortcut="C")).splitlines()
    ]
    assert lines[:4] == [
        ["layer", "output", "parameters", "multiply-adds", "position"],
        ["stem", "32x32x16", "432", "442,368", "1"],
        ["block01/projection", "32x32x16", "256", "262,144", "1"],
        ["block01/conv1", "32x32x16", "2,304", "2,359,296", "2"],
    ]


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
@pytest.mark.parametrize(
    ("depth", "units", "widths"),
    [
        (34, "[3x3, {0}; 3x3, {0}]", (64, 128, 256, 512)),
        (50, "[1x1, {0}; 3x3, {0}; 1x1, {1}]", (256, 512, 1024, 2048)),
    ],
)
def test_residual_nets_have_the_rows_of_he_table_1(depth, units, widths, shortcut):
    stem, pool, *stages, mean, head = rows("residual", depth=depth, family="imagenet", shortcut=shortcut)
    assert stem[:3] == ["stem", "112x112x64", "7x7, 64, stride 2"]
    assert pool == ["max pool", "56x56x64", "3x3, stride 2"]
    expected = []
    for stage, (count, width) in enumerate(zip((3, 4, 6, 3), widths, strict=True)):
        side, channels = 56 // 2**stage, 64 * 2**stage
        layers = count * units.count("x")
        expected.append([f"{side}x{side}x{width}", f"{units.format(channels, width)} x{count}", f"{layers}"])
    assert [row[1:4] for row in stages] == expected
    assert [row[0] for row in stages] == [f"block{ends}" for ends in ("01..block03", "04..block07", "08..block13",
                                                                     "14..block16")]  # fmt: skip
    assert mean == ["average pool", str(widths[-1]), "7x7"]
    assert head == [
        "head",
        "1000",
        "fc, 1000",
        "1",
        f"{1000 * widths[-1] + 1000:,}",
        f"{1000 * widths[-1]:,}",
        str(depth),
    ]
    assert sum(int(row[3]) for row in (stem, *stages, head)) == depth


@pytest.mark.parametrize("n", [3, 9])
def test_the_cifar_family_has_the_rows_of_he_section_4_2(n):
    # papers.md section 1.5: 1 + 2n, 2n and 2n layers on maps of 32, 16 and 8 pixels, with 16, 32 and 64 filters.
    _, *stages, mean, _ = rows("plain", depth=6 * n + 2)
    assert [row[1:4] for row in stages] == [
        [f"{side}x{side}x{width}", f"[3x3, {width}; 3x3, {width}] x{n}", str(2 * n)]
        for side, width in ((32, 16), (16, 32), (8, 64))
    ]
    assert [row[-1] for row in stages] == [f"{2 + 2 * n * stage}..{1 + 2 * n * (stage + 1)}" for stage in range(3)]
    assert mean == ["average pool", "64", "8x8"]


@pytest.mark.parametrize(
    ("settings", "blocks", "thirds"),  # papers.md section 9: configurations A, C and D
    [
        ({"depth": 11}, (1, 1, 2, 2, 2), "3x3"),
        ({"depth": 16, "variant": "1x1"}, (2, 2, 3, 3, 3), "1x1"),
        ({"depth": 16}, (2, 2, 3, 3, 3), "3x3"),
    ],
)
def test_vgg_has_the_columns_of_its_table_1(settings, blocks, thirds):
    side, expected = 224, []
    for width, count in zip((64, 128, 256, 512, 512), blocks, strict=True):
        kernels = ["3x3", "3x3", thirds][:count]
        expected += [[f"{side}x{side}x{width}", f"{kernel}, {width}"] for kernel in kernels]
        side //= 2
        expected.append([f"{side}x{side}x{width}", "2x2, stride 2"])
    expected += [["4096", "fc, 4096"], ["4096", "fc, 4096"], ["1000", "fc, 1000"]]
    found = rows("vgg", family="imagenet", **settings)
    assert [row[1:3] for row in found] == expected
    assert [row[-1] for row in found if row[0] != "max pool"] == [str(at) for at in range(1, settings["depth"] + 1)]


# papers.md section 8.1: output, the columns from 1x1 to pool projection, parameters.
GOOGLENET = """
3a 28 256  64  96 128 16  32  32   163,696
3b 28 480 128 128 192 32  96  64   388,736
4a 14 512 192  96 208 16  48  64   376,176
4b 14 512 160 112 224 24  64  64   449,160
4c 14 512 128 128 256 24  64  64   510,104
4d 14 528 112 144 288 32  64  64   605,376
4e 14 832 256 160 320 32 128 128   868,352
5a  7  832 256 160 320 32 128 128 1,043,456
5b  7 1024 384 192 384 48 128 128 1,444,080
"""


def test_googlenet_has_the_rows_and_columns_of_its_table_1():
    found = {row[0]: row[1:] for row in rows("googlenet", family="imagenet", auxiliary=False)}
    for line in GOOGLENET.strip().splitlines():
        module, side, channels, *columns, parameters = line.split()
        cells = found[f"inception{module}"]
        assert cells[:9] == [f"{side}x{side}x{channels}", *columns, "2", parameters]
    heading = str(tabulate.describe("googlenet", auxiliary=False)).splitlines()[0].split()
    assert heading[3:9] == ["1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_projection"]
    names = [row[0].removeprefix("inception") for row in rows("googlenet", family="imagenet", auxiliary=False)]
    assert names == ["conv1", "max pool", "conv2", "max pool", "3a", "3b", "max pool", "4a", "4b", "4c", "4d", "4e",
                     "max pool", "5a", "5b", "average pool", "head"]  # fmt: skip
    assert found["conv1"][:4] == ["112x112x64", "7x7, 64, stride 2", "1", "9,472"]
    assert found["conv2"][:4] == ["56x56x192", "[1x1, 64; 3x3, 192]", "2", f"{4_160 + 110_784:,}"]
    assert found["average pool"] == ["1024", "7x7"]
    assert found["head"] == ["1000", "fc, 1000", "1", "1,025,000", "1,024,000", "22"]


def test_a_naive_module_passes_its_input_on_beside_its_own_maps():
    found = {row[0]: row[1:] for row in rows("googlenet", depth=13, variant="naive", auxiliary=False)}
    assert found["inception3a"][:5] == [f"32x32x{192 + 64 + 128 + 32}", "64", "128", "32", "1"]


def test_alexnet_has_its_layers_and_pools_in_order():
    found = rows("alexnet", family="imagenet")
    three = "3x3, stride 2"
    assert [row[:3] for row in found] == [
        ["conv1", "55x55x96", "11x11, 96, stride 4"],
        ["max pool", "27x27x96", three],
        ["conv2", "27x27x256", "5x5, 256, 2 towers"],
        ["max pool", "13x13x256", three],
        ["conv3", "13x13x384", "3x3, 384"],
        ["conv4", "13x13x384", "3x3, 384, 2 towers"],
        ["conv5", "13x13x256", "3x3, 256, 2 towers"],
        ["max pool", "6x6x256", three],
        ["fc6", "4096", "fc, 4096"],
        ["fc7", "4096", "fc, 4096"],
        ["head", "1000", "fc, 1000"],
    ]
    assert [row[4] for row in found if len(row) > 4][-3:] == ["37,752,832", "16,781,312", "4,097,000"]


def test_nin_has_its_three_mlpconv_layers_and_their_pools():
    assert [row[:4] for row in rows("nin")] == [  # papers.md section 7
        ["mlpconv1", "32x32x96", "[5x5, 192; 1x1, 160; 1x1, 96]", "3"],
        ["max pool", "16x16x96", "3x3, stride 2"],
        ["mlpconv2", "16x16x192", "[5x5, 192; 1x1, 192; 1x1, 192]", "3"],
        ["average pool", "8x8x192", "3x3, stride 2"],
        ["mlpconv3", "8x8x10", "[3x3, 192; 1x1, 192; 1x1, 10]", "3"],
        ["average pool", "10", "8x8"],
    ]


def test_the_perceptron_and_the_small_net_have_rows_too():
    assert [row[:3] for row in rows("mlp", depth=8)] == [
        ["stem", "256", "fc, 256"], ["block01..block06", "256", "[fc, 256] x6"], ["head", "10", "fc, 10"]
    ]  # fmt: skip
    assert [row[0] for row in rows("cnn")] == [
        "conv1", "max pool", "conv2", "average pool", "conv3", "average pool", "head"
    ]  # fmt: skip


def test_norms_that_average_over_pixels_are_no_pools():
    for normalisation in ("batch", "group", "layer"):
        names = [row[0] for row in rows("residual", depth=14, normalisation=normalisation, pooling="max")]
        assert names.count("average pool") == 1
        assert names.count("max pool") == 2


@pytest.mark.parametrize("wrong", [{"image": 0}, {"classes": 0}, {"channels": -1}, {"image": 3}])
def test_impossible_images_are_refused_in_one_line(wrong):
    with pytest.raises(BadInput, match="at least") as raised:
        describe.layers("residual", depth=8, **wrong)
    assert "\n" not in str(raised.value)
