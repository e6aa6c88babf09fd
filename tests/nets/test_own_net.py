"""A net of the user's own, in a file of its own, with settings that gradflow has never heard of: run, swept, described,
plotted and resumed, whole; and what is refused in one line.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import call, compile_once  # noqa: F401
from naive import digits, loss

import gradflow as gf
from gradflow import nets
from gradflow.errors import BadInput
from gradflow.runs.execute import execute
from gradflow.runs.record import Record

SOURCE = '''
"""Fully connected layers, each of whose responses is multiplied by a gain."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx


class Net(nnx.Module):
    def __init__(self, inputs, hidden, width, gain, squash, classes, rngs):
        self.gain, self.squash = gain, squash
        sizes = [inputs] + [width] * hidden
        self.layers = nnx.List([nnx.Linear(*pair, rngs=rngs) for pair in zip(sizes, sizes[1:])])
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, images, hook):
        x = images.reshape(len(images), -1)
        for i, layer in enumerate(self.layers):
            response = hook(f"layers/{i}", layer(x))
            x = self.gain * (jnp.tanh(response) if self.squash == "tanh" else jax.nn.relu(response))
        return hook("head", self.head(x))


def build(
    *,
    classes: int,
    channels: int,
    seed: int,
    image: int = 8,
    hidden: int = 2,
    width: int = 5,
    gain: float = 1.0,
    squash: Literal["tanh", "relu"] = "tanh",
) -> Net:
    """The net.

    Args:
        hidden: How many layers come before the classifier.
        width: Of each of them.
        gain: What every response is multiplied by.
        squash: Which function of it.
    """
    return Net(image * image * channels, hidden, width, gain, squash, classes, nnx.Rngs(seed))
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("own") / "my_nets.py"
    path.write_text(SOURCE)
    return path


def test_its_settings_are_those_of_its_constructor(file):
    run = gf.Run(net=f"{file}:build", gain=2, steps=3)
    assert (run.hidden, run.width, run.gain, run.squash) == (2, 5, 2.0, "tanh")
    assert list(run.settings)[:5] == ["net", "hidden", "width", "gain", "squash"]
    assert gf.Run(**run.settings) == run
    assert nets.settings(run.net)["gain"].meaning == "What every response is multiplied by."
    with pytest.raises(BadInput, match="no setting 'gian': did you mean 'gain'"):
        gf.Run(net=f"{file}:build", gian=2)
    with pytest.raises(BadInput, match="unknown squash 'gelu': choose one of tanh, relu"):
        gf.Run(net=f"{file}:build", squash="gelu")


def test_its_readings_are_those_of_the_net_by_hand(file):
    images, labels = digits(16)
    net: Any = nets.build(f"{file}:build", classes=10, channels=1, image=8, gain=0.5)
    weights = [(layer.kernel[...], layer.bias[...]) for layer in [*net.layers, net.head]]

    def forward(shifts):
        x, responses = images.reshape(16, -1), []
        for (kernel, bias), shift in zip(weights, shifts, strict=True):
            responses.append(x @ kernel + bias + shift)
            x = 0.5 * jnp.tanh(responses[-1])
        return loss(responses[-1], labels), responses

    zeros = [jnp.zeros((16, size)) for size in (5, 5, 10)]
    gradients, responses = jax.grad(forward, has_aux=True)(zeros)
    reading = gf.read(net, images, labels)
    names = ["layers/0", "layers/1", "head"]
    norms = [4 * float(jnp.linalg.norm(gradient)) for gradient in gradients]  # 4 is the root of 16 examples
    assert list(reading.values["activation_gradient_norm"]) == names
    np.testing.assert_allclose([*reading.values["activation_gradient_norm"].values()], norms, rtol=1e-5)
    spreads = [float(jnp.std(response)) for response in responses]
    np.testing.assert_allclose([*reading.values["activation_std"].values()], spreads, rtol=1e-5)
    assert [reading.spec.position[name] for name in names] == [1, 2, 3]


