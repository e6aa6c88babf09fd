"""The files of a data set to arrays. Long, because five layouts share one set of checks.

In the order of a read: find the files, read a split, decode, check and assemble. Nothing is unpickled, and nothing is
downloaded but by the library `datasets`, for a name that is no path.
"""

import functools
import gzip
import hashlib
import importlib
import importlib.resources
import io
import json
import math
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gradflow.errors import BadInput

EMBEDDED = ("digits",)  # names that need no download

# Attribution of digits.npz: the 1,797 images of scikit-learn's `load_digits()`, in the order that
# np.random.default_rng(0).permutation(1797) gave, frozen into the file because NumPy may change that stream.
DIGITS_CREDIT = (
    "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak (1998), "
    "UCI Machine Learning Repository, CC BY 4.0"
)

_TEST_NAMES = ("test", "t10k", "validation", "val")  # what the test split may be called, best first
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # a closed list: Pillow would hand EPS to a program
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_LEGAL = "digits, a local path (parquet, IDX or image folder), or a Hub name"
_LAYOUTS = (
    "legal are train-*.parquet with test-*.parquet, train-images-idx3-ubyte[.gz] with its three siblings, "
    "or train/<class>/*.png with test/<class>/*.png"
)

_Split = tuple[np.ndarray, np.ndarray, tuple[str, ...] | None]  # images, labels, class names if the files say them


@dataclass(frozen=True, eq=False)
class Dataset:
    """Two splits in memory; pixels are 0 to 255, labels index `classes`."""

    name: str  # as the user gave it
    train_images: np.ndarray  # uint8 (n, height, width, channel)
    train_labels: np.ndarray  # int32 (n,)
    test_images: np.ndarray  # uint8 (m, height, width, channel)
    test_labels: np.ndarray  # int32 (m,)
    classes: tuple[str, ...]
    digest: str  # sha256 of both splits as read, before any resizing or validation split

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


def read(name: str) -> Dataset:
    """The data set called `name`, whole and as it is: embedded, at a local path, or on the Hugging Face Hub.

    What was read last is not read again unless its files changed. Raises `BadInput` for anything wrong with it.
    """
    if name in EMBEDDED:
        return _read_digits()
    try:
        path = Path(name).expanduser()
        if name and path.exists():
            read, train, test = _locate(path)
            stamp = tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in (*train, *test))
            return _read_files(name, read, train, test, stamp)
    except (OSError, RuntimeError) as error:  # RuntimeError: the home directory of an unknown user
        raise BadInput(f"cannot read data set {name!r}: {_line(error)}; legal are {_LEGAL}") from error
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) or name.endswith(".parquet"):
        raise BadInput(f"no such file or folder {name!r}: legal are {_LEGAL}")
    return _read_hub(name)


