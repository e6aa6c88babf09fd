"""The folder of one run: its settings, its status, its readings, its lock, written so that a crash loses little.

It holds `config.json`, `status.json`, `metrics/part-<last step>-<digest>.parquet`, `checkpoints/`, `log.txt`, `lock`.
Every file says whose it is, and a folder that does not add up is refused: it is never summed up.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gradflow.errors import BadInput, refuse_links
from gradflow.runs import files
from gradflow.runs.parts import Part, Parts, Row, tables
from gradflow.runs.readings import READINGS

FORMAT = 2  # of a run's folder; another one is refused, not guessed at
FINISHED = ("done", "diverged")
STATES = ("queued", "running", "failed", *FINISHED)


class Record:
    """The folder of one run: its settings, its status, its readings, its lock. One process writes it at a time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self._parts = Parts(folder / "metrics", folder.name, self._check)
        self._rows: list[Row] = []

    @property
    def name(self) -> str:
        """Of the folder: the run's settings in words, and the hash of all that decides its result."""
        return self.folder.name

    @property
    def config(self) -> dict[str, Any] | None:
        """`config.json`; raises `BadInput` where it is of another run, or in another format."""
        config = files.read_json(self.folder / "config.json")
        if config is None:
            return None
        if config.get("format") != FORMAT:
            raise BadInput(
                f"{self.folder} has the results format {config.get('format')}, this version reads {FORMAT}: "
                "use another results folder, or the version that wrote it"
            )
        self._check(config.get("name") == self.name, f"config.json is of the run {config.get('name')!r}")
        whole = all(isinstance(config.get(key), dict) for key in ("run", "data", "counts", "machine"))
        self._check(whole, "config.json lacks run, data, counts or machine")
        taken = {*config["run"], *config["counts"]} & {"run", "status", "last_step", *READINGS.names}
        self._check(not taken, f"config.json has a setting {min(taken, default='')!r}, as every table")
        return config

    @property
    def status(self) -> dict[str, Any]:
        """`status.json`: `state` is queued, running, done, diverged or failed; `step` the last one on disk."""
        status = files.read_json(self.folder / "status.json")
        if status is None:
            return {"state": "queued", "step": 0}
        whole = status.get("state") in STATES and type(status.get("step")) is int and status["step"] >= 0
        seconds = status.get("seconds", 0)
        whole = whole and isinstance(seconds, (int, float)) and 0 <= seconds < math.inf
        self._check(whole, f"status.json has no state of {', '.join(STATES)}, no step, or seconds that are no number")
        return status

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do. Raises `BadInput` where the folder says so and has not all of it."""
        if self.config is None or self.status["state"] not in FINISHED:
            return False
        self._check_end(self._parts.read())
        return True

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes `config.json`, with the format of the folder and the name of the run."""
        files.write_json(self.folder / "config.json", {"format": FORMAT, "name": self.name, **config})

    def write_status(self, state: str, **details: Any) -> None:
        """Writes `status.json`."""
        files.write_json(self.folder / "status.json", {"state": state, **details})

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Yields whether the run is ours; false while another process has it. The lock ends with the process.

        Raises `BadInput` where the folder cannot be written, or something in it is a link to somewhere else.
        """
        refuse_links(self.folder)
        with files.lock(self.folder / "lock") as ours:
            if ours:
                own = ("config.json", "status.json", "log.txt", self.checkpoints.name, self._parts.folder.name)
                refuse_links(*(self.folder / name for name in own))
                log = self.folder / "log.txt"
                self._check(log.is_file() or not log.exists(), "log.txt is no regular file")
                files.remove_temporary(self.folder)
                files.remove_temporary(self._parts.folder)
                files.remove_temporary(self.checkpoints)
            yield ours

    def add(self, step: int, quantity: str, names: Sequence[str], positions: Sequence[int], values: Any) -> None:
        """Keeps readings of one quantity at one step until the next `flush`."""
        self._rows.append((step, names, positions, quantity, np.asarray(values, np.float32).reshape(-1)))

    def flush(self) -> None:
        """Writes what was added as one part, named by its last step."""
        if self._rows:
            self._parts.write(self._rows)
            self._rows.clear()

    @property
    def last_step(self) -> int:
        """The last step whose readings are on disk; 0 where none are."""
        return self._parts.last_step

    def drop_after(self, step: int) -> None:
        """Forgets the readings after `step`: a resumed run makes them again. Parts end where checkpoints are.

        Raises `BadInput` where what is left does not go up to `step`.
        """
        self._rows.clear()
        self._parts.drop_after(step)
        end = _end(self._parts.read())
        self._check(end == step, f"its readings end at step {end}, its checkpoint is of step {step}")

    def readings(self) -> pa.Table:
        """All readings on disk, in the order they were made. Raises `BadInput` where they do not add up."""
        parts = self._parts.read()
        self._check_end(parts)
        return tables(parts)

    def _check_end(self, parts: list[Part]) -> None:
        """Raises `BadInput` where the run is said to have ended at another step than its readings."""
        config, status = self.config, self.status
        if config is None or status["state"] not in FINISHED:
            return
        end, steps = _end(parts), config["run"].get("steps")
        self._check(status["step"] == end, f"its readings end at step {end}, not at {status['step']} as it says")
        whole = status["state"] != "done" or end == steps
        self._check(whole, f"it is said to be done, but its readings end at step {end} of {steps}")

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise BadInput(f"{self.folder} does not add up: {otherwise}; remove the folder and run again")


def _end(parts: Sequence[Part]) -> int:
    """The last step of the parts."""
    return parts[-1].last if parts else 0
