"""Many runs: which are not yet done, and their way to the tables.

A run that another command is writing is left to it.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from gradflow.data import load as data
from gradflow.errors import BadInput
from gradflow.runs import files, table
from gradflow.runs.pool import Event, Pool
from gradflow.runs.record import Record
from gradflow.runs.settings import Run

Records = Mapping[str, tuple[Run, Record]]  # by the name of the record's folder


def records(runs: Sequence[Run], results: Path) -> Records:
    """The record of each run, in `results/runs/`. Reads the data once, to know their digest."""
    # Runs of one data set one after another: what was read last is not read again.
    digests = {run: data.digest(run.data, run.label, run.validation) for run in sorted(runs, key=_data)}
    named = [(run.folder_name(digests[run]), run) for run in runs]
    return {name: (run, Record(results / "runs" / name)) for name, run in named}


def _data(run: Run) -> tuple[str, str]:
    return run.data, run.label or ""


def execute(
    records: Records,
    *,
    workers: int | None = None,
    checkpoint_seconds: float = 60.0,
    watch: Callable[[Event], None] = lambda event: None,
) -> dict[str, str]:
    """Brings all runs to their end in their records; those that are finished already are not run again.

    `workers` processes share the cores evenly; by default one a core, or one in all where there is an accelerator.
    Returns why runs failed, by folder name: the others are complete. Raises `BadInput` when data, settings or folder do
    not allow a run; what was recorded is kept.
    """
    failures: dict[str, str] = {}
    busy_elsewhere: set[str] = set()
    todo = [name for name, (_, record) in records.items() if not record.finished]
    # Long runs first, so that at the end no worker has one to itself while the others wait.
    todo.sort(key=lambda name: _length(records[name][0]), reverse=True)
    for folder in {records[name][1].folder.parent for name in todo}:
        files.make_folder(folder)  # before any process starts
    with Pool(workers) as pool:
        while todo:
            jobs, todo = [_job(name, *records[name], checkpoint_seconds) for name in todo], []
            for event in pool.run(jobs):
                name, kind = event["run"], event["event"]
                if kind == "bad":
                    raise BadInput(event["reason"])
                if kind == "failed":
                    failures[name] = event["reason"]
                    _write_failure(records[name][1], event["reason"])
                if kind == "busy":
                    todo.append(name)
                if kind != "busy" or name not in busy_elsewhere:  # that one is watched once
                    watch(event)
                busy_elsewhere.update(todo)
            # Another command is writing these: wait until it has finished them, or died and left them to us.
            if todo:
                time.sleep(1)
    return failures


def _length(run: Run) -> int:
    """How long a run takes, roughly; only their order matters."""
    depth = dict(run.net_settings).get("depth", 1)
    return (depth if isinstance(depth, int) else 1) * run.steps * run.batch


def _write_failure(record: Record, reason: str) -> None:
    with record.lock() as ours:
        if ours:  # and not yet taken up by another command
            record.write_status("failed", step=record.status["step"], reason=reason)


def _job(name: str, run: Run, record: Record, checkpoint_seconds: float) -> Event:
    return {
        "run": name,
        "settings": run.settings,
        "folder": str(record.folder.absolute()),
        "checkpoint_seconds": checkpoint_seconds,
        "command": sys.argv,
    }


def collect(records: Records) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables `(runs, readings)` of exactly these records."""
    return table.collect([record for _, record in records.values()])
