"""The two tables that are published, `runs.csv` and `readings.parquet`: written in one transaction, and read whole."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gradflow.errors import BadInput, first_line
from gradflow.runs import files, runs_csv
from gradflow.runs.readings import NAME, READINGS, read_parquet

_NEXT = ".runs.csv.next"
_PUBLISH_SECONDS = 600


@contextlib.contextmanager
def publishing(results: Path) -> Iterator[None]:
    """Keeps other commands from publishing in this folder, so that its tables, figures and report are of one of them.

    Raises `BadInput` where another one does not end.
    """
    with files.lock(results / "runs" / "publish.lock", _PUBLISH_SECONDS) as ours:
        if not ours:
            raise BadInput(f"{results} is being published by another command since {_PUBLISH_SECONDS} s: wait for it")
        files.remove_temporary(results)
        yield


def publish(results: Path, runs: pd.DataFrame, readings: pd.DataFrame) -> None:
    """Writes `runs.csv` and `readings.parquet`: the tables that every figure and verdict is a function of.

    One transaction: the readings know the digest of their runs, which lie beside them as `.runs.csv.next` until both
    are in place. The caller holds `publishing`.
    """
    text, rows = runs_csv.as_text(runs), _readings(readings)
    following = results / _NEXT
    files.write_text(following, text)
    own = {"gradflow_runs": _digest(text.encode())}
    if like_numbers := runs_csv.text_like_numbers(runs):
        own["gradflow_text"] = json.dumps(like_numbers)
    rows = rows.replace_schema_metadata({**(READINGS.metadata or {}), **own})
    with files.replacing(results / "readings.parquet") as temporary:
        # The bytes of floats one kind after the other: two fifths less than as they come.
        names = [name for name in rows.schema.names if name != "value"]
        split = {"value": "BYTE_STREAM_SPLIT"}
        how = {"use_dictionary": names, "column_encoding": split, "compression_level": 19}
        with temporary.open("wb") as file:  # of a path such as x:y pyarrow would think that it is a URI
            pq.write_table(rows, file, compression="zstd", **how)
    files.write_text(results / "runs.csv", text)
    following.unlink(missing_ok=True)


def _readings(readings: pd.DataFrame) -> pa.Table:
    """The readings in the types that they are published in. Raises `BadInput` for what has no such types."""
    schema = READINGS.insert(0, pa.field("run", NAME))
    try:
        return pa.Table.from_pandas(readings, preserve_index=False).select(schema.names).cast(schema)
    except (pa.ArrowException, KeyError, TypeError, OverflowError, UnicodeError) as error:
        raise BadInput(
            f"the table of readings cannot be written ({first_line(error)}): step and position are integers of 32 "
            "bits, value is a number, run, layer and quantity are text"
        ) from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()  # as a checkout on Windows may have them


def read(results: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`(runs, readings)` as published. Raises `BadInput` where one of them is not ours, or they do not fit."""
    path = results / "readings.parquet"
    table = read_parquet(path)
    schema = READINGS.insert(0, pa.field("run", NAME))
    try:
        readings = table.select(schema.names).cast(schema)
        if any(readings[name].null_count for name in ("run", "step", "layer", "quantity")):
            raise ValueError("rows without run, step, layer or quantity")
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise BadInput(f"{path} is no table of readings ({first_line(error)}); remove it and run again") from error
    metadata = table.schema.metadata or {}
    digest = metadata.get(b"gradflow_runs", b"").decode(errors="replace")
    try:
        text = [*map(str, json.loads(metadata.get(b"gradflow_text", b"[]")))]
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no table of readings ({first_line(error)}); remove it and run again") from error
    runs = _runs_of(results, digest, text)
    unknown = set(readings["run"].unique().to_pylist()) - set(runs["run"])
    if unknown:
        raise BadInput(f"{results} does not add up: runs.csv lacks the run {min(unknown)!r}; run again")
    return runs, readings.to_pandas()


def _runs_of(results: Path, digest: str, text: Sequence[str]) -> pd.DataFrame:
    """The runs that were published with the readings that hold this digest; old versions wrote none."""
    for path in (results / "runs.csv", results / _NEXT):
        try:
            content = files.read_bytes(path) if path.exists() else None
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror or error}; run again") from error
        if content is not None and (not digest or _digest(content) == digest):
            return runs_csv.checked(content, path, text)
    raise BadInput(f"{results} does not add up: runs.csv was not published with readings.parquet; run again")
