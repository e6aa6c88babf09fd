"""Data: every way in gives the same arrays, every broken file one line, every batch and crop is what it should be."""

import importlib.util
import io
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from samples import NAMES, idx_folder, parquet_folder, pixels, png, refused, write_idx, write_images, write_parquet

from gradflow.data.batches import _permutation, indices
from gradflow.data.load import _shuffle, digest, load_data
from gradflow.data.transforms import augment, colours, normalise, statistics
from gradflow.errors import BadInput

HUB = importlib.util.find_spec("datasets") is not None


# What comes in


def test_digits_are_scikit_learns():
    original = pytest.importorskip("sklearn.datasets").load_digits()
    order = np.random.default_rng(0).permutation(1797)
    digits = load_data("digits")
    images = np.concatenate([digits.train_images, digits.test_images])
    np.testing.assert_array_equal(images[..., 0], original.images[order] * 15)
    np.testing.assert_array_equal(np.concatenate([digits.train_labels, digits.test_labels]), original.target[order])


def test_digits_have_the_promised_form():
    digits = load_data("digits")
    assert digits.train_images.shape == (1500, 8, 8, 1)
    assert digits.test_images.shape == (297, 8, 8, 1)
    assert digits.train_images.dtype == digits.test_images.dtype == np.uint8
    assert digits.train_labels.dtype == digits.test_labels.dtype == np.int32
    assert digits.image_shape == (8, 8, 1)
    assert digits.classes == tuple("0123456789")
    assert digits.train_images.max() == 240
    assert json.loads(json.dumps(digits.summary())) == {
        "name": "digits",
        "digest": digest("digits"),
        "train_size": 1500,
        "test_size": 297,
        "image_shape": [8, 8, 1],
        "classes": 10,
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_every_layout_of_the_same_pixels_gives_the_same_arrays(tmp_path, channels):
    train, test = pixels(6, channels=channels), pixels(3, channels=channels, seed=1)
    train_labels, test_labels = [0, 0, 1, 1, 2, 2], [0, 1, 2]  # sorted by class, the order an image folder is read in
    write_parquet(tmp_path / "a/train-0.parquet", map(png, train), train_labels)
    write_parquet(tmp_path / "a/test-0.parquet", map(png, test), test_labels)
    write_images(tmp_path / "b/train", train, train_labels)
    write_images(tmp_path / "b/val", test, test_labels)
    for split, images, labels in (("train", train, train_labels), ("t10k", test, test_labels)):
        write_idx(tmp_path / f"c/{split}-images-idx3-ubyte.gz", images[..., 0])
        write_idx(tmp_path / f"c/{split}-labels-idx1-ubyte", np.array(labels))
    for layout in "abc" if channels == 1 else "ab":
        dataset = load_data(str(tmp_path / layout))
        np.testing.assert_array_equal(dataset.train_images, train)
        np.testing.assert_array_equal(dataset.test_images, test)
        np.testing.assert_array_equal(dataset.train_labels, train_labels)
        np.testing.assert_array_equal(dataset.test_labels, test_labels)
        assert dataset.train_labels.dtype == np.int32
        assert dataset.classes == (tuple("012") if layout == "c" else NAMES)
        # The digest is of all that reaches the net, the classes among it; IDX files do not name them.
        assert (dataset.digest == digest(str(tmp_path / "a"))) == (layout != "c")


def test_parquet_in_shards_under_data_with_a_validation_split_and_no_names(tmp_path):
    train, test = pixels(5), pixels(2, seed=1)
    write_parquet(tmp_path / "data/train-00000-of-00002.parquet", map(png, train[:3]), [0, 1, 2], None, "image")
    write_parquet(tmp_path / "data/train-00001-of-00002.parquet", map(png, train[3:]), [1, 0], None, "image")
    write_parquet(tmp_path / "data/validation-00000-of-00001.parquet", map(png, test), [2, 0], None, "image")
    dataset = load_data(str(tmp_path))
    np.testing.assert_array_equal(dataset.train_images, train)
    np.testing.assert_array_equal(dataset.train_labels, [0, 1, 2, 1, 0])
    np.testing.assert_array_equal(dataset.test_images, test)
    assert dataset.classes == ("0", "1", "2")


def test_one_parquet_file_trains_beside_its_test_file(tmp_path):
    file = parquet_folder(tmp_path) / "train-00000-of-00001.parquet"
    assert digest(str(file)) == digest(str(tmp_path))
    refused(tmp_path / "test-00000-of-00001.parquet", "is the test split", "training file or the folder")
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    refused(file, "no test split", "test-*.parquet")


def test_other_modes_become_rgb(tmp_path):
    images = [Image.fromarray(image) for image in pixels(4)]
    blobs = []
    for image, mode in zip(images, ("RGBA", "RGB", "P", "CMYK"), strict=True):
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, "TIFF")
        blobs.append(buffer.getvalue())
    dataset = load_data(str(parquet_folder(tmp_path, train=blobs)))
    assert dataset.image_shape == (4, 4, 3)
    np.testing.assert_array_equal(dataset.train_images[:2], pixels(4)[:2])


