"""Data sets as people have them: names of splits, shards, labels and folders, and what systems leave between them."""

import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import NAMES, idx_folder, parquet_folder, pixels, png, refused, write_idx, write_images, write_parquet

import gradflow as gf
from gradflow.data.load import digest, load_data

TRAIN, TEST = "train-00000-of-00001.parquet", "test-00000-of-00001.parquet"


def image_folder(folder: Path) -> Path:
    write_images(folder / "train", pixels(6), [0, 0, 1, 1, 2, 2])
    write_images(folder / "test", pixels(3, seed=1), [0, 1, 2])
    return folder


LAYOUTS = (parquet_folder, idx_folder, image_folder)


def table(file: Path, **columns) -> None:
    """A table without metadata; its images are bytes or structs, its labels what is given."""
    count = len(next(iter(columns.values())))
    images = {"image": [{"bytes": png(image), "path": None} for image in pixels(count)]}
    pq.write_table(pa.table({**images, **columns}), file)


# Clutter


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_what_systems_and_editors_leave_is_not_seen(make, tmp_path):
    before = digest(str(make(tmp_path)))
    places = [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]
    for place in places:
        for name in (".DS_Store", "Thumbs.db", "._000.png", f"._{TRAIN}", "desktop.ini"):
            (place / name).write_bytes(b"\0\5\26\7")
        for name in (".ipynb_checkpoints", "__MACOSX", ".git"):
            write_images(place / name / "train", pixels(1, 2, 2), [0])
            shutil.copytree(place / name / "train" / "ant", place / name / "000")
    assert digest(str(tmp_path)) == before
    assert len(load_data(str(tmp_path)).classes) == 3


# Shards


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00003", "train-00002-of-00003"],
        ["train-00001-of-00002"],
        ["train-00000-of-00001", "train-00000-of-00001 (1)"],
        ["train-00000-of-00001", "train-00000-of-00001-1f2e3d"],
        ["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"],
        ["train", "train-00000-of-00001"],
    ],
)
def test_shards_that_are_missing_or_there_twice(tmp_path, names):
    (parquet_folder(tmp_path) / TRAIN).unlink()
    for name in names:
        write_parquet(tmp_path / f"{name}.parquet", map(png, pixels(3)), [0, 1, 2])
    refused(tmp_path, f"{names[0]}.parquet", "legal is each of the", "files that these names say, once")


def test_whole_shards_load_in_order_and_one_alone_does_not(tmp_path):
    (parquet_folder(tmp_path) / TRAIN).unlink()
    files = [tmp_path / f"train-{number:05}-of-00003-0a1b.parquet" for number in range(3)]
    for number, image in enumerate(pixels(3)):
        write_parquet(files[number], [png(image)], [number])
    np.testing.assert_array_equal(load_data(str(tmp_path)).train_images, pixels(3))
    refused(files[1], "legal is each of the 3 files")


# Names of classes


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_the_unicode_form_of_a_class_name_is_no_matter(form, tmp_path):
    names = ("ähre", "öl", "zebra")
    for split, images in (("train", pixels(6)), ("test", pixels(3, seed=1))):
        labels = np.arange(len(images)) % 3
        write_images(tmp_path / "a" / split, images, labels, [unicodedata.normalize("NFC", name) for name in names])
        used = [unicodedata.normalize(form if split == "test" else "NFD", name) for name in names]
        write_images(tmp_path / "b" / split, images, labels, used)
    assert load_data(str(tmp_path / "b")).classes == tuple(sorted(unicodedata.normalize("NFC", name) for name in names))
    assert digest(str(tmp_path / "a")) == digest(str(tmp_path / "b"))


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_a_class_that_the_test_split_lacks(make, tmp_path):
    make(tmp_path)
    if make is image_folder:
        shutil.rmtree(tmp_path / "test/cat")
    elif make is parquet_folder:
        write_parquet(tmp_path / TEST, map(png, pixels(2)), [0, 1])
    else:
        write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.array([0, 1, 1]))
    dataset = load_data(str(tmp_path))
    assert len(dataset.classes) == 3
    assert set(dataset.test_labels.tolist()) == {0, 1}


