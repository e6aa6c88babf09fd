"""One run: the settings that decide a result, its name and hash, and the way from them to a finished record.

JAX, pandas and the like are imported only where a run is checked or made, so that the command line can read the names
of the settings without them.
"""

import dataclasses
import functools
import hashlib
import json
import math
import subprocess
import sys
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradflow.errors import BadInput, at_least, choose

if TYPE_CHECKING:
    from flax import nnx

    from gradflow.data import Dataset
    from gradflow.measure import Reading
    from gradflow.table import Record
    from gradflow.training import State, Training

PRECISIONS = ("float32", "bfloat16")
CENTRES = ("channel", "pixel")
_NET_SETTINGS = ("depth", "family", "width", "shortcut", "order", "normalisation", "activation", "initialisation",
                 "variant", "lrn", "dropout", "pooling", "head", "auxiliary", "widen")  # fmt: skip
# Settings that came later are no part of a run's name while they are at their default: what was run stays found.
_LATER = ("variant", "lrn", "dropout", "pooling", "head", "auxiliary", "widen", "shuffle", "transforms")
_LEAST = {"steps": 1, "batch": 1, "image_size": 1, "evaluations": 0, "validation": 0, "seed": 0, "warmup": 0}


def _exact(field: dataclasses.Field, value: Any) -> Any:
    """`value` in the very type of its field, so that equal runs have equal names: 1 as 1.0, numpy's 8 as 8."""
    kinds = typing.get_args(field.type) or (field.type,)
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if type(value) is int and float in kinds:
        value = float(value)
    if type(value) not in kinds:
        legal = " or ".join("None" if kind is type(None) else getattr(kind, "__name__", "") for kind in kinds)
        raise BadInput(f"{field.name} {value!r} is not legal: it must be {legal}")
    return value


