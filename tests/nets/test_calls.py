"""A net that takes no hook is trained and swept all the same: the outputs of its modules are its points."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import call, compile_once  # noqa: F401
from flax import nnx
from naive import digits, loss

import gradflow as gf
from gradflow import nets
from gradflow.errors import BadInput
from gradflow.nets import calls, marks

SOURCE = """
import jax
from flax import nnx


class Unit(nnx.Module):
    def __init__(self, width, rngs):
        self.left, self.right = nnx.Linear(width, width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x, train=False):
        return jax.nn.relu(self.left(x) + self.right(x))


class Net(nnx.Module):
    def __init__(self, depth, width, inputs, classes, how, rngs):
        self.how = how
        self.stem = nnx.Linear(inputs, width, rngs=rngs)
        self.units = nnx.List([Unit(width, rngs) for _ in range(depth - 2)])
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, images):
        x = self.stem(images.reshape(len(images), -1))
        for unit in self.units:
            x = nnx.remat(lambda unit, x: unit(x))(unit, x) if self.how == "remat" else unit(x)
        return self.head(x)


def build(*, classes, channels, seed, image=8, depth: int = 4, width: int = 8, how: str = "loop"):
    return Net(depth, width, image * image * channels, classes, how, nnx.Rngs(seed))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "my_nets.py"
    path.write_text(SOURCE)
    return path


def test_a_depth_sweep_of_nets_without_a_hook(file, tmp_path):
    command = ("sweep", "--net", f"{file}:build", "--depth", 3, 4, "--steps", 2, "--batch", 16, "--workers", 1)
    done = call(*command, "--results", tmp_path)
    assert done.code == 0, done
    frame = gf.load(tmp_path / "sweep")
    for depth in (3, 4):
        last = frame[(frame["depth"] == depth) & (frame["layer"] == "head")]
        assert set(last["position"]) == {depth}, "layers side by side count once"
    assert (tmp_path / "sweep" / "gradient_norm.svg").is_file()


def test_its_readings_are_those_of_the_net_cut_by_hand(file):
    images, labels = digits(16)
    net: Any = nets.build(f"{file}:build", classes=10, channels=1, image=8)
    reading = gf.read(net, images, labels)
    assert list(reading.spec.activations) == [
        "stem",
        *(f"units/{i}{part}" for i in range(2) for part in ("/left", "/right", "")),
        "head",
    ]
    unit, rest = net.units[0], [net.units[1], net.head]

    def cut(shift):
        y = jax.nn.relu(
            unit.left(net.stem(images.reshape(16, -1))) + shift + unit.right(net.stem(images.reshape(16, -1)))
        )
        for layer in rest:
            y = layer(y)
        return loss(y, labels)

    norm = 4 * float(jnp.linalg.norm(jax.grad(cut)(jnp.zeros((16, 8)))))
    assert reading.values["activation_gradient_norm"]["units/0/left"] == pytest.approx(norm, rel=1e-5)


def test_a_module_inside_a_transform_is_refused_in_one_line(file):
    net = nets.build(f"{file}:build", classes=10, channels=1, image=8, how="remat")
    with pytest.raises(BadInput, match="'units/0/left' is called inside a transform"):
        gf.read(net, *digits(16))


class Takes:
    def hook_by_name(self, x, train=False, hook=None): ...
    def hook_by_place(self, x, watch): ...
    def a_flag(self, x, train=False): ...
    def images_alone(self, x): ...


@pytest.mark.parametrize(
    ("name", "expected"), [("hook_by_name", True), ("hook_by_place", True), ("a_flag", False), ("images_alone", False)]
)
def test_which_nets_take_a_hook(name, expected):
    kind = type("Net", (nnx.Module,), {"__call__": getattr(Takes, name)})
    assert calls.takes_hook(kind()) is expected


def test_classes_are_as_they_were_after_a_trace_that_fails(file):
    net: Any = nets.build(f"{file}:build", classes=10, channels=1, image=8)
    before = {kind: vars(kind)["__call__"] for kind in (type(net), type(net.units[0]), nnx.Linear)}
    merge, scan, vmap = nnx.merge, jax.lax.scan, jax.vmap
    with pytest.raises(BadInput, match="cannot be traced"):
        gf.value_and_grad(lambda net, x: net(x[:, :3]).mean(), gf.watch(net))(net, digits(4)[0])
    assert {kind: vars(kind)["__call__"] for kind in before} == before
    assert (nnx.merge, jax.lax.scan, jax.vmap) == (merge, scan, vmap)
    assert not any(hasattr(module, marks.MARK) for _, module in nnx.iter_modules(net))
    assert json.dumps(np.asarray(net(digits(4)[0])).shape) == "[4, 10]"
