"""Encoded images to pixels: a closed list of 8-bit formats, all of one size, upright and on white."""

import contextlib
import io
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from gradflow.data import bounds
from gradflow.data.dataset import to_colour
from gradflow.errors import BadInput

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # a closed list: Pillow would hand EPS to a program
_GREY = ("1", "L", "LA", "La")  # modes that keep one channel
_UPRIGHT = {  # what undoes an orientation that EXIF says
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(sources: Iterable[bytes | Path | None], count: int, where: str) -> np.ndarray:
    """`count` encoded images to uint8 (n, height, width, channel): greyscale where all are, RGB otherwise.

    An image is turned as its EXIF orientation says. What is transparent shows white: a drawing that lies in the alpha
    channel is seen as on paper. Of several frames the first is taken. Raises `BadInput` for one that is not whole, of
    another size than the first, or larger than the bound on memory.
    """
    images: np.ndarray = np.empty((0, 0, 0, 0), np.uint8)
    seen = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow: sizes are bounded here, a damaged comment or palette is no matter
        for row, source in enumerate(sources):  # a thread pool was slower for small images (the GIL)
            place = str(source) if isinstance(source, Path) else f"{where}: row {row}"
            image = _decode_one(source, place, count if row == 0 else 1)
            if row == 0:
                bounds.check(count * image.size, where)
                images = np.empty((count, *image.shape), np.uint8)
            if image.shape[:2] != images.shape[1:3]:
                sizes = ["x".join(map(str, shape)) for shape in (image.shape, images.shape[1:])]
                raise BadInput(f"{place} is {sizes[0]} but the first image {sizes[1]}: legal is one size for all")
            if image.shape[2] > images.shape[3]:
                images = to_colour(images, where)
            images[row] = image  # one channel becomes three
            seen = row + 1
    if seen != count:
        raise BadInput(f"{where} has {seen} images, and says that it has {count}")
    return images


def _decode_one(source: bytes | Path | None, place: str, count: int) -> np.ndarray:
    """One image to uint8 (height, width, channel), once `count` of its size are known to be allowed."""
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source or b""), formats=_FORMATS) as image:
            if image.mode[0] in "IF":  # Pillow would clip these to 255 without a word
                raise ValueError("more than 8 bits a channel")
            # Four bytes a pixel while it is decoded; once it is an array among others, one or three.
            pixels = image.width * image.height
            bounds.check(max(4 * pixels, count * pixels * (1 if image.mode in _GREY else 3)), place)
            image.load()
            return np.atleast_3d(_on_white(_upright(image), place))
    except BadInput:
        raise
    except Image.DecompressionBombError as error:
        raise BadInput(f"{place} has more pixels than Pillow allows: {' '.join(str(error).split())[:100]}") from error
    except Exception as error:  # its many decoders raise many things
        legal = f"8-bit {', '.join(_FORMATS)}"
        raise BadInput(f"{place} is not a whole image ({type(error).__name__}); legal are {legal}") from error


def _upright(image: Image.Image) -> Image.Image:
    orientation = 1
    with contextlib.suppress(Exception):  # EXIF that cannot be read says nothing, and the pixels are whole
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _on_white(image: Image.Image, place: str) -> np.ndarray:
    """The pixels of an image, greyscale or RGB, before a white ground."""
    kind = "L" if image.mode in _GREY else "RGB"
    if not image.has_transparency_data:
        return np.asarray(image if image.mode == kind else image.convert(kind))
    full = image if image.mode in ("LA", "RGBA") else image.convert("LA" if kind == "L" else "RGBA")
    pixels = np.asarray(full).astype(np.uint16)
    colour, alpha = pixels[..., :-1], pixels[..., -1:]
    seen = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    if seen.min() == 255 and alpha.min() != alpha.max():
        raise BadInput(
            f"{place} is white on transparent: transparency shows white, so nothing is left; give it a ground"
        )
    return seen
