"""The layout of the Hugging Face Hub: parquet files with a column of encoded images and one of labels."""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gradflow.data import bounds
from gradflow.data.dataset import LAYOUTS, TEST_NAMES, TRAIN_NAMES, Split, one_line
from gradflow.data.files import Files, visible
from gradflow.data.images import decode
from gradflow.errors import BadInput

_SPLIT = "|".join(TRAIN_NAMES + TEST_NAMES)
_NAME = re.compile(rf"({_SPLIT})(?:[-.].*)?\.parquet", re.I)
_SHARD = re.compile(r"-(\d+)-of-(\d+)(?!\d)")
_ROWS, _BATCH = 1024, 2**29  # rows, and bytes, that are read at a time


def find(folder: Path) -> dict[str, Files]:
    """`train-*.parquet` or `train/*.parquet`, and the like of other splits: in the folder, its `data/`, or the one
    subfolder that has them, which the Hub names after the configuration (`plain_text/`).
    """
    inner = visible(folder)[0]
    for place in (folder, *(path for path in inner if path.name == "data")):
        if found := _splits(place):
            return found
    elsewhere = {place: found for place in inner if (found := _splits(place))}
    if len(elsewhere) > 1:
        names = ", ".join(place.name for place in list(elsewhere)[:8])
        raise BadInput(f"{folder} holds several data sets, in {names}: give the path of one of these folders")
    return next(iter(elsewhere.values()), {})


def _splits(folder: Path) -> dict[str, Files]:
    folders, files = visible(folder)
    found: dict[str, list[Path]] = {}
    for path in files:
        if match := _NAME.fullmatch(path.name):
            found.setdefault(match[1].lower(), []).append(path)
    for path in folders:
        if path.name.lower() in TRAIN_NAMES + TEST_NAMES and path.name.lower() not in found:
            found[path.name.lower()] = [file for file in visible(path)[1] if file.suffix.lower() == ".parquet"]
    return {split: Files(tuple(paths), paths[0].parent) for split, paths in found.items() if paths}


def beside(path: Path) -> dict[str, Files]:
    """One file as the training split, whatever its name, beside the other splits of its folder."""
    splits = _splits(path.parent)
    tests = {split: files for split, files in splits.items() if split in TEST_NAMES}
    return {TRAIN_NAMES[0]: Files((path,), path.parent), **tests}


def _check_shards(files: Files) -> None:
    """Raises `BadInput` where the names (`train-00000-of-00003.parquet`) say that a file is missing or there twice."""
    shards = [_SHARD.search(path.name) for path in files.paths]
    numbers = sorted(int(shard[1]) for shard in shards if shard)
    if not numbers:
        return
    total = max(int(shard[2]) for shard in shards if shard)
    whole = len(numbers) == total and numbers == list(range(total))  # counted first: a name may say any number
    if None in shards or not whole or any(shard and int(shard[2]) != total for shard in shards):
        has = ", ".join(path.name for path in files.paths[:8]) + (" and more" if len(files.paths) > 8 else "")
        raise BadInput(f"{files.place}: {has}; legal is each of the {total} files that these names say, once")


def read(files: Files, label: str | None = None) -> Split:
    """Images, labels and class names of a split. Raises `BadInput` for files that are not whole or not alike."""
    _check_shards(files)
    where = str(files.paths[0] if len(files.paths) == 1 else files.place)
    schemas, count = [], 0
    for path in files.paths:
        with _opened(path) as file:
            schemas.append(file.schema_arrow)
            count += file.metadata.num_rows
    chosen = [_columns(schema, where, label) for schema in schemas]
    kinds = [[schema.field(name).type for name in names] for schema, names in zip(schemas, chosen, strict=True)]
    if any((names, kind) != (chosen[0], kinds[0]) for names, kind in zip(chosen, kinds, strict=True)):
        raise BadInput(f"{files.place}: the files of one split must have the same columns and types")
    batches = (batch for path in files.paths for batch in _batches(path, *chosen[0]))
    return unpack(batches, schemas[0], count, where, label)


@contextlib.contextmanager
def _opened(path: Path, dictionaries: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """A parquet file, closed in the end; whatever is wrong with it is a `BadInput`."""
    try:
        with path.open("rb") as handle, pq.ParquetFile(handle, read_dictionary=list(dictionaries) or None) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"{path} is not a whole parquet file ({one_line(error)}): {LAYOUTS}") from error


