"""The table of readings: its columns and their types, and a file of it as this version writes it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gradflow.data import bounds
from gradflow.errors import BadInput, first_line
from gradflow.runs import files

TABLES_FORMAT = 1  # of the tables that are published
NAME = pa.dictionary(pa.int32(), pa.string())
READINGS = pa.schema(
    [("step", pa.int32()), ("layer", NAME), ("position", pa.int32()), ("quantity", NAME), ("value", pa.float32())],
    metadata={"gradflow_format": str(TABLES_FORMAT)},
)
_ROW_BYTES = 24  # of a reading in memory: three numbers and the numbers of three names


def read_parquet(path: Path) -> pa.Table:
    """A table that this version wrote. Raises `BadInput` for any other, or half of one."""
    try:
        with files.open_whole(path) as source:
            return read_table(source, path)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}; remove it and run again") from error


def read_table(source: Any, path: Path) -> pa.Table:
    """The same of an open file, or of bytes, which were read from this path."""
    try:
        metadata = pq.read_metadata(source)
        bounds.check(_ROW_BYTES * metadata.num_rows, str(path))
        names = [name for name in ("run", "layer", "quantity") if name in metadata.schema.names]
        table = pq.ParquetFile(source, metadata=metadata, read_dictionary=names).read()  # a name once, not in each row
        table.validate(full=True)  # names are text, and each row has one of them
    except BadInput:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadInput(f"cannot read {path}: {first_line(error)}; remove it and run again") from error
    found = (table.schema.metadata or {}).get(b"gradflow_format", b"none").decode(errors="replace")
    if found != str(TABLES_FORMAT):
        raise BadInput(
            f"{path} has the results format {found}, this version reads {TABLES_FORMAT}: "
            "use another results folder, or the version that wrote it"
        )
    return table
