"""A net that the memory cannot hold is refused before its weights are drawn: drawn, the large ones here would be."""

import pytest

import gradflow as gf
from gradflow import nets
from gradflow.data import bounds
from gradflow.errors import BadInput
from gradflow.runs.execute import execute
from gradflow.runs.record import Record
from gradflow.training import memory

OWN = '''
"""{wide} units."""
import numpy as np
from flax import nnx

class Net(nnx.Module):
    def __init__(self, seed, classes):
        self.hidden = nnx.Linear(64, {wide}, rngs=nnx.Rngs(seed))
        self.head = nnx.Linear({wide}, classes, rngs=nnx.Rngs(seed))
        self.scale = {scale}

    def __call__(self, images, hook):
        x = hook("hidden", self.hidden(images.reshape(len(images), -1)))
        return hook("head", self.head(x) / self.scale)

def build(*, classes, channels, seed):
    return Net(seed, classes)
'''
SCALARS = 3 * 4  # bytes: momentum, decay and the number of updates, which are in the optimiser's state
LOOKS_AT_WEIGHTS = "float(np.abs(self.hidden.kernel[...]).max())"


def refusal(**settings) -> str:
    with pytest.raises(BadInput) as error:
        next(gf.train(gf.Run(steps=1, **settings)))
    return str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"net": "plain", "depth": 20, "width": 65_536},
        {"net": "plain", "depth": 8, "width": 65_536, "initialisation": "delta_orthogonal"},
        {"net": "plain", "depth": 8, "width": 65_536, "initialisation": "orthogonal"},
        {"net": "residual_mlp", "depth": 40, "width": 65_536, "order": "pre"},
        {"net": "cnn", "width": 65_536},
        {"net": "vgg", "width": 65_536, "optimiser": "adam"},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_a_net_too_large_for_the_memory_is_refused(settings):
    said = refusal(**settings)
    assert "TiB of memory; legal are" in said
    assert memory.VARIABLE in said


def test_so_is_one_of_the_users_own(tmp_path):
    (tmp_path / "mine.py").write_text(OWN.format(wide=2**36, scale=1.0))
    assert "TiB of memory; legal are" in refusal(net=f"{tmp_path / 'mine.py'}:build")


def test_a_constructor_that_looks_at_its_weights_is_drawn_and_trains(tmp_path):
    (tmp_path / "mine.py").write_text(OWN.format(wide=8, scale=LOOKS_AT_WEIGHTS))
    assert next(gf.train(gf.Run(net=f"{tmp_path / 'mine.py'}:build", steps=1))).finite


@pytest.mark.parametrize(("optimiser", "moments"), [("sgd", 1), ("adam", 2)])
def test_the_size_is_that_of_weights_gradients_and_moments(monkeypatch, optimiser, moments):
    settings = {"net": "mlp", "depth": 3, "width": 128, "normalisation": "none", "optimiser": optimiser}
    weights = 4 * (64 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10)
    size = (2 + moments) * weights + SCALARS + 4 * (optimiser == "adam")  # and Adam counts its steps
    monkeypatch.setenv(memory.VARIABLE, str(size - 1))
    assert f"alone would take {size} bytes of memory" in refusal(**settings)
    monkeypatch.setenv(memory.VARIABLE, str(size))
    assert next(gf.train(gf.Run(steps=1, **settings))).finite


@pytest.mark.parametrize("depth", [201, 202, 9_000])
@pytest.mark.parametrize("net", ["mlp", "residual"])
def test_of_a_deep_net_two_shallow_ones_tell_the_size(monkeypatch, net, depth):
    """To the byte, and not one of thousands of layers is built."""
    if net == "residual" and depth % 2:
        depth += 3
    settings = {"net": net, "depth": depth, "width": 4, "normalisation": "none", "optimiser": "sgd"}
    if net == "mlp":
        weights = 64 * 4 + 4 + (depth - 2) * (4 * 4 + 4) + 4 * 10 + 10
    else:  # two layers a unit, as many units a stage; those beyond are in the earlier stages
        units = [(depth - 2) // 6 + (stage < (depth - 2) // 2 % 3) for stage in range(3)]
        first = 9 * (4 + 4 * 8 - 8 * 8 + 8 * 16 - 16 * 16)  # the stem, and what enters the later stages
        weights = first + sum(2 * 9 * count * (4 * 2**stage) ** 2 for stage, count in enumerate(units)) + 16 * 10 + 10
    size = 3 * 4 * weights + SCALARS
    built = []
    abstract = nets.abstract
    monkeypatch.setattr(nets, "abstract", lambda net, **given: built.append(given["depth"]) or abstract(net, **given))
    monkeypatch.setenv(memory.VARIABLE, str(size - 1))
    assert f"would take {bounds.words(size)} of memory" in refusal(**settings)
    assert max(built) < 20


def test_several_workers_share_the_memory(monkeypatch, tmp_path):
    run = gf.Run(net="mlp", depth=3, width=128, normalisation="none", steps=1, seed=11)
    size = 3 * 4 * (64 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10) + SCALARS
    monkeypatch.setenv(memory.VARIABLE, str(3 * size))
    with pytest.raises(BadInput, match=rf"in 4 --workers at once; legal are at most 3 --workers, .*{memory.VARIABLE}"):
        execute(run, Record(tmp_path / "run"), workers=4)
    assert not (tmp_path / "run").exists()
    assert execute(run, Record(tmp_path / "run"), workers=3) == "done"


def test_so_do_several_seeds(monkeypatch):
    run = gf.Run(net="mlp", depth=3, width=64, normalisation="none", steps=1)
    size = 3 * 4 * (64 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10) + SCALARS
    monkeypatch.setenv(memory.VARIABLE, str(3 * size))
    with pytest.raises(BadInput, match=rf"in 4 seeds at once; legal are at most 3 seeds, .*{memory.VARIABLE}"):
        next(gf.train_seeds(run, range(4)))
    assert next(gf.train_seeds(run, range(3))).keys() == {0, 1, 2}
