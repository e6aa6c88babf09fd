"""A data set in memory, and the checks that every layout of files goes through on the way to it."""

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradflow import html_table
from gradflow.data import bounds
from gradflow.errors import BadInput

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "t10k", "testing", "validation", "valid", "val", "dev")  # of the test split, best first
LEGAL = "digits, a local path (parquet, IDX or image folder), or a Hub name"
LAYOUTS = (
    "legal are train-*.parquet with test-*.parquet, train-images-idx3-ubyte[.gz] with its three siblings, "
    "or train/<class>/*.png with test/<class>/*.png; or a training split alone with --validation"
)
Labels = np.ndarray | Sequence[str]  # numbers, or the names of the classes
Split = tuple[np.ndarray, Labels, tuple[str, ...] | None]  # images, labels, class names if the files say them


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Two splits in memory; pixels are 0 to 255, labels index `classes`."""

    name: str  # as the user gave it
    train_images: np.ndarray  # uint8 (n, height, width, channel)
    train_labels: np.ndarray  # int32 (n,)
    test_images: np.ndarray  # uint8 (m, height, width, channel); m is 0 where there is no test split
    test_labels: np.ndarray  # int32 (m,)
    classes: tuple[str, ...]
    digest: str  # sha256 of splits and classes as read, before any resizing or validation split

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channel)"""
        height, width, channel = self.train_images.shape[1:]
        return height, width, channel

    def __repr__(self) -> str:
        return (
            f"<Dataset {self.name[-60:]!r}: {len(self.train_images):,} training and {len(self.test_images):,} test "
            f"images of {'x'.join(map(str, self.image_shape))}, {len(self.classes)} classes>"
        )

    def _repr_html_(self) -> str:
        """A row a split with its images, as a notebook shows it, and the names of the classes."""
        shape = "x".join(map(str, self.image_shape))
        rows = [
            (split, f"{len(images):,}", shape, f"{len(np.unique(labels))} of {len(self.classes)}")
            for split, images, labels in (
                ("training", self.train_images, self.train_labels),
                ("test", self.test_images, self.test_labels),
            )
        ]
        columns = ("split", "images", "height x width x channel", "classes")
        return html_table.table(columns, rows, f"{self.name}, classes {_few(self.classes)}")

    def summary(self) -> dict:
        """What `config.json` records of the data: name, digest, sizes, image shape, number of classes."""
        return {
            "name": self.name,
            "digest": self.digest,
            "train_size": len(self.train_images),
            "test_size": len(self.test_images),
            "image_shape": list(self.image_shape),
            "classes": len(self.classes),
        }


def assemble(name: str, train: Split, test: Split | None = None) -> Dataset:
    """Checks what must hold for every data set, whatever it was read from; without `test`, the test split is empty.

    Greyscale beside colour becomes colour. The classes are the names that the files say, or else the names that are
    labels, sorted; or the numbers from 0 to the largest training label, or from 1 where that is the smallest one.
    """
    for split, found in (("train", train), ("test", test)):
        if found and found[0].size == 0:
            raise BadInput(f"{name}: the {split} split has no images; legal is at least one")
    train_images, test_images = train[0], test[0] if test else train[0][:0]
    if train_images.shape[3] != test_images.shape[3] and {train_images.shape[3], test_images.shape[3]} == {1, 3}:
        train_images, test_images = (to_colour(images, name) for images in (train_images, test_images))
    if train_images.shape[1:] != test_images.shape[1:]:
        shapes = ["x".join(map(str, images.shape[1:])) for images in (train_images, test_images)]
        raise BadInput(f"{name}: train images are {shapes[0]} but test images {shapes[1]}; legal is one size for all")
    train_labels, test_labels, classes = _label(name, train, test)
    arrays = (train_images, train_labels, test_images, test_labels)
    for array in arrays:  # shared by everyone who loads it
        array.flags.writeable = False
    return Dataset(name, *arrays, classes=classes, digest=_digest(arrays, classes))


