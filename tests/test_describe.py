"""The table of a net against the papers' integers, and against what the compiled net itself says it computes."""

import jax
import jax.numpy as jnp
import pytest

from gradflow import describe, nets
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
    net = nets.build("residual", depth=14, classes=7, channels=1, width=4)
    seen = {}

    def look(name, x):
        seen[name] = x.shape[1:]
        return x

    nets.apply(*nets.split(net), jnp.zeros((2, 11, 11, 1)), look)
    layers, _ = describe.layers("residual", image=11, channels=1, classes=7, depth=14, width=4)
    assert {layer.name: layer.output for layer in layers} == {layer.name: seen[layer.name] for layer in layers}
    assert [layer.position for layer in layers] == list(range(1, 15))


def test_multiply_adds_are_half_the_operations_that_xla_counts():
    net = nets.build("plain", depth=8, classes=10, channels=3, normalisation="none", activation="linear")
    graph, params, rest = nets.split(net)
    image = jnp.zeros((1, 32, 32, 3))
    cost = jax.jit(lambda params, x: nets.apply(graph, params, rest, x)[0]).lower(params, image).cost_analysis()
    # XLA leaves out the products with the zero padding and adds the pooling and the bias: within 8 %, whichever way.
    assert cost
    assert cost["flops"] / 2 == pytest.approx(total("plain", depth=8)[0], rel=0.08)


def test_the_printed_table_ends_with_the_totals():
    last = describe.table("residual", depth=20).splitlines()[-1].split()
    assert last == ["total", "269,722", "40,551,040"]


@pytest.mark.parametrize("wrong", [{"image": 0}, {"classes": 0}, {"channels": -1}, {"image": 3}])
def test_impossible_images_are_refused_in_one_line(wrong):
    with pytest.raises(BadInput, match="at least") as raised:
        describe.layers("residual", depth=8, **wrong)
    assert "\n" not in str(raised.value)
