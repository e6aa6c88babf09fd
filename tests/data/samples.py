"""Small data sets in every layout, and what refusing one looks like."""

import gzip
import io
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gradflow.data.load import load_data
from gradflow.errors import BadInput

NAMES = ("ant", "bee", "cat")


def pixels(count=6, height=4, width=4, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def png(image) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(file: Path, blobs, labels, names=NAMES, image="img", label="label") -> Path:
    """A split as `datasets` writes it, without that library."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array(
        [{"bytes": blob, "path": None} for blob in blobs], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table({image: images, label: labels})
    if names:
        features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file)
    return file


def write_idx(file: Path, array) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


def write_images(folder: Path, images, labels, names=NAMES) -> Path:
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        (folder / names[label] / f"{row:03}.png").write_bytes(png(image))
    return folder


def parquet_folder(folder: Path, train=None, test=None, **options) -> Path:
    """Six training and three test images, or the blobs given."""
    train = [png(image) for image in pixels(6)] if train is None else train
    test = [png(image) for image in pixels(3, seed=1)] if test is None else test
    write_parquet(folder / "train-00000-of-00001.parquet", train, [row % 3 for row in range(len(train))], **options)
    write_parquet(folder / "test-00000-of-00001.parquet", test, [row % 3 for row in range(len(test))], **options)
    return folder


def idx_folder(folder: Path, suffix="") -> Path:
    for split, count, seed in (("train", 6, 0), ("t10k", 3, 1)):
        write_idx(folder / f"{split}-images-idx3-ubyte{suffix}", pixels(count, channels=1, seed=seed)[..., 0])
        write_idx(folder / f"{split}-labels-idx1-ubyte{suffix}", np.arange(count) % 3)
    return folder


def refused(name, *legal, **options) -> str:
    """The message of the `BadInput` that loading must raise: one line that contains each of `legal`."""
    with pytest.raises(BadInput) as caught:
        load_data(str(name), **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in legal:
        assert part in message
    return message
