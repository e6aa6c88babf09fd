"""What a person sees while runs are under way: how far each is, and the gradient norm over its layers as bars."""

import contextlib
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO, cast

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gradflow.claims.verdict import number
from gradflow.plain_text import plain


class Unfailing:
    """A stream that may be full or gone: what is written to it then is lost, and the runs go on."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        """Writes what can be written; always says that all was."""
        with contextlib.suppress(OSError, ValueError):  # the latter: it is closed
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes what can be flushed."""
        with contextlib.suppress(OSError, ValueError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


_STATE = {"done": "green", "diverged": "yellow", "failed": "red"}


class View:
    """A context manager called with each event of a sweep: a live table on a terminal, plain lines elsewhere.

    `labels` name the runs by their folders' names, as `gradflow.runs.variation.labels` does: by what tells them apart.
    A run without one is called by its folder's name without the hash.
    """

    def __init__(self, total: int, finished: int, labels: Mapping[str, str] | None = None):
        self.labels = labels or {}
        self.total, self.finished, self.already = total, finished, finished
        self.begun = time.monotonic()
        self.current: dict[str, dict[str, Any]] = {}
        self.console = Console(file=cast(TextIO, Unfailing(sys.stderr)))
        self.live = Live(console=self.console, refresh_per_second=4, transient=True) if sys.stderr.isatty() else None
        self.bars = min(24, max(8, self.console.width - 72)) if self.live else 24

    def __enter__(self) -> "View":
        if self.live:
            self.live.start()
        if self.already:
            self._print(f"{self.already} of {self.total} runs are finished already")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Takes one event of `sweep.execute`."""
        name, kind = event["run"], event["event"]
        if kind in ("started", "reading"):
            self.current[name] = event
        elif kind == "note":
            self._print(f"{self._label(name)}: {event['text']}")
        elif kind in _STATE or kind == "busy":
            last = self.current.pop(name, None)
            if kind == "busy":
                self._print(f"{self._label(name)}: another command is running it; left to that one")
            else:
                self.finished += 1
                self._print(self._ended(name, kind, event, last))
        if self.live:
            self.live.update(self._table())

    def _ended(self, name: str, kind: str, event: dict[str, Any], last: dict[str, Any] | None) -> Text:
        text = Text(f"[{self.finished}/{self.total}] ") + Text(f"{kind:8} ", _STATE[kind]) + Text(self._label(name))
        if last and "step" in last:
            step = "" if kind == "done" else f"  step {last['step']}"
            text.append(f"{step}  loss {number(last['loss'])}  error {last['train_error']:.3f}  ")
            text.append(_norms(last["norms"], self.bars))
        if kind == "failed":
            text.append(f"  {plain(event['reason'])}")
        return text

    def _print(self, line: str | Text) -> None:
        line = Text(line) if isinstance(line, str) else line  # brackets in a name are no colours
        if self.live:  # cut to the window: what was cut of a failure is said again at the end
            self.console.print(line, no_wrap=True, overflow="ellipsis", highlight=False)
        else:
            self.console.print(line, soft_wrap=True, highlight=False)

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for heading in ("run", "step", "loss", "error", "gradient norm, input to output"):
            table.add_column(heading, no_wrap=True)
        for name, event in self.current.items():
            if event["event"] == "started":
                table.add_row(Text(self._label(name)), "starts", "", "", "(compiling)")
                continue
            step, error = f"{event['step']}/{event['steps']}", f"{event['train_error']:.3f}"
            table.add_row(
                Text(self._label(name)), step, number(event["loss"]), error, _norms(event["norms"], self.bars)
            )
        done = Text(f"{self.finished} of {self.total} runs done, {self._left()}", "dim")
        return Group(table, done) if self.current else Group(done)

    def _label(self, name: str) -> str:
        return plain(self.labels.get(name, name.rpartition("-")[0]))

    def _left(self) -> str:
        done = (
            self.finished
            - self.already
            + sum(event["step"] / event["steps"] for event in self.current.values() if event["event"] == "reading")
        )
        if done < 0.2:
            return "time left unknown yet"
        seconds = (time.monotonic() - self.begun) * (self.total - self.already - done) / done
        return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left"


def _norms(norms: list[float], bars: int) -> str:
    from gradflow.figures.sparkline import shorten, sparkline

    if not norms:
        return ""
    return f"{number(norms[0])} {sparkline(shorten(norms, bars))} {number(norms[-1])}"
