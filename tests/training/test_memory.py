"""A net that the memory cannot hold is refused before its weights are drawn: drawn, the large ones here would be."""

import pytest

import gradflow as gf
from gradflow.errors import BadInput
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
    size = (2 + moments) * weights + 4 * (optimiser == "adam")  # and Adam counts its steps
    monkeypatch.setenv(memory.VARIABLE, str(size - 1))
    assert f"alone would take {size} bytes of memory" in refusal(**settings)
    monkeypatch.setenv(memory.VARIABLE, str(size))
    assert next(gf.train(gf.Run(steps=1, **settings))).finite
