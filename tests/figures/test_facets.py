"""What varies is what is drawn: lines, panels, labels and captions of runs that differ in any setting."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gradflow.figures import plot, rows, style
from gradflow.figures.facets import facets

FIGURES = [plot.gradient_curves, plot.film, plot.errors, plot.depth_errors]
PLAIN = {"net": "plain", "depth": 8, "normalisation": "batch", "data": "digits", "batch": 16, "steps": 10}


def sweep(seeds: int, several: Sequence[Mapping[str, Any]]) -> Any:
    """A long table of several settings: norms and errors at random, each run's its own."""
    parts = []
    for place, (own, seed) in enumerate(itertools.product(several, range(seeds))):
        random, read = np.random.default_rng(place), []
        for step, position in itertools.product((1, 3, 10), (1, 3, 5)):
            read.append((step, f"block{position:02d}", position, "activation_gradient_norm", random.uniform(0.1, 9)))
        for step in range(1, 11):
            read.append((step, "", -1, "train_error", random.uniform(0.1, 0.9)))
        read.append((10, "", -1, "test_error", random.uniform(0.1, 0.9)))
        part = pd.DataFrame(read, columns=["step", "layer", "position", "quantity", "value"])
        parts.append(part.assign(**own, run=f"run{place:02d}", seed=seed, status="done"))
    return pd.concat(parts, ignore_index=True)


def mean_by_loops(table: Any, step: int, **own: Any) -> list[float]:
    """The geometric mean over seeds at each position."""
    found = []
    for position in (1, 3, 5):
        values = [
            row["value"]
            for row in table.to_dict("records")
            if row["quantity"] == "activation_gradient_norm"
            and (row["step"], row["position"]) == (step, position)
            and all(row[name] == value for name, value in own.items())
        ]
        assert len(values) == table["seed"].nunique()
        found.append(math.prod(values) ** (1 / len(values)))
    return found


def panel(figure: Any, heading: str) -> Any:
    (ax,) = [ax for ax in figure.axes if ax.get_title("left") == heading]
    return ax


def bold(ax: Any) -> list[Any]:
    return [line for line in ax.lines if line.get_linewidth() > 1]


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def words(table: Any) -> list[str]:
    return plot.caption(table).replace("\N{NO-BREAK SPACE}", " ").split(" \N{MIDDLE DOT} ")


def test_two_learning_rates_are_two_lines_of_two_seeds():
    table = sweep(2, [PLAIN | {"learning_rate": rate} for rate in (1.0, 0.001)])
    figure: Any = plot.gradient_curves(table)
    for step in (1, 3, 10):
        ax = panel(figure, f"plain 8, step {step}")
        small, large = bold(ax)
        np.testing.assert_allclose(small.get_ydata(), mean_by_loops(table, step, learning_rate=0.001))
        np.testing.assert_allclose(large.get_ydata(), mean_by_loops(table, step, learning_rate=1.0))
        assert small.get_color() == style.shade("plain", 0, 2)
        assert large.get_color() == style.shade("plain", 1, 2)
        assert sorted(text.split(":")[0] for text in texts(ax)) == ["0.001", "1"]
        bands = [collection.get_paths()[0].vertices[:, 1] for collection in ax.collections]
        for rate, band in zip((0.001, 1.0), bands, strict=True):
            of_rate = table[(table.learning_rate == rate) & (table.step == step) & (table.position > 0)]
            assert (band.min(), band.max()) == pytest.approx((of_rate.value.min(), of_rate.value.max()))
    notes = " ".join(text.get_text().replace("\n", " ") for text in figure.texts)
    assert "At each line: learning rate, and the norm" in notes
    assert words(table)[-1] == "learning rate 0.001/1"


def test_films_and_errors_of_two_learning_rates_are_apart():
    table = sweep(2, [PLAIN | {"learning_rate": rate} for rate in (0.001, 1.0)])
    film = plot.film(table)
    for rate in (0.001, 1.0):
        ax = panel(film, f"plain 8, learning rate {rate:g}")
        wanted = np.transpose([mean_by_loops(table, step, learning_rate=rate) for step in (1, 3, 10)])
        np.testing.assert_allclose(ax.collections[0].get_array(), wanted)
    errors: Any = plot.errors(table).axes[0]
    assert "learning rate: train / test" in texts(errors)
    final = [
        100 * table[(table.run == run) & (table.quantity == "test_error")].value.item() for run in table.run.unique()
    ]
    for line, pair in zip(errors.lines[1::2], (final[:2], final[2:]), strict=True):
        assert line.get_ydata()[-1] == pytest.approx(sum(pair) / 2)


def test_errors_against_a_setting_that_is_not_depth():
    table = sweep(2, [PLAIN | {"learning_rate": rate} for rate in (0.001, 0.1, 1.0)])
    (ax,) = plot.depth_errors(table).axes
    assert ax.get_xlabel() == "learning rate"
    assert ax.get_xscale() == "log"
    late = table[(table.quantity == "train_error") & (table.step == 10)]
    wanted = [100 * late[late.learning_rate == rate].value.mean() for rate in (0.001, 0.1, 1.0)]
    line: Any = next(line for line in ax.lines if line.get_linestyle() == "-")
    assert list(line.get_xdata()) == [0.001, 0.1, 1.0]
    np.testing.assert_allclose(line.get_ydata(), wanted)


