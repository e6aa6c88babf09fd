"""One run, from its settings to a finished record."""

import functools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from gradflow.errors import BadInput
from gradflow.measuring.reading import NET, Reading
from gradflow.runs import checkpoint
from gradflow.runs.record import Record
from gradflow.runs.settings import Run
from gradflow.runs.train import prepare, rates
from gradflow.training import platform
from gradflow.training.loop import Training
from gradflow.training.step import State


def execute(
    run: Run,
    record: Record,
    *,
    digest: str | None = None,
    workers: int = 1,
    checkpoint_seconds: float = 60.0,
    stop: Callable[[], bool] = lambda: False,
    watch: Callable[[Reading], None] = lambda reading: None,
    note: Callable[[str], None] = lambda text: None,
) -> str:
    """Brings `run` to its end in `record`, from its last checkpoint if there is one; the caller holds the lock.

    Returns how it ended: `done`; `diverged`, when the loss, an activation or a gradient was not finite (what was read
    is kept); or `stopped`, after a checkpoint, when `stop()` was true. `note` is told what a person should know of it.
    Raises `BadInput` when data or folder are bad, when the data are not those of the `digest`, and where the memory
    cannot hold such a net in each of the `workers` that do runs at the same time.
    """
    training, state = prepare(run, workers=workers)
    if digest not in (None, training.data["digest"]):
        raise BadInput(f"the data of {record.name} changed since this command began: run it again")
    config = _config(run, training)
    state = _resume(record, config, training, state, note)
    record.write_config(config)
    record.write_status("running", step=int(state.step), steps=run.steps)
    begun = saved = time.monotonic()
    stopping = False

    def checkpoint_at(step: int) -> bool:
        nonlocal stopping
        stopping = stop()
        last = step == run.steps > 1  # a run of one step has nothing that it could go on from
        return stopping or last or time.monotonic() - saved >= checkpoint_seconds

    status, step = "done", int(state.step)
    schedule = {"read_at": run.keeps, "test_at": run.tests, "pause_at": checkpoint_at, "rate_at": rates(run)}
    for reading, after in training.steps(state, run.seed, run.steps, **schedule):
        step = reading.step
        _add(record, run, reading)
        watch(reading)
        if not reading.finite:
            status = "diverged"
            break
        if after is not None:
            _save(record, run, step, training.unstack(jax.device_get(after)))
            saved = time.monotonic()
            if stopping and step < run.steps:
                return "stopped"
    record.flush()
    record.write_status(status, step=step, steps=run.steps, seconds=round(time.monotonic() - begun, 1))
    return status


def _add(record: Record, run: Run, reading: Reading) -> None:
    """Adds what `run` keeps of a reading to the rows of the record."""
    layer, position = NET
    for quantity in ("loss", "train_error", "test_error"):
        value = getattr(reading, quantity)
        if value is not None:
            record.add(reading.step, quantity, [layer], [position], [value])
    if run.keeps(reading.step) or not reading.finite:
        for quantity, values in reading.values.items():
            positions = [reading.spec.position[name] for name in values]
            record.add(reading.step, quantity, tuple(values), positions, list(values.values()))


def _save(record: Record, run: Run, step: int, state: State) -> None:
    # The readings up to the checkpoint first: a resumed run finds all of them, or an older checkpoint.
    record.flush()
    checkpoint.save(record.checkpoints, step, state, record.name)
    record.write_status("running", step=step, steps=run.steps)


def _config(run: Run, training: Training) -> dict[str, Any]:
    """What `config.json` says of a run: its settings, and what else its result depends on."""
    return {
        "run": run.settings,
        "data": training.data,
        "counts": training.counts,
        "machine": platform.machine(),
        "commit": _commit(),
        "command": sys.argv,
    }


def _resume(
    record: Record, config: dict[str, Any], training: Training, state: State, note: Callable[[str], None]
) -> State:
    """The state of the last checkpoint, or `state` where there is none. What is newer than it is dropped.

    A record made by another version or on another number of cores or devices may differ in rounding: it starts from
    the first step. Raises `BadInput` where its readings do not go up to the checkpoint.
    """
    same = (record.config or {"machine": None})["machine"] == config["machine"]
    found = checkpoint.latest(record.checkpoints, training.unstack(state), record.name) if same else None
    if found is None and checkpoint.exists(record.checkpoints):
        why = "no checkpoint of it can be read" if same else "it was begun by another version or on another machine"
        note(f"begins anew, {record.last_step} steps are made again: {why}")
    step, state = (found[0], training.restack(found[1])) if found else (0, state)
    record.drop_after(step)
    checkpoint.drop_after(record.checkpoints, step)
    return state


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that runs, marked when files differ from it; None when there is no checkout."""
    folder = Path(__file__).parent
    try:
        git = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
