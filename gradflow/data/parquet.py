"""The layout of the Hugging Face Hub: parquet files with a column of encoded images and one of labels."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gradflow.data.dataset import LAYOUTS, Split, one_line
from gradflow.data.images import decode
from gradflow.errors import BadInput


def find(folder: Path, split: str) -> tuple[Path, ...]:
    """`train-*.parquet` or `train.parquet`, in the folder or else in its `data/`."""
    found = (sorted(place.glob(f"{split}[-.]*parquet")) for place in (folder, folder / "data"))
    return tuple(next(filter(None, found), ()))


def read(files: tuple[Path, ...]) -> Split:
    """Images, labels and class names of a split. Raises `BadInput` for files that are not whole or not alike."""
    tables = []
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                tables.append(file.read(columns=[_image_column(file.schema_arrow, str(path)), "label"]))
        except (OSError, pa.ArrowException) as error:
            raise BadInput(f"{path} is not a whole parquet file ({one_line(error)}): {LAYOUTS}") from error
    if any(not table.schema.equals(tables[0].schema) for table in tables):
        raise BadInput(f"{files[0].parent}: the files of one split must have the same columns and types")
    return unpack(pa.concat_tables(tables), str(files[0] if len(files) == 1 else files[0].parent))


def _image_column(schema: pa.Schema, where: str) -> str:
    """`img` or `image`, once both columns are known to have their types."""
    image = next((name for name in ("img", "image") if name in schema.names), None)
    if image and "label" in schema.names and pa.types.is_integer(schema.field("label").type):
        kind = schema.field(image).type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return image
    found = ", ".join(f"{field.name} ({str(field.type)[:60]})" for field in schema) or "no columns"
    raise BadInput(f"{where}: found {found}; wanted img or image (struct with bytes) and label (integer)")


def unpack(table: pa.Table, where: str) -> Split:
    """Images, labels and class names of a table in the Hugging Face layout."""
    image, labels = _image_column(table.schema, where), table["label"]
    if labels.null_count:
        row = labels.to_pylist().index(None)
        raise BadInput(f"{where}: the label of row {row} is null; every image needs an integer label")
    encoded = table.flatten()[f"{image}.bytes"].to_pylist()
    return decode(encoded, where), labels.to_numpy(), _class_names(table.schema)


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """The names `datasets` writes into the schema; None where the metadata do not say."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features["label"]["names"]) or None
    except (KeyError, TypeError, ValueError):
        return None
