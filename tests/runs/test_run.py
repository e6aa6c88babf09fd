"""A run's name decides what is run again: every field counts, nothing else does, and what is illegal never starts."""

import dataclasses
import gc
import struct
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import compile_once  # noqa: F401

import gradflow as gf
from gradflow import nets
from gradflow.errors import BadInput
from gradflow.measuring.reading import NET
from gradflow.runs import checkpoint, sweep
from gradflow.runs.execute import execute
from gradflow.runs.record import FORMAT, Record
from gradflow.runs.settings import own_settings, settings_of
from gradflow.runs.train import build_net, load_dataset, prepare
from gradflow.training import optimiser as optim
from gradflow.training.loop import Training

OTHER: dict[str, Any] = {  # another legal value of every field
    "net": "plain",
    "depth": 20,
    "family": "imagenet",
    "width": 8,
    "shortcut": "B",
    "shortcut_scale": 0.5,
    "order": "pre",
    "normalisation": "none",
    "activation": "tanh",
    "initialisation": "orthogonal",
    "padding": "circular",
    "data": "elsewhere",
    "label": "fine_label",
    "image_size": 4,
    "validation": 100,
    "centre": "pixel",
    "variant": "torchvision",
    "lrn": True,
    "dropout": 0.5,
    "pooling": "max",
    "head": "fc",
    "auxiliary": False,
    "widen": False,
    "shuffle": True,
    "augment": True,
    "transforms": "mirror",
    "steps": 201,
    "batch": 32,
    "optimiser": "adamw",
    "learning_rate": 0.1 + 2**-52,
    "momentum": 0.5,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "warmup": 3,
    "precision": "bfloat16",
    "record": "7",
    "evaluations": 4,
    "seed": 1,
}
FIELDS = [*own_settings(), *dict.fromkeys(name for net in nets.NETS for name in nets.settings(net))]
# Some settings are not those of the default net.
NEEDS: dict[str, dict[str, Any]] = {
    "dropout": {"head": "fc"},
    "variant": {"net": "googlenet"},
    "lrn": {"net": "vgg", "depth": 11},
    "auxiliary": {"net": "googlenet"},
}
RUN = gf.Run(net="plain", depth=8, width=4, batch=16, steps=8, record="3", evaluations=2, seed=3)


def both(name: str) -> tuple[gf.Run, gf.Run]:
    """A run, and another that differs in one field."""
    needed = NEEDS.get(name, {})
    return gf.Run(**needed), gf.Run(**needed, **{name: OTHER[name]})


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_changes_the_name_of_the_folder(name):
    run, other = both(name)
    assert other != run
    digests = ("one digest", "another") if name == "data" else ("one digest", "one digest")
    assert run.folder_name(digests[0]) != other.folder_name(digests[1])
    assert other.folder_name("x") == both(name)[1].folder_name("x")


def test_no_two_of_those_names_are_alike():
    runs = [gf.Run(), *(both(name)[1] for name in FIELDS if name != "data")]
    names = [run.folder_name("digest") for run in runs]
    assert len(set(names)) == len(names)
    assert len({name.rpartition("-")[2] for name in names}) == len(names)  # the hashes alone differ, too


def test_the_name_does_not_depend_on_order_process_or_kind_of_number():
    settings: dict[str, Any] = OTHER | {"family": "cifar", "shortcut": "A"}
    settings = {name: value for name, value in settings.items() if name in settings_of("plain")}
    assert gf.Run(**dict(reversed(settings.items()))) == gf.Run(**settings)
    # Written down once: finished runs of yesterday must be found tomorrow.
    assert gf.Run().folder_name("0" * 64) == "residual-18-seed0-949f2abeaa"
    numpys: dict[str, Any] = {"learning_rate": np.float32(1), "depth": np.int64(20), "augment": np.bool_(False)}
    same = [gf.Run(learning_rate=1, depth=20), gf.Run(**numpys, net=np.str_("residual"))]
    assert len(set(same)) == 1
    assert len({run.folder_name("x") for run in same}) == 1
    assert type(same[1].depth) is int
    assert type(same[0].learning_rate) is float


def test_a_run_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RUN.seed = 4  # pyright: ignore[reportAttributeAccessIssue]


def write_idx(folder: Path, images: np.ndarray, labels: np.ndarray) -> str:
    """The classic four files, written by hand."""
    folder.mkdir(parents=True)
    for split in ("train", "t10k"):
        shape = struct.pack(">3I", *images.shape)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + shape + images.tobytes())
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + struct.pack(">I", len(labels)) + labels.tobytes()
        )
    return str(folder)