def test_a_named_class_that_no_training_image_has(tmp_path):
    parquet_folder(tmp_path)
    write_parquet(tmp_path / TRAIN, map(png, pixels(2)), [0, 1])
    refused(tmp_path, "(test): the label of row 2 is 2 (cat), which no training image has")


def test_labels_that_are_strings_are_numbered_by_name_and_alike_in_both_splits(tmp_path):
    table(tmp_path / "train.parquet", label=["dog", "cat", "eel", "cat"])
    table(tmp_path / "test.parquet", label=["eel", "dog"])
    dataset = load_data(str(tmp_path))
    assert dataset.classes == ("cat", "dog", "eel")
    assert dataset.train_labels.tolist() == [1, 0, 2, 0]
    assert dataset.test_labels.tolist() == [2, 1]
    table(tmp_path / "test.parquet", label=["eel", "fox"])
    refused(tmp_path, "no training image has fox")
    table(tmp_path / "test.parquet", label=[2, 1])
    refused(tmp_path, "numbers", "names", "the same in both")
    table(tmp_path / "test.parquet", label=["eel", None])
    refused(tmp_path, "the label of row 1 is null")


def test_the_number_of_class_names_is_part_of_what_names_a_run(tmp_path):
    names = ("ant", "bee", "cat", "dog")
    folders = [parquet_folder(tmp_path / str(count), names=names[:count]) for count in (3, 4)]
    runs = [gf.Run(data=str(folder)) for folder in folders]
    assert len({run.folder_name(digest(run.data)) for run in runs}) == 2


# Columns


def test_the_label_is_a_column_by_its_name(tmp_path):
    for split in ("train", "test"):
        table(tmp_path / f"{split}.parquet", fine_label=[0, 1, 2, 3], coarse_label=[1, 0, 1, 0])
    line = refused(tmp_path, "wanted img or image (struct with bytes) and label (integer)")
    assert line.endswith("choose the column of labels with --label: fine_label, coarse_label")
    assert load_data(str(tmp_path), label="fine_label").train_labels.tolist() == [0, 1, 2, 3]
    assert load_data(str(tmp_path), label="coarse_label").train_labels.tolist() == [1, 0, 1, 0]
    assert digest(str(tmp_path), "fine_label") != digest(str(tmp_path), "coarse_label")
    refused(tmp_path, "and fine (integer)", "fine_label, coarse_label", label="fine")
    refused(tmp_path, "and image (integer)", label="image")


def test_the_names_of_another_column_of_labels_are_its_own(tmp_path):
    parquet_folder(tmp_path, label="labels")
    assert load_data(str(tmp_path), label="labels").classes == NAMES


@pytest.mark.parametrize("make", [idx_folder, image_folder], ids=lambda make: make.__name__)
def test_a_layout_without_columns_has_no_label_to_choose(make, tmp_path):
    refused(make(tmp_path), "--label is for parquet files and the Hub", label="fine")
    refused("digits", "--label is for parquet files and the Hub", label="fine")


def test_the_label_is_a_setting_of_a_run_that_changes_no_hash_where_it_is_not_used():
    assert gf.Run(label=None).folder_name("digest") == gf.Run().folder_name("digest")
    assert gf.Run(label="fine_label").folder_name("digest") != gf.Run().folder_name("digest")


@pytest.mark.parametrize("name", ["img", "image", "png"])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_a_plain_column_of_bytes(name, kind, tmp_path):
    for split in ("train", "test"):
        blobs = pa.array([png(image) for image in pixels(3)], pa.binary()).cast(kind)
        pq.write_table(pa.table({"label": [0, 1, 2], name: blobs}), tmp_path / f"{split}.parquet")
    np.testing.assert_array_equal(load_data(str(tmp_path)).train_images, pixels(3))


@pytest.mark.parametrize("labels", [pa.array([b"\xff", b"a"]).view(pa.string()), pa.array([2**64 - 1, 0], pa.uint64())])
def test_labels_that_are_neither_text_nor_numbers(labels, tmp_path):
    for split in ("train", "test"):
        table(tmp_path / f"{split}.parquet", label=labels)
    refused(tmp_path, "cannot read data set", "legal are")


# Names of splits and folders


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["valid", "validation", "val", "dev", "Test", "testing"])
def test_what_the_split_to_test_on_may_be_called(make, name, tmp_path):
    before = digest(str(make(tmp_path)))
    for path in list(tmp_path.glob("t[e1]*")):
        path.rename(tmp_path / path.name.replace("t10k" if "t10k" in path.name else "test", name))
    assert digest(str(tmp_path)) == before