def to_colour(images: np.ndarray, where: str) -> np.ndarray:
    """Greyscale images (n, height, width, 1) with their channel three times; colour stays."""
    if images.shape[3] == 3:
        return images
    bounds.check(3 * images.size, where)
    return images.repeat(3, axis=3)


def unlabelled(split: Split) -> bool:
    """Whether every label is -1: so is a test split published whose labels are kept for a competition."""
    return isinstance(split[1], np.ndarray) and len(split[1]) > 0 and bool((split[1] == -1).all())


def _label(name: str, train: Split, test: Split | None) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The labels of both splits as numbers, and the classes."""
    first, second = train[1], test[1] if test else train[1][:0]
    names = _same_names(name, [_plain(split[2]) for split in (train, test) if split and split[2]])
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return _label_by_number(name, first, second, names)
    if not isinstance(first, np.ndarray) and not isinstance(second, np.ndarray):
        return _label_by_name(name, _plain(first), _plain(second))
    raise BadInput(f"{name}: the labels of one split are numbers, of the other names; legal is the same in both")


def _label_by_number(
    name: str, train: np.ndarray, test: np.ndarray, names: tuple[str, ...] | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    # Without names the training labels say how many classes there are; far more classes than images is a broken file.
    limit = len(names) if names else max(256, len(train))
    train = _check_labels(train, limit, f"{name} (train)")
    classes = names or tuple(str(label) for label in range(train.max() + 1))
    test = _check_labels(test, len(classes), f"{name} (test)")
    _check_seen(train, test, classes, name)
    if not names and train.min() == 1:  # as EMNIST numbers its letters: there is no class 0
        return train - 1, test - 1, classes[1:]
    return train, test, classes


def _label_by_name(
    name: str, train: Sequence[str], test: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Numbers the names of the training labels in sorted order."""
    classes = tuple(sorted(set(train)))
    number = {name: index for index, name in enumerate(classes)}
    if strange := sorted(set(test) - set(classes)):
        raise BadInput(f"{name}: train and test must have the same classes: no training image has {_few(strange)}")
    first, second = (np.fromiter((number[label] for label in split), np.int32, len(split)) for split in (train, test))
    return first, second, classes


def _plain(names: Sequence[str] | None) -> tuple[str, ...]:
    """Names in one Unicode form: that of a file's name depends on the system it comes from."""
    forms = {name: unicodedata.normalize("NFC", name) for name in set(names or ())}
    return tuple(forms[name] for name in names or ())


def _same_names(name: str, named: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    if len(set(named)) > 1:
        differing = _few(sorted(set(named[0]) ^ set(named[1]))) or "their order differs"
        raise BadInput(f"{name}: train and test must have the same classes: {differing}")
    return named[0] if named else None


def _few(names: Sequence[str]) -> str:
    return ", ".join(name[:40] for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _check_labels(labels: np.ndarray, limit: int, where: str) -> np.ndarray:
    wrong = np.flatnonzero((labels < 0) | (labels >= limit))
    if len(wrong):
        raise BadInput(f"{where}: the label of row {wrong[0]} is {labels[wrong[0]]}; legal are 0 to {limit - 1}")
    return labels.astype(np.int32)


def _check_seen(train: np.ndarray, test: np.ndarray, classes: Sequence[str], name: str) -> None:
    """A class that only the test split has cannot be learnt: the splits do not belong together."""
    strange = np.flatnonzero(~np.isin(test, train))
    if len(strange):
        number = int(test[strange[0]])
        raise BadInput(
            f"{name} (test): the label of row {strange[0]} is {number} ({classes[number][:40]}), which no training "
            f"image has; legal are classes that both splits have"
        )


def _digest(arrays: Sequence[np.ndarray], classes: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(classes).encode())
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def one_line(error: BaseException) -> str:
    """An error's message on one line, at most 200 characters of it."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
