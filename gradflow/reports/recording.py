"""From runs to finished records while a person watches: the live view, signals to stop, and what made the results."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gradflow.plain_text import plain

if TYPE_CHECKING:
    from gradflow.runs.sweep import Records


def execute(records: "Records", workers: int | None, checkpoint_seconds: float, progress: bool) -> dict[str, str]:
    """Runs what is not finished and returns why runs failed, by the names of their folders.

    With `progress` it shows on standard error how far the runs are and which failed; without it nothing is printed.
    """
    from gradflow.runs import sweep, variation

    labels = dict(zip(records, variation.labels([run.settings for run, _ in records.values()]), strict=True))
    with _stoppable(), _watching(records, labels, progress) as watch:
        failures = sweep.execute(records, workers=workers, checkpoint_seconds=checkpoint_seconds, watch=watch)
    for name, reason in failures.items() if progress else ():
        line = f"failed: {labels[name]}: {reason}; see {records[name][1].folder / 'log.txt'}"
        with contextlib.suppress(OSError):  # standard error may be full: what was recorded is published all the same
            print(plain(line), file=sys.stderr)
    return failures


@contextlib.contextmanager
def _watching(records: "Records", labels: dict[str, str], progress: bool) -> Iterator[Callable[[Any], None]]:
    """What is told each event: the live view, or nobody."""
    from gradflow.reports.live import View

    if not progress:
        yield lambda event: None
        return
    with View(len(records), sum(record.finished for _, record in records.values()), labels) as view:
        yield view


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """A signal to stop becomes a KeyboardInterrupt: the workers write a checkpoint. Elsewhere it ends the process.

    In a thread that is not the main one, where Python has no signals, everything stays as it is.
    """
    main = threading.current_thread() is threading.main_thread()
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers if main}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def provenance(records: "Records", command: str) -> dict[str, Any]:
    """How the records came about, as `report.provenance` says it."""
    from gradflow.reports import report

    machine = next((record.config["machine"] for _, record in records.values() if record.config), {})
    seconds = sum(record.status.get("seconds", 0) for _, record in records.values())
    return report.provenance(command, seconds, machine)
