"""What the library `datasets` reads becomes what we read from the same files ourselves: it takes local folders, too."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import NAMES, parquet_folder, pixels, png, write_images, write_parquet

from gradflow.data import bounds, hub
from gradflow.data.load import digest, load_data
from gradflow.errors import BadInput

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def library(tmp_path_factory, monkeypatch) -> None:
    """Its cache is the test's own, and it draws no progress."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(hub, "_ROWS", 2)  # so that several parts are put together
    datasets.disable_progress_bars()
    hub._splits.cache_clear()


def images(folder: Path) -> None:
    write_images(folder / "train", pixels(6), [0, 0, 1, 1, 2, 2])
    write_images(folder / "test", pixels(3, seed=1), [0, 1, 2])


def grey(folder: Path) -> None:
    first, second = ([png(image) for image in pixels(count, channels=1)] for count in (6, 3))
    parquet_folder(folder, first, second)


def unlabelled(folder: Path) -> None:
    write_parquet(folder / "train-00000-of-00001.parquet", map(png, pixels(4)), [0, 1, 2, 0])
    write_parquet(folder / "test-00000-of-00001.parquet", map(png, pixels(2)), [-1, -1])
    write_parquet(folder / "validation-00000-of-00001.parquet", map(png, pixels(2)), [1, 0])


def words(folder: Path) -> None:
    folder.mkdir()
    for split, labels in (("train", ["cat", "dog", "cat"]), ("test", ["dog"])):
        pictures = [{"bytes": png(image), "path": None} for image in pixels(len(labels))]
        pq.write_table(pa.table({"image": pictures, "label": labels}), folder / f"{split}-00000-of-00001.parquet")


LAYOUTS = (parquet_folder, images, grey, unlabelled, words)


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_the_library_reads_what_we_read(tmp_path, make):
    make(tmp_path / "set")
    theirs, ours = hub.read(str(tmp_path / "set")), load_data(str(tmp_path / "set"))
    assert theirs.digest == ours.digest == digest(str(tmp_path / "set"))
    assert theirs.classes == ours.classes
    np.testing.assert_array_equal(theirs.train_images, ours.train_images)


def test_another_column_of_labels(tmp_path):
    parquet_folder(tmp_path / "set", label="fine_label")
    assert hub.read(str(tmp_path / "set"), "fine_label").classes == NAMES
    with pytest.raises(BadInput, match="choose the column of labels with --label: fine_label"):
        hub.read(str(tmp_path / "set"))


def test_a_training_split_alone(tmp_path):
    write_parquet(tmp_path / "set" / "train-00000-of-00001.parquet", map(png, pixels(4)), [0, 1, 2, 0])
    assert hub.read(str(tmp_path / "set")).test_images.shape == (0, 4, 4, 3)


def no_training_split(folder: Path) -> None:
    write_parquet(folder / "test-00000-of-00001.parquet", map(png, pixels(4)), [0, 1, 2, 0])


def broken_images(folder: Path) -> None:
    parquet_folder(folder, [b"no image"] * 3)


def truncated(folder: Path) -> None:
    parquet_folder(folder)
    path = folder / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-30])


def nothing(folder: Path) -> None:
    folder.mkdir()


REFUSED = {
    no_training_split: "has the splits test; wanted train and one of test",
    broken_images: "row 0 is not a whole image",
    truncated: "cannot get .* from the Hub .*not a parquet file",
    nothing: "cannot get .* from the Hub .*doesn't contain any data files",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_it_cannot_read_is_one_line(tmp_path, make):
    make(tmp_path / "set")
    with pytest.raises(BadInput, match=REFUSED[make]) as error:
        hub.read(str(tmp_path / "set"))
    assert str(error.value).isprintable()


def test_a_split_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setenv(bounds.VARIABLE, "100")
    with pytest.raises(BadInput, match=f"would take 288 bytes of memory; legal are 100 bytes.*{bounds.VARIABLE}"):
        hub.read(str(parquet_folder(tmp_path / "set")))