def test_two_settings_at_once_are_lines_and_rows():
    choices = itertools.product((16, 4), ("batch", "none"))
    table = sweep(2, [PLAIN | {"width": width, "normalisation": norm} for width, norm in choices])
    figure = plot.gradient_curves(table)
    result = {"none": "no normalisation", "batch": "batch norm"}
    headings = [ax.get_title("left") for ax in figure.axes]
    assert headings == [f"plain 8, {norm}, step {step}" for norm in result.values() for step in (1, 10)]
    for norm, heading in result.items():
        lines = bold(panel(figure, f"plain 8, {heading}, step 10"))
        for width, line in zip((4, 16), lines, strict=True):
            np.testing.assert_allclose(line.get_ydata(), mean_by_loops(table, 10, width=width, normalisation=norm))
    assert words(table)[-2:] == ["no normalisation/batch norm", "width 4/16"]
    for draw in FIGURES:
        draw(table).draw_without_rendering()


def test_a_numeric_setting_makes_the_lines_and_depth_before_all():
    choices = list(itertools.product(("relu", "tanh"), (0.1, 1.0)))
    table = sweep(1, [PLAIN | {"activation": name, "learning_rate": rate} for name, rate in choices])
    found = facets(rows.readings(table))
    assert (found.line, found.values) == ("learning rate", ["0.1", "1"])
    assert found.rows == ["activation relu", "activation tanh"]
    deep = pd.concat([table, table.assign(depth=14, run=table.run + "deep")])
    found = facets(rows.readings(deep))
    assert (found.line, found.values, found.columns) == ("depth", ["8", "14"], ["plain"])
    assert found.rows == [f"activation {name}, learning rate {rate:g}" for name, rate in choices]


def test_words_are_in_order_and_have_no_line_between_them():
    table = sweep(
        2, [PLAIN | {"net": net, "activation": name} for net in ("residual", "plain") for name in ("tanh", "relu")]
    )
    found = facets(rows.readings(table))
    assert (found.line, found.values, found.numbers) == ("activation", ["relu", "tanh"], None)
    assert found.columns == ["plain 8", "residual 8"]
    (ax,) = plot.depth_errors(table).axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["relu", "tanh"]
    assert {line.get_linestyle() for line in ax.lines} == {"None"}


def test_a_users_own_net_with_its_own_setting_and_neither_depth_nor_normalisation():
    own = [{"net": "my_nets.py:build", "gate": gate, "data": "digits"} for gate in ("soft", "hard")]
    table = sweep(2, own)
    figure = plot.gradient_curves(table)
    lines = bold(panel(figure, "my_nets.build, step 1"))
    for gate, line in zip(("hard", "soft"), lines, strict=True):
        np.testing.assert_allclose(line.get_ydata(), mean_by_loops(table, 1, gate=gate))
    assert words(table) == ["digits", "10 steps", "2 seeds", "gate hard/soft"]
    for draw in FIGURES:
        draw(table).draw_without_rendering()


def test_nets_that_lack_each_others_settings_are_drawn_beside_each_other():
    own = [{"net": "my_nets.py:build", "gate": gate} for gate in (0.5, 2.0)]
    table = sweep(2, [*own, PLAIN])  # neither depth nor normalisation of one's own, no gate of plain's
    figure = plot.gradient_curves(table)
    assert len(bold(panel(figure, "my_nets.build, step 1"))) == 2
    plain = panel(figure, "plain 8, step 1")
    np.testing.assert_allclose(bold(plain)[0].get_ydata(), mean_by_loops(table, 1, net="plain"))
    assert texts(plain)[0].startswith("\N{MULTIPLICATION SIGN}")  # nothing is result of a gate
    assert "gate 0.5/2" in words(table)
    for draw in FIGURES:
        draw(table).draw_without_rendering()


def test_a_sweep_in_which_nothing_varies_says_so():
    assert words(sweep(3, [PLAIN]))[-1] == "nothing varies but the seed"
    assert words(sweep(1, [PLAIN]))[-1] == "a single run"
    assert "nothing" not in plot.caption(sweep(2, [PLAIN, PLAIN | {"depth": 14}]))
    ax = panel(plot.gradient_curves(sweep(1, [PLAIN])), "plain, step 1")
    assert texts(ax)[0].startswith("8 ")


@pytest.mark.parametrize(("count", "said"), [(12, "/0.012"), (13, "learning rate 0.001 to 0.013 (13 values)")])
def test_of_a_setting_with_many_values_a_caption_says_the_first_and_the_last(count, said):
    table = sweep(1, [PLAIN | {"learning_rate": rate / 1000} for rate in range(1, count + 1)])
    (told,) = [part for part in words(table) if part.startswith("learning rate")]
    assert told.endswith(said)


def test_many_combinations_of_errors_are_wrapped():
    choices = itertools.product((0.1, 1.0), ("relu", "tanh"), (True, False))
    names = ("learning_rate", "activation", "shuffle")
    figure = plot.depth_errors(sweep(1, [PLAIN | dict(zip(names, choice, strict=True)) for choice in choices]))
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title("left") for ax in shown] == [
        f"activation {name}, {shuffle}" for name in ("relu", "tanh") for shuffle in ("no shuffle", "shuffle")
    ]
    assert [ax.get_xlabel() for ax in shown] == ["", "learning rate", "learning rate", "learning rate"]


@pytest.mark.parametrize("draw", FIGURES)
def test_the_order_of_a_table_does_not_show(draw, tmp_path):
    table = sweep(2, [PLAIN | {"gate": gate, "width": width} for gate in ("b", "a") for width in (4, 16)])
    for name, same in (("a.svg", table), ("b.svg", table.sample(frac=1, random_state=1))):
        plot.save(draw(same, "A title", plot.caption(same)), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_depth_that_is_a_word_is_a_setting_like_any_other():
    table = sweep(1, [PLAIN | {"depth": depth} for depth in ("shallow", "deep")])
    assert np.isnan(facets(rows.readings(table)).depth)
    plot.gradient_curves(table)
