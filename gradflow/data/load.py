"""A data set by name, as a run wants it: read from where it is, reduced, shuffled, with images held out.

Nothing is unpickled, and nothing is downloaded but by the library `datasets`, for a name that is no path.
"""

import functools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from gradflow.data import folder, hub, idx, parquet
from gradflow.data.dataset import LAYOUTS, LEGAL, TEST_NAMES, Dataset, Split, assemble, one_line
from gradflow.data.embedded import EMBEDDED, read_digits
from gradflow.errors import BadInput


def load_data(
    name: str, image_size: int | None = None, validation: int = 0, seed: int = 0, shuffle: bool = False
) -> Dataset:
    """Reads a data set: `digits`, a local path (parquet, IDX or image folder), or a name on the Hugging Face Hub.

    `image_size` is an upper bound on the longer side, in pixels; larger images are reduced by exact area averaging.
    `validation=k` makes k training images, drawn by `seed`, the test split and drops the real one: the 45k/5k split of
    He et al. 2015 (arXiv:1512.03385), section 4.2. `shuffle` puts the pixels of every image into one and the same
    random order. Raises `BadInput` for anything wrong with the data or the arguments.
    """
    return _prepared(read(name), image_size, validation, seed, shuffle)


@functools.lru_cache(maxsize=1)  # by the very object that was read: files that have changed are another one
def _prepared(dataset: Dataset, image_size: int | None, validation: int, seed: int, shuffle: bool) -> Dataset:
    if validation != 0:
        dataset = _hold_out(dataset, validation, seed)
    splits = dataset.train_images, dataset.test_images
    if image_size is not None:
        splits = [_resize(images, image_size) for images in splits]
    if shuffle:
        splits = [_shuffle(images) for images in splits]
    return replace(dataset, train_images=splits[0], test_images=splits[1])


def digest(name: str) -> str:
    """`load_data(name).digest`; the files read last are not read again unless they changed."""
    return read(name).digest


def read(name: str) -> Dataset:
    """The data set called `name`, whole and as it is: embedded, at a local path, or on the Hugging Face Hub.

    What was read last is not read again unless its files changed. Raises `BadInput` for anything wrong with it.
    """
    if name in EMBEDDED:
        return read_digits()
    try:
        path = Path(name).expanduser()
        if name and path.exists():
            read, train, test = _locate(path)
            stamp = tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in (*train, *test))
            return _read_files(name, read, train, test, stamp)
    except (OSError, RuntimeError) as error:  # RuntimeError: the home directory of an unknown user
        raise BadInput(f"cannot read data set {name!r}: {one_line(error)}; legal are {LEGAL}") from error
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) or name.endswith(".parquet"):
        raise BadInput(f"no such file or folder {name!r}: legal are {LEGAL}")
    return hub.read(name)


@functools.lru_cache(maxsize=1)
def _read_files(name: str, read: Callable[[tuple[Path, ...]], Split], train, test, stamp) -> Dataset:
    """Reads both splits; `stamp`, the files' sizes and times, is only there to forget files that have changed."""
    return assemble(name, read(train), read(test))


def _locate(path: Path) -> tuple[Callable, tuple[Path, ...], tuple[Path, ...]]:
    """The reader for what is at `path`, the files of the training split and those of the test split."""
    place = path if path.is_dir() else path.parent
    for layout in (parquet, idx, folder) if path.is_dir() else (parquet,):  # one file alone can only be parquet
        train = layout.find(place, "train") if path.is_dir() else (path,)
        test = next(filter(None, (layout.find(place, split) for split in TEST_NAMES)), ())
        if path in test:
            raise BadInput(f"{path} is the test split: give the training file or the folder")
        if train and test:
            return layout.read, train, test
        if train or test:
            raise BadInput(f"{path} has no {'test' if train else 'training'} split: {LAYOUTS}")
    raise BadInput(f"{path} holds no data set: {LAYOUTS}")


def _hold_out(dataset: Dataset, validation: int, seed: int) -> Dataset:
    """Makes `validation` training images the test split; the others keep their order."""
    count = len(dataset.train_images)
    if not 0 <= validation < count:
        raise BadInput(f"validation {validation} is impossible: legal are 0 to {count - 1} of {count} training images")
    order = np.random.default_rng(seed).permutation(count)
    kept, held = np.sort(order[:-validation]), order[-validation:]
    images, labels = dataset.train_images, dataset.train_labels
    return replace(
        dataset,
        train_images=images[kept],
        train_labels=labels[kept],
        test_images=images[held],
        test_labels=labels[held],
    )


def _shuffle(images: np.ndarray) -> np.ndarray:
    """The same permutation of the pixels for all images of a size; the channels of a pixel stay together."""
    count, height, width, channels = images.shape
    order = np.random.default_rng(0).permutation(height * width)
    return images.reshape(count, height * width, channels)[:, order].reshape(images.shape)


def _resize(images: np.ndarray, image_size: int) -> np.ndarray:
    """Averages square blocks so that the longer side becomes `image_size`, halves rounded up; or repeats pixels."""
    height, width = images.shape[1:3]
    longer, common = max(height, width), math.gcd(height, width)
    smaller = [longer // factor for factor in range(common, 0, -1) if common % factor == 0]
    if image_size > longer and image_size % longer == 0:
        return images.repeat(image_size // longer, axis=1).repeat(image_size // longer, axis=2)
    if image_size not in smaller:
        sizes = ", ".join(map(str, smaller))
        raise BadInput(
            f"image size {image_size} is not possible for {height}x{width} images: legal are {sizes} and multiples of "
            f"{longer}"
        )
    factor = longer // image_size
    total = np.zeros((len(images), height // factor, width // factor, images.shape[3]), np.uint32)
    for row in range(factor):
        for column in range(factor):
            total += images[:, row::factor, column::factor]
    return ((total + factor**2 // 2) // factor**2).astype(np.uint8)
