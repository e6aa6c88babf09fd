"""Pictures as their owners mean them: upright, on white, grey or in colour."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image
from samples import NAMES, parquet_folder, pixels, png, refused, write_images

from gradflow.data.load import load_data

GREY = pixels(1, 6, 6, 1)[0, ..., 0]


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def loaded(folder, *blobs: bytes) -> np.ndarray:
    return load_data(str(parquet_folder(folder, train=list(blobs), test=list(blobs)))).train_images


# How a camera that was held in one of eight ways stores an upright picture: what each orientation of EXIF means.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: a.T[::-1],
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: a.T[:, ::-1],
    9: lambda a: a,  # means nothing
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_an_image_is_turned_as_its_exif_says(kind, orientation, tmp_path):
    upright = pixels(1, 4, 6, 1)[0, ..., 0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    options = {"lossless": True} if kind == "WEBP" else {}
    image = loaded(tmp_path, encoded(stored, kind, exif=exif, **options))[0]
    np.testing.assert_array_equal(image[..., 0], upright)


def test_exif_that_cannot_be_read_turns_nothing_and_warns_of_nothing(tmp_path):
    with warnings.catch_warnings(record=True) as warned:
        image = loaded(tmp_path, encoded(Image.fromarray(GREY), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\0\1"))[0]
    np.testing.assert_array_equal(image[..., 0], GREY)
    assert not warned


def drawing(mode: str, ink: int = 0) -> Image.Image:
    """A square that lies in the alpha channel alone: ink everywhere, opaque in the middle and half so on one side."""
    alpha = np.zeros((6, 6), np.uint8)
    alpha[1:5, 1:5], alpha[1:5, 5] = 255, 128
    colours = np.full((6, 6, len(mode) - 1), ink, np.uint8)
    return Image.fromarray(np.concatenate([colours, alpha[..., None]], axis=-1), mode=None)


@pytest.mark.parametrize(("mode", "channels"), [("LA", 1), ("RGBA", 3)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_drawing_in_the_alpha_channel_is_seen_on_white(kind, mode, channels, tmp_path):
    assert drawing(mode).mode == mode
    image = loaded(tmp_path, encoded(drawing(mode), kind))[0]
    expected = np.full((6, 6), 255)
    expected[1:5, 1:5], expected[1:5, 5] = 0, 127
    assert image.shape == (6, 6, channels)
    np.testing.assert_array_equal(image, np.broadcast_to(expected[..., None], image.shape))


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_colour_that_stands_for_nothing_is_white(mode, tmp_path):
    if mode == "P":
        image, transparent = Image.fromarray((GREY > 100).astype(np.uint8)).convert("P"), bytes([0, 255])
        image.putpalette([10, 20, 30, 40, 50, 60])
        seen = [40, 50, 60]
    else:
        image = Image.fromarray(np.where(GREY > 100, np.uint8(200), np.uint8(0))).convert(mode)
        transparent, seen = {"RGB": (0, 0, 0)}.get(mode, 0), [200] * (3 if mode == "RGB" else 1)
    found = loaded(tmp_path, encoded(image, transparency=transparent))[0]
    assert (found[GREY <= 100] == 255).all()
    assert (found[GREY > 100] == seen).all()


def test_a_drawing_that_white_would_hide_is_refused(tmp_path):
    blob = encoded(drawing("RGBA", ink=255))
    refused(parquet_folder(tmp_path, train=[blob]), "row 0 is white on transparent", "shows white")


def test_alpha_that_is_opaque_or_absent_everywhere_is_no_drawing(tmp_path):
    white = np.full((6, 6, 4), 255, np.uint8)
    nothing = np.zeros((6, 6, 4), np.uint8)
    images = loaded(tmp_path, encoded(Image.fromarray(white)), encoded(Image.fromarray(nothing)))
    assert (images == 255).all()


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0, 1)])
def test_grey_among_colour_becomes_colour(order, tmp_path):
    kinds = np.repeat(GREY[..., None], 3, axis=-1), pixels(1, 6, 6)[0]
    blobs = encoded(Image.fromarray(GREY)), png(kinds[1])
    images = loaded(tmp_path, *(blobs[one] for one in order))
    np.testing.assert_array_equal(images, np.stack([kinds[one] for one in order]))


@pytest.mark.parametrize("grey", ["train", "test"])
def test_a_grey_split_beside_one_in_colour_becomes_colour(grey, tmp_path):
    for split in ("train", "test"):
        write_images(tmp_path / split, pixels(3, channels=1 if split == grey else 3), [0, 1, 2])
    dataset = load_data(str(tmp_path))
    expected = np.repeat(pixels(3, channels=1), 3, axis=-1)
    np.testing.assert_array_equal(getattr(dataset, f"{grey}_images"), expected)
    assert dataset.test_images.shape == dataset.train_images.shape
    assert dataset.classes == NAMES


def test_one_bit_among_grey_is_grey(tmp_path):
    bits = Image.fromarray(GREY > 100)
    assert bits.mode == "1"
    images = loaded(tmp_path, encoded(Image.fromarray(GREY)), encoded(bits))
    np.testing.assert_array_equal(images[..., 0], np.stack([GREY, np.where(GREY > 100, 255, 0)]))
