"""NumPy arrays as a data set, and what a run makes of it."""

import os
import shutil

import numpy as np
import pytest
from samples import NAMES, idx_folder, pixels, write_idx

import gradflow as gf
from gradflow.data.load import load_data

NET = '''
from flax import nnx

class Net(nnx.Module):
    def __init__(self, inputs, classes, seed):
        self.head = nnx.Linear(inputs, classes, rngs=nnx.Rngs(seed))

    def __call__(self, images, hook):
        return hook("head", self.head(images.reshape(len(images), -1)))

def build(*, classes: int, channels: int, seed: int, image: int = 4):
    """One layer."""
    return Net(image**2 * channels, classes, seed)
'''
X, Y = pixels(6, 4, 4, 1), np.arange(6) % 3
X_TEST, Y_TEST = pixels(3, 4, 4, 1, seed=1), np.arange(3)


def test_arrays_are_the_data_set_that_files_of_them_are(tmp_path):
    dataset = gf.data.from_arrays(X, Y, X_TEST, Y_TEST)
    files = load_data(str(idx_folder(tmp_path)))
    assert dataset.digest == files.digest
    assert dataset.classes == ("0", "1", "2")
    assert gf.data.from_arrays(X[..., 0], Y[:, None].tolist(), X_TEST[..., 0], Y_TEST).digest == files.digest


def test_names_and_their_number():
    named = gf.data.from_arrays(X, Y, classes=NAMES)
    assert named.classes == NAMES
    assert gf.data.from_arrays(X, np.array(NAMES)[Y]).digest == named.digest
    assert gf.data.from_arrays(X, Y, classes=(*NAMES, "dog")).digest != named.digest


def test_names_that_are_no_list_of_names():
    with pytest.raises(gf.BadInput, match="give the name of each class, in a list"):
        gf.data.from_arrays(X, Y, classes="abc")


def test_the_arrays_given_stay_the_users_own():
    x, y = X.copy(), Y.copy()
    dataset = gf.data.from_arrays(x, y, X_TEST, Y_TEST)
    x[:], y[:] = 0, 0
    np.testing.assert_array_equal(dataset.train_images, X)
    np.testing.assert_array_equal(dataset.train_labels, Y)


@pytest.fixture
def run(tmp_path) -> gf.Run:
    """Two steps of a net that compiles fast."""
    (tmp_path / "net.py").write_text(NET)
    return gf.Run(net=f"{tmp_path}/net.py:build", batch=2, steps=2, evaluations=1)


def test_a_run_trains_on_arrays_as_on_files(run, tmp_path):
    dataset = gf.data.from_arrays(X, Y, X_TEST, Y_TEST)
    ours = list(gf.train(run, data=dataset))
    files = list(gf.train(run.replace(data=str(idx_folder(tmp_path / "set")))))
    assert [reading.loss for reading in ours] == [reading.loss for reading in files]
    assert ours[-1].test_error == files[-1].test_error
    held_out = gf.data.from_arrays(X, Y)
    assert len(list(gf.train(run.replace(validation=2), data=held_out))) == 2
    with pytest.raises(gf.BadInput, match="--validation"):
        next(gf.train(run, data=held_out))
    assert set(next(gf.train_seeds(run, [0, 1], data=dataset))) == {0, 1}


@pytest.mark.parametrize(
    ("arguments", "legal"),
    [
        ((X / 255, Y), "x is float64; legal is uint8"),
        ((X, Y, X_TEST), "belong together"),
        ((X, Y, None, Y_TEST), "belong together"),
        ((X, Y[:5]), "6 images but y 5 labels"),
        ((X.transpose(0, 3, 1, 2), Y), "the last axis"),
        ((X[0, 0], Y), "x has the shape (4, 1)"),
        ((X, Y / 1), "y is float64"),
        ((X, np.eye(6)), "legal are integers or strings"),
        ((X, -Y), "label of row 1 is -1"),
        ((X, Y, X_TEST, Y_TEST + 1), "label of row 2 is 3"),
        ((X, Y, X_TEST[:, :3], Y_TEST), "one size for all"),
        ((X[:0], Y[:0]), "no images"),
        (([[1], [1, 2]], Y), "x is no array (ValueError)"),
        ((None, None), "x is object"),
    ],
)
def test_arrays_that_are_none(arguments, legal):
    with pytest.raises(gf.BadInput) as caught:
        gf.data.from_arrays(*arguments)
    assert legal in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("y", "classes", "legal"),
    [
        (Y, ("ant", "bee"), "label of row 2 is 2"),
        (Y, (), "one name a class"),
        (Y.astype(str), NAMES, "one name a class"),
    ],
)
def test_names_that_do_not_fit(y, classes, legal):
    with pytest.raises(gf.BadInput, match=legal):
        gf.data.from_arrays(X, y, classes=classes)


# What files are when a run begins


@pytest.mark.parametrize("change", ["of the files", "of the folder", "of the net"])
def test_training_is_on_what_is_there_now(change, tmp_path, monkeypatch):
    """The same words twice, and in between they mean others: files of the same size and, as far as can be, time."""
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        other = place == there
        labels = Y[::-1] if other and change != "of the net" else Y
        write_idx(idx_folder(place / "set") / "train-labels-idx1-ubyte", labels)
        (place / "net.py").write_text(NET.replace("self.head(", "-self.head(") if other and labels is Y else NET)
        for path in (place / "set").iterdir():
            os.utime(path, (0, 0))
    monkeypatch.chdir(here)
    run = gf.Run(net="net.py:build", data="set", batch=6, steps=1, evaluations=0)
    first = next(gf.train(run)).loss
    assert next(gf.train(run)).loss == first
    if change == "of the files":
        shutil.copy2(there / "set/train-labels-idx1-ubyte", here / "set")
    else:
        monkeypatch.chdir(there)
    assert next(gf.train(run)).loss != first
