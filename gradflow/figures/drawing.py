"""What every figure is drawn in: matplotlib's own defaults under our style, and text that is only text.

The user's matplotlibrc, backend and styles neither change our figures nor are changed by them.
"""

import contextlib
import functools
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from gradflow.figures.style import STYLE
from gradflow.kinds import checked
from gradflow.plain_text import plain

P = ParamSpec("P")
PAPER = "white"
# Our colours must do on white and on black. On paper they may be darker, all by one power, which leaves white what it
# is: the lightest line is then 3 to 1 against the paper, and grey 6 to 1.
_INK = [round(255 * (value / 255) ** 1.3) for value in range(256)] * 3
_DEFAULTS: dict[Any, Any] = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}


class Picture(Figure):
    """A figure that a notebook shows by itself: it belongs to no window and needs no backend.

    There it stands on paper of its own, so that it is the same on a light and on a dark page; files are transparent.
    """

    def _ipython_display_(self) -> None:
        """What IPython asks for first: else matplotlib's inline backend would show it, without the paper."""
        from IPython.display import display

        display({"image/png": self._repr_png_(), "text/plain": repr(self)}, raw=True)

    def _mime_(self) -> tuple[str, bytes]:
        """What marimo asks for first; it gives every other figure of matplotlib a method of this name."""
        return "image/png", self._repr_png_()

    def _repr_png_(self) -> bytes:
        """The picture on its paper."""
        drawn, shown = io.BytesIO(), io.BytesIO()
        with styled():
            self.savefig(drawn, format="png", dpi=100, facecolor=PAPER)
        with Image.open(drawn) as image:
            image.convert("RGB").point(_INK).save(shown, format="png", optimize=True)
        return shown.getvalue()


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Inside, matplotlib's parameters are its defaults under our style; afterwards what they were before."""
    with matplotlib.rc_context({**_DEFAULTS, **STYLE}), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing from font"
        )  # a box stands for it: a name may be in any script
        yield


def drawing(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """Makes a function check what it is given, and draw in our style; in what it writes, `$` is a dollar, as names may
    have it.
    """
    function = checked(function)

    @functools.wraps(function)
    def draw(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with styled():
            figure = function(*args, **kwargs)
            for text in _texts(figure):
                text.set_parse_math(False)
        return figure

    return draw


def tick_label(text: object) -> str:
    """A word at a tick. Others there are matplotlib's own, which are formulas: so the dollar is escaped in this one."""
    return plain(text).replace("$", r"\$")


def make_visible(figure: Figure) -> None:
    """Writes what is no visible character in a figure's text as an escape: in an SVG, ESC would be no XML."""
    for text in _texts(figure):
        text.set_text("\n".join(map(plain, text.get_text().split("\n"))))


def _texts(figure: Figure) -> Iterator[Text]:
    """The text in a figure but for that at its ticks."""
    yield from figure.texts
    for ax in figure.axes:
        yield from (child for child in ax.get_children() if isinstance(child, Text))
        yield from (axis.label for axis in (ax.xaxis, ax.yaxis))
        if legend := ax.get_legend():
            yield from legend.get_texts()
