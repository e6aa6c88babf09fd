"""The folder of one run: its settings, its status, its readings, its lock, written so that a crash loses little.

It holds `config.json`, `status.json`, `metrics/part-<last step>-<digest>.parquet`, `checkpoints/`, `log.txt`, `lock`.
Every file says whose it is, and a folder that does not add up is refused: it is never summed up.
"""

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gradflow.data import bounds
from gradflow.errors import BadInput, refuse_links
from gradflow.runs import files

FORMAT = 2  # of a run's folder; another one is refused, not guessed at
TABLES_FORMAT = 1  # of the tables that are published
FINISHED = ("done", "diverged")
STATES = ("queued", "running", "failed", *FINISHED)
NAME = pa.dictionary(pa.int32(), pa.string())
READINGS = pa.schema(
    [("step", pa.int32()), ("layer", NAME), ("position", pa.int32()), ("quantity", NAME), ("value", pa.float32())],
    metadata={"gradflow_format": str(TABLES_FORMAT)},
)
_ROW_BYTES = 24  # of a reading in memory: three numbers and the numbers of three names
_PART = re.compile(r"part-(\d{9,})-([0-9a-f]{16})\.parquet")


class _Part(NamedTuple):
    path: Path
    content: bytes
    last: int  # step


class Record:
    """The folder of one run: its settings, its status, its readings, its lock. One process writes it at a time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self._metrics = folder / "metrics"
        self._rows: list[tuple[int, Sequence[str], Sequence[int], str, np.ndarray]] = []

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
        self._check_end(self._parts())
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
                own = ("config.json", "status.json", "log.txt", self.checkpoints.name, self._metrics.name)
                refuse_links(*(self.folder / name for name in own))
                log = self.folder / "log.txt"
                self._check(log.is_file() or not log.exists(), "log.txt is no regular file")
                files.remove_temporary(self.folder)
                files.remove_temporary(self._metrics)
                files.remove_temporary(self.checkpoints)
            yield ours

    def add(self, step: int, quantity: str, names: Sequence[str], positions: Sequence[int], values: Any) -> None:
        """Keeps readings of one quantity at one step until the next `flush`."""
        self._rows.append((step, names, positions, quantity, np.asarray(values, np.float32).reshape(-1)))

    def flush(self) -> None:
        """Writes what was added as one part, named by its last step."""
        if not self._rows:
            return
        lengths = [len(names) for _, names, _, _, _ in self._rows]
        columns = {
            "step": np.repeat([row[0] for row in self._rows], lengths),
            "layer": [name for row in self._rows for name in row[1]],
            "position": np.concatenate([row[2] for row in self._rows]),
            "quantity": np.repeat([row[3] for row in self._rows], lengths),
            "value": np.concatenate([row[4] for row in self._rows]),
        }
        plain = pa.schema([(f.name, pa.string() if f.type == NAME else f.type) for f in READINGS])
        part = pa.table(columns, schema=plain)
        # So that parts follow one another without a gap, each says where it begins: after the one before.
        first, last = self.last_step + 1, self._rows[-1][0]
        own = {"gradflow_part": json.dumps({"run": self.name, "first": first, "last": last})}
        stream = pa.BufferOutputStream()
        pq.write_table(
            part.cast(READINGS.with_metadata({**(READINGS.metadata or {}), **own})), stream, compression="zstd"
        )
        content = stream.getvalue().to_pybytes()
        files.write_bytes(self._metrics / f"part-{last:09d}-{_digest(content)}.parquet", content)
        self._rows.clear()

    @property
    def last_step(self) -> int:
        """The last step whose readings are on disk; 0 where none are."""
        return max((step for step, _ in self._found()), default=0)

    def drop_after(self, step: int) -> None:
        """Forgets the readings after `step`: a resumed run makes them again. Parts end where checkpoints are.

        Raises `BadInput` where what is left does not go up to `step`.
        """
        self._rows.clear()
        for last, path in self._found():
            if last > step:
                path.unlink()
        parts = self._parts()
        end = parts[-1].last if parts else 0
        self._check(end == step, f"its readings end at step {end}, its checkpoint is of step {step}")

    def readings(self) -> pa.Table:
        """All readings on disk, in the order they were made. Raises `BadInput` where they do not add up."""
        parts = self._parts()
        self._check_end(parts)
        tables = [_read(pa.BufferReader(part.content), part.path) for part in parts]
        table = pa.concat_tables(tables).unify_dictionaries() if tables else READINGS.empty_table()
        return table.replace_schema_metadata(READINGS.metadata)

    def _found(self) -> list[tuple[int, Path]]:
        """Last step and path of the files that are named as we name parts. Raises `BadInput` where one is a link."""
        names = ((_PART.fullmatch(path.name), path) for path in self._metrics.glob("part-*.parquet"))
        found = sorted((int(match[1]), path) for match, path in names if match)
        refuse_links(*(path for _, path in found))
        return found

    def _parts(self) -> list[_Part]:
        """The parts in order. Raises `BadInput` unless each is whole, of this run, and begins after the one before."""
        refuse_links(self._metrics)
        parts, before = [], 0
        for last, path in self._found():
            try:
                content = files.read_bytes(path)
            except OSError as error:
                raise BadInput(f"cannot read {path}: {error.strerror or error}") from error
            whole = _digest(content) == path.stem.rpartition("-")[2]
            self._check(whole, f"{path.name} is not what was written")
            own = _whose(content, path)
            self._check(own.get("run") == self.name, f"{path.name} is of the run {own.get('run')!r}")
            follows = own.get("first") == before + 1 and own.get("last") == last
            self._check(follows, f"the readings after step {before} are missing, or there twice")
            parts.append(_Part(path, content, last))
            before = last
        return parts

    def _check_end(self, parts: list[_Part]) -> None:
        """Raises `BadInput` where the run is said to have ended at another step than its readings."""
        config, status = self.config, self.status
        if config is None or status["state"] not in FINISHED:
            return
        end = parts[-1].last if parts else 0
        steps = config["run"].get("steps")
        self._check(status["step"] == end, f"its readings end at step {end}, not at {status['step']} as it says")
        whole = status["state"] != "done" or end == steps
        self._check(whole, f"it is said to be done, but its readings end at step {end} of {steps}")

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise BadInput(f"{self.folder} does not add up: {otherwise}; remove the folder and run again")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _whose(content: bytes, path: Path) -> dict[str, Any]:
    """What a part says of itself: the run, its first and its last step."""
    try:
        metadata = pq.read_schema(pa.BufferReader(content)).metadata or {}
        own = json.loads(metadata.get(b"gradflow_part", b"{}"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadInput(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    return own if isinstance(own, dict) else {}


def read_parquet(path: Path) -> pa.Table:
    """A table that this version wrote. Raises `BadInput` for any other, or half of one."""
    try:
        with files.open_whole(path) as source:
            return _read(source, path)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}; remove it and run again") from error


def _read(source: Any, path: Path) -> pa.Table:
    try:
        metadata = pq.read_metadata(source)
        bounds.check(_ROW_BYTES * metadata.num_rows, str(path))
        names = [name for name in ("run", "layer", "quantity") if name in metadata.schema.names]
        table = pq.ParquetFile(source, metadata=metadata, read_dictionary=names).read()  # a name once, not in each row
        table.validate(full=True)  # names are text, and each row has one of them
    except BadInput:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadInput(f"cannot read {path}: {str(error).splitlines()[0]}; remove it and run again") from error
    found = (table.schema.metadata or {}).get(b"gradflow_format", b"none").decode(errors="replace")
    if found != str(TABLES_FORMAT):
        raise BadInput(
            f"{path} has the results format {found}, this version reads {TABLES_FORMAT}: "
            "use another results folder, or the version that wrote it"
        )
    return table
