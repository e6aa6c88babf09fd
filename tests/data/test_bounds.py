"""What a data set takes is known before it is allocated; what can never be read to its end is not opened."""

import gzip
import io
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from samples import NAMES, idx_folder, parquet_folder, pixels, png, refused, write_images, write_parquet

from gradflow.data import bounds
from gradflow.data.load import load_data

SMALL = 2**20


@pytest.fixture
def small_bound(monkeypatch):
    """A megabyte, so that a bomb of some megabytes is one."""
    monkeypatch.setenv(bounds.VARIABLE, str(SMALL))


def black(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def images_that_are_large(folder: Path) -> None:
    parquet_folder(folder, train=[black(2000)])


def images_that_are_many(folder: Path) -> None:
    parquet_folder(folder, train=[black(200)] * 30)


def a_value_that_is_repeated(folder: Path) -> None:
    repeated = pa.DictionaryArray.from_arrays(np.zeros(200_000, np.int32), [black(8)])
    pq.write_table(pa.table({"image": repeated, "label": np.zeros(200_000, np.int8)}), folder / "train.parquet")


def rows_without_end(folder: Path) -> None:
    pq.write_table(
        pa.table({"image": pa.nulls(200_000, pa.binary()), "label": np.zeros(200_000, np.int8)}),
        folder / "train.parquet",
    )


def pages_that_are_large(folder: Path) -> None:
    write_parquet(folder / "train.parquet", [bytes(2 * SMALL)], [0])


def a_header_that_is_large(folder: Path) -> None:
    (idx_folder(folder) / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x0803, 2**31, 28, 28))


def a_gzip_that_is_large(folder: Path) -> None:
    content = struct.pack(">4I", 0x0803, 6, 1000, 1000) + bytes(6_000_000)
    (idx_folder(folder, ".gz") / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))


def a_folder_of_large_images(folder: Path) -> None:
    write_images(folder / "train", np.zeros((1, 2000, 2000, 1), np.uint8), [0])


BOMBS = [
    images_that_are_large,
    images_that_are_many,
    a_value_that_is_repeated,
    rows_without_end,
    pages_that_are_large,
    a_header_that_is_large,
    a_gzip_that_is_large,
    a_folder_of_large_images,
]


@pytest.mark.parametrize("make", BOMBS, ids=lambda make: make.__name__)
def test_more_than_the_bound_is_refused_and_the_bound_is_said(make, tmp_path, small_bound):
    make(tmp_path)
    refused(tmp_path, "of memory; legal are 1 MiB", bounds.VARIABLE)


def test_an_enlargement_is_bounded_too(small_bound):
    refused("digits", "image size 800000 would take", bounds.VARIABLE, image_size=800_000)


def test_a_gzip_that_holds_more_than_its_header_says_is_not_unpacked(tmp_path):
    content = struct.pack(">4I", 0x0803, 6, 4, 4) + bytes(6_000_000)
    (idx_folder(tmp_path, ".gz") / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    refused(tmp_path, "its header says 96 bytes, it has more")


def test_a_small_file_of_six_gigabytes_takes_no_memory(tmp_path):
    """The default bound, in a process whose memory is limited: 29 kB of parquet, 2 million images of 32x32."""
    rows = 2_000_000
    repeated = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [png(np.zeros((32, 32, 3), np.uint8))])
    pq.write_table(pa.table({"image": repeated, "label": np.zeros(rows, np.int8)}), tmp_path / "train.parquet")
    assert (tmp_path / "train.parquet").stat().st_size < 2**15
    script = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
from gradflow.data.load import load_data
load_data({str(tmp_path)!r})
"""
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "BadInput" in child.stderr.splitlines()[-1], child.stderr
    assert "5.722 GiB of memory" in child.stderr.splitlines()[-1]


@pytest.mark.parametrize(("nested", "most"), [(True, 700), (False, 100)])
def test_a_value_that_is_repeated_is_not_in_memory_for_each_row(nested, most, tmp_path):
    """Two thousand rows of one megabyte in a file of some kilobytes: `most` MiB at a time."""
    value = black(8) + bytes(2**20)
    column: pa.Array = pa.DictionaryArray.from_arrays(np.zeros(2000, np.int32), [value])
    column = pa.StructArray.from_arrays([column], ["bytes"]) if nested else column
    for split in ("train", "test"):
        table = pa.table({"image": column, "label": np.zeros(2000, np.int8)})
        pq.write_table(table, tmp_path / f"{split}.parquet", compression="zstd")
    script = f"""
