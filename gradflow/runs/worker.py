"""The process that does the runs of a sweep: reads jobs as lines of JSON, says what happens as lines of JSON.

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

from gradflow.errors import BadInput
from gradflow.runs.record import Record
from gradflow.runs.settings import Run


def work(cores: str) -> None:
    """Reads jobs from standard input, one a line, and does them, until the input ends.

    When the parent is gone the input ends at once, and so does the worker: nobody would read what it says.
    """
    if hasattr(os, "sched_setaffinity"):
        available = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {available[int(core)] for core in cores.split(",")})  # before JAX counts them
    parent = os.fdopen(os.dup(1), "w")  # it reads this; what anything else prints goes to the log of its run
    os.dup2(2, 1)
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    stopped = False

    def stop(*_: Any) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])):
        signal.signal(number, stop)

    def listen() -> None:
        for line in sys.stdin:
            jobs.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while not stopped:
        # Not for ever: a signal that comes just before the wait would not end it.
        with contextlib.suppress(queue.Empty):
            _do(jobs.get(timeout=0.5), lambda: stopped, parent)


def _do(job: dict[str, Any], stop: Callable[[], bool], parent: TextIO) -> None:
    from gradflow.measure import spine
    from gradflow.runs import execute as one

    def say(event: str, **details: Any) -> None:
        print(json.dumps({"event": event, "run": job["run"], **details}), file=parent, flush=True)

    told = 0.0

    def watch(reading) -> None:
        nonlocal told
        now = time.monotonic()
        if reading.step in (1, settings.steps) or not reading.finite or now - told > 0.25:
            told = now
            norms = reading.values["activation_gradient_norm"]
            numbers = {"loss": reading.loss, "train_error": reading.train_error}
            numbers["norms"] = [norms[name] for name in spine(norms)]
            say("reading", step=reading.step, steps=settings.steps, **numbers)

    record = Record(Path(job["folder"]))
    try:
        with record.lock() as ours:
            if not ours:
                return say("busy")
            if record.finished:  # by another command, since our parent looked
                return say(record.status["state"])
            _print_to(record.folder / "log.txt")
            settings = Run(**job["settings"])
            say("started", settings=job["settings"])
            sys.argv = job["command"]
            ended = one.execute(settings, record, checkpoint_seconds=job["checkpoint_seconds"], stop=stop, watch=watch)
            return say(ended)
    except BadInput as error:
        return say("bad", reason=str(error))
    except Exception as error:  # the sweep goes on with the other runs, and says at the end which failed and why
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return say("failed", reason=f"{type(error).__name__}: {error}".splitlines()[0])


def _print_to(log: Path) -> None:
    """Whatever this process prints from now on, C++ libraries included, is appended to `log`."""
    with contextlib.suppress(OSError), log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
