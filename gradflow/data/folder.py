"""The layout of an image folder: `train/<class>/*.png` beside `test/<class>/*.png`, or `<class>/*.png` alone."""

from pathlib import Path

from gradflow.data.dataset import TEST_NAMES, TRAIN_NAMES, Split
from gradflow.data.files import Files, visible
from gradflow.data.images import decode

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_INSIDE = "images"  # the folder that some put between a class and its images


def find(folder: Path) -> dict[str, Files]:
    """The images of each split; folders of classes without folders of splits are a training split."""
    splits = {path.name.lower(): path for path in visible(folder)[0] if path.name.lower() in TRAIN_NAMES + TEST_NAMES}
    found = {split: Files(_images(path), path) for split, path in (splits or {"train": folder}).items()}
    return {split: files for split, files in found.items() if files.paths}


def _images(split: Path) -> tuple[Path, ...]:
    """`<class>/*.png` and `<class>/images/*.png`; none in a split that has no classes, but all in one `images/`."""
    folders = visible(split)[0]
    if [folder.name.lower() for folder in folders] == [_INSIDE]:
        return ()
    found = []
    for folder in folders:
        inner, files = visible(folder)
        for place in (path for path in inner if path.name.lower() == _INSIDE):
            files += visible(place)[1]
        found += [file for file in files if file.suffix.lower() in _SUFFIXES]
    return tuple(found)


def read(files: Files) -> Split:
    """Each image with its class: the name of the folder below that of the split."""
    labels = [path.relative_to(files.place).parts[0] for path in files.paths]
    return decode(files.paths, len(labels), str(files.place)), labels, None