@pytest.mark.parametrize("inside", ["plain_text", "data", "cifar100", "plain_text/{}"])
def test_a_clone_from_the_hub(inside, tmp_path):
    before = digest(str(parquet_folder(tmp_path / "a")))
    for split, file in (("train", TRAIN), ("test", TEST)):
        place = tmp_path / "b" / inside.format(split)
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "a" / file, place / ("0000.parquet" if "{" in inside else file))
    (tmp_path / "b/README.md").write_text("a card")
    given = tmp_path / "b" / ("plain_text" if "{" in inside else "")
    assert digest(str(given)) == before


def test_two_configurations_from_the_hub(tmp_path):
    for name in ("balanced", "letters"):
        parquet_folder(tmp_path / name)
    refused(tmp_path, "holds several data sets, in balanced, letters", "the path of one")


def unlabelled_parquet(folder: Path) -> None:
    write_parquet(parquet_folder(folder) / TEST, map(png, pixels(4, seed=2)), [-1] * 4)


def unlabelled_images(folder: Path) -> None:
    for name in ("test", "val"):  # as tiny-imagenet has them
        shutil.rmtree(image_folder(folder) / "test")
        write_images(folder / name, pixels(2), [0, 0], ["images"])
    shutil.rmtree(folder / "val")


def no_test_parquet(folder: Path) -> None:
    (parquet_folder(folder) / TEST).unlink()


def no_test_idx(folder: Path) -> None:
    for path in idx_folder(folder).glob("t10k*"):
        path.unlink()


def no_test_images(folder: Path) -> None:
    shutil.rmtree(image_folder(folder) / "test")


def classes_alone(folder: Path) -> None:
    write_images(folder, pixels(6), [0, 0, 1, 1, 2, 2])


ALONE = [unlabelled_parquet, unlabelled_images, no_test_parquet, no_test_idx, no_test_images, classes_alone]


@pytest.mark.parametrize("make", ALONE, ids=lambda make: make.__name__)
def test_a_training_split_alone_needs_some_of_it_held_out(make, tmp_path):
    make(tmp_path)
    refused(tmp_path, "no test split with labels", "6 training images with --validation K")
    dataset = load_data(str(tmp_path), validation=2)
    assert (len(dataset.train_images), len(dataset.test_images)) == (4, 2)
    assert len(dataset.classes) == 3
    assert dataset.digest == digest(str(tmp_path), validation=2) == digest(str(tmp_path), validation=3)
    with pytest.raises(gf.BadInput, match="--validation"):
        digest(str(tmp_path))  # so a sweep says it before it begins


def test_a_validation_split_with_labels_stands_in_for_a_test_split_without(tmp_path):
    unlabelled_parquet(tmp_path)
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", map(png, pixels(2, seed=3)), [2, 0])
    dataset = load_data(str(tmp_path))
    assert dataset.test_labels.tolist() == [2, 0]
    np.testing.assert_array_equal(dataset.test_images, pixels(2, seed=3))


def test_a_folder_images_between_a_class_and_its_images(tmp_path):
    before = digest(str(image_folder(tmp_path)))
    for place in tmp_path.glob("*/*"):
        (place / "images").mkdir()
        for file in place.glob("*.png"):
            file.rename(place / "images" / f"{file.stem}.JPEG")
        (place / f"{place.name}_boxes.txt").write_text("0 0 1 1")
    assert digest(str(tmp_path)) == before


def tiny_imagenet(folder: Path, table: bytes | None = None) -> Path:
    """As `image_folder`, in the layout of Tiny ImageNet; its table with boxes, or what is given."""
    image_folder(folder)
    for file in (folder / "train").glob("*/*.png"):
        (file.parent / "images").mkdir(exist_ok=True)
        file.rename(file.parent / "images" / f"{file.parent.name}_{file.stem}.JPEG")
    images = folder / "val" / "images"
    images.mkdir(parents=True)
    for file in (folder / "test").glob("*/*.png"):
        file.rename(images / f"val_{file.stem}.JPEG")
    shutil.rmtree(folder / "test")
    (folder / "test" / "images").mkdir(parents=True)  # whose classes are kept secret
    (folder / "test" / "images" / "test_0.JPEG").write_bytes(png(pixels(1)[0]))
    (folder / "wnids.txt").write_text("ant\nbee\ncat\n")
    (folder / "val" / "val_annotations.txt").write_bytes(ANNOTATIONS if table is None else table)
    return folder