def test_the_digest_follows_pixels_labels_and_files_that_change(tmp_path):
    first = digest(str(parquet_folder(tmp_path)))
    assert digest(str(tmp_path)) == first
    parquet_folder(tmp_path, train=[png(image) for image in pixels(7)])
    second = digest(str(tmp_path))
    file = write_parquet(tmp_path / "train-00000-of-00001.parquet", map(png, pixels(7)), [0, 0, 0, 0, 1, 1, 2])
    os.utime(file, (0, 0))  # the clock of a file system may be too coarse to tell two quick writes apart
    assert len({first, second, digest(str(tmp_path))}) == 3


def test_loaded_arrays_cannot_be_changed_under_the_next_reader():
    with pytest.raises(ValueError, match="read-only"):
        load_data("digits").train_images[0] = 0


# What is made of it


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 4), (8, 8, 1), (6, 12, 4), (9, 9, 3)])
def test_area_averaging_is_the_plain_loop(tmp_path, height, width, size):
    train = pixels(2, height, width)
    folder = parquet_folder(tmp_path, [png(image) for image in train], [png(image) for image in train])
    reduced = load_data(str(folder), image_size=size).train_images
    factor = max(height, width) // size
    assert reduced.shape == (2, height // factor, width // factor, 3)
    for image, row, column, channel in np.ndindex(*reduced.shape):
        block = [
            int(train[image, row * factor + i, column * factor + j, channel])
            for i in range(factor)
            for j in range(factor)
        ]
        assert reduced[image, row, column, channel] == int(sum(block) / len(block) + 0.5)


def test_small_images_are_enlarged_by_repeating_pixels_and_the_digest_is_of_the_source():
    digits = load_data("digits")
    assert load_data("digits", image_size=8).image_shape == (8, 8, 1)
    larger = load_data("digits", image_size=24)
    assert larger.image_shape == (24, 24, 1)
    for row, column in np.ndindex(24, 24):
        np.testing.assert_array_equal(larger.test_images[:, row, column], digits.test_images[:, row // 3, column // 3])
    assert load_data("digits", image_size=4, validation=10).digest == digits.digest


@pytest.mark.parametrize("size", [3, 0, -4, 5, 12])
def test_an_impossible_image_size_lists_the_legal_ones(size):
    refused("digits", "1, 2, 4, 8 and multiples of 8", image_size=size)


def test_validation_splits_the_training_set_and_leaves_the_test_set():
    whole, split = load_data("digits"), load_data("digits", validation=100, seed=3)
    assert (len(split.train_images), len(split.test_images)) == (1400, 100)

    def rows(*pairs):
        return sorted(
            (image.tobytes(), int(label))
            for images, labels in pairs
            for image, label in zip(images, labels, strict=True)
        )

    parts = ((split.train_images, split.train_labels), (split.test_images, split.test_labels))
    assert rows(*parts) == rows((whole.train_images, whole.train_labels))
    again, other = load_data("digits", validation=100, seed=3), load_data("digits", validation=100, seed=4)
    np.testing.assert_array_equal(again.test_images, split.test_images)
    assert not np.array_equal(other.test_images, split.test_images)


@pytest.mark.parametrize("validation", [-1, 1500])
def test_an_impossible_validation_split(validation):
    refused("digits", "legal are 0 to 1499", validation=validation)


@pytest.mark.parametrize("centre", ["channel", "pixel"])
def test_statistics_are_numpys(centre):
    images = pixels(700, 5, 6, 3) // np.array([1, 2, 3], np.uint8)
    mean, deviation = statistics(images, centre)
    scaled = images / 255
    expected = scaled.mean(axis=(0, 1, 2) if centre == "channel" else 0)
    assert mean.dtype == deviation.dtype == np.float32
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    np.testing.assert_allclose(deviation, (scaled - expected).std(axis=(0, 1, 2)), rtol=1e-6)
    normal = np.asarray(normalise(images, mean, deviation))
    assert normal.dtype == np.float32
    np.testing.assert_allclose(normal, (scaled - expected) / deviation, atol=1e-5)
    np.testing.assert_allclose(normal.std(axis=(0, 1, 2)), 1, rtol=1e-5)


@pytest.mark.parametrize("centre", ["channel", "pixel"])
def test_a_constant_channel_has_deviation_one(centre):
    images = pixels(600)
    images[..., 1] = 77
    mean, deviation = statistics(images, centre)
    assert deviation[1] == 1
    assert not np.asarray(normalise(images, mean, deviation))[..., 1].any()


def test_statistics_of_an_unknown_centre():
    with pytest.raises(BadInput, match="channel, pixel"):
        statistics(pixels(), "median")


# Batches


def test_an_epoch_sees_every_image_at_most_once():
    epochs = [np.concatenate([indices(7, 4 * epoch + i, 5, 23) for i in range(4)]) for epoch in range(3)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 20
        assert set(epoch.tolist()) <= set(range(23))
    assert len({epoch.tobytes() for epoch in epochs}) == 3


def test_batches_depend_on_seed_and_step_only():
    steps = [indices(1, step, 4, 10) for step in range(20)]
    assert all(batch.dtype == np.int32 and batch.shape == (4,) for batch in steps)
    _permutation.cache_clear()
    for step in reversed(range(20)):  # a resumed run starts anywhere
        np.testing.assert_array_equal(indices(1, step, 4, 10), steps[step])
    assert not np.array_equal(indices(2, 0, 10, 10), indices(1, 0, 10, 10))
    assert sorted(indices(0, 3, 10, 10)) == list(range(10))


@pytest.mark.parametrize("batch", [0, -1, 11])
def test_an_impossible_batch(batch):
    with pytest.raises(BadInput, match="legal are 1 to 10"):
        indices(0, 0, batch, 10)


# Augmentation


def crops(image, pad):
    """Every crop of one padded image, by plain slicing: {pixels: (row, column, mirrored)}."""
    height, width, channels = image.shape
    padded = np.zeros((height + 2 * pad, width + 2 * pad, channels), image.dtype)
    padded[pad : pad + height, pad : pad + width] = image
    found = {}
    for row in range(2 * pad + 1):
        for column in range(2 * pad + 1):
            crop = padded[row : row + height, column : column + width]
            found[crop.tobytes()] = (row, column, False)
            found[crop[:, ::-1].tobytes()] = (row, column, True)
    return found


def test_augmentation_gives_every_crop_and_mirror_image_and_nothing_else():
    images = np.random.default_rng(0).normal(size=(2, 8, 9, 3)).astype(np.float32)
    possible = [crops(image, 4) for image in images]
    assert [len(found) for found in possible] == [162, 162]
    many = jax.jit(jax.vmap(lambda key: augment(key, jnp.asarray(images))))
    seen = np.asarray(many(jax.random.split(jax.random.key(0), 3000)))
    for index in range(2):
        draws = [possible[index][crop.tobytes()] for crop in seen[:, index]]  # a KeyError is a crop that cannot be
        assert len(set(draws)) == 162
        assert abs(np.mean([mirrored for _, _, mirrored in draws]) - 0.5) < 0.05  # five standard errors
        assert np.abs(np.mean([draw[:2] for draw in draws], axis=0) - 4).max() < 0.25
    assert not np.array_equal(seen[:, 0] == 0, seen[:, 1] == 0)  # images of a batch are drawn one by one


def test_augmentation_is_decided_by_its_key():
    images = jnp.asarray(pixels(4, 8, 8), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 2)
    first = np.asarray(augment(keys[0], images))
    np.testing.assert_array_equal(first, np.asarray(jax.jit(augment)(keys[0], images)))
    assert not np.array_equal(first, np.asarray(augment(keys[1], images)))
    assert augment(keys[0], images.astype(jnp.bfloat16), pad=0).dtype == jnp.bfloat16


# What bad data get: one line, what is wrong and what is legal


@pytest.mark.parametrize("name", ["./nowhere", "../no/where/at/all", "/nowhere", "nowhere.parquet", "", "a\nb", "\0"])
def test_a_path_that_is_not_there(name):
    refused(name, "no such file or folder", "digits, a local path (parquet, IDX or image folder), or a Hub name")


@pytest.mark.skipif(HUB, reason="the extra [hub] is installed")
@pytest.mark.parametrize("name", ["digit", "owner/name"])
def test_a_hub_name_without_the_extra(name):
    refused(name, f"unknown data set {name!r}", "not a path", "digits, a local path", "pip install '.[hub]'")


def test_an_empty_folder(tmp_path):
    refused(tmp_path, "holds no data set", "train-*.parquet", "train-images-idx3-ubyte", "train/<class>/*.png")


def test_a_file_that_is_not_parquet(tmp_path):
    parquet_folder(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path / "notes.txt", "not a whole parquet file", "train-*.parquet")


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_an_empty_or_truncated_parquet_file(tmp_path, share):
    file = parquet_folder(tmp_path) / "train-00000-of-00001.parquet"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    refused(tmp_path, "train-00000-of-00001.parquet", "not a whole parquet file", "train-*.parquet")


def test_a_parquet_file_damaged_in_the_middle(tmp_path):
    file = parquet_folder(tmp_path) / "train-00000-of-00001.parquet"
    content = bytearray(file.read_bytes())
    content[4:200] = bytes(196)
    file.write_bytes(content)
    refused(tmp_path, "train-00000-of-00001.parquet", "legal")


def test_a_missing_split(tmp_path):
    (parquet_folder(tmp_path) / "train-00000-of-00001.parquet").unlink()
    refused(tmp_path, "no training split", "train-*.parquet")


@pytest.mark.parametrize("columns", [{"image": "picture"}, {"label": "fine_label"}])
def test_wrong_columns_are_listed(tmp_path, columns):
    found = {"image": "img", "label": "label"} | columns
    wanted = "wanted img or image (struct with bytes) and label (integer)"
    refused(parquet_folder(tmp_path, **columns), f"{found['image']} (struct", f"{found['label']} (int64)", wanted)


def test_columns_of_the_wrong_type(tmp_path):
    parquet_folder(tmp_path)
    pq.write_table(pa.table({"img": ["a"], "label": [0.5]}), tmp_path / "train-00000-of-00001.parquet")
    refused(tmp_path, "img (string), label (double)", "wanted img or image (struct with bytes) and label (integer)")


def test_shards_that_do_not_agree(tmp_path):
    (parquet_folder(tmp_path) / "train-00000-of-00001.parquet").rename(tmp_path / "train-00000-of-00002.parquet")
    write_parquet(tmp_path / "train-00001-of-00002.parquet", map(png, pixels(2)), [0, 1], image="image")
    refused(tmp_path, "must have the same columns and types")


@pytest.mark.parametrize(("label", "names"), [(3, NAMES), (-1, NAMES), (-1, None), (10**12, None)])
def test_a_label_out_of_range(tmp_path, label, names):
    parquet_folder(tmp_path, names=names)
    write_parquet(tmp_path / "train-00000-of-00001.parquet", map(png, pixels(3)), [0, label, label], names)
    refused(tmp_path, f"(train): the label of row 1 is {label}", "legal are 0 to 2")


def test_a_test_label_that_training_never_saw(tmp_path):
    parquet_folder(tmp_path, names=None)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", map(png, pixels(2)), [0, 3], None)
    refused(tmp_path, "(test): the label of row 1 is 3", "legal are 0 to 2")


def test_a_null_label(tmp_path):
    parquet_folder(tmp_path)
    write_parquet(tmp_path / "train-00000-of-00001.parquet", map(png, pixels(3)), [0, 1, None])
    refused(tmp_path, "the label of row 2 is null", "needs an integer label")


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_rows(tmp_path, split):
    parquet_folder(tmp_path)
    write_parquet(tmp_path / f"{split}-00000-of-00001.parquet", [], pa.array([], pa.int64()))
    refused(tmp_path, f"the {split} split has no images", "legal is at least one")


@pytest.mark.parametrize("blob", [None, b"", b"not an image", png(pixels(1, 32, 32)[0])[:200]])
def test_bytes_that_are_not_an_image(tmp_path, blob):
    folder = parquet_folder(tmp_path, train=[png(pixels(1, 32, 32)[0]), blob])
    refused(folder, "row 1 is not a whole image", "8-bit PNG, JPEG")


def test_an_image_of_sixteen_bits_is_not_clipped_in_silence(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(buffer, "PNG")
    refused(parquet_folder(tmp_path, train=[buffer.getvalue()]), "row 0 is not", "legal are 8-bit")


def test_mixed_sizes_name_the_first_that_differs(tmp_path):
    odd = png(pixels(1, 5, 4)[0])
    folder = parquet_folder(tmp_path, train=[png(pixels(1)[0]), odd, odd])
    refused(folder, "row 1 is 5x4x3 but the first image 4x4x3", "legal is one size")


def test_splits_of_two_sizes(tmp_path):
    folder = parquet_folder(tmp_path, test=[png(pixels(1, 5, 5)[0])])
    refused(folder, "train images are 4x4x3 but test images 5x5x3", "one size for all")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
def test_a_truncated_idx_file(tmp_path, suffix, kind):
    file = idx_folder(tmp_path, suffix) / f"t10k-{kind}-ubyte{suffix}"
    file.write_bytes(file.read_bytes()[:-1])
    refused(tmp_path, file.name, "legal is a whole IDX file" if suffix else "its header says")


def test_an_idx_file_with_another_magic_number(tmp_path):
    folder = idx_folder(tmp_path)
    (folder / "train-images-idx3-ubyte").write_bytes((folder / "train-labels-idx1-ubyte").read_bytes())
    refused(folder, "train-images-idx3-ubyte", "not an IDX file of 3 dimensions", "0x00000803")
    (folder / "train-images-idx3-ubyte").write_bytes(b"")
    refused(folder, "not an IDX file of 3 dimensions")


def test_idx_files_that_do_not_belong_together(tmp_path):
    folder = idx_folder(tmp_path)
    write_idx(folder / "train-labels-idx1-ubyte", np.arange(5))
    refused(folder, "6 images but 5 labels", "one label an image")
    (folder / "train-labels-idx1-ubyte").unlink()
    refused(folder, "has no partner", "train-images-idx3-ubyte")


def test_an_image_folder_whose_training_split_lacks_a_class(tmp_path):
    write_images(tmp_path / "train", pixels(2), [0, 1])
    write_images(tmp_path / "test", pixels(3), [0, 1, 2])
    refused(tmp_path, "train and test must have the same classes: no training image has cat")


def test_an_image_folder_with_a_broken_image(tmp_path):
    write_images(tmp_path / "train", pixels(3), [0, 1, 2])
    write_images(tmp_path / "test", pixels(3), [0, 1, 2])
    (tmp_path / "test/bee/001.png").write_bytes(b"\x89PNG")
    refused(tmp_path, "001.png is not a whole image", "8-bit PNG")


def test_an_image_folder_without_images(tmp_path):
    (tmp_path / "train/ant").mkdir(parents=True)
    (tmp_path / "test/ant").mkdir(parents=True)
    refused(tmp_path, "holds no data set", "train/<class>/*.png")


def test_shuffled_images_have_their_pixels_in_one_and_the_same_other_order():
    plain, shuffled = load_data("digits"), load_data("digits", shuffle=True)
    for before, after in ((plain.train_images, shuffled.train_images), (plain.test_images, shuffled.test_images)):
        rows, others = before.reshape(len(before), -1), after.reshape(len(after), -1)
        assert not np.array_equal(rows, others)
        np.testing.assert_array_equal(np.sort(rows, axis=1), np.sort(others, axis=1))
    # The order: where each pixel went, found from images that have one bright pixel each.
    single = np.zeros((64, 8, 8, 2), np.uint8)
    single.reshape(64, 64, 2)[np.arange(64), np.arange(64)] = (1, 2)
    moved = _shuffle(single).reshape(64, 64, 2)
    assert (moved.sum(axis=1) == (1, 2)).all()
    went = moved[:, :, 0].argmax(axis=1)
    assert sorted(went) == list(range(64))
    assert (moved[np.arange(64), went] == (1, 2)).all()  # the channels of a pixel stay together
    rows = plain.train_images.reshape(-1, 64)
    np.testing.assert_array_equal(shuffled.train_images.reshape(-1, 64)[:, went], rows)


def test_shifts_of_colour_are_along_the_principal_components():
    images = np.random.default_rng(0).integers(0, 256, (600, 5, 5, 3), np.uint8)
    images[..., 1] = images[..., 0] // 2 + images[..., 1] // 8
    deviation = np.array([0.5, 2.0, 1.0], np.float32)
    matrix = colours(images, deviation).astype(np.float64)
    covariance = np.cov(images.reshape(-1, 3).T / 255, bias=True)
    # M = 0.1 P L / deviation, so M M^T is a hundredth of the squared covariance, scaled.
    wanted = 0.01 * covariance @ covariance / np.outer(deviation, deviation)
    np.testing.assert_allclose(matrix @ matrix.T, wanted, rtol=1e-4)
    normal = jnp.asarray(np.random.default_rng(1).normal(size=(2000, 4, 4, 3)), jnp.float32)
    shift = np.asarray(
        augment(jax.random.key(0), normal, transforms=("colour",), colours=jnp.asarray(matrix, jnp.float32)) - normal
    )
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1, :1], shift.shape), atol=1e-5)
    np.testing.assert_allclose(np.cov(shift[:, 0, 0].T), wanted, rtol=0.2, atol=1e-5)


def test_each_transform_is_done_alone_where_only_that_is_asked_for():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(40, 6, 6, 1)), jnp.float32)
    mirrored = np.asarray(augment(jax.random.key(1), images, transforms=("mirror",)))
    same = (mirrored == images).all(axis=(1, 2, 3))
    turned = (mirrored == np.asarray(images)[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | turned).all()
    assert 5 < same.sum() < 35
    crops = np.asarray(augment(jax.random.key(1), images, pad=2, transforms=("crop",)))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for image, crop in zip(padded, crops, strict=True):
        spec = [image[i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
        assert any(np.array_equal(crop, place) for place in spec)


def test_a_path_is_taken_as_its_text(tmp_path):
    folder = parquet_folder(tmp_path)
    assert load_data(folder, validation=2).digest == load_data(str(folder), validation=2).digest


def test_a_seed_that_is_none(tmp_path):
    refused("digits", "seed -1 is not legal", validation=2, seed=-1)
