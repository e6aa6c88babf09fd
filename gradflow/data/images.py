"""Encoded images to pixels: a closed list of 8-bit formats, all of one size."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gradflow.errors import BadInput

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # a closed list: Pillow would hand EPS to a program


def decode(sources: Sequence[bytes | Path | None], where: str) -> np.ndarray:
    """Encoded images to uint8 (n, height, width, channel). A thread pool was slower for small images (the GIL)."""
    images = np.empty((0, 0, 0, 0), np.uint8)
    for row, source in enumerate(sources):
        place = str(source) if isinstance(source, Path) else f"{where}: row {row}"
        image = _decode_one(source, place)
        if row == 0:
            images = np.empty((len(sources), *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            sizes = ["x".join(map(str, shape)) for shape in (image.shape, images.shape[1:])]
            raise BadInput(
                f"{place} is {sizes[0]} but the first image {sizes[1]}: legal is one size (and channels) for all"
            )
        images[row] = image
    return images


def _decode_one(source: bytes | Path | None, place: str) -> np.ndarray:
    """One image to uint8 (height, width, channel): 8-bit greyscale keeps its one channel, all else becomes RGB."""
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source or b""), formats=_FORMATS) as image:
            if image.mode[0] in "IF":  # Pillow would clip these to 255 without a word
                raise ValueError("more than 8 bits a channel")
            return np.atleast_3d(np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB")))
    except Exception as error:  # its many decoders raise many things
        legal = f"8-bit {', '.join(_FORMATS)}"
        raise BadInput(f"{place} is not a whole image ({type(error).__name__}); legal are {legal}") from error