def test_the_content_of_the_data_decides_not_their_path(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 8, 8), np.uint8), np.arange(40, dtype=np.uint8) % 4
    here, there = write_idx(tmp_path / "a", images, labels), write_idx(tmp_path / "b" / "c", images, labels)
    images[7, 3, 3] ^= 1
    other = write_idx(tmp_path / "d", images, labels)
    names = {path: [*sweep.records([gf.Run(data=path)], tmp_path)] for path in (here, there, other)}
    assert names[here] == names[there] != names[other]


ILLEGAL = [
    ({"net": "resnet"}, "plain, residual"),
    ({"depth": 19}, "even"),
    ({"depth": 6}, "at least 8"),
    ({"depth": -8}, "at least 8"),
    ({"depth": "18"}, "must be int"),
    ({"depth": True}, "must be int"),
    ({"depth": 18.0}, "must be int"),
    ({"family": "vgg"}, "cifar, imagenet"),
    ({"family": "imagenet", "depth": 20}, "18, 34, 50, 101, 152"),
    ({"width": 0}, "width"),
    ({"width": 2.5}, "int or None"),
    ({"shortcut": "D"}, "A, B, C"),
    ({"net": "plain", "shortcut": "B"}, "it has depth"),
    *(({"shortcut_scale": scale}, "from 1e-06 to 1e+06") for scale in (0.0, -0.5, 1e-7, 1e7)),
    ({"shortcut_scale": float("nan")}, "finite"),
    ({"shortcut_scale": float("inf")}, "finite"),
    ({"order": "both"}, "post, pre"),
    ({"normalisation": "bn"}, "batch, group, layer, none"),
    ({"activation": "rellu"}, "relu, "),
    ({"initialisation": "xavier"}, "he, "),
    ({"initialisation": "normal(-1)"}, "positive"),
    ({"padding": "reflect"}, "zero, circular"),
    ({"data": None}, "must be str"),
    ({"label": 3}, "must be str or None"),
    ({"image_size": 0}, "at least 1"),
    ({"validation": -1}, "at least 0"),
    ({"centre": "image"}, "channel, pixel"),
    ({"augment": "yes"}, "must be bool"),
    ({"shuffle": 1}, "must be bool"),
    ({"transforms": "crop,mirror"}, "crop, mirror, colour"),
    ({"variant": "6x6"}, "no setting 'variant'"),
    ({"lrn": True}, "no setting 'lrn'"),
    ({"auxiliary": True}, "no setting 'auxiliary'"),
    ({"pooling": "average"}, "stride, max"),
    ({"head": "none"}, "pool, fc"),
    ({"head": "fc", "dropout": 1.0}, "from 0 to below 1"),
    ({"dropout": 0.5}, "head 'fc'"),
    ({"widen": "no"}, "must be bool"),
    ({"steps": 0}, "at least 1"),
    ({"steps": -5}, "at least 1"),
    ({"batch": 0}, "at least 1"),
    ({"optimiser": "sdg"}, "sgd, nesterov, adam, adamw"),
    ({"learning_rate": -0.1}, "0 or more"),
    ({"learning_rate": float("nan")}, "finite"),
    ({"learning_rate": float("inf")}, "finite"),
    ({"momentum": -1.0}, "0 or more"),
    ({"weight_decay": -1.0}, "0 or more"),
    ({"schedule": "linear"}, "step, cosine, constant"),
    ({"warmup": -1}, "at least 0"),
    ({"warmup": 201}, "0 to 200"),
    ({"precision": "float16"}, "float32, bfloat16"),
    ({"record": "0"}, "log, all, or a number"),
    ({"record": "-3"}, "log, all, or a number"),
    ({"record": ""}, "log, all, or a number"),
    ({"record": 3}, "must be str"),
    ({"evaluations": -1}, "at least 0"),
    ({"seed": -1}, "at least 0"),
    ({"seed": 2**31}, "at most 2,147,483,647"),
    ({"seed": 0.5}, "must be int"),
]


@pytest.mark.parametrize(("settings", "legal"), ILLEGAL)
def test_what_is_illegal_is_one_line_that_names_what_is_legal(settings, legal):
    with pytest.raises(BadInput) as error:
        gf.Run(**settings)
    message = str(error.value)
    assert legal in message
    assert "\n" not in message
    name, value = list(settings.items())[-1]
    assert name in message or str(value) in message  # and what was given