def _read_digits() -> Dataset:
    with (importlib.resources.files("gradflow") / "digits.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        images, labels = arrays["images"][..., None] * np.uint8(15), arrays["labels"]  # 0 to 16 becomes 0 to 240
    names = tuple("0123456789")
    return _assemble("digits", (images[:1500], labels[:1500], names), (images[1500:], labels[1500:], names))


@functools.lru_cache(maxsize=1)
def _read_files(name: str, read: Callable[[tuple[Path, ...]], _Split], train, test, stamp) -> Dataset:
    """Reads both splits; `stamp`, the files' sizes and times, is only there to forget files that have changed."""
    return _assemble(name, read(train), read(test))


def _locate(path: Path) -> tuple[Callable, tuple[Path, ...], tuple[Path, ...]]:
    """The reader for what is at `path`, the files of the training split and those of the test split."""
    folder = path if path.is_dir() else path.parent
    kinds = ((_parquet_files, _read_parquet), (_idx_files, _read_idx), (_image_files, _read_images))
    for find, read in kinds if path.is_dir() else kinds[:1]:  # one file alone can only be parquet
        train = find(folder, "train") if path.is_dir() else (path,)
        test = next(filter(None, (find(folder, split) for split in _TEST_NAMES)), ())
        if path in test:
            raise BadInput(f"{path} is the test split: give the training file or the folder")
        if train and test:
            return read, train, test
        if train or test:
            raise BadInput(f"{path} has no {'test' if train else 'training'} split: {_LAYOUTS}")
    raise BadInput(f"{path} holds no data set: {_LAYOUTS}")


def _parquet_files(folder: Path, split: str) -> tuple[Path, ...]:
    """`train-*.parquet` or `train.parquet`, in the folder or else in its `data/`."""
    found = (sorted(place.glob(f"{split}[-.]*parquet")) for place in (folder, folder / "data"))
    return tuple(next(filter(None, found), ()))


def _idx_files(folder: Path, split: str) -> tuple[Path, ...]:
    bases = (f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte")
    found = (next(filter(Path.is_file, (folder / base, folder / f"{base}.gz")), None) for base in bases)
    return tuple(file for file in found if file)


def _image_files(folder: Path, split: str) -> tuple[Path, ...]:
    return tuple(sorted(file for file in (folder / split).glob("*/*") if file.suffix.lower() in _SUFFIXES))


def _read_parquet(files: tuple[Path, ...]) -> _Split:
    tables = []
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                tables.append(file.read(columns=[_image_column(file.schema_arrow, str(path)), "label"]))
        except (OSError, pa.ArrowException) as error:
            raise BadInput(f"{path} is not a whole parquet file ({_line(error)}): {_LAYOUTS}") from error
    if any(not table.schema.equals(tables[0].schema) for table in tables):
        raise BadInput(f"{files[0].parent}: the files of one split must have the same columns and types")
    return _unpack(pa.concat_tables(tables), str(files[0] if len(files) == 1 else files[0].parent))


def _image_column(schema: pa.Schema, where: str) -> str:
    """`img` or `image`, once both columns are known to have their types."""
    image = next((name for name in ("img", "image") if name in schema.names), None)
    if image and "label" in schema.names and pa.types.is_integer(schema.field("label").type):
        kind = schema.field(image).type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return image
    found = ", ".join(f"{field.name} ({str(field.type)[:60]})" for field in schema) or "no columns"
    raise BadInput(f"{where}: found {found}; wanted img or image (struct with bytes) and label (integer)")


def _unpack(table: pa.Table, where: str) -> _Split:
    """Images, labels and class names of a table in the Hugging Face layout."""
    image, labels = _image_column(table.schema, where), table["label"]
    if labels.null_count:
        row = labels.to_pylist().index(None)
        raise BadInput(f"{where}: the label of row {row} is null; every image needs an integer label")
    encoded = table.flatten()[f"{image}.bytes"].to_pylist()
    return _decode(encoded, where), labels.to_numpy(), _class_names(table.schema)


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """The names `datasets` writes into the schema; None where the metadata do not say."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features["label"]["names"]) or None
    except (KeyError, TypeError, ValueError):
        return None


def _read_idx(files: tuple[Path, ...]) -> _Split:
    """Y. LeCun's format for MNIST: a magic number, the dimensions, the bytes; numbers are big-endian."""
    if len(files) != 2:
        raise BadInput(f"{files[0]} has no partner (images need labels and labels images): {_LAYOUTS}")
    images, labels = _idx_array(files[0], 3), _idx_array(files[1], 1)
    if len(images) != len(labels):
        raise BadInput(f"{files[0]} has {len(images)} images but {len(labels)} labels; legal is one label an image")
    return images[..., None], labels, None


def _idx_array(path: Path, dimensions: int) -> np.ndarray:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read ({_line(error)}); legal is a whole IDX file, plain or .gz") from error
    magic, header = 0x0800 + dimensions, 4 + 4 * dimensions
    if len(content) < header or int.from_bytes(content[:4], "big") != magic:
        raise BadInput(
            f"{path} is not an IDX file of {dimensions} dimensions: legal starts with the number {magic:#010x}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if math.prod(shape) != len(content) - header:
        raise BadInput(f"{path} is not whole: its header says {math.prod(shape)} bytes, it has {len(content) - header}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_images(files: tuple[Path, ...]) -> _Split:
    """`<class>/<file>`: the folder's name is the class, numbered in sorted order."""
    names = tuple(sorted({file.parent.name for file in files}))
    labels = np.array([names.index(file.parent.name) for file in files])
    return _decode(files, str(files[0].parent.parent)), labels, names


def _read_hub(name: str) -> Dataset:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise BadInput(
            f"unknown data set {name!r}: not a path; legal are {_LEGAL} with pip install 'gradflow[hub]'"
        ) from error
    try:  # downloads, caches and verifies by itself; HF_HUB_OFFLINE=1 keeps it to its cache
        return _hub_splits(name, datasets)
    except BadInput:
        raise
    except Exception as error:  # the library's failures have no common class
        raise BadInput(f"cannot get {name!r} from the Hub ({_line(error)}): legal are {_LEGAL}") from error


@functools.lru_cache(maxsize=1)
def _hub_splits(name: str, datasets) -> Dataset:
    splits = datasets.load_dataset(name)
    test = next((split for split in _TEST_NAMES if split in splits), None)
    if "train" not in splits or test is None:
        raise BadInput(f"{name!r} has the splits {', '.join(splits)}; wanted train and one of {', '.join(_TEST_NAMES)}")
    tables = [datasets.table.embed_table_storage(splits[split].data.table) for split in ("train", test)]
    train, held = (_unpack(table, f"{name} ({split})") for table, split in zip(tables, ("train", test), strict=True))
    return _assemble(name, train, held)


def _decode(sources: Sequence[bytes | Path | None], where: str) -> np.ndarray:
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


def _assemble(name: str, train: _Split, test: _Split) -> Dataset:
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
    return Dataset(name, *arrays, classes=classes, digest=_digest(arrays))


def _check_labels(labels: np.ndarray, limit: int, where: str) -> np.ndarray:
    wrong = np.flatnonzero((labels < 0) | (labels >= limit))
    if len(wrong):
        raise BadInput(f"{where}: the label of row {wrong[0]} is {labels[wrong[0]]}; legal are 0 to {limit - 1}")
    return labels.astype(np.int32)


def _digest(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _line(error: BaseException) -> str:
    """An error's message on one line, at most 200 characters of it."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
