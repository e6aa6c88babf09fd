"""How long a training step takes and how much memory: a process for each net, which makes steps on request.

So several can be kept ready and take turns, and a busy moment of the machine meets all of them. Any program that
answers as `serve` does can take part: tests/torch_step.py is the same step in PyTorch.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from gradflow.commands import compile_cache
from gradflow.errors import BadInput

_PEAK = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Stopwatch:
    """A context manager around a process that makes steps. `ready` is what it printed when it could make the first."""

    def __init__(self, settings: Mapping[str, Any], program: Sequence[str] = ("-m", "gradflow", "stopwatch")):
        from gradflow.training import platform

        self.settings = dict(settings)
        self.process = subprocess.Popen(
            [sys.executable, "-P", *program, json.dumps(self.settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**platform.child_environment(), compile_cache.ENABLED: "false"},  # compiling is timed
        )
        self.ready = self._read_reply()

    def __enter__(self) -> "Stopwatch":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        with contextlib.suppress(OSError):
            self.process.communicate()

    def steps(self, count: int, read: int = 1) -> dict[str, Any]:
        """Makes `count` steps, whose readings are fetched at every `read`-th; what the process says of them.

        `seconds`: a list, one a step.
        """
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has died: the next reply is missing
            print(count if read == 1 else f"{count} {read}", file=self.process.stdin, flush=True)
        return self._read_reply()

    def _read_reply(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            printed = self.process.communicate()[1].strip().splitlines()
            raise BadInput(
                f"the process that makes steps of {self.settings} died: {printed[-1] if printed else 'no message'}"
            )
        return json.loads(line)


def serve(settings: str) -> None:
    """Builds and compiles a training step on random images, reports how long that took, then makes steps on request.

    `settings` is JSON: those of `nets.build`, and `net`, `image` (side in pixels), `batch`, `record`. For each line
    `count` or `count read` on standard input: that many steps, of which the first and then every `read`-th is read, the
    readings fetched one step pending as in `Training.readings`.
    """
    begun = time.perf_counter()
    import jax
    import numpy as np

    from gradflow import nets
    from gradflow.data import batches
    from gradflow.data.dataset import Dataset
    from gradflow.training import optimiser as optim
    from gradflow.training.loop import Training

    given = json.loads(settings)
    net, side, batch, record = (given.pop(name) for name in ("net", "image", "batch", "record"))
    imported = time.perf_counter()
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (8 * batch, side, side, 3), np.uint8)
    labels = draw.integers(0, 10, len(images)).astype(np.int32)
    dataset = Dataset("random", images, labels, images[:1], labels[:1], tuple("0123456789"), "")
    built = nets.build(net, classes=10, channels=3, **given)
    optimiser = optim.optimiser("sgd", optim.schedule("constant", 0.01, 1), 0.9, 1e-4)
    training = Training(built, dataset, optimiser, batch=batch, record=record)
    state = training.start(built, 0)
    made = time.perf_counter()
    traced = training.lower(state)
    lowered = time.perf_counter()
    compiled = traced.compile()
    done = time.perf_counter()
    memory = compiled.memory_analysis()
    del traced, compiled  # a run has the step in memory once
    number, pending = 0, None

    def step(read: bool = True) -> float:
        nonlocal state, number, pending
        started = time.perf_counter()
        state, arrays = training.step(state, 0, number, read)
        number += 1
        if pending is not None:
            jax.device_get(pending)
        pending = arrays if read else None
        # Eager PyTorch has finished when a step returns, so ours is waited for: a run itself would not wait.
        jax.block_until_ready(arrays)
        return time.perf_counter() - started

    step()  # the first one compiles again, or finds what is compiled
    step()
    _reset_peak()
    ready = {
        "ready": True,
        "import_seconds": imported - begun,
        "build_seconds": made - imported,
        "trace_seconds": lowered - made,
        "compile_seconds": done - lowered,
        "temporary_megabytes": getattr(memory, "temp_size_in_bytes", float("nan")) / 2**20,
    }
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        count, read = (*map(int, line.split()), 1)[:2]
        seconds = [step(i % read == 0) for i in range(count)]
        waited = time.perf_counter()
        jax.block_until_ready(jax.device_put(batches.indices(0, number, batch, len(images))))
        waited = time.perf_counter() - waited
        print(json.dumps({"seconds": seconds, "input_seconds": waited, "peak_megabytes": _peak()}), flush=True)


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        _PEAK[0].write_text("5")  # Linux: from here on the peak of resident memory is counted from zero


def _peak() -> float:
    with contextlib.suppress(OSError):
        for line in _PEAK[1].read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return float("nan")