ANNOTATIONS = b"val_002.JPEG\tcat\t0\t32\t44\t62\nval_000.JPEG\tant\t52\t55\t57\t59\nval_001.JPEG\tbee\t4\t0\t60\t55\n"


@pytest.mark.parametrize("table", [ANNOTATIONS, ANNOTATIONS.replace(b"\n", b"\r\n\r\n")], ids=["as it is", "Windows"])
def test_the_layout_of_tiny_imagenet(tmp_path, table):
    ours = load_data(str(tiny_imagenet(tmp_path / "tiny", table)))
    theirs = load_data(str(image_folder(tmp_path / "folders")))
    assert ours.digest == theirs.digest
    assert ours.classes == NAMES
    assert ours.test_labels.tolist() == [0, 1, 2]


def test_an_edited_table_of_classes_is_seen(tmp_path):
    before = load_data(str(tiny_imagenet(tmp_path)))
    (tmp_path / "val" / "val_annotations.txt").write_bytes(ANNOTATIONS.replace(b"cat", b"bee"))
    assert load_data(str(tmp_path)).test_labels.tolist() == [0, 1, 1]
    assert load_data(str(tmp_path)).digest != before.digest


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (ANNOTATIONS.replace(b"val_000", b"val_9"), "line 2 is of 'val_9.JPEG', which is no image beside it"),
        (ANNOTATIONS.replace(b"val_000", b"../images/val_000"), "which is no image beside it"),
        (ANNOTATIONS.replace(b"val_000.JPEG", b"/etc/passwd"), "line 2 is of '/etc/passwd', which is no image"),
        (ANNOTATIONS.replace(b"val_000.JPEG\tant", b"val_000.JPEG ant"), "line 2 "),
        (ANNOTATIONS.replace(b"\tant\t", b"\t\t"), "line 2 names no class"),
        (ANNOTATIONS.replace(b"\tant\t", b"\tdog\t"), "no training image has dog"),
        (ANNOTATIONS.replace(b"ant", b"ant\x1b[31m"), "no training image has"),
        (ANNOTATIONS.replace(b"ant", b"\xff\xfe"), "is not text in UTF-8 (byte "),
        (ANNOTATIONS + b"val_000.JPEG\tbee\n", "line 4 is of 'val_000.JPEG', as a line before it"),
        (ANNOTATIONS[: ANNOTATIONS.index(b"\n")], "has no line of 'val_000.JPEG'"),
        (b"", "has no line of 'val_000.JPEG'"),
        (b"\0" * 100, "line 1 names no class"),
    ],
)
def test_a_table_of_classes_that_does_not_fit_is_one_line(tmp_path, table, why):
    refused(tiny_imagenet(tmp_path, table), why)


def test_without_its_table_of_classes_a_split_is_not_seen(tmp_path):
    (tiny_imagenet(tmp_path) / "val" / "val_annotations.txt").unlink()
    refused(tmp_path, "has no test split with labels", "--validation K")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_table_of_classes_that_never_ends_is_refused(tmp_path):
    path = tiny_imagenet(tmp_path) / "val" / "val_annotations.txt"
    path.unlink()
    os.mkfifo(path)
    refused(tmp_path, "is a pipe")


# IDX


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("prefix", ["", "emnist-letters-"])
@pytest.mark.parametrize("joint", ["-", "."])
def test_the_names_of_idx_files(suffix, prefix, joint, tmp_path):
    before = digest(str(idx_folder(tmp_path / "a")))
    for path in idx_folder(tmp_path / "b", suffix).iterdir():
        path.rename(path.with_name(prefix + path.name.replace("-idx", f"{joint}idx").replace("t10k", "test")))
    assert digest(str(tmp_path / "b")) == before
    file = next(path for path in (tmp_path / "b").iterdir() if "train" in path.name and "images" in path.name)
    assert digest(str(file)) == before


