"""Every number has a range: what is beyond it is refused in one line and at once, before anything is built of it."""

import itertools
import math
import time
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from command_line import call

import gradflow as gf
from gradflow.errors import BadInput
from gradflow.settings import ranges

TRILLION = 10**12


@pytest.mark.parametrize(("name", "ends"), ranges.RANGES.items(), ids=ranges.RANGES.keys())
def test_both_ends_are_legal_and_what_is_beyond_is_not(name, ends):
    for end, step in zip(ends, (-1, 1), strict=True):
        if math.isfinite(end):
            ranges.check(name, end)
            with pytest.raises(BadInput, match=rf"{name} .* is not legal: it must be (at least|at most|.* or more)"):
                ranges.check(name, end + step)
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(BadInput, match="it must be a finite number"):
            ranges.check(name, value)


def test_the_number_of_a_users_own_net_is_one_that_can_be_counted_with():
    for value in (2**31, -(2**31), 10**400, math.nan):
        with pytest.raises(BadInput) as error:
            ranges.check("gain", value)
        assert len(str(error.value)) < 120
    for value in (None, True, 3, -0.5, "x", 1e300):
        ranges.check("gain", value)


SWEEP = ("sweep", "--net", "plain")
CASES = [
    (*SWEEP, "--depth", 10**9),
    (*SWEEP, "--seeds", 10**9),
    (*SWEEP, "--seeds", 99_999, "--learning-rate", 0.1, 0.2),
    ("run", "depth_sweep", "--seeds", 10**9),
    (*SWEEP, "--width", 2**62),
    (*SWEEP, "--width", 10**30),
    (*SWEEP, "--steps", 2**33),
    (*SWEEP, "--batch", 10**10),
    (*SWEEP, "--record", "9" * 5000),
    (*SWEEP, "--learning-rate", "nan"),
    (*SWEEP, "--weight-decay", "inf"),
    (*SWEEP, "--momentum", -1),
    (*SWEEP, "--image-size", 10**6),
    (*SWEEP, "--checkpoint-seconds", "nan"),
    (*SWEEP, "--checkpoint-seconds", -1),
    ("run", "depth_sweep", "--checkpoint-seconds", "inf"),
    ("describe", "plain", "--classes", TRILLION),
    ("describe", "plain", "--channels", TRILLION),
    ("describe", "plain", "--image", TRILLION),
    ("describe", "plain", "--depth", 10**9),
    ("describe", "plain", "--image", 0),
]


@pytest.mark.parametrize("words", CASES, ids=lambda words: " ".join(map(str, words))[:50])
def test_a_number_beyond_its_range_is_one_line_at_once(words, tmp_path):
    begun = time.monotonic()
    result = call(*words, *([] if words[0] == "describe" else ["--results", tmp_path]))
    assert result.code == 2, result
    assert result.err.count("\n") == 1
    assert "is not legal" in result.err
    assert len(result.err) < 250
    assert time.monotonic() - begun < 20  # these once hung for hours
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["../x", "/abs", "", ".", "..", "a/b", "a\\b", "a\nb", "\x1b[31m", "x" * 256, "é" * 120]
)
def test_a_name_is_that_of_a_folder_in_the_results(name, tmp_path):
    result = call(*SWEEP, "--results", tmp_path / "results", "--name", name)
    assert result.code == 2, result
    assert result.err.count("\n") == 1
    assert "is not legal" in result.err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def net():
    return gf.nets.build("mlp", depth=2, width=4, classes=3, channels=1, seed=0, image=4)


IMAGES = np.ones((2, 4, 4, 1), np.float32)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES, [-1, 0]),  # once read as the last class
        (IMAGES, [0, 3]),
        (IMAGES[:0], np.zeros(0, int)),
        (np.ones((2, 4, 4, 2), np.float32), [0, 1]),
        (np.ones((2, 8, 8, 1), np.float32), [0, 1]),
        (IMAGES, [0]),
    ],
)
def test_a_batch_that_does_not_fit_the_net_is_not_read(net, images, labels):
    with pytest.raises(BadInput) as error:
        gf.read(net, jnp.asarray(images), jnp.asarray(labels))
    assert "\n" not in str(error.value)


def test_the_seeds_of_one_vmapped_step_may_be_an_iterator_and_are_each_given_once():
    run = gf.Run(net="mlp", depth=2, width=4, batch=8, steps=1, evaluations=0)
    (readings,) = gf.train_seeds(run, iter([0, 1]))
    assert set(readings) == {0, 1}
    for seeds in ([], [0, 0], [-1], [2**31]):
        with pytest.raises(BadInput, match="seed"):
            next(iter(gf.train_seeds(run, seeds)))


RUN = gf.Run(net="mlp", depth=2, width=4, batch=8, steps=1, evaluations=0)
NO_NUMBERS: dict[str, Callable[[], object]] = {
    "the batch of step 0": lambda: gf.batch_of(RUN, 0),
    "the batch of half a step": lambda: gf.batch_of(RUN, 1.5),  # pyright: ignore[reportArgumentType]
    "the batch of a step without end": lambda: gf.batch_of(RUN, 10**400),
    "a seed that is none": lambda: next(gf.train_seeds(RUN, 3)),  # pyright: ignore[reportArgumentType]
    "seeds that are lists": lambda: next(gf.train_seeds(RUN, [[0], [1]])),  # pyright: ignore[reportArgumentType]
    "seeds without end": lambda: next(gf.train_seeds(RUN, itertools.count())),
    "a grid of a number": lambda: gf.grid(1, depth=8),  # pyright: ignore[reportArgumentType]
    "a grid of text": lambda: gf.grid(1, net="plain"),
    "a grid of no seeds": lambda: gf.grid("x"),  # pyright: ignore[reportArgumentType]
    "a run of settings that are no pairs": lambda: gf.Run(net_settings=5),  # pyright: ignore[reportArgumentType]
    "training a number": lambda: next(gf.train(3)),  # pyright: ignore[reportArgumentType]
    "training on a name": lambda: next(gf.train(RUN, "digits")),  # pyright: ignore[reportArgumentType]
    "the table of a number": lambda: gf.load(3),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ask", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_what_is_no_number_or_list_of_them_is_one_line_in_python_too(ask):
    with pytest.raises(BadInput, match=r"is no results folder|not legal|legal (is|are)") as error:
        ask()
    assert len(str(error.value)) < 250


def test_an_integer_of_numpy_is_one():
    assert ranges.whole("seeds", np.int64(3)) == 3
    assert type(ranges.whole("seeds", np.int64(3))) is int
    for value in (True, np.bool_(True), 2.0, "2", None, np.ones(2, int)):
        with pytest.raises(BadInput, match="it must be an integer"):
            ranges.whole("seeds", value)
