"""Figures are read back from their axes and compared with what pandas says of the same table."""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.patches import StepPatch
from matplotlib.text import Text

from gradflow.claims import statistics
from gradflow.errors import BadInput
from gradflow.figures import layout, plot, rows, style, text
from gradflow.figures.sparkline import shorten, sparkline

STEPS = (1, 2, 4, 8, 16, 20)
LOST = "residual-18-1"  # the run that diverges after step 8


def readings(run: str, net: str, depth: int, seed: int):
    """Yields (step, layer, position, quantity, value): gradients that fall toward the input, errors at random."""
    rng = np.random.default_rng([depth, seed, len(net)])
    last = 8 if run == LOST else STEPS[-1]
    for step in [step for step in STEPS if step <= last]:
        for unit in range((depth - 2) // 2):
            position, name = 1 + 2 * unit, f"block{unit + 1:02d}"
            norm = np.exp(position - depth + rng.normal(0, 0.3))
            yield step, name, position, "activation_gradient_norm", np.inf if last == step == 8 and unit == 0 else norm
            yield step, f"{name}/conv1", position + 1, "activation_gradient_norm", 1e9
            yield step, f"{name}/conv1", position + 1, "weight_norm", 5 + rng.random()
            if net == "residual":
                yield step, name, position, "identity_gradient_norm", norm * rng.uniform(0.2, 1)
                yield step, name, position, "residual_gradient_norm", norm * rng.uniform(0.2, 1)
                yield step, name, position, "path_cosine", rng.uniform(-1, 1)
    for step in range(1, last + 1):
        yield step, "", -1, "loss", np.nan if last == step == 8 else 1 / step
        yield step, "", -1, "train_error", rng.uniform(0.1, 0.9)
        if step % 4 == 0:
            yield step, "", -1, "test_error", rng.uniform(0.1, 0.9)


def make_table(nets=("plain", "residual"), depths=(8, 18), seeds=(0, 1), normalisation="batch") -> Any:
    parts = []
    for net, depth, seed in [(net, depth, seed) for net in nets for depth in depths for seed in seeds]:
        run = f"{net}-{depth}-{seed}"
        part = pd.DataFrame(
            list(readings(run, net, depth, seed)), columns=["step", "layer", "position", "quantity", "value"]
        )
        settings = {"net": net, "depth": depth, "seed": seed, "normalisation": normalisation, "data": "digits"}
        status = "diverged" if run == LOST else "done"
        parts.append(part.assign(run=run, steps=20, batch=64, width=16, status=status, **settings))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def table() -> Any:
    return make_table()


FIGURES = [plot.gradient_curves, plot.film, plot.paths, plot.errors, plot.depth_errors]


def panel(figure, heading: str) -> Any:
    """Returns the one axes with this heading."""
    (ax,) = [ax for ax in figure.axes if ax.get_title("left") == heading]
    return ax


def texts(figure) -> str:
    return "\n".join(text.get_text() for ax in figure.axes for text in [*ax.texts, ax.title])


def bold_lines(ax) -> list[Any]:
    return [line for line in ax.lines if line.get_linewidth() > 1]


def test_curve_is_the_geometric_mean_over_seeds_at_the_units(table):
    ax = panel(plot.gradient_curves(table), "plain, step 20")
    rows = table[(table.net == "plain") & (table.step == 20) & (table.quantity == "activation_gradient_norm")]
    units = rows[~rows.layer.str.contains("/")].assign(log=lambda rows: np.log(rows.value))
    lines = bold_lines(ax)
    assert len(lines) == 2
    for line, (_, group) in zip(lines, units.groupby("depth"), strict=True):
        wanted = np.exp(group.groupby("position").log.mean())
        assert list(line.get_xdata()) == list(wanted.index)
        np.testing.assert_allclose(line.get_ydata(), wanted)


def test_curve_band_and_thin_lines_are_the_seeds(table):
    ax = panel(plot.gradient_curves(table), "plain, step 1")
    thin: list[Any] = [line for line in ax.lines if line.get_linewidth() < 1]
    assert len(thin) == 4
    assert len(ax.collections) == 2
    outline = ax.collections[0].get_paths()[0].vertices[:, 1]
    seeds = np.concatenate([line.get_ydata() for line in thin[:2]])
    assert (outline.min(), outline.max()) == pytest.approx((seeds.min(), seeds.max()))


def test_a_law_is_a_dotted_line_of_its_slope_from_the_output_end_of_the_mean(table):
    laws: Any = {run: 0.25 for run in table.run if run.startswith("plain-18")}
    figure: Any = plot.gradient_curves(table, steps=[1], laws=laws)
    drawn: Any = [line for ax in figure.axes for line in ax.get_lines() if line.get_color() == "black"]
    assert len(drawn) == 1  # no other run has a law
    (left, right), (low, high) = drawn[0].get_data()
    assert (left, right) == (1, 15)
    assert np.log10(high / low) == pytest.approx(0.25 * 14)
    ends = table[(table.run.isin(laws)) & (table.step == 1) & (table.layer == "block08")]
    ends = ends[ends.quantity == "activation_gradient_norm"].value
    assert high == pytest.approx(np.exp(np.log(ends).mean()))
    for one, told in ((figure, True), (plot.gradient_curves(table, steps=[1]), False)):
        words: Any = one.findobj(Text)
        assert any("dotted: what theory predicts" in word.get_text() for word in words) == told


def test_all_panels_of_the_curves_share_their_axes_and_run_to_the_depth(table):
    figure = plot.gradient_curves(table)
    assert len(figure.axes) == 6
    assert len({(*ax.get_xlim(), *ax.get_ylim()) for ax in figure.axes}) == 1
    assert figure.axes[0].get_xlim()[1] == 18
    assert {ax.get_yscale() for ax in figure.axes} == {"log"}


def test_curves_take_first_early_and_last_step_or_those_asked_for(table):
    assert [ax.get_title("left") for ax in plot.gradient_curves(table).axes[::2]] == [
        "plain, step 1",
        "plain, step 4",
        "plain, step 20",
    ]
    assert len(plot.gradient_curves(table, steps=[2]).axes) == 2
    with pytest.raises(BadInput, match=r"step 3 was not recorded: choose among 1, 2, 4"):
        plot.gradient_curves(table, steps=[3])


def test_several_normalisations_have_rows_of_their_own(table):
    both = pd.concat([table, make_table(normalisation="none").assign(run=lambda rows: rows["run"] + "-none")])
    headings = [ax.get_title("left") for ax in plot.gradient_curves(both).axes[::2]]
    assert headings == [f"plain, {kind}, step {n}" for kind in ("no normalisation", "batch norm") for n in (1, 20)]
    for draw in FIGURES[1:]:
        draw(both)


def test_depth_labels_do_not_overlap(table):
    figure = plot.gradient_curves(table.assign(value=np.where(table.value > 0, 1.0, table.value)))
    figure.draw_without_rendering()
    for ax in figure.axes:
        boxes = sorted((text.get_window_extent() for text in ax.texts if text.get_text().isdigit()), key=lambda b: b.y0)
        assert all(low.y1 <= high.y0 + 3 for low, high in pairwise(boxes))


def test_labels_move_no_more_than_they_must():
    assert layout.apart(np.array([0.1, 0.5]), 0.1) == pytest.approx([0.1, 0.5])
    assert layout.apart(np.array([0.5, 0.5, 0.5]), 0.1) == pytest.approx([0.4, 0.5, 0.6])


def test_labels_stay_within_the_panel():
    assert layout.apart(np.array([0.0, 0.0]), 0.1) == pytest.approx([0.0, 0.1])
    assert layout.apart(np.array([0.98, 1.0]), 0.1) == pytest.approx([0.9, 1.0])


def test_the_label_of_a_curve_says_how_the_gradient_changed(table):
    values = 10.0 ** np.where(
        table.position > 1, 0.0, np.where(table.net == "plain", -5, 2)
    )  # of the unit at the input
    figure = plot.gradient_curves(table.assign(value=values), steps=[1])
    words = [{label.get_text() for label in ax.texts} for ax in figure.axes]
    assert words == [{"8 ×10⁻⁵", "18 ×10⁻⁵"}, {"8 ×100", "18 ×100"}]
    assert [text.format_ratio(x) for x in (0.0034, 1.2, 2600, 9600, 26_000)] == [
        "×0.003",
        "×1",
        "×3000",
        "×10⁴",
        "×10⁴",
    ]


def test_a_run_under_way_has_no_final_error_and_is_in_no_mean(table):
    table = table.assign(status=table.status.where(table.run != "plain-8-0", "running"))
    other = table[table.run == "plain-8-1"]
    train = 100 * other[(other.quantity == "train_error") & (other.step > 18)]["value"].mean()
    test = 100 * other[(other.quantity == "test_error") & (other.step == 20)]["value"].mean()
    assert f"8: {train:.1f} / {test:.1f}, 1 of 2 unfinished" in texts(plot.errors(table))
    ax = plot.depth_errors(table).axes[0]
    dots: Any = ax.lines[0]
    assert list(dots.get_xdata()) == [8, 18, 18]


def test_film_has_one_colour_scale_and_the_mean_of_logs(table):
    figure = plot.film(table)
    meshes: list[Any] = [mesh for ax in figure.axes for mesh in ax.collections if isinstance(mesh, QuadMesh)]
    meshes = [mesh for mesh in meshes if mesh.axes in figure.axes[:4]]  # not the colour bar
    assert len(meshes) == 4
    assert len({(mesh.norm.vmin, mesh.norm.vmax, mesh.get_cmap().name) for mesh in meshes}) == 1
    rows = table[(table.net == "plain") & (table.depth == 8) & (table.quantity == "activation_gradient_norm")]
    rows = rows[~rows.layer.str.contains("/")].assign(log=lambda rows: np.log(rows.value))
    wanted = np.exp(rows.pivot_table(index="position", columns="step", values="log", aggfunc="mean"))
    np.testing.assert_allclose(meshes[0].get_array(), wanted)


def test_shares_are_those_of_the_norms_and_sum_to_one(table):
    ax = panel(plot.paths(table, step=1), "residual 8, step 1")
    bands: list[Any] = [patch for patch in ax.patches if isinstance(patch, StepPatch)]
    lower, upper = (band.get_data() for band in bands)
    np.testing.assert_array_equal(upper.values, 1)
    np.testing.assert_array_equal(upper.baseline, lower.values)
    assert all(0 < share < 1 for share in lower.values)
    rows = table[(table.net == "residual") & (table.depth == 8) & (table.step == 1)]
    rows = rows[rows.layer.str.fullmatch(r"block\d+")]
    norms = rows.pivot_table(index=["position", "run"], columns="quantity", values="value")
    share = norms["identity_gradient_norm"] / (norms["identity_gradient_norm"] + norms["residual_gradient_norm"])
    np.testing.assert_allclose(lower.values, share.groupby("position").mean())


def test_cosine_is_drawn_from_minus_one_to_one(table):
    figure = plot.paths(table, step=1)
    twin: Any = next(ax for ax in figure.axes if ax.lines)
    rows = table[(table.quantity == "path_cosine") & (table.depth == 8) & (table.step == 1)]
    np.testing.assert_allclose(twin.lines[0].get_ydata(), rows.groupby("position")["value"].mean())
    assert twin.get_ylim() == (-1, 1)


def test_errors_draw_test_error_and_the_trailing_mean_of_training_error(table):
    figure = plot.errors(table)
    ax = panel(figure, "plain")
    train, test = ax.lines[0], ax.lines[1]
    rows = table[(table.net == "plain") & (table.depth == 8)].groupby(["quantity", "step"])["value"].mean() * 100
    values = rows["train_error"].to_numpy()
    wanted = [values[max(0, step - 4) : step + 1].mean() for step in range(20)]
    np.testing.assert_allclose(train.get_ydata(), wanted)
    np.testing.assert_allclose(test.get_ydata(), rows["test_error"])
    assert ax.get_ylim() == panel(figure, "residual").get_ylim()


def test_final_values_stand_at_the_margin_with_half_their_range(table):
    rows = table[(table.net == "plain") & (table.depth == 8)]
    train = 100 * rows[(rows.quantity == "train_error") & (rows.step > 18)].groupby("run")["value"].mean()
    test = 100 * rows[(rows.quantity == "test_error") & (rows.step == 20)].groupby("run")["value"].mean()
    train, test = (f"{x.mean():.1f}\N{PLUS-MINUS SIGN}{abs(x.iloc[0] - x.iloc[1]) / 2:.1f}" for x in (train, test))
    assert f"8: {train} / {test}" in texts(plot.errors(table))
    assert "18: 51\N{PLUS-MINUS SIGN}16 / 19\N{PLUS-MINUS SIGN}7" in texts(
        plot.errors(table)
    )  # no finer than they vary


def test_depth_errors_are_means_of_the_last_tenth(table):
    ax = plot.depth_errors(table).axes[0]
    late = table[(table.quantity == "train_error") & (table.step > 18) & (table.net == "plain")]
    line: Any = next(line for line in ax.lines if line.get_linestyle() == "-")
    np.testing.assert_allclose(line.get_ydata(), 100 * late.groupby("depth")["value"].mean())


@pytest.mark.parametrize("draw", FIGURES)
def test_same_table_same_bytes_whatever_its_order(draw, table, tmp_path):
    shuffled = table.sample(frac=1, random_state=3)
    for name, same in (("a.svg", table), ("b.svg", shuffled)):
        plot.save(draw(same, "A title", plot.caption(same, "gradflow run x")), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.svg", "b.svg"]


@pytest.mark.parametrize("draw", [plot.gradient_curves, plot.film, plot.errors, plot.depth_errors])
def test_a_diverged_run_is_labelled_and_its_last_reading_sets_no_axis(draw, table):
    wild = table.run.eq(LOST) & table.step.eq(8) & table.layer.ne("")
    figure = draw(table.assign(value=table.value.where(~wild, table.value * 1e30)))
    figure.draw_without_rendering()
    assert "diverged" in texts(figure) + " ".join(ax.get_title("left") for ax in figure.axes)
    assert all(np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all() and ax.get_ylim()[1] < 1e3 for ax in figure.axes)


def test_a_curve_is_drawn_up_to_where_it_is_finite(table):
    alone = table[table.run == LOST]
    figure = plot.gradient_curves(alone, steps=[8])
    assert "18 diverged" in texts(figure)
    heights: Any = figure.axes[0].lines[0].get_ydata()
    assert np.isnan(heights[0])
    assert np.isfinite(heights[1:]).all()
    for draw in FIGURES[1:]:
        draw(alone).draw_without_rendering()


def test_zeros_have_no_logarithm_and_do_not_crash():
    table = make_table(depths=(8,))
    dead = table.assign(value=table.value.where(table.run != "plain-8-0", 0.0))
    for draw in FIGURES:
        draw(dead).draw_without_rendering()
    both = table.assign(value=table.value.where(~table.run.str.startswith("plain-8"), 0.0))
    assert "8: reads 0" in texts(plot.gradient_curves(both))


@pytest.mark.parametrize("draw", FIGURES)
def test_one_seed_one_depth_one_net(draw):
    single = make_table(nets=("residual",), depths=(8,), seeds=(0,))
    draw(single.drop(columns=["normalisation", "status"])).draw_without_rendering()


def test_other_quantities_are_drawn_at_the_layers_that_have_them(table):
    ax = plot.gradient_curves(table, quantity="weight_norm").axes[0]
    assert list(bold_lines(ax)[0].get_xdata()) == [2, 4, 6]
    with pytest.raises(BadInput, match="unknown quantity to draw 'loss'"):
        plot.gradient_curves(table, quantity="loss")


@pytest.mark.parametrize("draw", FIGURES)
def test_a_table_that_cannot_be_drawn_is_bad_input_in_one_line(draw, table):
    for poor in (table[:0], table[table.quantity == "loss"], table.drop(columns="net")):
        with pytest.raises(BadInput, match="cannot be drawn: it lacks") as caught:
            draw(poor)
        assert "\n" not in str(caught.value)


def test_paths_of_plain_nets_are_bad_input():
    with pytest.raises(BadInput, match="lacks identity_gradient_norm"):
        plot.paths(make_table(nets=("plain",)))


def test_sparkline_rises_with_an_exponential_and_marks_gaps():
    bars = sparkline([10.0**n for n in range(8)])
    assert list(bars) == sorted(bars)
    assert len(set(bars)) == 8
    assert sparkline([1, 0, 10, np.inf, np.nan, -1])[1::2] == "   "
    assert sparkline([0.0, np.nan]) == "  "
    assert sparkline([]) == ""
    assert set(sparkline([1.0, 1.05, 0.95])) <= set("▄▅")  # noise stays in the middle


def test_shorten_takes_geometric_means():
    assert shorten([1, 100, 10, 1000], 2) == pytest.approx([10, 100])
    assert shorten([1, 2], 5) == pytest.approx([1, 2])
    assert np.isnan(shorten([0, 0], 1)).all()


def test_save_writes_png_and_refuses_what_it_cannot_write(table, tmp_path):
    figure = plot.depth_errors(table)
    plot.save(figure, tmp_path / "new" / "figure.png")
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(BadInput, match="choose one of svg, png"):
        plot.save(figure, tmp_path / "figure.gif")
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"cannot write .*figure\.svg"):
        plot.save(figure, tmp_path / "file" / "figure.svg")


def test_caption_says_what_was_run(table):
    words = plot.caption(table, "gradflow run depth_sweep").replace("\N{NO-BREAK SPACE}", " ").split(" \N{MIDDLE DOT} ")
    assert words == [
        *("digits", "20 steps", "2 seeds", "batch 64", "width 16", "batch norm"),
        *("plain/residual", "depth 8/18", "1 of 8 runs diverged", "gradflow run depth_sweep"),
    ]


def test_caption_leaves_out_what_was_not_set_and_where_the_data_lie(table):
    words = plot.caption(table.assign(width=np.nan, data="../shared/cifar10"))
    assert words.startswith("cifar10")
    assert "width" not in words
    assert "width\N{NO-BREAK SPACE}16\N{NO-BREAK SPACE}" in plot.caption(table.assign(width=16.0))


def test_what_reads_zero_is_said_and_left_blank(table):
    dead = table.position.between(2, 4) & table.run.str.startswith("residual-8")
    table = table.assign(value=table.value.where(~dead | (table.quantity == "path_cosine"), 0.0))
    assert "8 reads 0" in texts(plot.gradient_curves(table))
    assert panel(plot.film(table), "residual 8, blank: reads 0")
    share, cosine = statistics.identity_share(rows.only(rows.path_readings(table), net="residual", depth=8, step=1))
    assert list(share.isna()) == list(cosine.isna()) == [False, True, False]


def contrast(first, second) -> float:
    """The contrast of WCAG 2, written from the standard and not from the code under test."""

    def luminance(colour) -> float:
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("net", [*style.NET_COLOURS, "another"])
def test_every_shade_stands_out_on_white_and_on_dark(net):
    shades = [style.shade(net, place, 5) for place in range(5)]
    assert all(contrast(shade, page) > 2.2 for shade in shades for page in ("white", "#0d1117"))
    darkness = [contrast(shade, "white") for shade in shades]
    assert darkness == sorted(darkness)
    assert all(contrast(style.GREY, page) > 4.2 for page in ("white", "#0d1117"))
