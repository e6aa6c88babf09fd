"""Named data sets to arrays, batches from a seed, augmentation on the device."""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import sources
from gradflow.arrays import Images, Pixels
from gradflow.errors import BadInput, choose
from gradflow.sources import EMBEDDED, Dataset

__all__ = [
    "EMBEDDED",
    "TRANSFORMS",
    "Dataset",
    "augment",
    "colours",
    "digest",
    "indices",
    "load",
    "normalise",
    "statistics",
]
TRANSFORMS = ("crop", "mirror", "colour")


def load(
    name: str, image_size: int | None = None, validation: int = 0, seed: int = 0, shuffle: bool = False
) -> Dataset:
    """Reads a data set: `digits`, a local path (parquet, IDX or image folder), or a name on the Hugging Face Hub.

    `image_size` is an upper bound on the longer side, in pixels; larger images are reduced by exact area averaging.
    `validation=k` makes k training images, drawn by `seed`, the test split and drops the real one: the 45k/5k split of
    He et al. 2015 (arXiv:1512.03385), section 4.2. `shuffle` puts the pixels of every image into one and the same
    random order. Raises `BadInput` for anything wrong with the data or the arguments.
    """
    dataset = sources.read(name)
    if validation != 0:
        dataset = _hold_out(dataset, validation, seed)
    splits = dataset.train_images, dataset.test_images
    if image_size is not None:
        splits = [_reduce(images, image_size) for images in splits]
    if shuffle:
        splits = [_shuffle(images) for images in splits]
    return replace(dataset, train_images=splits[0], test_images=splits[1])


def digest(name: str) -> str:
    """`load(name).digest`, the sha256 in hexadecimal; the files read last are not read again unless they changed."""
    return sources.read(name).digest


def statistics(images: np.ndarray, centre: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of uint8 `images` (n, height, width, channel) on the 0-1 scale, as float32.

    `centre="channel"` gives a mean of shape (channel,), `"pixel"` one of (height, width, channel): He et al. 2015,
    section 4.2, subtract the per-pixel mean. The deviation, (channel,), is of what is left
    once that mean is subtracted; a constant channel gets 1. Raises `BadInput` for another `centre`.
    """
    choose("centre", centre, ("channel", "pixel"))
    total, squares = np.zeros(images.shape[1:]), np.zeros(images.shape[1:])
    for start in range(0, len(images), 512):
        chunk = images[start : start + 512].astype(np.float64)  # whole numbers: these sums are exact
        total += chunk.sum(axis=0)
        squares += np.square(chunk, out=chunk).sum(axis=0)
    over = (0, 1) if centre == "channel" else ()
    mean, square = (np.mean(value / len(images), axis=over) for value in (total, squares))
    variance = (square - mean**2).reshape(-1, images.shape[-1]).mean(axis=0)
    deviation = np.where(variance > 0, np.sqrt(np.maximum(variance, 0)) / 255, 1)
    return (mean / 255).astype(np.float32), deviation.astype(np.float32)


def indices(seed: int, step: int, batch: int, count: int) -> np.ndarray:
    """Which of `count` training images step `step` (from 0) sees: int32 (batch,).

    An epoch is `count // batch` full batches of a permutation drawn from (seed, epoch); the rest of it is left out.
    A pure function of its arguments, so a resumed run sees what an undisturbed one sees. Raises `BadInput` unless
    1 <= batch <= count.
    """
    if not 1 <= batch <= count:
        raise BadInput(f"batch {batch} is impossible: legal are 1 to {count}, the number of training images")
    epoch, place = divmod(step, count // batch)
    return _permutation(seed, epoch, count)[place * batch : (place + 1) * batch]


@functools.lru_cache(maxsize=16)  # the current epoch of a few runs side by side
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    order = np.random.default_rng((seed, epoch)).permutation(count).astype(np.int32)
    order.flags.writeable = False
    return order


def normalise(images: Pixels, mean, deviation) -> Images:
    """(images / 255 - mean) / deviation: uint8 (batch, height, width, channel) to float32 on the device."""
    return (jnp.asarray(images).astype(jnp.float32) / 255 - mean) / deviation


def colours(images: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The matrix whose product with three normal numbers shifts the colour of a normalised image: (channel, channel).

    Its columns are the principal components of the pixels of `images` (n, height, width, channel), each times its
    variance on the 0-1 scale and times 0.1, the spread of the paper's numbers (Krizhevsky 2012, section 4.1).
    """
    count, total, squares = 0, 0.0, 0.0
    for start in range(0, len(images), 512):
        pixels = images[start : start + 512].reshape(-1, images.shape[-1]).astype(np.float64) / 255
        count, total, squares = count + len(pixels), total + pixels.sum(0), squares + pixels.T @ pixels
    mean = total / count
    variances, components = np.linalg.eigh(squares / count - np.outer(mean, mean))
    return (0.1 * components * variances / deviation[:, None]).astype(np.float32)


def augment(key: jax.Array, images: Images, pad: int = 4, transforms=("crop", "mirror"), colours=None) -> Images:
    """A random crop of every zero-padded image and, for every second one, its mirror image; shape and dtype stay.

    `images` (batch, height, width, channel) are normalised already, so the `pad` pixels of zeros on each side are the
    mean. He et al. 2015, section 4.2, after Lee et al. 2015, "Deeply-supervised nets" (their reference [24]). The
    transform `colour` shifts all pixels of an image by the matrix `colours` times three normal numbers.
    """
    offset_key, mirror_key = jax.random.split(key)
    if "crop" in transforms:
        offsets = jax.random.randint(offset_key, (len(images), 2), 0, 2 * pad + 1)
        padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        # As fast on a CPU as any gather tried (0.4 ms for 128 images of 32x32x3); one-hot products took 2.6 ms.
        shape = images.shape[1:]
        images = jax.vmap(lambda image, offset: jax.lax.dynamic_slice(image, (*offset, 0), shape))(padded, offsets)
    if "mirror" in transforms:
        mirrored = jax.random.bernoulli(mirror_key, 0.5, (len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    if "colour" in transforms:
        assert colours is not None
        numbers = jax.random.normal(jax.random.fold_in(key, 2), (len(images), colours.shape[1]), images.dtype)
        images = images + (numbers @ colours.T)[:, None, None]
    return images


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


def _reduce(images: np.ndarray, image_size: int) -> np.ndarray:
    """Averages square blocks so that the longer side becomes `image_size`; halves are rounded up."""
    height, width = images.shape[1:3]
    longer, common = max(height, width), math.gcd(height, width)
    legal = [longer // factor for factor in range(common, 0, -1) if common % factor == 0]
    if image_size >= longer:
        return images
    if image_size not in legal:
        sizes = ", ".join(map(str, legal))
        raise BadInput(f"image size {image_size} does not divide {height}x{width} images: legal are {sizes} and above")
    factor = longer // image_size
    total = np.zeros((len(images), height // factor, width // factor, images.shape[3]), np.uint32)
    for row in range(factor):
        for column in range(factor):
            total += images[:, row::factor, column::factor]
    return ((total + factor**2 // 2) // factor**2).astype(np.uint8)
