"""From runs to finished records while a person watches: the live view, signals to stop, and what made the results."""

import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gradflow.plain_text import plain

if TYPE_CHECKING:
    from gradflow.runs.sweep import Records


def execute(records: "Records", workers: int | None, checkpoint_seconds: float) -> int:
    """Runs what is not finished, shows how far it is, and returns how many runs failed."""
    from gradflow.reports.live import View
    from gradflow.runs import sweep, variation

    labels = dict(zip(records, variation.labels([run.settings for run, _ in records.values()]), strict=True))
    finished = sum(record.finished for _, record in records.values())
    with _stoppable(), View(len(records), finished, labels) as view:
        failures = sweep.execute(records, workers=workers, checkpoint_seconds=checkpoint_seconds, watch=view)
    for name, reason in failures.items():
        line = f"failed: {labels[name]}: {reason}; see {records[name][1].folder / 'log.txt'}"
        with contextlib.suppress(OSError):  # standard error may be full: what was recorded is published all the same
            print(plain(line), file=sys.stderr)
    return len(failures)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """A signal to stop becomes a KeyboardInterrupt: the workers write a checkpoint. Elsewhere it ends the process."""
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command() -> str:
    """What the user typed."""
    return shlex.join(["gradflow", *sys.argv[1:]])


def provenance(records: "Records") -> dict[str, Any]:
    """How the records came about, as `report.provenance` says it."""
    from gradflow.reports import report

    machine = next((record.config["machine"] for _, record in records.values() if record.config), {})
    seconds = sum(record.status.get("seconds", 0) for _, record in records.values())
    return report.provenance(command(), seconds, machine)
