"""Many runs: which are not yet done, and their way to the tables.

A run that another command is writing is left to it.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradflow.data import load as data
from gradflow.errors import BadInput
from gradflow.runs import table
from gradflow.runs.pool import Event, Pool
from gradflow.runs.record import Record
from gradflow.runs.settings import Run


def records(runs: Sequence[Run], results: Path) -> dict[str, tuple[Run, Record]]:
    """The record of each run, by folder name. Reads the data once, to know their digest."""
    digests = {name: data.digest(name) for name in {run.data for run in runs}}
    named = [(run.folder_name(digests[run.data]), run) for run in runs]
    return {name: (run, Record(results / "runs" / name)) for name, run in named}


@dataclass
class Outcome:
    """How each run ended: `done`, `diverged` or `failed`, by folder name; for the failed ones, why."""

    ended: dict[str, str]
    reasons: dict[str, str]


def execute(
    runs: Sequence[Run],
    results: Path,
    *,
    workers: int | None = None,
    checkpoint_seconds: float = 60.0,
    watch: Callable[[Event], None] = lambda event: None,
) -> Outcome:
    """Brings all runs to their end, in `results/runs/`; those that are finished already are not run again.

    `workers` processes share the cores evenly; by default one a core, or one in all where there is an accelerator.
    Raises `BadInput` when data, settings or folder do not allow a run; what was recorded is kept.
    """
    named = records(runs, results)
    outcome = Outcome({}, {})
    todo = []
    for name, (_, record) in named.items():
        if record.finished:
            outcome.ended[name] = record.status["state"]
        else:
            todo.append(name)
    # Long runs first, so that at the end no worker has one to itself while the others wait.
    todo.sort(key=lambda name: _length(named[name][0]), reverse=True)
    total, workers = _count_workers(workers)
    elsewhere: set[str] = set()  # told once that another command has them
    pool = Pool(workers, total // workers)
    try:
        while todo:
            busy = []
            for event in pool.run([_job(name, *named[name], checkpoint_seconds) for name in todo]):
                name, kind = event["run"], event["event"]
                if kind == "bad":
                    raise BadInput(event["reason"])
                if kind == "busy":
                    busy.append(name)
                    if name in elsewhere:
                        continue
                    elsewhere.add(name)
                elif kind in ("done", "diverged", "failed"):
                    outcome.ended[name] = kind
                if kind == "failed":
                    outcome.reasons[name] = event["reason"]
                    _write_failure(named[name][1], event["reason"])
                watch(event)
            # Another command is writing these: wait until it has finished them, or died and left them to us.
            todo = busy
            if busy:
                time.sleep(1)
    finally:
        pool.close()
    return outcome


def _length(run: Run) -> int:
    """How long a run takes, roughly; only their order matters."""
    depth = dict(run.net_settings).get("depth", 1)
    return (depth if isinstance(depth, int) else 1) * run.steps * run.batch


def _write_failure(record: Record, reason: str) -> None:
    with record.lock() as ours:
        if ours:  # and not yet taken up by another command
            record.write_status("failed", step=record.status["step"], reason=reason)


def _count_workers(workers: int | None) -> tuple[int, int]:
    total = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers is None:
        # Looking for the device files keeps this process from claiming the accelerator that its worker needs.
        accelerator = any(any(Path("/dev").glob(pattern)) for pattern in ("nvidia[0-9]*", "kfd", "accel[0-9]*"))
        return total, 1 if accelerator else total
    if not 1 <= workers <= total:
        raise BadInput(f"workers {workers} is not legal: this machine has cores for 1 to {total}")
    return total, workers


def _job(name: str, run: Run, record: Record, checkpoint_seconds: float) -> Event:
    return {
        "run": name,
        "settings": run.settings,
        "folder": str(record.folder.absolute()),
        "checkpoint_seconds": checkpoint_seconds,
        "command": sys.argv,
    }


def published(runs: Sequence[Run], results: Path):
    """Gathers the records of exactly these runs, writes `runs.csv` and `readings.parquet`, returns the long table."""
    tables = table.collect([record for _, record in records(runs, results).values()])
    table.publish(results, *tables)
    return table.load(results)
