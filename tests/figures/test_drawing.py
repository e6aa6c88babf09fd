"""A figure is the same whatever the user's matplotlib is set to, and what it writes is only text."""

import io
import os
import re
import subprocess
import sys
import xml.dom.minidom
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from cycler import cycler
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from gradflow.errors import BadInput
from gradflow.figures import charts, plot, style

HOSTILE = "a$b_{$ \x1b[3\u202e"  # no formula, an escape sequence, a bidirectional override
THEIRS: Any = {
    "text.usetex": True,
    "text.parse_math": False,
    "savefig.bbox": "tight",
    "figure.dpi": 33,
    "font.family": "serif",
    "axes.grid": False,
    "lines.marker": "x",
    "axes.prop_cycle": cycler(color="r"),
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
}


def make_table(name: str = "plain", column: str = "depth", status: str = "done") -> Any:
    """Every quantity that a figure draws, of two nets with two values of a setting."""
    rows = [
        {"net": net, column: value, "seed": 0, "run": f"{net} {value}", "status": status, "data": name}
        | {"layer": layer, "position": position, "step": step, "quantity": quantity, "value": 0.5 / step}
        for net in (name, "residual")
        for value in (name, "other")
        for step in (1, 2)
        for quantity, layer, position in [
            *((one, f"block0{at}", at) for at in (1, 2) for one in ("activation_gradient_norm", "path_cosine")),
            *((f"{path}_gradient_norm", f"block0{at}", at) for at in (1, 2) for path in ("identity", "residual")),
            ("train_error", "", -1),
            ("test_error", "", -1),
        ]
    ]
    return pd.DataFrame(rows)


FIGURES = {
    **{
        function.__name__: lambda words, function=function: function(
            make_table(words, f"my {words}", words), title=words, note=plot.caption(make_table(words), words)
        )
        for function in (plot.gradient_curves, plot.film, plot.paths, plot.errors, plot.depth_errors)
    },
    "dots": lambda words: charts.dots({words: {words: [1.0, 2.0]}}, words, words, log=True),
    "lines": lambda words: charts.lines({words: {words: {1: [1.0], 2: [2.0]}}}, words, words, words, words, log_y=True),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_names_are_only_text(draw, tmp_path):
    plot.save(draw(HOSTILE), tmp_path / "hostile.svg")
    drawn = (tmp_path / "hostile.svg").read_text("utf-8")
    xml.dom.minidom.parseString(drawn.encode())  # there is no ESC in XML
    assert not {"\x1b", "\u202e"} & {*drawn}
    assert "a$b_{$ \\x1b[3" in re.sub(r"\s+", " ", drawn.replace("\N{NO-BREAK SPACE}", " "))


def test_a_word_at_a_tick_is_drawn_as_it_is_and_matplotlibs_own_powers_are_formulas(tmp_path):
    plot.save(FIGURES["dots"]("$x$"), tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text("utf-8")
    assert drawn.count("<!-- $x$ -->") == 4  # title, note, heading and tick, each by the letter
    assert "mathdefault" in drawn


@pytest.mark.parametrize("name", ["gradient_curves", "film", "lines"])
def test_the_users_parameters_change_nothing_and_are_not_changed(name, tmp_path):
    plot.save(FIGURES[name]("plain"), tmp_path / "ours.svg")
    with matplotlib.rc_context(THEIRS):
        before = dict(matplotlib.rcParams)
        figure = FIGURES[name]("plain")
        assert dict(matplotlib.rcParams) == before
        plot.save(figure, tmp_path / "theirs.svg")
        assert dict(matplotlib.rcParams) == before
        assert figure._repr_png_().startswith(b"\x89PNG")
    assert (tmp_path / "ours.svg").read_bytes() == (tmp_path / "theirs.svg").read_bytes()


def shown(figure: Any, png: bytes | None = None) -> np.ndarray:
    """What a notebook shows of a figure: red, green and blue, 0 to 1."""
    with Image.open(io.BytesIO(figure._repr_png_() if png is None else png)) as image:
        assert image.width == pytest.approx(100 * figure.get_figwidth(), abs=1)
        assert image.mode == "RGB"  # nothing of the page shows through: it may be light or dark
        return np.asarray(image) / 255


def luminance(colour: np.ndarray) -> np.ndarray:
    """Relative luminance by the definition of WCAG 2.2."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


COLOURS = [
    (style.GREY, 4.5),  # text, by WCAG 2.2, success criterion 1.4.3
    *((style.shade(net, place, 3), 3.0) for net in (*style.NET_COLOURS, "mlp") for place in range(3)),  # lines, 1.4.11
]


@pytest.fixture(scope="module")
def inks() -> list[float]:
    """The luminance of the paper, and of a strip across the whole figure in each colour, from the bottom up."""
    figure, height = FIGURES["lines"]("plain"), 1 / (len(COLOURS) + 1)
    for place, (colour, _) in enumerate(COLOURS):
        strip = Rectangle((0, place * height), 1, height, transform=figure.transFigure, color=colour, clip_on=False)
        figure.axes[0].add_patch(strip)
    figure.axes[0].set(zorder=9)
    pixels = luminance(shown(figure))
    middles = [round((1 - (place + 0.5) * height) * len(pixels)) for place in range(len(COLOURS))]
    return [pixels[2, 2], *(float(np.median(pixels[middle])) for middle in middles)]


@pytest.mark.parametrize("place", range(len(COLOURS)), ids=lambda place: COLOURS[place][0])
def test_in_a_notebook_every_colour_stands_out_from_the_paper(inks, place):
    paper, ink = inks[0], inks[1 + place]
    assert (paper + 0.05) / (ink + 0.05) >= COLOURS[place][1]


def test_a_notebook_shows_a_figure_whatever_was_done_to_it():
    figure: Any = FIGURES["lines"]("plain")
    plain = shown(figure)
    assert plain.min() < 0.5 < plain[0, 0].min() == 1
    figure.axes[0].set_visible(False)
    assert (shown(figure) != plain).any()


def test_marimo_shows_a_figure_on_its_paper_though_it_has_a_way_for_all_figures(monkeypatch):
    monkeypatch.setattr(Artist, "_mime_", lambda artist: ("image/png", b"transparent"), raising=False)  # as it does
    figure: Any = FIGURES["lines"]("plain")
    kind, png = figure._mime_()
    assert kind == "image/png"
    assert shown(figure, png)[0, 0].min() == 1


def test_figures_need_no_backend(tmp_path):
    script = (
        "import sys; from gradflow.figures import charts, plot\n"
        f"plot.save(charts.dots({{'a': {{'b': [1.0]}}}}), {str(tmp_path / 'a.svg')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {**os.environ, "MPLBACKEND": "module://nonexistent"}
    done = subprocess.run([sys.executable, "-P", "-c", script], env=environment, check=False)
    assert done.returncode == 0
    assert (tmp_path / "a.svg").exists()


def test_a_formula_that_is_none_in_a_users_own_figure_is_one_line(tmp_path):
    figure = Figure()
    figure.suptitle(r"$\nonsense{$")
    with pytest.raises(BadInput, match=r"cannot write the figure .*own\.svg: ") as error:
        plot.save(figure, tmp_path / "own.svg")
    assert "\n" not in str(error.value)
    assert not [*Path(tmp_path).iterdir()]
