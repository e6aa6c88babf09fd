"""The process that does the runs of a sweep: reads jobs as lines of JSON, writes events as lines of JSON.

What a run prints, and the traceback of one that fails, goes to `log.txt` in its folder.
"""

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from gradflow.data.load import digest
from gradflow.errors import BadInput
from gradflow.measuring.measure import spine
from gradflow.measuring.reading import Reading
from gradflow.runs.execute import execute
from gradflow.runs.record import Record
from gradflow.runs.settings import Run
from gradflow.training import platform

_EVENT_SECONDS = 0.25  # at most one reading in this time becomes an event: a live view needs no more


def work(cores: str) -> None:
    """Reads jobs from standard input, one a line, and does them, until the input ends.

    When the parent is gone the input ends at once, and so does the worker, whose events would not be read.
    """
    if hasattr(os, "sched_setaffinity"):
        available = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {available[int(core)] for core in cores.split(",")})  # before JAX counts them
    parent = os.fdopen(os.dup(1), "w")  # it reads this; what anything else prints goes to the log of its run
    os.dup2(2, 1)
    orders = os.fdopen(os.dup(0), encoding="utf-8")  # a user's net that reads standard input finds nothing there
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    stopped = False

    def stop(*_: Any) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])):
        signal.signal(number, stop)

    def listen() -> None:
        with contextlib.suppress(ValueError):  # half a line: the parent died while it wrote
            for line in orders:
                jobs.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while not stopped:
        # Not for ever: a signal that comes just before the wait would not end it.
        with contextlib.suppress(queue.Empty):
            job = jobs.get(timeout=0.5)
            event = _do(job, lambda: stopped, parent)
            _send(parent, job, **event)


def _send(parent: TextIO, job: dict[str, Any], event: str, **details: Any) -> None:
    print(json.dumps({"event": event, "run": job["run"], **details}), file=parent, flush=True)


def _do(job: dict[str, Any], stop: Callable[[], bool], parent: TextIO) -> dict[str, Any]:
    """Brings one job to its end; returns the event that says how it ended."""
    record = Record(Path(job["folder"]))
    try:
        with record.lock() as ours:
            if not ours:
                return {"event": "busy"}
            if record.finished:  # by another command, since our parent looked
                return {"event": record.status["state"]}
            _print_to(record.folder / "log.txt")
            platform.check_devices()
            run = Run(**job["settings"])
            found = digest(run.data, run.label, run.validation)
            _check_unchanged(run, job, found)
            _send(parent, job, "started", settings=job["settings"])
            sys.argv = job["command"]
            watch = _watch(run, lambda **reading: _send(parent, job, "reading", **reading))
            how = {name: job[name] for name in ("checkpoint_seconds", "workers")}
            how |= {"stop": stop, "watch": watch, "digest": found}
            return {"event": execute(run, record, **how, note=lambda text: _send(parent, job, "note", text=text))}
    except BadInput as error:
        return {"event": "bad", "reason": str(error)}
    except (Exception, SystemExit) as error:
        # The sweep goes on with the other runs, and says at the end which failed and why.
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return {"event": "failed", "reason": f"{type(error).__name__}: {error}".splitlines()[0]}


def _check_unchanged(run: Run, job: dict[str, Any], digest: str) -> None:
    """Raises `BadInput` where the data or the file of the net are not those that the record is named for."""
    if run.folder_name(digest) != job["run"]:
        raise BadInput(f"the data or the net of {job['run']} changed since this command began: run it again")


def _watch(run: Run, send: Callable[..., None]) -> Callable[[Reading], None]:
    """What sends readings to the parent: the first, the last, one that is not finite, and now and then another."""
    last = 0.0

    def watch(reading: Reading) -> None:
        nonlocal last
        now = time.monotonic()
        if reading.step in (1, run.steps) or not reading.finite or now - last > _EVENT_SECONDS:
            last = now
            norms = reading.values["activation_gradient_norm"]
            on_spine = [norms[name] for name in spine(norms)]
            errors = {"loss": reading.loss, "train_error": reading.train_error}
            send(step=reading.step, steps=run.steps, **errors, norms=on_spine)

    return watch


def _print_to(log: Path) -> None:
    """Whatever this process prints from now on, C++ libraries included, is appended to `log`."""
    with contextlib.suppress(OSError), log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