import pyarrow, resource
from gradflow.data.load import load_data
assert load_data({str(tmp_path)!r}).train_images.shape == (2000, 8, 8, 1)
print(pyarrow.default_memory_pool().max_memory(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout.split()[0]) < most * 2**20


@pytest.mark.parametrize("nested", [True, False])
def test_so_many_values_that_a_file_ceases_to_number_them(nested, tmp_path):
    """A writer gives its dictionary up at a megabyte, in the middle of a column: both halves are read."""
    images = pixels(600, 40, 40)
    blobs = [png(image) for image in images]
    assert sum(map(len, blobs)) > 2 * SMALL
    for split in ("train", "test"):
        column = pa.array([{"bytes": blob} for blob in blobs] if nested else blobs)
        pq.write_table(pa.table({"image": column, "label": np.arange(600) % 3}), tmp_path / f"{split}.parquet")
    np.testing.assert_array_equal(load_data(str(tmp_path)).train_images, images)


@pytest.mark.parametrize("given", ["", "much", "-1", "1e9", "9" * 5000])
def test_a_bound_that_is_no_number(given, tmp_path, monkeypatch):
    monkeypatch.setenv(bounds.VARIABLE, given)
    refused(parquet_folder(tmp_path), bounds.VARIABLE, "must be a number of bytes")


def test_the_bound_lets_imagenet_at_32_pixels_pass(monkeypatch):
    monkeypatch.delenv(bounds.VARIABLE, raising=False)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert bounds.limit() == min(4 * 2**30, memory // 2)
    assert 1_281_167 * 32 * 32 * 3 <= 4 * 2**30


def test_many_pixels_are_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    folder = parquet_folder(tmp_path, train=[black(12)] * 2, test=[black(12)])
    assert load_data(str(folder)).image_shape == (12, 12, 1)  # between once and twice Pillow's number: it would warn
    parquet_folder(tmp_path, train=[black(30)])
    refused(folder, "more pixels than Pillow allows")


# What never ends


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_a_device_is_no_data_set(name):
    refused(name, f"{name} is a pipe, a device or a folder")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))  # the path of a socket is short


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [pipe, listening, device], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "name",
    [
        "alone",
        "alone.parquet",
        "train.parquet",
        "train-labels-idx1-ubyte.gz",
        "train/ant/x.png",
        "test/ant/images/y.JPEG",
    ],
)
def test_what_is_no_file_is_refused_and_not_waited_for(make, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "/" in name:
        write_images(tmp_path / "train", pixels(3), [0, 1, 2])
        write_images(tmp_path / "test", pixels(3), [0, 1, 2])
    elif "idx" in name:
        (idx_folder(tmp_path, ".gz") / name).unlink()
    else:
        parquet_folder(tmp_path)
        (tmp_path / "train-00000-of-00001.parquet").unlink()
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    make(tmp_path / name)
    given = tmp_path / name if name.startswith("alone") else tmp_path
    refused(given, f"{Path(name).name} is a pipe, a device or a folder", "files that can be reread")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("kind", "name"),
    [("a pipe", "/dev/stdin"), ("a file", "/dev/stdin"), ("a file", "/dev/fd/0"), ("a file", "/proc/self/fd/0")],
)
def test_standard_input_is_no_data_set(name, kind, tmp_path):
    file = write_parquet(tmp_path / "train.parquet", [png(pixels(1)[0])], [0], NAMES)
    script = f"from gradflow.data.load import load_data; load_data({name!r}, validation=1)"
    with file.open() as content:
        given = subprocess.PIPE if kind == "a pipe" else content
        with subprocess.Popen([sys.executable, "-c", script], stdin=given, stderr=subprocess.PIPE, text=True) as child:
            assert child.stderr is not None
            line = child.stderr.read().splitlines()[-1]
    assert f"BadInput: {name} is a pipe, a device or a folder, or standard input" in line
