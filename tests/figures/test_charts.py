"""Charts of numbers that an experiment worked out: what is drawn is what was given."""

from typing import Any

import pytest

from gradflow.figures import charts, plot

PANELS = {"test error (%)": {"mlp, in order": [3.0, 5.0], "cnn": [2.0, float("nan")]}, "other": {"nin": [7.0], "x": []}}
CURVES = {"left": {"relu": {1: [2.0, 4.0], 10: [1.0]}, "tanh": {1: [float("nan")], 10: [8.0, 2.0]}}, "right": {"x": {}}}


def lines_of(ax: Any, marker: str) -> list[tuple[list[float], list[float]]]:
    return [
        (list(map(float, line.get_xdata())), list(map(float, line.get_ydata())))
        for line in ax.get_lines()
        if line.get_marker() == marker
    ]


def test_a_dot_is_a_seed_and_a_bar_the_mean():
    figure: Any = charts.dots(PANELS, title="A title", note="a note", limits={"other": 6.5})
    first, second = figure.axes
    assert [ax.get_title("left") for ax in figure.axes] == list(PANELS)
    assert [label.get_text() for label in first.get_yticklabels()] == ["mlp, in order", "cnn"]
    assert lines_of(first, "o") == [([3.0, 5.0], [0, 0]), ([2.0], [1])]
    assert lines_of(first, "|") == [([4.0], [0]), ([2.0], [1])]
    assert [text.get_text() for text in first.texts] == ["4", "2"]
    assert [text.get_text() for text in second.texts] == ["7", "no number"]
    dashed: list[Any] = [line for line in second.get_lines() if line.is_dashed()]
    assert [float(line.get_xdata()[0]) for line in dashed] == [6.5]
    assert not [line for line in first.get_lines() if line.is_dashed()]


def test_a_line_goes_through_the_means_and_ends_in_its_name():
    figure: Any = charts.lines(CURVES, "step", "error", log_x=True)
    left, right = figure.axes
    assert [ax.get_title("left") for ax in figure.axes] == list(CURVES)
    assert left.get_xscale() == "log"
    assert left.get_yscale() == "linear"
    through = [(list(x), list(y)) for x, y in lines_of(left, "None")]
    assert through == [([1.0, 10.0], [3.0, 1.0]), ([10.0], [5.0])]
    assert sorted(text.get_text() for text in left.texts) == ["relu", "tanh"]
    assert not right.get_lines()


MAPS = {
    "plain, seen": {"he": {"relu": 0.0, "tanh": -1.25}, "glorot": {"relu": 31.0, "tanh": float("nan")}},
    "theory": {"he": {"relu": 0.2}},
    "third": {},
}


def test_a_cell_of_a_map_holds_its_number_and_its_colour_says_the_same():
    figure: Any = charts.heat(MAPS, 2, title="A title", note="a note")
    first, second, third, empty = figure.axes
    assert [ax.get_title("left") for ax in figure.axes] == [*MAPS, ""]
    assert [label.get_text() for label in first.get_yticklabels()] == ["he", "glorot"]
    assert [label.get_text() for label in third.get_xticklabels()] == ["relu", "tanh"]
    texts = {text.get_position(): text.get_text() for text in first.texts}
    assert texts == {(0, 0): "+0.0", (1, 0): "−1.2", (0, 1): "+31.0", (1, 1): "–"}
    assert [text.get_text() for text in second.texts] == ["+0.2", "–", "–", "–"]
    assert [text.get_text() for text in third.texts] == ["–"] * 4
    assert not empty.get_visible()
    level, below, far = (patch.get_facecolor()[:3] for patch in first.patches)
    assert min(level) > 0.9  # nearly white
    assert below[1] > below[0]  # green
    assert far[0] > far[2]  # brown
    assert sum(far) < sum(below) < sum(level)
    assert {text.get_color() for text in first.texts if text.get_text() == "+31.0"} == {"white"}


def test_colours_of_a_map_are_about_its_centre():
    figure: Any = charts.heat({"x": {"a": {"one": 0.95, "two": 0.0}}}, 1, form="{:.2f}", centre=0.95, span=0.95)
    at_centre, below = figure.axes[0].patches
    assert min(at_centre.get_facecolor()[:3]) > 0.9
    assert max(below.get_facecolor()[:3]) < 0.3
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.95", "0.00"]


@pytest.mark.parametrize(
    "figure",
    [
        lambda: charts.dots(PANELS),
        lambda: charts.lines(CURVES, "x", "y", log_y=True),
        lambda: charts.heat(MAPS, 3),
    ],
)
def test_the_same_numbers_give_the_same_bytes(figure, tmp_path):
    for name in ("a", "b"):
        plot.save(figure(), tmp_path / f"{name}.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_net_has_its_colour_wherever_it_is_named():
    colours = [charts._colour(label, 3) for label in ("residual", "residual, torch", "residual-56 x")]
    assert len(set(colours)) == 1
    others = [charts._colour("anything", place) for place in range(9)]
    assert len({*others, *colours, charts._colour("plain", 3)}) == len({*others}) + 2
