"""Many runs: which are not yet done, and who executes them. Each worker is a process of its own, pinned to its cores.

The parent hands a worker one run at a time, as a line of JSON, and reads what happens to it as lines of JSON. A worker
that dies takes only its current run with it, and is replaced. A run that another command is writing is left to it.
"""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from gradflow import table
from gradflow.errors import BadInput, at_least
from gradflow.run import Run
from gradflow.table import Record

# "event": started, reading, done, diverged, stopped, failed, busy or bad; "run": the name of its folder
Event = dict[str, Any]


def grid(seeds: int, **choices: Sequence[Any]) -> list[Run]:
    """All combinations of the choices, each from `seeds` seeds; the seeds of one setting are neighbours."""
    at_least("seeds", seeds, 1)
    names = list(choices)
    settings = [dict(zip(names, values, strict=True)) for values in product(*choices.values())]
    return [Run(**setting, seed=seed) for setting in settings for seed in range(seeds)]


def variants(several: Sequence[Mapping[str, Any]], seeds: int, **common: Any) -> list[Run]:
    """Each of several settings, from the same `seeds` seeds; a value is one, or a tuple of several to make a grid of.

    What is `common` to all replaces a variant's own; variants that become equal are run once.
    """
    runs = []
    for own in several:
        choices = {name: value if isinstance(value, tuple) else (value,) for name, value in {**own, **common}.items()}
        runs += grid(seeds, **choices)
    return list(dict.fromkeys(runs))


def records(runs: Sequence[Run], results: Path) -> dict[str, tuple[Run, Record]]:
    """The record of each run, by folder name. Reads the data once, to know their digest."""
    from gradflow import data

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
    pool = _Pool(workers, total // workers)
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
    return (run.depth or 1) * run.steps * run.batch


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
        "settings": dataclasses.asdict(run),
        "folder": str(record.folder.absolute()),
        "checkpoint_seconds": checkpoint_seconds,
        "command": sys.argv,
    }


class _Pool:
    """Worker processes that live as long as the sweep."""

    def __init__(self, size: int, cores: int):
        self.cores = [range(i * cores, (i + 1) * cores) for i in range(size)]
        self.processes: list[subprocess.Popen | None] = [None] * size
        self.spawned: list[subprocess.Popen] = []
        self.events: queue.Queue[tuple[int, subprocess.Popen, Event | None]] = queue.Queue()

    def run(self, jobs: list[Event]) -> Iterator[Event]:
        """Hands the jobs out and yields what happens to them, until each has ended one way or another.

        A free worker takes first what differs only in seed from what it just did: that is compiled already.
        """
        waiting, current = list(jobs), {}
        last: dict[int, Event] = {}
        for worker in range(len(self.processes)):
            self._next(worker, waiting, current, last)
        while current:
            worker, process, event = self.events.get()
            if worker not in current or self.processes[worker] is not process:
                continue
            if event is None:
                event = {"event": "failed", "run": current[worker]["run"], "reason": _death(process.returncode)}
            if event["event"] == "stopped":  # by a signal from outside: it takes no other run
                self.processes[worker] = None
                event |= {"event": "failed", "reason": "its process was told to stop; it goes on from there"}
            yield event
            if event["event"] not in ("started", "reading"):
                del current[worker]
                self._next(worker, waiting, current, last)

    def _next(self, worker: int, waiting: list[Event], current: dict[int, Event], last: dict[int, Event]) -> None:
        if not waiting:
            return
        others = [_kind(job) for other, job in last.items() if other != worker]
        same = [job for job in waiting if worker in last and _kind(job) == _kind(last[worker])]
        fresh = [job for job in waiting if _kind(job) not in others]
        job = (same or fresh or waiting)[0]
        waiting.remove(job)
        current[worker] = last[worker] = job
        process = self.processes[worker]
        if process is None or process.poll() is not None:
            process = self._spawn(worker)
        with contextlib.suppress(BrokenPipeError):  # it has just died: the reader says so
            assert process.stdin
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()

    def _spawn(self, worker: int) -> subprocess.Popen:
        from gradflow import runtime

        cores = ",".join(map(str, self.cores[worker]))
        shares = runtime.share_of_accelerators(worker, len(self.cores), os.environ)
        process = subprocess.Popen(
            [sys.executable, "-m", "gradflow", "worker", cores],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=runtime.child_environment() | shares,
            start_new_session=True,  # Ctrl-C reaches the parent alone, who asks the workers to stop
        )
        self.processes[worker] = process
        self.spawned.append(process)
        threading.Thread(target=self._listen, args=(worker, process), daemon=True).start()
        return process

    def _listen(self, worker: int, process: subprocess.Popen) -> None:
        assert process.stdout
        with process.stdout:
            for line in process.stdout:
                with contextlib.suppress(ValueError):  # half a line is the last word of a killed process
                    self.events.put((worker, process, json.loads(line)))
        process.wait()
        self.events.put((worker, process, None))

    def close(self) -> None:
        """Ends the workers: an idle one at once, a busy one after a checkpoint."""
        for process in self.spawned:
            process.terminate()
        for process in self.spawned:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
            assert process.stdin
            with contextlib.suppress(OSError):  # a job that nobody read
                process.stdin.close()


def _death(code: int) -> str:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"its process {how}"


def _kind(job: Event) -> str:
    return json.dumps({**job["settings"], "seed": 0}, sort_keys=True)


def published(runs: Sequence[Run], results: Path):
    """Gathers the records of exactly these runs, writes `runs.csv` and `readings.parquet`, returns the long table."""
    tables = table.collect([record for _, record in records(runs, results).values()])
    table.publish(results, *tables)
    return table.load(results)
