"""All runs as two tables: one row a run, one row a reading; and as one long table with the settings joined."""

import contextlib
import hashlib
import io
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gradflow.data import bounds
from gradflow.errors import BadInput
from gradflow.kinds import checked
from gradflow.runs import files
from gradflow.runs.record import NAME, READINGS, Record, read_parquet

NEEDED = ("run", "seed", "status")  # of every table of runs, beside what settings there are
_NEXT = ".runs.csv.next"
_PUBLISH_SECONDS = 600
_VARIABLE = "GRADFLOW_MAX_TABLE_BYTES"


def collect(records: Sequence[Record]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`(runs, readings)`: one row a run with its settings and how it ended, and one row a reading, in long form."""
    runs, readings = [], []
    for record in records:
        config = record.config
        if config is None:
            continue
        name, status = record.name, record.status
        runs.append(
            {
                "run": name,
                **config["run"],
                **config["counts"],
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
    return _as_published(pd.DataFrame(runs)), table.to_pandas()


def concatenate(tables: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Several `(runs, readings)` as one; a setting that some runs do not have is missing there."""
    runs, readings = (pd.concat(kind, ignore_index=True) for kind in zip(*tables, strict=True))
    return _as_published(runs), readings


def _as_published(runs: pd.DataFrame) -> pd.DataFrame:
    return _read_runs(io.StringIO(_csv(runs)), _text_like_numbers(runs))


def _text_like_numbers(runs: pd.DataFrame) -> list[str]:
    """The columns of text that a reader of CSV would take for numbers, as it does a commit `12e4567`."""
    text = [name for name in runs if any(isinstance(value, str) for value in runs[name])]
    some: Any = runs[text]
    read = _read_runs(io.StringIO(_csv(some))) if text else runs
    return [name for name in text if not pd.api.types.is_string_dtype(read[name].dtype)]


def _csv(runs: pd.DataFrame) -> str:
    """Raises `BadInput` for what no CSV can hold."""
    if strange := [name for name in runs.columns if not isinstance(name, str)]:
        raise BadInput(f"a column of the table of runs is called {strange[0]!r}: legal is text")
    try:
        text = runs.to_csv(index=False, lineterminator="\n")
        text.encode()
    except ValueError as error:  # an integer of thousands of digits, half a character
        raise BadInput(f"the table of runs cannot be written: {_first_line(error)}") from error
    return text


def _read_runs(source: io.StringIO | io.BytesIO, text: Sequence[str] = ()) -> pd.DataFrame:
    """Reads raw and published runs alike: a setting that is None everywhere has the same type in both. The columns
    `text` hold only that, whatever it looks like.
    """
    return pd.read_csv(source, keep_default_na=False, na_values=[""], dtype=dict.fromkeys(text, str))


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
    text, rows = _csv(runs), _readings(readings)
    following = results / _NEXT
    files.write_text(following, text)
    own = {"gradflow_runs": _digest(text.encode())}
    if like_numbers := _text_like_numbers(runs):
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
            f"the table of readings cannot be written ({_first_line(error)}): step and position are integers of 32 "
            "bits, value is a number, run, layer and quantity are text"
        ) from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()  # as a checkout on Windows may have them