def test_runs_of_one_program_share_what_is_compiled_and_differ_as_their_settings_say():
    """Rate, momentum and decay are inputs of the step: what is recorded with others is what a step compiled for them
    alone does.
    """
    settings = {"net": "mlp", "depth": 3, "width": 4, "batch": 16, "steps": 4, "evaluations": 0}
    slow, fast = gf.Run(**settings, learning_rate=0.01), gf.Run(**settings, schedule="cosine", warmup=1, seed=3)
    heavy = gf.Run(**settings, momentum=0.5, weight_decay=0.1)
    assert slow.program == fast.program == heavy.program != gf.Run(**settings, momentum=0.0).program
    assert prepare(slow)[0] is prepare(fast)[0] is prepare(heavy)[0]
    for run in (slow, fast, heavy):
        rate = optim.schedule(run.schedule, run.learning_rate, run.steps, run.warmup)
        update = optim.optimiser("sgd", rate, run.momentum, run.weight_decay)
        alone = Training(build_net(run), load_dataset(run), update, batch=16)
        theirs = alone.readings(alone.start(build_net(run), run.seed), run.seed, 4)
        for ours, other in zip(gf.train(run), theirs, strict=True):
            assert ours.loss == pytest.approx(other.loss, rel=1e-5)
            updates = other.values["update_norm"]
            assert ours.values["update_norm"] == pytest.approx(updates, rel=1e-4)


def test_nets_of_one_structure_share_what_is_compiled_whatever_setting_decides_their_arrays():
    """The start is an input of the step: what is recorded from another is what a step compiled for it alone does."""
    settings = {"net": "residual", "depth": 8, "width": 4, "batch": 16, "steps": 2, "evaluations": 0, "order": "pre"}
    he = gf.Run(**settings, shortcut_scale=1.0)
    run = he.replace(initialisation="glorot", shortcut_scale=0.5)
    shared = prepare(he)[0]
    assert prepare(run)[0] is shared
    alone = Training(build_net(run), load_dataset(run), optim.optimiser("sgd", 0.1, 0.9, 1e-4), batch=16)
    theirs = alone.readings(alone.start(build_net(run), 0), 0, 2)
    for ours, other in zip(gf.train(run), theirs, strict=True):
        assert ours.loss == pytest.approx(other.loss, rel=1e-5)
    for other in ({"activation": "tanh"}, {"width": 5}, {"batch": 8}):
        assert prepare(he.replace(**other))[0] is not shared


def test_a_net_that_cannot_be_hashed_is_compiled_once_for_all_its_seeds(tmp_path):
    (tmp_path / "odd.py").write_text(
        "from flax import nnx\n\n\n"
        "class Net(nnx.Module):\n"
        "    def __init__(self, classes, seed):\n"
        "        self.odd, self.head = {'a': 1}, nnx.Linear(64, classes, rngs=nnx.Rngs(seed))\n\n"
        "    def __call__(self, images, hook):\n"
        "        return hook('head', self.head(images.reshape(len(images), -1)))\n\n\n"
        "def build(*, classes, channels, seed):\n"
        "    return Net(classes, seed)\n"
    )
    run = gf.Run(net=f"{tmp_path / 'odd.py'}:build", batch=16, steps=2)
    assert prepare(run)[0] is prepare(run.replace(seed=1))[0] is not prepare(run.replace(batch=32))[0]


def test_every_field_is_tried():
    assert {name for settings, _ in ILLEGAL for name in settings} == set(FIELDS) == set(OTHER)


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 99, 100, 101, 4321])
def test_the_log_schedule_keeps_ten_steps_a_decade(steps):
    """Step n is kept if a power of the tenth root of ten lies in (n-1, n]; in whole numbers (n-1)^10 < 10^k <= n^10."""
    expected = {1, steps}
    for k in range(40):
        n = 1
        while n**10 < 10**k:
            n += 1
        expected.add(n)
    run = gf.Run(steps=steps)
    assert [step for step in range(1, steps + 1) if run.keeps(step)] == sorted(n for n in expected if n <= steps)


def test_other_schedules_keep_first_and_last_too():
    steps = range(1, 24)
    assert [step for step in steps if gf.Run(steps=23, record="7").keeps(step)] == [1, 7, 14, 21, 23]
    assert [step for step in steps if gf.Run(steps=23, record="100").keeps(step)] == [1, 23]
    assert all(gf.Run(steps=23, record="all").keeps(step) for step in steps)


