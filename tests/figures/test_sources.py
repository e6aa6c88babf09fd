"""A figure of readings, or of the path of a results folder, is the figure of the table that they make."""

import itertools

import pandas as pd
import pytest

import gradflow as gf
from gradflow.runs import published

RUN = gf.Run(net="residual_mlp", depth=8, width=4, batch=16, steps=3)
DRAW = (gf.plot.gradient_curves, gf.plot.film, gf.plot.paths, gf.plot.errors, gf.plot.depth_errors)


@pytest.fixture(scope="module")
def readings():
    return [*gf.train(RUN)]


def joined(readings, name: str) -> pd.DataFrame:
    """The long table of a run, as `gf.load` has it."""
    rows = [
        {"run": name, "net": name, "seed": 0, "step": reading.step, "quantity": quantity, "value": value}
        | {"layer": layer, "position": reading.spec.position[layer] if layer else -1}
        for reading in readings
        for quantity, values in {
            **reading.values,
            **{name: {"": value} for name, value in reading.scalars.items()},
        }.items()
        for layer, value in values.items()
    ]
    return pd.DataFrame(rows)


def drawn(figure, folder) -> bytes:
    gf.plot.save(figure, folder / "figure.svg")
    return (folder / "figure.svg").read_bytes()


@pytest.mark.parametrize("draw", DRAW, ids=lambda draw: draw.__name__)
def test_readings_are_drawn_as_their_table(draw, readings, tmp_path):
    of_table = drawn(draw(joined(readings, "net")), tmp_path)
    assert drawn(draw(readings), tmp_path) == of_table
    assert drawn(draw(reading for reading in readings), tmp_path) == of_table
    assert drawn(draw({"other": readings}), tmp_path) != of_table  # its name is that of the net


def test_readings_of_several_nets_are_drawn_side_by_side(readings, tmp_path):
    both = pd.concat([joined(readings, "plain"), joined(readings[:2], "residual")])
    several = {"plain": readings, "residual": readings[:2]}
    figures = drawn(gf.plot.gradient_curves(several), tmp_path), drawn(gf.plot.gradient_curves(both), tmp_path)
    assert figures[0] == figures[1]
    assert len(gf.plot.gradient_curves(several).axes) == 2 * len(gf.plot.gradient_curves(readings[:2]).axes)


def test_a_results_folder_is_drawn_as_its_table(readings, tmp_path):
    rows = joined(readings, "plain").drop(columns=["net", "seed"])
    runs = pd.DataFrame([{"run": "plain", "net": "plain", "seed": 0, "steps": 3, "status": "done"}])
    published.publish(tmp_path, runs, rows)
    of_table = drawn(gf.plot.errors(gf.load(tmp_path)), tmp_path)
    assert drawn(gf.plot.errors(tmp_path), tmp_path) == drawn(gf.plot.errors(str(tmp_path)), tmp_path) == of_table
    assert gf.plot.caption(tmp_path) == gf.plot.caption(gf.load(tmp_path)) != ""


def test_what_read_read_is_drawn_though_it_is_of_no_step(tmp_path):
    net = gf.build_net(RUN)
    reading = gf.read(net, *gf.batch_of(RUN))
    assert reading.step == 0
    for draw in (gf.plot.gradient_curves, gf.plot.paths, gf.plot.errors):
        assert drawn(draw([reading]), tmp_path) == drawn(draw(reading), tmp_path)
    with pytest.raises(gf.BadInput, match="a film goes over the steps of training"):
        gf.plot.film(reading)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ([], "cannot draw an empty list: give a table of gf.load, the path of a results folder, or readings"),
        ({}, "cannot draw an empty dictionary"),
        ({"plain": []}, "cannot draw an empty list"),
        ([1, 2], "cannot draw int"),
        (itertools.count(), "cannot draw int"),
        ("nowhere", "nowhere is no results folder"),
    ],
)
@pytest.mark.parametrize("draw", [*DRAW, gf.plot.caption], ids=lambda draw: draw.__name__)
def test_what_cannot_be_drawn_is_one_line(draw, source, said):
    with pytest.raises(gf.BadInput) as error:
        draw(source)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", [3.5, None])
@pytest.mark.parametrize("draw", [*DRAW, gf.plot.caption], ids=lambda draw: draw.__name__)
def test_what_is_of_no_kind_that_can_be_drawn_is_one_line_as_well(draw, source):
    with pytest.raises(gf.BadInput, match=f"{draw.__name__}: table is {source}; legal is DataFrame or text or Path"):
        draw(source)
