"""The layout of an image folder: `train/<class>/*.png` beside `test/<class>/*.png`, or `<class>/*.png` alone.

A split may also have all its images in one folder `images`, beside a table of their classes: so has the one that
Tiny ImageNet is tested on, `val/images/*.JPEG` with `val/val_annotations.txt`.
"""

from collections.abc import Sequence
from pathlib import Path

from gradflow.data import bounds
from gradflow.data.dataset import TEST_NAMES, TRAIN_NAMES, Split
from gradflow.data.files import Files, name_of, visible
from gradflow.data.images import decode
from gradflow.errors import BadInput

_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
# Images as well, which are not decoded here: left out without a word, a class would have fewer of them, or vanish.
_UNREAD = (".avif", ".heic", ".heif", ".jp2", ".jxl", ".tga", ".dng", ".exr")
_INSIDE = "images"  # the folder that some put between a class and its images, or that holds all of a split
_TABLE = "_annotations.txt"  # how the name of a table of classes ends: a line an image, its file, tab, its class


def find(folder: Path) -> dict[str, Files]:
    """The images of each split; folders of classes without folders of splits are a training split."""
    splits: dict[str, Path] = {}
    for path in visible(folder)[0]:
        if path.name.lower() in TRAIN_NAMES + TEST_NAMES and splits.setdefault(path.name.lower(), path) != path:
            raise BadInput(f"{folder} has one split twice, {splits[path.name.lower()].name} and {path.name}")
    found = {split: Files(_files(path), path) for split, path in (splits or {"train": folder}).items()}
    return {split: files for split, files in found.items() if files.paths}


def _files(split: Path) -> tuple[Path, ...]:
    """`<class>/*.png` and `<class>/images/*.png`; or all in one `images/`, and after them the table of their classes.

    None in a split that has no classes.
    """
    folders, files = visible(split)
    if [folder.name.lower() for folder in folders] == [_INSIDE]:
        tables = [file for file in files if file.name.endswith(_TABLE)]
        return (*_images(visible(folders[0])[1]), tables[0]) if len(tables) == 1 else ()
    found = []
    for folder in folders:
        inner, files = visible(folder)
        for place in (path for path in inner if path.name.lower() == _INSIDE):
            files += visible(place)[1]
        own = _images(files)
        deeper = [] if own else [image for path in inner for image in _images(visible(path)[1])]
        if deeper:
            raise BadInput(
                f"{deeper[0]} lies too deep: legal are images in the folder of their class, or its {_INSIDE}/"
            )
        found += own
    return tuple(found)


def _images(files: Sequence[Path]) -> list[Path]:
    """The images among files. Raises `BadInput` for one of a kind that is not decoded."""
    if unread := [file for file in files if file.suffix.lower() in _UNREAD]:
        raise BadInput(f"{unread[0]} is an image that is not read here: legal are {', '.join(_SUFFIXES)}")
    return [file for file in files if file.suffix.lower() in _SUFFIXES]


def read(files: Files) -> Split:
    """Each image with its class: the name of the folder below that of the split, or what the split's table says."""
    images = _images(files.paths)
    tables = [path for path in files.paths if path.suffix.lower() not in _SUFFIXES]
    labels = _annotated(tables[0], images) if tables else [_class(path, files.place) for path in images]
    return decode(images, len(labels), str(files.place)), labels, None


def _class(image: Path, split: Path) -> str:
    return name_of(Path(image.relative_to(split).parts[0]))


def _annotated(table: Path, images: Sequence[Path]) -> list[str]:
    """The class of each image. Raises `BadInput` for a table that does not say it of each, once."""
    bounds.check(table.stat().st_size, str(table))
    try:
        lines = table.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadInput(f"{table} is not text in UTF-8 (byte {error.start}); {_LEGAL}") from error
    names, classes = {name_of(image) for image in images}, {}
    for number, line in enumerate(lines, start=1):
        file, _, rest = line.partition("\t")
        label = rest.partition("\t")[0].strip()
        if not line.strip():
            continue
        if not label:
            raise BadInput(f"{table}: line {number} names no class; {_LEGAL}")
        if file not in names:
            raise BadInput(f"{table}: line {number} is of {file[:60]!r}, which is no image beside it; {_LEGAL}")
        if file in classes:
            raise BadInput(f"{table}: line {number} is of {file[:60]!r}, as a line before it; {_LEGAL}")
        classes[file] = label
    if missing := sorted(names - set(classes)):
        raise BadInput(f"{table} has no line of {missing[0][:60]!r}; {_LEGAL}")
    return [classes[name_of(image)] for image in images]


_LEGAL = "legal is a line for each file in images/: its name, a tab, its class"
