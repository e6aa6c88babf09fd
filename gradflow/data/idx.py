"""The layout of MNIST (Y. LeCun): a magic number, the dimensions, the bytes, plain or gzipped.

EMNIST has it too, under names that begin with that of the set, and with each image transposed; pixels are taken as the
file has them.
"""

import gzip
import io
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from gradflow.data import bounds
from gradflow.data.dataset import LAYOUTS, TEST_NAMES, TRAIN_NAMES, Split, one_line
from gradflow.data.files import Files, visible
from gradflow.errors import BadInput

_NAME = re.compile(
    rf"(?P<set>.*?)(?P<split>{'|'.join(TRAIN_NAMES + TEST_NAMES)})-(?P<what>images|labels)[-.]idx[13]-ubyte(\.gz)?",
    re.I,
)
_CHUNK = 2**20  # bytes


def find(folder: Path, only: Path | None = None) -> dict[str, Files]:
    """The images and the labels of each split, of the one set in the folder or of that which the file `only` is of."""
    sets: dict[str, dict[str, dict[str, Path]]] = {}
    for path in visible(folder)[1]:
        if match := _NAME.fullmatch(path.name):
            split = sets.setdefault(match["set"], {}).setdefault(match["split"].lower(), {})
            split.setdefault(match["what"].lower(), path)  # sorted: the plain file comes before the gzipped one
    if only:
        match = _NAME.fullmatch(only.name)
        sets = {match["set"]: sets[match["set"]]} if match else {}
    if len(sets) > 1:
        choices = ", ".join(sorted(name.strip("-_") or "one without a name" for name in sets)[:8])
        raise BadInput(f"{folder} holds several data sets ({choices}): give the path of the training images of one")
    return {
        split: Files(tuple(parts[what] for what in sorted(parts)), folder)
        for splits in sets.values()
        for split, parts in splits.items()
    }


def read(files: Files) -> Split:
    """Images `(n, height, width, 1)` and labels `(n,)`; the numbers in the headers are big-endian."""
    if len(files.paths) != 2:
        raise BadInput(f"{files.paths[0]} has no partner (images need labels and labels images): {LAYOUTS}")
    images, labels = _idx_array(files.paths[0], 3), _idx_array(files.paths[1], 1)
    if len(images) != len(labels):
        counts = f"{len(images)} images but {len(labels)} labels"
        raise BadInput(f"{files.paths[0]} has {counts}; legal is one label an image")
    return images[..., None], labels, None


def _idx_array(path: Path, dimensions: int) -> np.ndarray:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read(file, path, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read ({one_line(error)}); legal is a whole IDX file, plain or .gz") from error


def _read(file: io.BufferedIOBase, path: Path, dimensions: int) -> np.ndarray:
    """The array behind the header, and never more bytes than the header says."""
    magic, length = 0x0800 + dimensions, 4 + 4 * dimensions
    header = file.read(length)
    if len(header) < length or int.from_bytes(header[:4], "big") != magic:
        raise BadInput(
            f"{path} is not an IDX file of {dimensions} dimensions: legal starts with the number {magic:#010x}"
        )
    shape = struct.unpack(f">{dimensions}I", header[4:])
    size = bounds.check(math.prod(shape), str(path))
    content = bytearray()
    while len(content) <= size and (chunk := file.read(min(_CHUNK, size + 1 - len(content)))):
        content += chunk
    if len(content) != size:
        has = f"{len(content)}" if len(content) < size else "more"
        raise BadInput(f"{path} is not whole: its header says {size} bytes, it has {has}")
    return np.frombuffer(content, np.uint8).reshape(shape)
