"""The layout of an image folder: `train/<class>/*.png` beside `test/<class>/*.png`."""

from pathlib import Path

import numpy as np

from gradflow.data.dataset import Split
from gradflow.data.images import decode

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def find(folder: Path, split: str) -> tuple[Path, ...]:
    """The images of a split, each in the folder of its class."""
    return tuple(sorted(file for file in (folder / split).glob("*/*") if file.suffix.lower() in _SUFFIXES))


def read(files: tuple[Path, ...]) -> Split:
    """`<class>/<file>`: the folder's name is the class, numbered in sorted order."""
    names = tuple(sorted({file.parent.name for file in files}))
    labels = np.array([names.index(file.parent.name) for file in files])
    return decode(files, str(files[0].parent.parent)), labels, names