@pytest.mark.parametrize("steps", [1, 7, 12, 200])
def test_the_tests_are_as_many_as_asked_evenly_spread_the_last_at_the_end(steps):
    for evaluations in range(steps + 3):
        run = gf.Run(steps=steps, evaluations=evaluations)
        tested = [step for step in range(1, steps + 1) if run.tests(step)]
        assert len(tested) == min(evaluations, steps)
        if tested:
            assert tested[-1] == steps
            # Test i follows the first step at which i / evaluations of the run is behind: in exact fractions.
            least = [Fraction(i * steps, evaluations) for i in range(1, evaluations + 1)]
            assert tested == sorted({-(-exact.numerator // exact.denominator) for exact in least})


def test_a_grid_is_all_combinations_and_the_seeds_of_one_are_neighbours():
    runs = gf.grid(2, net=("plain", "residual"), depth=(8, 10, 12), steps=(5,))
    expected = [(net, depth, 5, seed) for net in ("plain", "residual") for depth in (8, 10, 12) for seed in (0, 1)]
    assert [(run.net, run.depth, run.steps, run.seed) for run in runs] == expected
    for seeds in (0, -1):
        with pytest.raises(BadInput, match=f"seeds {seeds} is not legal: it must be at least 1"):
            gf.grid(seeds)


def numbers(reading: gf.Reading) -> dict[tuple, np.float32]:
    """A reading as what the store holds: (step, layer, quantity) to float32."""
    scalars = {name: getattr(reading, name) for name in ("loss", "train_error", "test_error")}
    found = {(reading.step, NET[0], name): value for name, value in scalars.items() if value is not None}
    for quantity, values in reading.values.items():
        found |= {(reading.step, layer, quantity): value for layer, value in values.items()}
    return {key: np.float32(value) for key, value in found.items()}


def stored(record: Record) -> dict[tuple, np.float32]:
    rows = record.readings().to_pylist()
    found = {(row["step"], row["layer"], row["quantity"]): np.float32(row["value"]) for row in rows}
    assert len(found) == len(rows)  # no reading twice
    return found


def test_what_is_recorded_is_what_train_yields_also_when_it_is_stopped_and_goes_on(tmp_path):
    whole, parts = Record(tmp_path / "whole"), Record(tmp_path / "parts")
    watched = []
    assert execute(RUN, whole, watch=watched.append) == "done"
    assert [reading.step for reading in watched] == list(range(1, 9))
    yielded = list(gf.train(RUN))
    assert [reading.step for reading in yielded] == list(range(1, 9))
    kept = (1, 3, 6, 8)
    expected = {key: v for r in yielded for key, v in numbers(r).items() if r.step in kept or key[1] == NET[0]}
    np.testing.assert_equal(stored(whole), expected)  # to the bit, nan where nan is
    assert {key[0] for key in expected if key[2] == "test_error"} == {4, 8}
    assert {key[2] for key in expected} == set(gf.QUANTITIES) - {
        "identity_gradient_norm",
        "residual_gradient_norm",
        "path_cosine",
    }
    assert whole.status == {"state": "done", "step": 8, "steps": 8, "seconds": whole.status["seconds"]}
    config = whole.config
    assert config
    assert gf.Run(**config["run"]) == RUN
    assert config["format"] == FORMAT
    assert config["data"]["digest"] == gf.load_data("digits").digest
    assert {"jax", "flax", "python", "gradflow"} <= set(config["machine"]["versions"])

    polls = iter([False, False, True, True])
    seen: list[int] = []
    ended = execute(RUN, parts, stop=lambda: next(polls), watch=lambda reading: seen.append(reading.step))
    assert (ended, seen) == ("stopped", [1, 2, 3])
    assert (parts.status["state"], parts.status["step"]) == ("running", 3)
    assert not parts.finished
    assert execute(RUN, parts, watch=lambda reading: seen.append(reading.step)) == "done"
    assert seen == list(range(1, 9))  # it went on with step 4
    np.testing.assert_equal(stored(parts), stored(whole))


def test_a_run_whose_units_are_joined_goes_on_from_a_checkpoint_that_has_them_one_by_one(tmp_path):
    run = dataclasses.replace(RUN, depth=20)
    whole, parts = Record(tmp_path / "whole"), Record(tmp_path / "parts")
    assert execute(run, whole) == "done"
    polls = iter([False, False, True, True])
    assert execute(run, parts, stop=lambda: next(polls)) == "stopped"
    _, params, _ = nets.split(build_net(run))
    training, joined = prepare(run)
    one_by_one = training.unstack(joined)
    assert one_by_one.params.keys() == params.keys() != joined.params.keys()
    assert checkpoint.latest(parts.checkpoints, one_by_one, parts.name)  # no checkpoint of another structure is read
    assert execute(run, parts) == "done"
    np.testing.assert_equal(stored(parts), stored(whole))


def test_another_seed_is_another_run(tmp_path):
    first = next(gf.train(RUN))
    other = next(gf.train(dataclasses.replace(RUN, seed=4)))
    assert first.loss != other.loss
    assert numbers(first).keys() == numbers(other).keys()


def test_runs_of_one_process_leave_nothing_behind(tmp_path):
    """Of no type are there more objects than before by one a run: what a run makes goes when it ends."""

    def go(seeds: range) -> Counter[type]:
        for seed in seeds:
            run = gf.Run(net="mlp", depth=3, width=4, batch=16, steps=1, seed=seed, evaluations=0)
            assert execute(run, Record(tmp_path / str(seed))) == "done"
        gc.collect()
        return Counter(map(type, gc.get_objects()))

    go(range(2))
    before, runs = go(range(2, 4)), range(4, 10)
    more = go(runs) - before
    assert not {kind: count for kind, count in more.items() if count >= len(runs)}
