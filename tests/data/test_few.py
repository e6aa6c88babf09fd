"""A data set with nothing to learn is still a run, and what it shows is drawn or said."""

import numpy as np
import pytest
from command_line import QUICK, call, compile_once  # noqa: F401
from samples import pixels, write_idx

import gradflow as gf


@pytest.mark.parametrize("images", [1, 20], ids=["one image", "one class"])
def test_a_data_set_of_one_class_or_one_image_is_a_run(images, tmp_path):
    for split, count, seed in (("train", images, 0), ("t10k", 1, 1)):
        write_idx(tmp_path / f"set/{split}-images-idx3-ubyte", pixels(count, 8, 8, 1, seed)[..., 0])
        write_idx(tmp_path / f"set/{split}-labels-idx1-ubyte", np.zeros(count))
    given = (*QUICK, "--batch", 1, "--steps", 2, "--normalisation", "none", "--seeds", 1)
    result = call("sweep", *given, "--data", tmp_path / "set", "--results", tmp_path)
    assert result.code == 0, result
    assert "gradient_norm.svg is not drawn: the table cannot be drawn: no reading is positive and finite" in result.out
    assert "errors" in {path.stem for path in (tmp_path / "sweep").glob("*.svg")}
    frame = gf.load(tmp_path / "sweep")
    assert set(frame["status"]) == {"done"}
    assert (frame.loc[frame["quantity"] == "loss", "value"] == 0).all()
    again = call("plot", tmp_path / "sweep")
    assert again.code == 0, again