def test_it_is_swept_plotted_and_not_run_twice(file, tmp_path):
    command = ("sweep", "--net", f"{file}:build", "--gain", 0.5, 2, "--steps", 4, "--batch", 16, "--results", tmp_path)
    first = call(*command, "--seeds", 2)
    assert first.code == 0, first
    folder = tmp_path / "sweep"
    frame = gf.load(folder)
    assert set(frame.gain) == {0.5, 2.0}
    assert set(frame.hidden) == {2}
    assert "depth" not in frame
    assert frame.groupby(["gain", "seed"]).run.nunique().to_list() == [1, 1, 1, 1]
    assert {path.name.rpartition("-")[0] for path in (folder / "runs").glob("build*")} == {
        f"build{gain}-steps=4-batch=16-seed{seed}" for gain in ("-gain=0.5", "-gain=2.0") for seed in (0, 1)
    }
    for gain in (0.5, 2.0):
        run = gf.Run(net=f"{file}:build", gain=gain, steps=4, batch=16, seed=1)
        rows = frame.sort_values("step")
        losses = rows[(rows.gain == gain) & (rows.seed == 1) & (rows.quantity == "loss")].value
        np.testing.assert_allclose(losses, [reading.loss for reading in gf.train(run)], rtol=1e-6)
    again = call(*command, "--seeds", 2)
    assert "4 of 4 runs are finished already" in again.err
    drawn = (folder / "gradient_norm.svg").read_bytes()
    (folder / "gradient_norm.svg").unlink()
    assert call("plot", folder).code == 0
    assert (folder / "gradient_norm.svg").read_bytes() == drawn
    for words in ("0.5", "2", "gain"):
        assert words in first.out


def test_it_goes_on_where_it_was(file, tmp_path):
    run = gf.Run(net=f"{file}:build", steps=6, batch=16, squash="relu")
    whole, parts = Record(tmp_path / "whole"), Record(tmp_path / "parts")
    assert execute(run, whole) == "done"
    polls = iter([False, True])
    assert execute(run, parts, stop=lambda: next(polls)) == "stopped"
    assert parts.status["step"] == 2
    assert execute(run, parts) == "done"
    rows = [record.readings().to_pandas().astype({"layer": str, "quantity": str}) for record in (whole, parts)]
    order = ["step", "layer", "quantity"]
    one, other = (some.sort_values(order).reset_index(drop=True) for some in rows)
    assert one.equals(other)


def test_it_is_described(file):
    printed = call("describe", f"{file}:build", "--hidden", 1, "--width", 7, "--image", 8, "--channels", 1)
    assert printed.code == 0, printed
    first, second = 64 * 7 + 7, 7 * 10 + 10
    assert f"{first:,}" in printed.out
    assert f"{second:,}" in printed.out
    assert "total" in printed.out
    assert "How many layers come before the classifier. Default: 2." in " ".join(
        call("describe", f"{file}:build", "--help").out.replace("│", " ").split()
    )


def test_its_file_counts_by_its_content(file, tmp_path):
    moved, changed = tmp_path / "elsewhere.py", tmp_path / "my_nets.py"
    shutil.copy(file, moved)
    changed.write_text(SOURCE + "\n# another content\n")
    one, same, other = (gf.Run(net=f"{path}:build").folder_name("digest") for path in (file, moved, changed))
    assert one == same != other
    run = gf.Run(net=f"{changed}:build")
    changed.write_text(SOURCE.replace("gain: float = 1.0", "gain: float = 3.0"))
    assert gf.Run(net=run.net).gain == 3.0