def test_labels_from_one_are_classes_from_one(tmp_path):
    images = idx_folder(tmp_path)
    for split, count in (("train", 6), ("t10k", 3)):
        write_idx(images / f"{split}-labels-idx1-ubyte", np.arange(count) % 3 + 1)
    dataset = load_data(str(tmp_path))
    assert dataset.classes == ("1", "2", "3")
    assert dataset.train_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.test_labels.tolist() == [0, 1, 2]


def test_one_folder_with_two_sets(tmp_path):
    for name in ("letters", "mnist"):
        for path in idx_folder(tmp_path / name).iterdir():
            path.rename(tmp_path / f"emnist-{name}-{path.name}")
        (tmp_path / name).rmdir()
    refused(tmp_path, "several data sets (emnist-letters, emnist-mnist)", "training images of one")
    assert len(load_data(str(tmp_path / "emnist-letters-train-images-idx3-ubyte")).train_images) == 6


# Files that change: what is trained on is what is there, in tests/data/test_arrays.py


def test_a_change_that_leaves_size_and_time_is_seen(tmp_path):
    folder = idx_folder(tmp_path)
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    first = load_data(str(folder))
    write_idx(folder / "train-labels-idx1-ubyte", np.array([2, 1, 0, 2, 1, 0]))
    os.utime(folder / "train-labels-idx1-ubyte", (0, 0))
    assert load_data(str(folder)).train_labels.tolist() == [2, 1, 0, 2, 1, 0]
    assert load_data(str(folder)) is load_data(str(folder)) is not first


# Nothing of a folder is left out without a word


def folders(place: Path, *files: str) -> None:
    for file in files:
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(png(pixels(1)[0]))


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (("train/a/0.png", "Train/b/0.png", "test/a/0.png"), "has one split twice, Train and train"),
        (("train/a/0.png", "training/b/0.png", "test/a/0.png"), "two training splits, train and training"),
        (("train/a/0.png", "train/b/0.avif", "test/a/0.png"), "0.avif is an image that is not read here"),
        (("train/a/0.png", "train/a/1.HEIC", "test/a/0.png"), "1.HEIC is an image that is not read here"),
        (("train/a/0.png", "train/b/x/0.png", "test/a/0.png"), "train/b/x/0.png lies too deep"),
        (("train/a/0.png", "test/a/0.png", "test/b/x/y.jpg"), "test/b/x/y.jpg lies too deep"),
    ],
)
def test_images_that_would_be_left_out_are_said(tmp_path, files, why):
    folders(tmp_path, *files)
    refused(tmp_path, why)


def test_other_names_of_jpeg_are_read_and_what_is_beside_images_is_not_in_the_way(tmp_path):
    folders(tmp_path, "train/a/0.png", "train/a/1.jfif", "train/a/masks/0.png", "train/b/0.jpe", "test/a/0.png")
    (tmp_path / "train/a/labels.txt").write_text("")
    (tmp_path / "train/notes").mkdir()
    assert len(load_data(str(tmp_path)).train_images) == 3


@pytest.mark.parametrize("of", ["9999999999", "9" * 30])
def test_a_name_may_say_any_number_of_shards(tmp_path, of):
    (parquet_folder(tmp_path) / TRAIN).rename(tmp_path / f"train-00000-of-{of}.parquet")
    refused(tmp_path, f"legal is each of the {of} files")


@pytest.mark.parametrize("twice", ["image", "label"])
def test_two_columns_of_one_name(tmp_path, twice):
    columns = {"image": pa.array([{"bytes": png(image)} for image in pixels(3)]), "label": pa.array([0, 1, 2])}
    names = ["image", "label", twice]
    pq.write_table(pa.Table.from_arrays([columns[name] for name in names], names=names), tmp_path / "train.parquet")
    refused(tmp_path, "found image", "wanted img or image")


@pytest.mark.parametrize("names", ["abc", {"a": 1, "b": 2, "c": 3}, 3, None])
def test_names_of_classes_are_a_list(tmp_path, names):
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}
    for split in ("train", "test"):
        table(tmp_path / f"{split}.parquet", label=[0, 1, 2])
        rows = pq.read_table(tmp_path / f"{split}.parquet").replace_schema_metadata(metadata)
        pq.write_table(rows, tmp_path / f"{split}.parquet")
    assert load_data(str(tmp_path)).classes == ("0", "1", "2")
