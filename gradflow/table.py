"""Runs and readings on disk and as DataFrames: one row a run, one row a reading, written so that a crash loses little.

A run's folder holds `config.json`, `status.json`, `metrics/part-<last step>.parquet`, `checkpoints/`, `log.txt` and
`lock`. What is read again is written under a temporary name, synced and renamed, so a reader never sees half of it.
"""

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gradflow.errors import BadInput

try:
    import fcntl
except ImportError:  # Windows has no flock: there, two processes on one folder are not kept apart
    fcntl = None

FORMAT = 1  # of the folders and tables below; a folder of another format is refused, not guessed at
FINISHED = ("done", "diverged")
_NAME = pa.dictionary(pa.int32(), pa.string())
READINGS = pa.schema(
    [("step", pa.int32()), ("layer", _NAME), ("position", pa.int32()), ("quantity", _NAME), ("value", pa.float32())],
    metadata={"gradflow_format": str(FORMAT)},
)
NET = ("", -1)  # layer and position of what is read once a step, of the whole net


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which takes its place, synced, if the block succeeds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}; what was recorded before is intact") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` in place of `path` in one go; raises `BadInput` where that is not possible."""
    with _replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, content: str) -> None:
    """Writes `content` in place of `path` in one go; raises `BadInput` where that is not possible."""
    with _replacing(path) as temporary:
        temporary.write_text(content)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is no file. Raises `BadInput` for one that cannot be read."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {error}; remove it and run again") from error
    return content


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
        plain = pa.schema([(f.name, pa.string() if f.type == _NAME else f.type) for f in READINGS])
        part = pa.table(columns, schema=plain)
        with _replacing(self._metrics / f"part-{self._rows[-1][0]:09d}.parquet") as temporary:
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
        parts = [_read_parquet(part) for part in sorted(self._metrics.glob("part-*.parquet"))]
        return pa.concat_tables(parts).unify_dictionaries() if parts else READINGS.empty_table()


def _read_parquet(path: Path) -> pa.Table:
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


def collect(records: Sequence[Record]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`(runs, readings)`: one row a run with its settings and how it ended, and one row a reading, in long form."""
    runs, readings = [], []
    for record in records:
        config = record.config
        if config is None:
            continue
        name = record.folder.name
        status = record.status
        runs.append(
            {
                "run": name,
                **config["run"],
                **config.get("counts", {}),
                "status": status["state"],
                "last_step": status["step"],
            }
        )
        table = record.readings()
        column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(table), np.int32)), [name])
        readings.append(table.add_column(0, "run", column))
    if not runs:
        raise BadInput("there are no runs in this results folder yet: run the experiment first")
    table = pa.concat_tables(readings).unify_dictionaries()
    return _read_runs(io.StringIO(_csv(pd.DataFrame(runs)))), table.to_pandas()


def _csv(runs: pd.DataFrame) -> str:
    return runs.to_csv(index=False, lineterminator="\n")


def _read_runs(source: Path | io.StringIO) -> pd.DataFrame:
    """One way in for raw and published runs: a setting that is None everywhere has the same type in both."""
    return pd.read_csv(source, keep_default_na=False, na_values=[""])


def publish(results: Path, runs: pd.DataFrame, readings: pd.DataFrame) -> None:
    """Writes `runs.csv` and `readings.parquet`: the tables that every figure and verdict is a function of."""
    write_text(results / "runs.csv", _csv(runs))
    schema = READINGS.insert(0, pa.field("run", _NAME))
    with _replacing(results / "readings.parquet") as temporary:
        table = pa.Table.from_pandas(readings, preserve_index=False).cast(schema)
        pq.write_table(table.replace_schema_metadata(READINGS.metadata), temporary, compression="zstd")


def join(runs: pd.DataFrame, readings: pd.DataFrame) -> pd.DataFrame:
    """The long table with the settings of each run joined: what figures and verdicts take."""
    readings = readings.astype({"run": str, "layer": str, "quantity": str, "value": float})
    return readings.merge(runs, on="run", how="left", validate="many_to_one")


def load(results: str | Path) -> pd.DataFrame:
    """The long table of a results folder, settings joined: columns `run, step, layer, position, quantity, value`, then
    one a setting, `status` and `last_step`. From the published tables, or else from the raw record of the runs.

    What is read once a step of the whole net (loss, train_error, test_error) has the layer "" and the position -1.
    Raises `BadInput` for a folder without results, or of another format.
    """
    results = Path(results)
    if (results / "readings.parquet").exists() and (results / "runs.csv").exists():
        readings = _read_parquet(results / "readings.parquet").to_pandas()
        try:
            runs = _read_runs(results / "runs.csv")
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read {results / 'runs.csv'}: {error}; remove it and run again") from error
        if "run" not in runs:
            raise BadInput(f"cannot read {results / 'runs.csv'}: it has no column 'run'; remove it and run again")
        return join(runs, readings)
    if not (results / "runs").is_dir():
        raise BadInput(f"{results} is no results folder: it has neither readings.parquet and runs.csv nor runs/")
    return join(*collect([Record(folder) for folder in sorted((results / "runs").iterdir())]))
