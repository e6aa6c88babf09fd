"""One run, from its settings to a finished record."""

import dataclasses
import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gradflow.data.dataset import Dataset
from gradflow.data.load import load_data
from gradflow.measure import Reading
from gradflow.nets import stack
from gradflow.runs.record import NET, Record
from gradflow.runs.settings import Run
from gradflow.training import checkpoint, optimiser, platform
from gradflow.training.loop import Training
from gradflow.training.step import State


@functools.lru_cache(maxsize=1)
def _load(name: str, image_size: int | None, validation: int, shuffle: bool) -> "Dataset":
    return load_data(name, image_size, validation, shuffle=shuffle)


def _dataset(run: Run) -> "Dataset":
    return _load(run.data, run.image_size, run.validation, run.shuffle)


@functools.lru_cache(maxsize=1)
def _training(run: Run) -> "Training":
    rate = optimiser.schedule(run.schedule, run.learning_rate, run.steps, run.warmup)
    return Training(
        run.build(),
        _dataset(run),
        optimiser.optimiser(run.optimiser, rate, run.momentum, run.weight_decay),
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
    dataset = _dataset(run)
    config = {
        "run": dataclasses.asdict(run),
        "data": dataset.summary(),
        "machine": platform.machine(),
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
