"""The worker processes of a sweep, each pinned to its cores.

The parent hands a worker one run at a time, as a line of JSON, and reads what happens to it as lines of JSON. A worker
that dies takes only its current run with it, and is replaced.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from gradflow.errors import BadInput
from gradflow.runs.settings import NOT_COMPILED
from gradflow.training import platform

# "event": started, reading, note, done, diverged, stopped, failed, busy or bad; "run": the name of its folder
Event = dict[str, Any]


class Pool:
    """A context manager: worker processes that live as long as the sweep and share the cores evenly.

    `workers` and the `cores` that they share: see `count_workers`; by default all that this process may use.
    """

    def __init__(self, workers: int | None = None, cores: int | None = None):
        cores = platform.cores() if cores is None else cores
        size = count_workers(workers, cores)
        share = cores // size
        self.cores = [range(i * share, (i + 1) * share) for i in range(size)]
        self.processes: list[subprocess.Popen | None] = [None] * size
        self.spawned: list[subprocess.Popen] = []
        self.events: queue.Queue[tuple[int, subprocess.Popen, Event | None]] = queue.Queue()

    def run(self, jobs: list[Event]) -> Iterator[Event]:
        """Hands the jobs out and yields what happens to them, until each has ended one way or another."""
        workers = min(len(jobs), len(self.processes))
        waiting = Jobs({**job, "workers": workers} for job in jobs)
        current: dict[int, Event] = {}
        for worker in range(len(self.processes)):
            self._assign(worker, waiting, current)
        while current:
            worker, process, event = self.events.get()
            if worker not in current or self.processes[worker] is not process:
                continue
            if event is None:
                event = {"event": "failed", "run": current[worker]["run"], "reason": _exit_reason(process.returncode)}
            if event["event"] == "stopped":  # by a signal from outside: it takes no other run
                self.processes[worker] = None
                event |= {
                    "event": "failed",
                    "reason": "its process got a signal to stop; run again, it goes on from there",
                }
            yield event
            if event["event"] not in ("started", "reading", "note"):
                del current[worker]
                self._assign(worker, waiting, current)

    def _assign(self, worker: int, waiting: "Jobs", current: dict[int, Event]) -> None:
        job = waiting.take(worker)
        if job is None:
            return
        current[worker] = job
        process = self.processes[worker]
        if process is None or process.poll() is not None:
            process = self._spawn(worker)
        with contextlib.suppress(BrokenPipeError):  # it has just died: the reader says so
            assert process.stdin
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()

    def _spawn(self, worker: int) -> subprocess.Popen:
        cores = ",".join(map(str, self.cores[worker]))
        shares = platform.share_of_accelerators(worker, len(self.cores), os.environ)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gradflow", "worker", cores],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=platform.child_environment() | shares,
            start_new_session=True,  # Ctrl-C reaches the parent alone, who asks the workers to stop
        )
        self.processes[worker] = process
        self.spawned.append(process)
        threading.Thread(target=self._read_events, args=(worker, process), daemon=True).start()
        return process

    def _read_events(self, worker: int, process: subprocess.Popen) -> None:
        assert process.stdout
        with process.stdout:
            for line in process.stdout:
                with contextlib.suppress(ValueError):  # half a line is the last word of a killed process
                    self.events.put((worker, process, json.loads(line)))
        process.wait()
        self.events.put((worker, process, None))

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the workers: an idle one at once, a busy one after a checkpoint."""
        for process in self.spawned:
            process.terminate()
        for process in self.spawned:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
            assert process.stdin
            with contextlib.suppress(OSError):  # a job that was not read
                process.stdin.close()


class Jobs:
    """Jobs that wait for a worker, in order, but that each worker goes on with the program that it has compiled."""

    def __init__(self, jobs: Iterable[Event]):
        self.by_program: dict[_Program, deque[Event]] = {}
        self.last: dict[int, _Program] = {}  # the program of what each worker took last
        for job in jobs:
            self.by_program.setdefault(_program(job), deque()).append(job)

    def take(self, worker: int) -> Event | None:
        """The next job of a worker: one of the program of its last, or of one that differs in depth alone, which may be
        the same, or of one that no other worker has, or any.
        """
        if not self.by_program:
            return None
        last = self.last.get(worker, _Program("", None))
        others = {self.last[other] for other in self.last if other != worker}
        but_for_depth = {one.but_for_depth for one in others}

        def rank(one: _Program) -> tuple[bool, ...]:
            return (
                one != last,
                one.but_for_depth != last.but_for_depth,
                one.but_for_depth in but_for_depth,
                one in others,
            )

        self.last[worker] = program = min(self.by_program, key=rank)
        jobs = self.by_program[program]
        job = jobs.popleft()
        if not jobs:
            del self.by_program[program]
        return job


def _exit_reason(code: int) -> str:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"its process {how}"


class _Program(NamedTuple):
    """What programs are told apart by; nets that differ in depth alone may have one or not (see `nets.padding`)."""

    but_for_depth: str
    depth: Any


def _program(job: Event) -> _Program:
    """What the job's program depends on; of a net's settings all but its initialisation, though a user's own may mean
    by that what it likes: only the order of runs follows from this.
    """
    without = (*NOT_COMPILED, "initialisation", "depth")
    settings = {name: value for name, value in job["settings"].items() if name not in without}
    return _Program(json.dumps(settings, sort_keys=True), job["settings"].get("depth"))


def count_workers(workers: int | None, cores: int) -> int:
    """The number of workers, by default as many as cores, or one where there is an accelerator.

    Raises `BadInput` for more than cores, or fewer than one.
    """
    if workers is None:
        # Looking for the device files keeps this process from claiming the accelerator that its worker needs.
        accelerator = any(any(Path("/dev").glob(pattern)) for pattern in ("nvidia[0-9]*", "kfd", "accel[0-9]*"))
        return 1 if accelerator else cores
    if not 1 <= workers <= cores:
        raise BadInput(f"workers {workers} is not legal: this machine has cores for 1 to {cores}")
    return workers
