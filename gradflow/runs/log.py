"""Readings of a loop of the user's own, in the same store as those of our runs."""

import contextlib
import hashlib
import json
import math
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.core import Tracer

from gradflow.errors import BadInput
from gradflow.measuring.reading import NET, Reading
from gradflow.runs import published, table
from gradflow.runs.readings import READINGS
from gradflow.runs.record import Record
from gradflow.settings import ranges
from gradflow.training import platform

# What the figures and statistics ask of every run.
DEFAULTS = {"net": "model", "depth": None, "normalisation": None, "seed": 0}
_KINDS = {"net": str, "depth": int, "normalisation": str, "classes": int}
_OURS = {"run", "status", "last_step", "steps", *READINGS.names}
_NUMBERS = ("loss", "train_error", "test_error")
_FLUSH_SECONDS = 10.0  # how much a crash may lose
_LONGEST_NAME = 120


class Log:
    """What `gf.record` yields: `log(step, reading)`; `log.last_step` is the last step that is there already."""

    def __init__(self, record: Record, config: dict[str, Any]):
        self._record, self._config = record, config
        self.last_step = record.last_step
        self._waiting: tuple[int, Reading, dict[str, float]] | None = None
        self._saved, self.diverged, self._ended = time.monotonic(), False, False

    def __call__(self, step: int, reading: Reading, **numbers: Any) -> None:
        """Records the reading of a step, counted from 1; those of steps that are there already stay as they are.

        `numbers` are others of the whole net at this step: `train_error`, `test_error` (shares, 0 to 1). Written is a
        reading when the next one comes, so that the device does not wait. Raises `BadInput` for a step that does not
        follow, or what is no reading.
        """
        if self._ended:
            raise BadInput("this record has ended: log inside its with block")
        step, before = ranges.whole("step", step), self._waiting[0] if self._waiting else 0
        if step <= before:
            raise BadInput(f"step {step} comes after step {before}: log steps in order, each once")
        if not isinstance(reading, Reading):
            raise BadInput(
                f"cannot log a {type(reading).__name__}: legal is a reading, as gf.value_and_grad returns it"
            )
        if isinstance(loss := reading.arrays.get("loss"), Tracer) or getattr(loss, "shape", ()) != ():
            raise BadInput("cannot log what is being traced, or several readings at once: log what each step returns")
        numbers = {name: _number(name, value) for name, value in numbers.items()}
        self._write()
        self._waiting = step, reading, numbers
        if time.monotonic() - self._saved > _FLUSH_SECONDS:
            self.flush("running")

    def _write(self) -> None:
        if self._waiting is None or self._waiting[0] <= self.last_step:
            return
        (step, reading, numbers), (layer, position) = self._waiting, NET
        for quantity, value in {"loss": reading.loss, **numbers}.items():
            self._record.add(step, quantity, [layer], [position], [float(value)])
        for quantity, values in reading.values.items():
            if values and not np.isnan([*values.values()]).all():  # else this step did not read it
                positions = [reading.spec.position[name] for name in values]
                self._record.add(step, quantity, tuple(values), positions, list(values.values()))
        self.diverged |= not reading.finite
        self.last_step = step

    def flush(self, state: str) -> None:
        """Writes what was logged, and how the run is."""
        if state != "running":
            self._write()
            self._waiting, self._ended = None, True
        self._record.flush()
        if state == "done" and self.diverged:
            state = "diverged"
        self._config["run"]["steps"] = self.last_step
        self._record.write_config(self._config)
        self._record.write_status(state, step=self._record.last_step)
        self._saved = time.monotonic()


@contextlib.contextmanager
def record(results: str | Path, settings: Mapping[str, Any] | None = None) -> Iterator[Log]:
    """Records the readings of a loop of your own: `with gf.record("results/mine", settings={"depth": 8}) as log:`, in
    it `log(step, reading)`.

    A results folder holds any number of runs, one for each `settings`: plain values by name, which figures and tables
    show where they vary; `net`, `depth`, `normalisation` and `seed` are those that statistics go by. The same settings
    again go on with the same run: steps that are recorded stay. At the end all runs of the folder are published, so
    that `gf.load`, `gradflow plot` and `gradflow diagnose` work on it.

    Raises `BadInput` for settings that are not plain, and where another process records the same run.
    """
    given = _checked({} if settings is None else settings)
    if not isinstance(results, (str, Path)):
        raise BadInput(f"{results!r} is no results folder: legal is its path")
    folder = Path(results)
    run = Record(folder / "runs" / _name(given))
    config = {"run": given, "data": {}, "counts": {}, "machine": platform.machine(), "command": sys.argv}
    with run.lock() as ours:
        if not ours:
            raise BadInput(f"{run.folder} is being recorded by another process: give this run other settings")
        run.readings()  # raises where what is there does not add up
        log = Log(run, config)
        log.diverged = run.status["state"] == "diverged"
        log.flush("running")
        try:
            yield log
        except BaseException:
            log.flush("failed")
            raise
        log.flush("done")
    with published.publishing(folder):
        found = [Record(one) for one in sorted((folder / "runs").iterdir()) if one.is_dir()]
        published.publish(folder, *table.collect(found))


def _number(name: str, value: Any) -> Any:
    """A number, which is not fetched from its device yet. Raises `BadInput` for what is none."""
    if name not in _NUMBERS:
        raise BadInput(f"cannot log {name!r}: beside a reading legal are {', '.join(_NUMBERS)}")
    if getattr(value, "shape", ()) != () or np.dtype(getattr(value, "dtype", type(value))).kind not in "fiub":
        raise BadInput(f"{name} {repr(value)[:60]} is not legal: it must be a number")
    return value


def _checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with those that are missing. Raises `BadInput` for what no table could hold, or no figure show."""
    if not isinstance(settings, Mapping):
        raise BadInput(f"settings {settings!r} are not legal: they are a dictionary, such as {{'depth': 8}}")
    settings = {name: value.item() if getattr(value, "ndim", None) == 0 else value for name, value in settings.items()}
    for name, value in settings.items():
        if not isinstance(name, str) or not name.isidentifier() or name in _OURS:
            raise BadInput(f"a setting cannot be called {name!r}: it is a word, and none of {', '.join(sorted(_OURS))}")
        if not (value is None or type(value) in (bool, int, float, str)):
            raise BadInput(f"{name} {value!r} is not legal: a setting is a bool, int, float, str or None")
        if isinstance(value, str) and not (value and value.isprintable()):
            raise BadInput(f"{name} {value!r} is not legal: text is one line of visible characters, or else None")
        if not isinstance(value, str | None) and not abs(value) < (2**63 if isinstance(value, int) else math.inf):
            raise BadInput(f"this {name} is not legal: a number is finite, and an integer has 64 bits")
    given = {**DEFAULTS, **settings}
    ranges.whole("seed", given["seed"])
    for name, kind in _KINDS.items():
        if given.get(name) is not None and type(given[name]) is not kind:
            raise BadInput(f"{name} {given[name]!r} is not legal: it must be {kind.__name__}, as figures know it")
    return given


def _name(settings: Mapping[str, Any]) -> str:
    """In words what is not at its default, and a hash of it all."""
    words = [str(settings["net"])]
    words += [
        f"{name}={value}" for name, value in settings.items() if name not in ("net", "seed") and value is not None
    ]
    legible = re.sub(r"[^\w.=+-]", "_", "-".join(words), flags=re.ASCII)[:_LONGEST_NAME]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    return f"{legible}-seed{settings['seed']}-{digest}"
