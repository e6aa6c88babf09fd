"""The layout of MNIST (Y. LeCun): a magic number, the dimensions, the bytes, plain or gzipped."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from gradflow.data.dataset import LAYOUTS, Split, one_line
from gradflow.errors import BadInput


def find(folder: Path, split: str) -> tuple[Path, ...]:
    """The images and the labels of a split."""
    bases = (f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte")
    found = (next(filter(Path.is_file, (folder / base, folder / f"{base}.gz")), None) for base in bases)
    return tuple(file for file in found if file)


def read(files: tuple[Path, ...]) -> Split:
    """Images `(n, height, width, 1)` and labels `(n,)`; the numbers in the headers are big-endian."""
    if len(files) != 2:
        raise BadInput(f"{files[0]} has no partner (images need labels and labels images): {LAYOUTS}")
    images, labels = _idx_array(files[0], 3), _idx_array(files[1], 1)
    if len(images) != len(labels):
        raise BadInput(f"{files[0]} has {len(images)} images but {len(labels)} labels; legal is one label an image")
    return images[..., None], labels, None


def _idx_array(path: Path, dimensions: int) -> np.ndarray:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read ({one_line(error)}); legal is a whole IDX file, plain or .gz") from error
    magic, header = 0x0800 + dimensions, 4 + 4 * dimensions
    if len(content) < header or int.from_bytes(content[:4], "big") != magic:
        raise BadInput(
            f"{path} is not an IDX file of {dimensions} dimensions: legal starts with the number {magic:#010x}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if math.prod(shape) != len(content) - header:
        raise BadInput(f"{path} is not whole: its header says {math.prod(shape)} bytes, it has {len(content) - header}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
