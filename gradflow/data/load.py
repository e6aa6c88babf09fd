"""A data set by name, as a run wants it: read from where it is, reduced, shuffled, with images held out.

Nothing is unpickled, and nothing is downloaded but by the library `datasets`, for a name that is no path.
"""

import functools
import math
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from gradflow.data import bounds, folder, hub, idx, parquet
from gradflow.data.dataset import LAYOUTS, LEGAL, TEST_NAMES, TRAIN_NAMES, Dataset, assemble, one_line, unlabelled
from gradflow.data.embedded import EMBEDDED, read_digits
from gradflow.data.files import Files, newest, stamp
from gradflow.errors import BadInput
from gradflow.settings import ranges

# RuntimeError: the home directory of an unknown user; the last three: text, sizes, numbers that no file should have.
_UNREADABLE = (OSError, RuntimeError, UnicodeError, MemoryError, OverflowError)
_COARSE = 2 * 10**9  # nanoseconds: the coarsest clock of a file system in use


def load_data(
    name: str | Path,
    image_size: int | None = None,
    validation: int = 0,
    seed: int = 0,
    shuffle: bool = False,
    label: str | None = None,
) -> Dataset:
    """Reads a data set: `digits`, a local path (parquet, IDX or image folder), or a name on the Hugging Face Hub.

    `image_size` is an upper bound on the longer side, in pixels; larger images are reduced by exact area averaging.
    `validation=k` makes k training images, drawn by `seed`, the test split and drops the real one: the 45k/5k split of
    He et al. 2015 (arXiv:1512.03385), section 4.2. `shuffle` puts the pixels of every image into one and the same
    random order. `label` is the column of labels, where it is not called label. Raises `BadInput` for anything wrong
    with the data or the arguments.
    """
    size = None if image_size is None else ranges.integer("image_size", image_size)
    held_out, seed = ranges.integer("validation", validation), ranges.whole("seed", seed)
    return prepared(read(name, label), size, held_out, seed, bool(shuffle))


@functools.lru_cache(maxsize=1)  # by the very object that was read: files that have changed are another one
def prepared(dataset: Dataset, image_size: int | None, validation: int, seed: int, shuffle: bool) -> Dataset:
    """A data set as a run wants it: see `load_data`."""
    _check_validation(dataset, validation)
    if validation != 0:
        dataset = _hold_out(dataset, validation, seed)
    splits = dataset.train_images, dataset.test_images
    if image_size is not None:
        splits = [_resize(images, image_size) for images in splits]
    if shuffle:
        splits = [_shuffle(images) for images in splits]
    return replace(dataset, train_images=splits[0], test_images=splits[1])


def digest(name: str, label: str | None = None, validation: int = 0) -> str:
    """`load_data(name, label=label).digest`; the files read last are not read again unless they changed.

    Raises `BadInput` as `load_data` does, also where there is nothing to test on.
    """
    dataset = read(name, label)
    _check_validation(dataset, validation)
    return dataset.digest


def read(name: str | Path, label: str | None = None) -> Dataset:
    """The data set called `name`, whole and as it is: embedded, at a local path, or on the Hugging Face Hub.

    What was read last is not read again unless its files changed. Raises `BadInput` for anything wrong with it.
    """
    name = str(name) if isinstance(name, Path) else name
    if not isinstance(name, str) or not isinstance(label, str | None):
        raise BadInput(
            f"data {name!r} with label {label!r} is no data set: legal are {LEGAL}, and the name of a column"
        )
    if name in EMBEDDED:
        _no_label(name, label)
        return read_digits()
    try:
        path = Path(name).expanduser()
        if name and path.exists():
            return _read_files(name, label, *_locate(path))
    except _UNREADABLE as error:
        raise BadInput(f"cannot read data set {name!r}: {one_line(error)}; legal are {LEGAL}") from error
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) or name.endswith(".parquet"):
        raise BadInput(f"no such file or folder {name!r}: legal are {LEGAL}")
    return hub.read(name, label)


def _no_label(name: str, label: str | None) -> None:
    if label is not None:
        raise BadInput(f"{name} has no column {label!r}: --label is for parquet files and the Hub")


class _Last(NamedTuple):
    """What was read last."""

    key: tuple
    settled: bool  # whether a later change would be seen in the files' times: clocks of file systems are coarse
    dataset: Dataset


_last: _Last | None = None


def _read_files(name: str, label: str | None, layout: ModuleType, train: Files, tests: Sequence[Files]) -> Dataset:
    """Reads both splits, or gives what was read last: the same object as long as the content is the same."""
    global _last
    paths = [path for files in (train, *tests) for path in files.paths]
    begun, found = time.time_ns(), stamp(paths)
    key = (name, label, found)
    if _last and _last.settled and _last.key == key:
        return _last.dataset
    dataset = _read_splits(name, label, layout, train, tests)
    if stamp(paths) != found:
        raise BadInput(f"{name}: its files changed while they were read; run it again when they are at rest")
    if _last and (_last.dataset.name, _last.dataset.digest) == (name, dataset.digest):
        dataset = _last.dataset
    _last = _Last(key, newest(found) < begun - _COARSE, dataset)
    return dataset


def _read_splits(name: str, label: str | None, layout: ModuleType, train: Files, tests: Sequence[Files]) -> Dataset:
    """The training split, and of those to test on the first that has labels."""
    if layout is parquet:
        read = functools.partial(parquet.read, label=label)
    else:
        _no_label(name, label)
        read = layout.read
    first = read(train)
    return assemble(name, first, next((split for split in map(read, tests) if not unlabelled(split)), None))


def _locate(path: Path) -> tuple[ModuleType, Files, list[Files]]:
    """The layout of what is at `path`, the files of the training split, and those of the splits to test on, best first.

    One file alone is the training split, or the images of it; the others lie beside it.
    """
    if path.is_dir():
        layouts = [(layout, layout.find(path)) for layout in (parquet, idx, folder)]
    else:
        stamp([path])
        whole = idx.find(path.parent, path)
        layouts = [(idx, whole) if whole else (parquet, parquet.beside(path))]
    for layout, found in layouts:
        trains = [found[split] for split in TRAIN_NAMES if split in found]
        if len(trains) > 1:
            raise BadInput(f"{path} has two training splits, {' and '.join(TRAIN_NAMES)}: legal is one of them")
        train = trains[0] if trains else None
        tests = [found[split] for split in TEST_NAMES if split in found]
        if any(path in files.paths for files in tests):
            raise BadInput(f"{path} is the test split: give the training file or the folder")
        if train:
            return layout, train, tests
        if tests:
            raise BadInput(f"{path} has no training split: {LAYOUTS}")
    raise BadInput(f"{path} holds no data set: {LAYOUTS}")


def _check_validation(dataset: Dataset, validation: int) -> None:
    count = len(dataset.train_images)
    if validation == 0 and not len(dataset.test_images):
        raise BadInput(
            f"{dataset.name} has no test split with labels: hold out some of its {count} training images with "
            f"--validation K, or add one; {LAYOUTS}"
        )
    if not 0 <= validation < count:
        raise BadInput(f"validation {validation} is impossible: legal are 0 to {count - 1} of {count} training images")


def _hold_out(dataset: Dataset, validation: int, seed: int) -> Dataset:
    """Makes `validation` training images the test split; the others keep their order."""
    order = np.random.default_rng(seed).permutation(len(dataset.train_images))
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
        bounds.check(images.size * (image_size // longer) ** 2, f"image size {image_size}")
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
