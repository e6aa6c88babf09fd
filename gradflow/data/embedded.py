"""The data sets that come with gradflow: 1,797 real images of handwritten digits, 8x8."""

import functools
import importlib.resources

import numpy as np

from gradflow.data.dataset import Dataset, assemble

EMBEDDED = ("digits",)  # names that need no download
# Attribution of digits.npz: the 1,797 images of scikit-learn's `load_digits()`, in the order that
# np.random.default_rng(0).permutation(1797) gave, frozen into the file because NumPy may change that stream.
DIGITS_CREDIT = (
    "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak (1998), "
    "UCI Machine Learning Repository, CC BY 4.0"
)


@functools.cache
def read_digits() -> Dataset:
    """The digits: 1,500 images to train on and 297 to test on, `(n, 8, 8, 1)`."""
    with (importlib.resources.files("gradflow.data") / "digits.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        images, labels = arrays["images"][..., None] * np.uint8(15), arrays["labels"]  # 0 to 16 becomes 0 to 240
    names = tuple("0123456789")
    return assemble("digits", (images[:1500], labels[:1500], names), (images[1500:], labels[1500:], names))
