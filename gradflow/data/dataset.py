"""A data set in memory, and the checks that every layout of files goes through on the way to it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradflow.errors import BadInput

TEST_NAMES = ("test", "t10k", "validation", "val")  # what the test split may be called, best first
LEGAL = "digits, a local path (parquet, IDX or image folder), or a Hub name"
LAYOUTS = (
    "legal are train-*.parquet with test-*.parquet, train-images-idx3-ubyte[.gz] with its three siblings, "
    "or train/<class>/*.png with test/<class>/*.png"
)
Split = tuple[np.ndarray, np.ndarray, tuple[str, ...] | None]  # images, labels, class names if the files say them


@dataclass(frozen=True, eq=False)
class Dataset:
    """Two splits in memory; pixels are 0 to 255, labels index `classes`."""

    name: str  # as the user gave it
    train_images: np.ndarray  # uint8 (n, height, width, channel)
    train_labels: np.ndarray  # int32 (n,)
    test_images: np.ndarray  # uint8 (m, height, width, channel)
    test_labels: np.ndarray  # int32 (m,)
    classes: tuple[str, ...]
    digest: str  # sha256 of splits and classes as read, before any resizing or validation split

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channel)"""
        height, width, channel = self.train_images.shape[1:]
        return height, width, channel

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


def assemble(name: str, train: Split, test: Split) -> Dataset:
    """Checks what must hold for every data set, whatever it was read from."""
    names = train[2]
    if names and test[2] and names != test[2]:
        differing = ", ".join(sorted(set(names) ^ set(test[2]))) or "their order differs"
        raise BadInput(f"{name}: train and test must have the same classes: {differing}")
    for split, (images, _, _) in (("train", train), ("test", test)):
        if images.size == 0:
            raise BadInput(f"{name}: the {split} split has no images; legal is at least one")
    if train[0].shape[1:] != test[0].shape[1:]:
        shapes = ["x".join(map(str, images.shape[1:])) for images in (train[0], test[0])]
        raise BadInput(f"{name}: train images are {shapes[0]} but test images {shapes[1]}; legal is one size for all")
    # Without names the training labels say how many classes there are; far more classes than images is a broken file.
    limit = len(names) if names else max(256, len(train[0]))
    train_labels = _check_labels(train[1], limit, f"{name} (train)")
    classes = names or tuple(str(label) for label in range(train_labels.max() + 1))
    test_labels = _check_labels(test[1], len(classes), f"{name} (test)")
    arrays = (train[0], train_labels, test[0], test_labels)
    for array in arrays:  # shared by everyone who loads it
        array.flags.writeable = False
    return Dataset(name, *arrays, classes=classes, digest=_digest(arrays, classes))


def _check_labels(labels: np.ndarray, limit: int, where: str) -> np.ndarray:
    wrong = np.flatnonzero((labels < 0) | (labels >= limit))
    if len(wrong):
        raise BadInput(f"{where}: the label of row {wrong[0]} is {labels[wrong[0]]}; legal are 0 to {limit - 1}")
    return labels.astype(np.int32)


def _digest(arrays: Sequence[np.ndarray], classes: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(classes).encode())
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def one_line(error: BaseException) -> str:
    """An error's message on one line, at most 200 characters of it."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
