"""NumPy arrays as a data set."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gradflow.data.dataset import Dataset, Labels, Split, assemble
from gradflow.errors import BadInput


def from_arrays(
    x: Any, y: Any, x_test: Any = None, y_test: Any = None, *, classes: Sequence[str] | None = None
) -> Dataset:
    """A data set of arrays, for `gf.train(run, data=dataset)`; they are copied.

    Args:
        x: training images, uint8 (n, height, width) or (n, height, width, channel) with one or three channels.
        y: their labels: integers from 0, or names, (n,) or (n, 1).
        x_test: images to test on; without them the run needs `validation`.
        y_test: their labels.
        classes: the name of each number; by default the names that are labels, or the numbers themselves.

    Raises `BadInput` for arrays of another kind or shape, and for labels that are not legal.
    """
    if (x_test is None) != (y_test is None):
        raise BadInput("x_test and y_test belong together: give both, or neither and hold out some with validation")
    if isinstance(classes, str) or not isinstance(classes, Iterable | None):
        raise BadInput(f"classes {classes!r} are not legal: give the name of each class, in a list")
    names = None if classes is None else tuple(map(str, classes))
    train = _split("x", x, "y", y, names)
    return assemble("arrays", train, None if x_test is None else _split("x_test", x_test, "y_test", y_test, names))


def _split(x: str, images: Any, y: str, labels: Any, names: tuple[str, ...] | None) -> Split:
    images, labels = _images(x, images), _labels(y, labels)
    if names is not None and not (names and isinstance(labels, np.ndarray)):
        raise BadInput(f"classes are one name a class, for labels that are numbers: {y} has names, or classes has none")
    if len(images) != len(labels):
        raise BadInput(f"{x} has {len(images)} images but {y} {len(labels)} labels; legal is one label an image")
    return images, labels, names


def _images(name: str, given: Any) -> np.ndarray:
    images = _array(name, given)
    if images.dtype != np.uint8:
        raise BadInput(f"{name} is {images.dtype}; legal is uint8, with pixels from 0 to 255")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise BadInput(
            f"{name} has the shape {images.shape}; legal are (n, height, width) and (n, height, width, channel) with "
            f"one or three channels, the last axis"
        )
    return images.copy()


def _labels(name: str, given: Any) -> Labels:
    labels = _array(name, given)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise BadInput(f"{name} is {labels.dtype} {labels.shape}; legal are integers or strings, one an image: (n,)")
    return labels.tolist() if labels.dtype.kind == "U" else labels


def _array(name: str, given: Any) -> np.ndarray:
    try:
        return np.asarray(given)
    except Exception as error:  # whatever another library's array raises
        raise BadInput(f"{name} is no array ({type(error).__name__}); legal is what numpy.asarray takes") from error
