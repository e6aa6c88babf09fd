"""What is known of a net by its settings, against its own kernels and against the closed form of the border."""

import pytest

import gradflow as gf
from gradflow import nets
from gradflow.claims.geometry import geometry

PLAIN = {"net": "plain", "depth": 20, "data": "digits"}


@pytest.mark.parametrize(
    "run",
    [PLAIN, {"net": "residual", "depth": 14, "shortcut": "B", "data": "digits"}, {"net": "mlp", "data": "digits"}]
    + [{"net": name, "data": "digits"} for name in ("cnn", "vgg", "nin")],
    ids=lambda run: run["net"],
)
def test_outputs_are_those_of_the_kernels_in_the_order_of_the_forward_pass(run):
    own = {name: value for name, value in run.items() if name not in ("net", "data")}
    net = nets.abstract(run["net"], classes=10, channels=1, image=8, **own)
    weights = nets.weighted_layers(nets.split(net)[1])
    found = geometry(run)
    assert found
    assert found.chain
    assert {layer.name: layer.outputs for layer in found.layers} == {
        name: layer["kernel"].shape[-1] for name, layer in weights.items() if "projection" not in name
    }


def test_settings_are_at_the_nets_defaults_where_the_table_has_none():
    found = geometry(PLAIN | {"activation": float("nan"), "width": 8.0, "normalisation": "none"})
    assert found
    chosen = {name: found.settings[name] for name in ("activation", "width", "normalisation", "padding")}
    assert chosen == {"activation": "relu", "width": 8, "normalisation": "none", "padding": "zero"}
    assert found.layers[1].outputs == 8


def test_the_border_is_that_of_the_sides_of_all_maps():
    found = geometry(PLAIN)
    assert found
    # 18 layers in 9 units after the stem: six on 8x8, six on 4x4, six on 2x2, the first of a stage with stride 2.
    assert found.border() == pytest.approx(gf.border_decades([8] * 7 + [4] * 6 + [2] * 6))


def test_a_pool_begins_a_new_row_of_maps():
    found = geometry({"net": "vgg", "depth": 11, "data": "digits"})
    assert found
    rows = [[4, 4], [2, 2, 2], [1, 1, 1], [1, 1, 1]]  # behind the pools; 1x1 maps are not pooled any more
    assert found.border() == pytest.approx(sum(map(gf.border_decades, rows[:2])) + gf.border_decades([1] * 5))


@pytest.mark.parametrize(("side", "channels"), [(32, 3), (28, 1), (64, 3)])
def test_the_side_of_the_images_follows_from_the_multiply_adds(side, channels):
    net = nets.abstract("plain", classes=10, channels=channels, depth=8)
    counted = nets.multiply_adds(nets.weighted_layers(nets.split(net)[1]), nets.points_of(net, (side, side, channels)))
    run = {"net": "plain", "depth": 8, "data": "somewhere", "multiply_adds": float(sum(counted.values()))}
    found = geometry(run)
    assert found
    assert found.sized
    assert found.layers[0].pixels == side
    unknown = geometry(run | {"multiply_adds": 1.0})
    assert unknown
    assert not unknown.sized
    assert unknown.border() is None


def test_of_a_users_net_or_one_of_another_version_nothing_is_known():
    assert geometry({"net": "my_nets.py:build"}) is None
    assert geometry({"net": "all"}) is None
    assert geometry({}) is None
    assert geometry({"net": "plain", "depth": 9}) is None


def test_branches_and_large_windows_have_no_border():
    inception, cnn = geometry({"net": "googlenet", "data": "digits"}), geometry({"net": "cnn", "data": "digits"})
    assert inception
    assert not inception.chain
    assert inception.border() is None
    assert cnn
    assert cnn.border() is None
