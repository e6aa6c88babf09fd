"""How long a training step takes, how much memory, how many kernels: a process for each net makes steps on request.

So several can be kept ready and take turns, and a busy moment of the machine meets all of them. Any program that
answers as `serve` does can take part: tests/torch_step.py is the same step in PyTorch.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from gradflow.commands import compile_cache
from gradflow.errors import BadInput
from gradflow.kinds import checked

_PEAK = Path("/proc/self/clear_refs"), Path("/proc/self/status")
# A compiled program as XLA prints it. No kernel is what gives a name or a view of memory, nor what starts other
# computations, whose own are counted.
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?[\w.-]+ = .*? (?P<operation>[a-z][a-z0-9-]*)\((?P<rest>.*)")
_NO_KERNELS, _STARTS = (
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
    ("call", "while", "conditional"),
)


class Stopwatch:
    """A context manager around a process that makes steps. `ready` is what it printed when it could make the first.

    `settings` are those of `serve`; `program` is what answers as that does, and the `interpreter` that runs it.
    `environment`: variables that it gets beside those of this process, or with None does not get. Raises `BadInput`
    where it cannot start.
    """

    @checked
    def __init__(
        self,
        settings: Mapping[str, Any],
        program: Sequence[str] = ("-m", "gradflow", "stopwatch"),
        interpreter: str = sys.executable,
        environment: Mapping[str, str | None] | None = None,
    ):
        from gradflow.training import platform

        self.settings = dict(settings)
        # Compiling is timed, so nothing comes from the cache.
        variables = {**platform.child_environment(), compile_cache.ENABLED: "false", **(environment or {})}
        try:
            self.process = subprocess.Popen(
                [interpreter, "-P", *program, json.dumps(self.settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={name: value for name, value in variables.items() if value is not None},
            )
        except (OSError, ValueError, TypeError) as error:  # no such program; a name or a setting that no process takes
            raise BadInput(f"the process that makes steps of {self.settings} cannot start: {error}") from error
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

    `settings` is JSON: those of `nets.build`, and `net`, `image` (side in pixels), `batch`, `record`; `channels` of the
    images where they are not 3, `cores` where not all are to be used. For each line `count` or `count read` on standard
    input: that many steps, of which the first and then every `read`-th is read, the readings fetched one step pending
    as in `Training.readings`. The net `transformer` is watched in a loop of its own (`depth`, `width`, `length`,
    `batch`, `record`).
    """
    begun = time.perf_counter()
    given = json.loads(settings)
    if (cores := given.pop("cores", None)) and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])  # before JAX counts them
    import jax

    imported = time.perf_counter()
    lower, step, wait = (_of_a_transformer if given["net"] == "transformer" else _of_a_net)(given)
    made = time.perf_counter()
    traced = lower()
    lowered = time.perf_counter()
    compiled = traced.compile()
    done = time.perf_counter()
    memory, kernels = compiled.memory_analysis(), count_kernels(compiled.as_text())
    del traced, compiled  # a run has the step in memory once
    pending = None

    def timed(read: bool = True) -> float:
        nonlocal pending
        started = time.perf_counter()
        arrays = step(read)
        if pending is not None:
            jax.device_get(pending)
        pending = arrays if read else None
        # Eager PyTorch has finished when a step returns, so ours is waited for: a run itself would not wait.
        jax.block_until_ready(arrays)
        return time.perf_counter() - started

    timed()  # the first one compiles again, or finds what is compiled
    timed()
    if not wait:
        timed(False)
    _reset_peak()
    ready = {
        "ready": True,
        "import_seconds": imported - begun,
        "build_seconds": made - imported,
        "trace_seconds": lowered - made,
        "compile_seconds": done - lowered,
        "temporary_megabytes": getattr(memory, "temp_size_in_bytes", float("nan")) / 2**20,
        "kernels": kernels,
    }
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        count, read = (*map(int, line.split()), 1)[:2]
        seconds = [timed(i % read == 0) for i in range(count)]
        waited = {"input_seconds": wait()} if wait else {}
        print(json.dumps({"seconds": seconds, **waited, "peak_megabytes": _peak()}), flush=True)


def _of_a_transformer(given: dict[str, Any]) -> tuple[Any, Any, None]:
    from gradflow.commands import transformer

    del given["net"]
    return *transformer.make(**given), None


def _of_a_net(given: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The traced program, a step, and how long one waits for the next batch."""
    import jax
    import numpy as np

    from gradflow import nets
    from gradflow.data import batches
    from gradflow.data.dataset import Dataset
    from gradflow.training import optimiser as optim
    from gradflow.training.loop import Training

    net, side, batch, record = (given.pop(name) for name in ("net", "image", "batch", "record"))
    channels = given.pop("channels", 3)
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (8 * batch, side, side, channels), np.uint8)
    labels = draw.integers(0, 10, len(images)).astype(np.int32)
    dataset = Dataset("random", images, labels, images[:1], labels[:1], tuple("0123456789"), "")
    built = nets.build(net, classes=10, channels=channels, **given)
    optimiser = optim.optimiser("sgd", optim.schedule("constant", 0.01, 1), 0.9, 1e-4)
    training = Training(built, dataset, optimiser, batch=batch, record=record)
    state, number = training.start(built, 0), 0

    def step(read: bool) -> Any:
        nonlocal state, number
        state, arrays = training.step(state, 0, number, read)
        number += 1
        return arrays

    def wait() -> float:
        started = time.perf_counter()
        jax.block_until_ready(jax.device_put(batches.indices(0, number, batch, len(images))))
        return time.perf_counter() - started

    return lambda: training.lower(state), step, wait


def count_kernels(program: str) -> int:
    """How many kernels a compiled program has, given as XLA prints it (`compiled.as_text()`).

    A kernel is an instruction that is executed by itself: a fusion of many or a call of a library is one. What is in a
    loop counts once, as it is compiled once; names and views of memory do not count.
    """
    bodies: dict[str, list[re.Match]] = {}
    body = []
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            body = bodies.setdefault("ENTRY" if header["entry"] else header["name"], [])
        elif instruction := _INSTRUCTION.match(line):
            body.append(instruction)
    executed, count = ["ENTRY"], 0
    for name in executed:  # and those that it starts, which are appended meanwhile
        for instruction in bodies.get(name, []):
            count += instruction["operation"] not in (*_NO_KERNELS, *_STARTS)
            if instruction["operation"] in _STARTS:
                started = dict.fromkeys(re.findall(r"[\w.-]+", instruction["rest"]))
                executed += [one for one in started if one in bodies and one not in executed]
    return count


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        _PEAK[0].write_text("5")  # Linux: from here on the peak of resident memory is counted from zero


def _peak() -> float:
    with contextlib.suppress(OSError):
        for line in _PEAK[1].read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return float("nan")