def _batches(path: Path, image: str, label: str) -> Iterator[pa.RecordBatch]:
    """The rows, a few at a time: a value that many rows repeat is in the file once, and in a batch in each of its rows.

    Columns that are not nested keep it as one value. The others have so few rows at a time that no value of the size
    that the file's metadata allow is too much; where these are wrong, Arrow ends at 2 GiB.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
        columns = [f"{image}.bytes" if pa.types.is_struct(schema.field(image).type) else image, label]
        groups = [_pages(file.metadata.row_group(number), columns) for number in range(file.metadata.num_row_groups)]
    bounds.check(sum(groups), str(path))
    rows = max(1, min(_ROWS, _BATCH // max([1, *groups])))
    flat = [name for name in columns if name in schema.names and not pa.types.is_integer(schema.field(name).type)]
    with _opened(path, flat) as file:
        yield from file.iter_batches(rows, columns=columns)


def _pages(group: Any, columns: Sequence[str]) -> int:
    """What the pages of some columns take once they are no longer compressed."""
    every = (group.column(number) for number in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in every if column.path_in_schema in columns)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _holds_images(kind: pa.DataType) -> bool:
    """Bytes, alone or as `datasets` has them, in a struct beside the path that they were read from."""
    inner = pa.types.is_struct(kind) and kind.get_field_index("bytes")
    return _is_bytes(kind) or (inner is not False and inner >= 0 and _is_bytes(kind.field(inner).type))


def _columns(schema: pa.Schema, where: str, label: str | None = None) -> tuple[str, str]:
    """The names of the columns of images and of labels, once both are known to have their types.

    Images are in `img` or `image`, or else in the one column of plain bytes; labels in `label`, or the column that is
    asked for.
    """
    plain = [field.name for field in schema if _is_bytes(field.type)]
    image = next((name for name in ("img", "image") if name in schema.names), plain[0] if len(plain) == 1 else None)
    others = (field for field in schema if field.name != image)
    labels = [field.name for field in others if pa.types.is_integer(field.type) or _is_text(field.type)]
    wanted = "label" if label is None else label
    once = all(schema.names.count(name) == 1 for name in (image, wanted))
    if image and once and _holds_images(schema.field(image).type) and wanted in labels:
        return image, wanted
    found = ", ".join(f"{field.name[:60]} ({str(field.type)[:60]})" for field in list(schema)[:20]) or "no columns"
    choice = f"; choose the column of labels with --label: {', '.join(labels[:20])}" if labels else ""
    raise BadInput(
        f"{where}: found {found}; wanted img or image (struct with bytes) and {wanted} (integer), or bytes and strings"
        f"{choice}"
    )


def unpack(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, count: int, where: str, label: str | None = None
) -> Split:
    """Images, labels and class names of `count` rows in the Hugging Face layout, whose columns `schema` names."""
    image, label = _columns(schema, where, label)
    bounds.check(8 * count, where)
    labels: list[Any] = []

    def encoded() -> Iterator[bytes | None]:
        for batch in batches:
            labels.extend(_values(batch.column(label)))
            pictures = batch.column(image)
            yield from _values(pictures.field("bytes") if pa.types.is_struct(pictures.type) else pictures)

    images = decode(encoded(), count, where)
    if None in labels:
        raise BadInput(f"{where}: the label of row {labels.index(None)} is null; every image needs an integer label")
    names = _class_names(schema, label)
    return images, labels if labels and isinstance(labels[0], str) else np.array(labels, np.int64), names


def _values(column: pa.Array) -> list[Any]:
    """A column as Python's values; those of a dictionary are made once each."""
    if not isinstance(column, pa.DictionaryArray):
        return column.to_pylist()
    codes = column.indices.to_pylist()
    made = {code: None if code is None else column.dictionary[code].as_py() for code in set(codes)}
    return [made[code] for code in codes]


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """The names `datasets` writes into the schema; None where the metadata do not say."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
        return tuple(map(str, names)) or None if isinstance(names, list) else None
    except (KeyError, TypeError, ValueError):
        return None
