"""The folder of one run: its settings, its status, its readings, its lock, written so that a crash loses little.

It holds `config.json`, `status.json`, `metrics/part-<last step>.parquet`, `checkpoints/`, `log.txt` and `lock`.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gradflow.errors import BadInput
from gradflow.runs.files import read_json, replacing, write_json

try:
    import fcntl
except ImportError:  # Windows has no flock: there, two processes on one folder are not kept apart
    fcntl = None

FORMAT = 1  # of the folders and tables below; a folder of another format is refused, not guessed at
FINISHED = ("done", "diverged")
NAME = pa.dictionary(pa.int32(), pa.string())
READINGS = pa.schema(
    [("step", pa.int32()), ("layer", NAME), ("position", pa.int32()), ("quantity", NAME), ("value", pa.float32())],
    metadata={"gradflow_format": str(FORMAT)},
)
NET = ("", -1)  # layer and position of what is read once a step, of the whole net


class Record:
    """The folder of one run: its settings, its status, its readings, its lock. One process writes it at a time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self._metrics = folder / "metrics"
        self._rows: list[tuple[int, Sequence[str], Sequence[int], str, np.ndarray]] = []

    @property
    def config(self) -> dict[str, Any] | None:
        """`config.json`; raises `BadInput` if another version of gradflow wrote it in another format."""
        config = read_json(self.folder / "config.json")
        if config is not None and config.get("format") != FORMAT:
            raise BadInput(
                f"{self.folder} has the results format {config.get('format')}, this version reads {FORMAT}: "
                "use another results folder, or the version that wrote it"
            )
        return config

    @property
    def status(self) -> dict[str, Any]:
        """`status.json`: `state` is queued, running, done, diverged or failed; `step` the last one on disk."""
        return read_json(self.folder / "status.json") or {"state": "queued", "step": 0}

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.config is not None and self.status["state"] in FINISHED

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes `config.json`, with the format of the folder."""
        write_json(self.folder / "config.json", {"format": FORMAT, **config})

    def write_status(self, state: str, **details: Any) -> None:
        """Writes `status.json`."""
        write_json(self.folder / "status.json", {"state": state, **details})

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Yields whether the run is ours; false while another process has it. The lock ends with the process."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / "lock").open("a")
        except OSError as error:
            raise BadInput(f"cannot write {self.folder}: {error.strerror}: choose another --results folder") from error
        with file:
            try:
                if fcntl:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

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
        with replacing(self._metrics / f"part-{self._rows[-1][0]:09d}.parquet") as temporary:
            pq.write_table(part.cast(READINGS), temporary, compression="zstd")
        self._rows.clear()

    def drop_after(self, step: int) -> None:
        """Forgets the readings after `step`: a resumed run makes them again. Parts end where checkpoints are."""
        self._rows.clear()
        for part in self._metrics.glob("part-*.parquet"):
            if int(part.stem.removeprefix("part-")) > step:
                part.unlink()

    def readings(self) -> pa.Table:
        """All readings on disk, in the order they were made. Raises `BadInput` for a part that cannot be read."""
        parts = [read_parquet(part) for part in sorted(self._metrics.glob("part-*.parquet"))]
        return pa.concat_tables(parts).unify_dictionaries() if parts else READINGS.empty_table()


def read_parquet(path: Path) -> pa.Table:
    """A table that this version wrote. Raises `BadInput` for any other, or half of one."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        # Without a part its run is not whole.
        broken = f"the folder {path.parent.parent}" if path.parent.name == "metrics" else "it"
        raise BadInput(f"cannot read {path}: {str(error).splitlines()[0]}; remove {broken} and run again") from error
    found = (table.schema.metadata or {}).get(b"gradflow_format", b"none").decode()
    if found != str(FORMAT):
        raise BadInput(
            f"{path} has the results format {found}, this version reads {FORMAT}: "
            "use another results folder, or the version that wrote it"
        )
    return table