NO_MODULE = "def build(*, classes, channels, seed, width: int = 3): return width"
REFUSED = {
    "no file": (None, "build", "No such file"),
    "no function": ("def other(): pass", "build", "has no function 'build': it has other"),
    "not a function": ("build = 3", "build", "has no function 'build'"),
    "broken": ("def build(:", "build", "does not load: SyntaxError", "line 1"),
    "raises when loaded": ("\n1 / 0", "build", "does not load: ZeroDivisionError", "line 2"),
    "no classes": ("def build(*, channels, seed): ...", "build", "does not take classes", "nnx.Module"),
    "no seed": ("def build(*, classes, channels): ...", "build", "does not take seed"),
    "a type that is not plain": (
        "def build(*, classes, channels, seed, sizes: list = []): ...", "build", "'sizes' has the type list",
        "bool, int, float, str or a Literal",
    ),
    "no type": ("def build(*, classes, channels, seed, size=None): ...", "build", "'size' is None and has no type"),
    "a column of the tables": (
        "def build(*, classes, channels, seed, step: int = 2): ...",
        "build",
        "has a setting 'step', and so has every table",
    ),
    "no default": ("def build(*, classes, channels, seed, size: int): ...", "build", "'size' has no default"),
    "two of one name": (
        "def build(*, classes, channels, seed, steps: int = 3): ...", "build", "'steps', and so has every run",
    ),
    "keywords of any name": ("def build(*, classes, channels, seed, **more): ...", "build", "settings are keyword"),
    "a type that is not there": (
        "def build(*, classes, channels, seed, size: 'Nothing' = 3): ...", "build", "NameError",
    ),
    "no module": (NO_MODULE, "build", "is a int", "returns an nnx.Module"),
    "no images": (
        "from flax import nnx\nclass Net(nnx.Module):\n    def __call__(self): return 1\n"
        "def build(*, classes, channels, seed): return Net()",
        "build", "net(images, hook)",
    ),
    "raises when built": (
        "def build(*, classes, channels, seed, size: int = 3):\n    raise RuntimeError('too\\nlarge')",
        "build", "cannot build 'build' with {\"size\": 3}: RuntimeError: too (line 2)",
    ),
    "a layer without a point": (
        "from flax import nnx\nclass Net(nnx.Module):\n"
        "    def __init__(self, rngs): self.fc = nnx.Linear(64, 10, rngs=rngs)\n"
        "    def __call__(self, x, hook): return hook('out', self.fc(x.reshape(len(x), -1)))\n"
        "def build(*, classes, channels, seed): return Net(nnx.Rngs(seed))",
        "build", "weights at 'fc'", "hook('fc', response)",
    ),
}  # fmt: skip


BUILT = ("no images", "raises when built", "a layer without a point")  # wrong where it is built, as "no module" is


@pytest.mark.parametrize("name", BUILT)
def test_what_is_built_and_is_no_net_is_refused_in_one_line(name, tmp_path):
    source, function, *words = REFUSED[name]
    path = tmp_path / "bad.py"
    path.write_text(source)
    with pytest.raises(BadInput) as refused:
        next(iter(gf.train(gf.Run(net=f"{path}:{function}", steps=2))))
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in BUILT])
def test_what_is_no_net_is_refused_in_one_line(name, tmp_path):
    source, function, *words = REFUSED[name]
    path = tmp_path / "bad.py"
    if source is not None:
        path.write_text(source)
    printed = call("sweep", "--net", f"{path}:{function}", "--steps", 2, "--results", tmp_path / "results")
    assert printed.code == 2, printed
    assert printed.err.count("\n") == 1
    for word in words:
        assert word in printed.err
    assert "Traceback" not in printed.err
    assert not list(tmp_path.rglob("readings.parquet"))


def test_a_net_that_has_no_dtype_computes_in_float32_or_not_at_all(file, tmp_path):
    printed = call("sweep", "--net", f"{file}:build", "--precision", "bfloat16", "--results", tmp_path)
    assert printed.code == 2
    assert "takes no dtype" in printed.err


def test_a_file_that_changes_while_its_sweep_runs_is_refused(file, tmp_path):
    """The worker builds what is there by then: under the old name it must not be recorded."""
    from gradflow.runs import worker

    run = gf.Run(net=f"{file}:build", steps=2)
    job = {"run": "another-0123456789", "settings": json.loads(json.dumps(run.settings)), "command": ["gradflow"]}
    with pytest.raises(BadInput, match="changed since this command began"):
        worker._check_unchanged(gf.Run(**job["settings"]), job, "of the data")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_file_of_a_net_that_never_ends_is_not_read(make, tmp_path):
    make(tmp_path / "mine.py")
    printed = call("sweep", "--net", f"{tmp_path / 'mine.py'}:build", "--results", tmp_path / "results")
    assert printed.code == 2
    assert "is no Python file that can be read: it is no regular file" in printed.err
