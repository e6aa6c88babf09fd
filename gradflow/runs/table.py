"""All runs as two tables: one row a run, one row a reading; and as one long table with the settings joined."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gradflow.data import bounds
from gradflow.errors import BadInput
from gradflow.kinds import checked
from gradflow.runs import published, runs_csv
from gradflow.runs.readings import READINGS
from gradflow.runs.record import Record

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
    return runs_csv.as_published(pd.DataFrame(runs)), table.to_pandas()


def concatenate(tables: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Several `(runs, readings)` as one; a setting that some runs do not have is missing there."""
    runs, readings = (pd.concat(kind, ignore_index=True) for kind in zip(*tables, strict=True))
    return runs_csv.as_published(runs), readings


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
        is_published = (results / "readings.parquet").exists()
    except OSError as error:
        raise BadInput(f"cannot read {results}: {error.strerror or error}") from error
    if is_published:
        runs, readings = published.read(results)
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
