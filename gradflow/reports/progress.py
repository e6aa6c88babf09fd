"""What a person sees while one run trains in this process: a bar, the time left, and the loss so far as a curve.

On a terminal it moves in place, in a notebook (of a kernel, as Jupyter, Colab and VS Code have it) as an output that is
updated. Elsewhere, as in a file, it stands once, at the end.
"""

import contextlib
import html
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO, cast

from rich.console import Console
from rich.live import Live
from rich.text import Text

from gradflow.claims.verdict import number
from gradflow.data.dataset import Dataset
from gradflow.figures.sparkline import shorten, sparkline
from gradflow.kinds import checked
from gradflow.measuring.measure import spine
from gradflow.measuring.reading import Reading
from gradflow.reports.live import Unfailing
from gradflow.runs import train as training
from gradflow.runs.settings import Run

_SECONDS = 0.1  # between two looks: each waits for the device, which otherwise runs a step ahead of its reader
_BAR, _CURVE = 20, 24  # characters


@checked
def train(run: Run, data: Dataset | None = None, progress: bool = False) -> Iterator[Reading]:
    """Trains `run` in this process, on `data` if given (`gf.data.from_arrays`), and yields one reading a step.

    Nothing is written. `data` stand in the place of `run.data`; image size, validation and shuffle are the run's. With
    `progress` a bar, the time left and the curve of the loss are shown, on a terminal or in a notebook.

    `reading.step`, `reading.loss`, `reading.train_error`, `reading.test_error`, and
    `reading.values`, `{quantity: {layer: float}}`. A diverged run goes on yielding: look at `reading.finite`.
    """
    readings = training.train(run, data)
    return _shown(readings, run.steps) if progress else readings


@dataclass
class Progress:
    """How far a run is, as lines of text or of HTML; it is told every reading and looks at one now and then."""

    steps: int
    step: int = 0
    losses: list[float] = field(default_factory=list)
    curves: str = ""
    begun: float = field(default_factory=time.monotonic)
    looked: float = 0.0
    first: tuple[int, float] | None = None  # step and time of the first look: compiling came before it

    def look(self, reading: Reading) -> bool:
        """Looks at a reading, if the last look was long enough ago, or it is the first or the last one."""
        self.step = reading.step
        if time.monotonic() - self.looked < _SECONDS and reading.step not in (1, self.steps):
            return False
        self.losses.append(reading.loss)
        norms = reading.values["activation_gradient_norm"]
        along = [norms[name] for name in spine(norms)]
        self.curves = f"loss {_curve(self.losses)}; gradient norm, input to output: {_curve(along)}"
        self.looked = time.monotonic()
        self.first = self.first or (reading.step, self.looked)
        return True

    @property
    def left(self) -> str:
        """The time left by the pace so far, without the first step, which waits for the compiler."""
        seconds = time.monotonic() - self.begun
        if self.step >= self.steps:
            return f"{seconds:.1f} s"
        if not self.first or self.step == self.first[0]:
            return "compiling" if not self.first else "time left unknown yet"
        made, took = self.step - self.first[0], time.monotonic() - self.first[1]
        rest = took / made * (self.steps - self.step)
        return f"about {rest / 60:.0f} min left" if rest > 90 else f"about {rest:.0f} s left"

    def __repr__(self) -> str:
        done = round(_BAR * self.step / self.steps)
        return f"{'━' * done}{'╌' * (_BAR - done)} {self._where()}\n{self.curves}"

    def _where(self) -> str:
        return f"step {self.step} of {self.steps}, {self.left}"

    def _repr_html_(self) -> str:
        """The same with the browser's own bar."""
        bar = f'<progress value="{self.step}" max="{self.steps}"></progress>'
        return f"<div>{bar} {self._where()}<br><code>{html.escape(self.curves)}</code></div>"


def _curve(values: list[float]) -> str:
    """The first and the last value, and bars between: all values so far, however many, in one width."""
    return f"{number(values[0])} {sparkline(shorten(values, _CURVE))} {number(values[-1])}"


def _shown(readings: Iterator[Reading], steps: int) -> Iterator[Reading]:
    """The readings; what is shown ends where the reader stops, or the run raises."""
    progress = Progress(steps)
    with _display(progress) as update:
        for reading in readings:
            if progress.look(reading):
                update()
            yield reading


@contextlib.contextmanager
def _display(progress: Progress) -> Iterator[Callable[[], object]]:
    """Shows the progress, and again whenever it is updated."""
    stream = cast(TextIO, Unfailing(sys.stderr))
    console = Console(file=stream)
    if _in_kernel():
        from IPython.display import display

        handle: Any = display(progress, display_id=True)
        try:
            yield lambda: handle.update(progress)
        finally:
            handle.update(progress)
    elif console.is_terminal:
        lines = lambda: Text(repr(progress), no_wrap=True, overflow="ellipsis")  # noqa: E731
        # What the reader prints goes above the lines, but to a file where it goes to one.
        printed = sys.stdout is not None and sys.stdout.isatty()
        with Live(lines(), console=console, auto_refresh=False, redirect_stdout=printed) as live:
            yield lambda: live.update(lines(), refresh=True)
    else:
        try:
            yield lambda: None
        finally:
            print(progress, file=stream)


def _in_kernel() -> bool:
    """Whether this process is the kernel of a notebook: IPython is asked only where it is there."""
    ipython: Any = sys.modules.get("IPython")
    return getattr(ipython.get_ipython() if ipython else None, "kernel", None) is not None