@dataclass(frozen=True)
class Run:
    """All that decides a result. Raises `BadInput` for a value that is not legal, and says what is."""

    net: str = "residual"
    depth: int | None = None  # weighted layers; None: the net's own (18 for plain and residual)
    family: str = "cifar"
    width: int | None = None  # channels of the first stage; None: the family's own (16, or 64 for imagenet)
    shortcut: str = "A"  # of residual nets: A, B or C (He 2015, section 4.1)
    order: str = "post"  # or pre: full pre-activation (He 2016)
    normalisation: str = "batch"
    activation: str = "relu"
    initialisation: str = "he"
    variant: str = "paper"  # or another build of the same net: see the net's docstring
    lrn: bool | None = None  # local response normalisation (Krizhevsky 2012); this and the next: None as in the paper
    dropout: float | None = None  # the share that the fully connected layers lose
    pooling: str | None = None  # how maps get smaller
    head: str | None = None  # pool (global average) or fc (fully connected layers)
    auxiliary: bool | None = None  # classifiers on the way (Szegedy 2014)
    widen: bool = True  # twice the channels where maps get half as wide
    data: str = "digits"  # or a path, or a name on the Hub
    image_size: int | None = None  # larger images are averaged down to it
    validation: int = 0  # training images held out to test on instead of the test set
    centre: str = "channel"  # or pixel: what is subtracted from the images
    shuffle: bool = False  # the pixels of all images, in one fixed order
    augment: bool = False  # transform the images anew at each step, as `transforms` says
    transforms: str = "crop+mirror"  # any of crop (of the image padded by 4), mirror, colour (Krizhevsky 2012)
    steps: int = 200
    batch: int = 64
    optimiser: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "step"
    warmup: int = 0  # steps at a tenth of the rate
    precision: str = "float32"
    record: str = "log"  # the steps whose layers are kept: log, all, or a number k for every k-th
    evaluations: int = 5  # how often the whole test set is tried, evenly spread, the last time at the end
    seed: int = 0

    def __post_init__(self):
        from gradflow import data, nets, optim

        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _exact(field, getattr(self, field.name)))
        choose("net", self.net, nets.NETS)
        if self.depth is None:
            object.__setattr__(self, "depth", nets.NETS[self.net].depth)
        for name, least in _LEAST.items():
            at_least(name, getattr(self, name), least)
        if self.seed >= 2**31:
            raise BadInput(f"seed {self.seed} is not legal: it must be below {2**31}, or jax would take it for another")
        for name in ("learning_rate", "momentum", "weight_decay"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise BadInput(f"{name} {value} is not legal: it must be a finite number, 0 or more")
        choose("precision", self.precision, PRECISIONS)
        choose("centre", self.centre, CENTRES)
        for transform in self.transforms.split("+"):
            choose("transform", transform, data.TRANSFORMS)
        choose("optimiser", self.optimiser, optim.OPTIMISERS)
        optim.schedule(self.schedule, self.learning_rate, self.steps, self.warmup)
        if self.record not in ("log", "all") and not (self.record.isdecimal() and int(self.record) > 0):
            raise BadInput(f"record {self.record!r} is not legal: choose log, all, or a number k for every k-th step")
        nets.check(self.net, **self.net_settings)

    @property
    def net_settings(self) -> dict[str, Any]:
        """What `nets.build` gets. A setting that the net does not have must be left at its default."""
        from gradflow import nets

        legal = nets.settings(self.net)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        defaults["depth"] = nets.NETS[self.net].depth
        given = {name: getattr(self, name) for name in _NET_SETTINGS}
        return {name: value for name, value in given.items() if name in legal or value != defaults[name]}

    def build(self) -> "nnx.Module":
        """The net of this run for its data, with the weights of its seed."""
        from gradflow import nets, runtime

        dataset = _dataset(self)
        height, width, channels = dataset.image_shape
        if height != width and "image" in nets.settings(self.net):
            raise BadInput(f"net {self.net!r} is made for square images: these are {height}x{width}")
        dtype = runtime.dtype(self.precision)
        return nets.build(
            self.net,
            classes=len(dataset.classes),
            channels=channels,
            image=height,
            seed=self.seed,
            dtype=dtype,
            **self.net_settings,
        )

    @property
    def name(self) -> str:
        """For people: `plain-56-batch-seed0`. Not unique; `folder_name` is."""
        return f"{self.net}-{self.depth}-{self.normalisation}-seed{self.seed}"

    def folder_name(self, digest: str) -> str:
        """The name and a hash of all that decides the result, the data by their digest instead of their path."""
        settings = {**dataclasses.asdict(self), "data": digest}
        for field in dataclasses.fields(self):
            if field.name in _LATER and settings[field.name] == field.default:
                del settings[field.name]
        content = json.dumps(settings, sort_keys=True)
        return f"{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"

    def keeps(self, step: int) -> bool:
        """Whether the layers' readings of `step` (from 1) are kept: `log` is ten a decade; first and last always."""
        if self.record == "all" or step in (1, self.steps):
            return True
        if self.record == "log":
            return math.floor(10 * math.log10(step)) > math.floor(10 * math.log10(step - 1))
        return step % int(self.record) == 0

    def tests(self, step: int) -> bool:
        """Whether the whole test set is tried after `step` (from 1)."""
        return (
            self.evaluations > 0 and step * self.evaluations // self.steps > (step - 1) * self.evaluations // self.steps
        )


@functools.lru_cache(maxsize=1)
def _load(name: str, image_size: int | None, validation: int, shuffle: bool) -> "Dataset":
    from gradflow import data

    return data.load(name, image_size, validation, shuffle=shuffle)


def _dataset(run: Run) -> "Dataset":
    return _load(run.data, run.image_size, run.validation, run.shuffle)


@functools.lru_cache(maxsize=1)
def _training(run: Run) -> "Training":
    from gradflow import optim
    from gradflow.training import Training

    rate = optim.schedule(run.schedule, run.learning_rate, run.steps, run.warmup)
    return Training(
        run.build(),
        _dataset(run),
        optim.optimiser(run.optimiser, rate, run.momentum, run.weight_decay),
        batch=run.batch,
        transforms=tuple(run.transforms.split("+")) if run.augment else (),
        centre=run.centre,
    )


def prepare(run: Run) -> tuple["Training", "State"]:
    """The compiled training of `run`, shared by runs that differ only in seed, and the state before its first step."""
    training = _training(dataclasses.replace(run, seed=0))
    return training, training.start(run.build(), run.seed)


def train(run: Run) -> Iterator["Reading"]:
    """Trains `run` in this process and yields one reading a step; nothing is written.

    `reading.step`, `reading.loss`, `reading.train_error`, `reading.test_error`, and
    `reading.values`, `{quantity: {layer: float}}`. A diverged run goes on yielding: look at `reading.finite`.
    """
    training, state = prepare(run)
    yield from training.readings(state, run.seed, run.steps, test_at=run.tests)


def train_seeds(run: Run, seeds: Sequence[int]) -> Iterator[dict[int, "Reading"]]:
    """Trains several seeds of `run` in one vmapped step, for nets too small for their accelerator.

    Yields `{seed: reading}` a step; nothing is written and the test set is not tried. `run.seed` is not used.
    """
    training = _training(dataclasses.replace(run, seed=0))
    states = [training.start(dataclasses.replace(run, seed=seed).build(), seed) for seed in seeds]
    for readings in training.seeds_together(states, seeds, run.steps):
        yield dict(zip(seeds, readings, strict=True))


def execute(
    run: Run,
    record: "Record",
    *,
    checkpoint_seconds: float = 60.0,
    stop: Callable[[], bool] = lambda: False,
    watch: Callable[["Reading"], None] = lambda reading: None,
) -> str:
    """Brings `run` to its end in `record`, from its last checkpoint if there is one; the caller holds the lock.

    Returns how it ended: `done`; `diverged`, when the loss, an activation or a gradient was not finite (what was read
    is kept); or `stopped`, after a checkpoint, when `stop()` said so. Raises `BadInput` when data or folder are bad.
    """
    from gradflow import checkpoint
    from gradflow.nets import stack

    training, state = prepare(run)
    state, config = _resume(run, record, state)
    config["counts"] = training.counts
    begun = saved = time.monotonic()
    stopping = stopped = False

    def save_at(step: int) -> bool:
        nonlocal stopping
        stopping = stop()
        return stopping or step == run.steps or time.monotonic() - saved >= checkpoint_seconds

    def save(step: int, state: "State") -> None:
        nonlocal saved, stopped
        # The readings up to the checkpoint first: a resumed run finds all of them, or an older checkpoint.
        record.flush()
        checkpoint.save(record.checkpoints, step, stack.separated(state))
        record.write_status("running", step=step, steps=run.steps)
        saved, stopped = time.monotonic(), stopping

    record.write_config(config)
    record.write_status("running", step=int(state.step), steps=run.steps)
    ended = "done"
    step = int(state.step)
    schedule = {"read_at": run.keeps, "test_at": run.tests, "save_at": save_at}
    readings = training.readings(state, run.seed, run.steps, **schedule, save=save)
    for reading in readings:
        if stopped:  # the checkpoint is written; this reading will be made again
            return "stopped"
        step = reading.step
        _keep(run, record, reading)
        watch(reading)
        if not reading.finite:
            ended = "diverged"
            break
    record.flush()
    record.write_status(ended, step=step, steps=run.steps, seconds=round(time.monotonic() - begun, 1))
    return ended


def _keep(run: Run, record: "Record", reading: "Reading") -> None:
    from gradflow.table import NET

    layer, position = NET
    for quantity in ("loss", "train_error", "test_error"):
        value = getattr(reading, quantity)
        if value is not None:
            record.add(reading.step, quantity, [layer], [position], [value])
    if run.keeps(reading.step) or not reading.finite:
        for quantity, values in reading.values.items():
            positions = [reading.places.position[name] for name in values]
            record.add(reading.step, quantity, tuple(values), positions, list(values.values()))


def _resume(run: Run, record: "Record", state: "State") -> tuple["State", dict[str, Any]]:
    """The state of the last checkpoint and the settings to record. What is newer than the checkpoint is dropped.

    A record made by another version or on another number of cores or devices may differ in rounding: it is begun anew.
    """
    from gradflow import checkpoint, runtime
    from gradflow.nets import stack

    dataset = _dataset(run)
    config = {
        "run": dataclasses.asdict(run),
        "data": dataset.summary(),
        "machine": runtime.machine(),
        "commit": _commit(),
        "command": sys.argv,
    }
    same = (record.config or {}).get("machine") == config["machine"]
    found = checkpoint.latest(record.checkpoints, like=stack.separated(state)) if same else None
    step, state = (found[0], stack.join(found[1], stack.rows(state.params))) if found else (0, state)
    record.drop_after(step)
    checkpoint.drop_after(record.checkpoints, step)
    return state, config


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that runs, marked when files differ from it; None when there is no checkout."""
    folder = Path(__file__).parent
    try:
        git = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