def _published(results: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`(runs, readings)` as published. Raises `BadInput` where one of them is not ours, or they do not fit."""
    path = results / "readings.parquet"
    table = read_parquet(path)
    schema = READINGS.insert(0, pa.field("run", NAME))
    try:
        readings = table.select(schema.names).cast(schema)
        if any(readings[name].null_count for name in ("run", "step", "layer", "quantity")):
            raise ValueError("rows without run, step, layer or quantity")
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise BadInput(f"{path} is no table of readings ({_first_line(error)}); remove it and run again") from error
    metadata = table.schema.metadata or {}
    digest = metadata.get(b"gradflow_runs", b"").decode(errors="replace")
    try:
        text = [*map(str, json.loads(metadata.get(b"gradflow_text", b"[]")))]
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no table of readings ({_first_line(error)}); remove it and run again") from error
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
            return _checked_runs(content, path, text)
    raise BadInput(f"{results} does not add up: runs.csv was not published with readings.parquet; run again")


def _checked_runs(content: bytes, path: Path, text: Sequence[str] = ()) -> pd.DataFrame:
    try:
        runs = _read_runs(io.BytesIO(content), text)
        if missing := [name for name in NEEDED if name not in runs]:
            raise ValueError(f"it has no column {missing[0]!r}")
        if bool(runs["run"].isna().any()) or bool(runs["run"].duplicated().any()):
            raise ValueError("a run without a name, or twice")
        for name in ("last_step", "classes"):  # which statistics compute with
            numbers: Any = pd.to_numeric(runs[name]) if name in runs else 0
            if np.any(np.isinf(numbers)):
                raise ValueError(f"{name} holds what is no number")
        if common := sorted({*runs} & {*READINGS.names}):
            raise ValueError(f"a column of the readings: {common[0]}")
    except (ValueError, OverflowError) as error:
        raise BadInput(f"cannot read {path}: {_first_line(error)}; remove it and run again") from error
    return runs.astype({"run": str})


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def join(runs: pd.DataFrame, readings: pd.DataFrame) -> pd.DataFrame:
    """The long table with the settings of each run joined: what figures and verdicts take.

    Of millions of rows no name is compared with another: a run is known by its number in the dictionary of all names.
    """
    if not runs["run"].is_unique:
        raise ValueError("a run has two rows")
    readings = readings.reset_index(drop=True)
    names = readings["run"].astype("category").cat
    rows = pd.Index(runs["run"]).get_indexer(names.categories)[names.codes]
    settings = runs.drop(columns="run").reset_index(drop=True).reindex(rows).set_axis(readings.index)
    text = {name: _text(readings[name]) for name in ("run", "layer", "quantity")}
    return pd.concat([readings.assign(**text, value=readings["value"].astype(float)), settings], axis=1)


def _text(names: Any) -> pd.Series:
    """Names as text; those of a dictionary are taken from it as they are, which is no Python object a row."""
    if not isinstance(names.dtype, pd.CategoricalDtype):
        return names.astype(str)
    taken = pd.array(names.cat.categories, dtype=str).take(names.cat.codes.to_numpy(), allow_fill=True)
    return pd.Series(taken, names.index)


@checked
def load(results: str | Path, quantities: Collection[str] | None = None) -> pd.DataFrame:
    """The long table of a results folder, settings joined: columns `run, step, layer, position, quantity, value`, then
    one a setting, `status` and `last_step`. From the published tables, or else from the raw record of the runs; or of
    one run, whose folder in `runs/` it is.

    Settings stand in every row, which takes memory: `quantities` are those that are wanted, where not all are.
    What is read once a step of the whole net (loss, train_error, test_error) has the layer "" and the position -1.
    Raises `BadInput` for a folder without results, or of another format.
    """
    results = Path(results)
    try:
        published = (results / "readings.parquet").exists()
    except OSError as error:
        raise BadInput(f"cannot read {results}: {error.strerror or error}") from error
    if published:
        runs, readings = _published(results)
    elif (results / "runs").is_dir():
        runs, readings = collect([Record(folder) for folder in sorted((results / "runs").iterdir()) if folder.is_dir()])
    elif (results / "config.json").is_file():
        runs, readings = collect([Record(results)])
    else:
        raise BadInput(f"{results} is no results folder: it has neither readings.parquet and runs.csv nor runs/")
    readings = _only(readings, quantities)
    bounds.check(len(readings) * _row_bytes(runs, readings), f"the table of {results}", _VARIABLE, _half_of_memory)
    return join(runs, readings)


def _half_of_memory() -> int:
    return bounds.machine() // 2


def _row_bytes(runs: pd.DataFrame, readings: pd.DataFrame) -> int:
    """What a row of the long table takes at most: a column of text may hold any number of characters."""
    texts = [readings[name].astype("category").cat.categories for name in ("run", "layer", "quantity")]
    texts += [runs[name] for name in runs.columns[1:] if not pd.api.types.is_numeric_dtype(runs[name].dtype)]
    longest = (int(text.astype(str).str.len().max()) if len(text) else 0 for text in texts)
    return 8 * (len(runs.columns) + len(READINGS.names)) + sum(longest)


def _only(readings: pd.DataFrame, quantities: Collection[str] | None) -> pd.DataFrame:
    return readings if quantities is None else readings.loc[readings["quantity"].isin([*quantities])]
