"""All runs as two tables: one row a run, one row a reading; and as one long table with the settings joined."""

import io
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gradflow.errors import BadInput
from gradflow.runs.files import replacing, write_text
from gradflow.runs.record import NAME, READINGS, Record, read_parquet


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
    """Reads raw and published runs alike: a setting that is None everywhere has the same type in both."""
    return pd.read_csv(source, keep_default_na=False, na_values=[""])


def publish(results: Path, runs: pd.DataFrame, readings: pd.DataFrame) -> None:
    """Writes `runs.csv` and `readings.parquet`: the tables that every figure and verdict is a function of."""
    write_text(results / "runs.csv", _csv(runs))
    schema = READINGS.insert(0, pa.field("run", NAME))
    with replacing(results / "readings.parquet") as temporary:
        table = pa.Table.from_pandas(readings, preserve_index=False).cast(schema)
        pq.write_table(table.replace_schema_metadata(READINGS.metadata), temporary, compression="zstd")


def join(runs: pd.DataFrame, readings: pd.DataFrame) -> pd.DataFrame:
    """The long table with the settings of each run joined: what figures and verdicts take."""
    readings = readings.astype({"run": str, "layer": str, "quantity": str, "value": float})
    return readings.merge(runs, on="run", how="left", validate="many_to_one")


def load(results: str | Path, quantities: Collection[str] | None = None) -> pd.DataFrame:
    """The long table of a results folder, settings joined: columns `run, step, layer, position, quantity, value`, then
    one a setting, `status` and `last_step`. From the published tables, or else from the raw record of the runs.

    Settings stand in every row, which takes memory: `quantities` are those that are wanted, where not all are.
    What is read once a step of the whole net (loss, train_error, test_error) has the layer "" and the position -1.
    Raises `BadInput` for a folder without results, or of another format.
    """
    results = Path(results)
    if (results / "readings.parquet").exists() and (results / "runs.csv").exists():
        readings = read_parquet(results / "readings.parquet").to_pandas()
        try:
            runs = _read_runs(results / "runs.csv")
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read {results / 'runs.csv'}: {error}; remove it and run again") from error
        if "run" not in runs:
            raise BadInput(f"cannot read {results / 'runs.csv'}: it has no column 'run'; remove it and run again")
        return join(runs, _only(readings, quantities))
    if not (results / "runs").is_dir():
        raise BadInput(f"{results} is no results folder: it has neither readings.parquet and runs.csv nor runs/")
    runs, readings = collect([Record(folder) for folder in sorted((results / "runs").iterdir())])
    return join(runs, _only(readings, quantities))


def _only(readings: pd.DataFrame, quantities: Collection[str] | None) -> pd.DataFrame:
    return readings if quantities is None else readings.loc[readings["quantity"].isin(list(quantities))]
