"""Whether a long sweep stays as it began: `python tests/soak.py` watches memory and open descriptors of its processes.

Not part of the test suite. Two real sweeps, one of 5,000 steps and one of 500 runs of one step each, in one worker; of
the worker and of its parent it prints resident memory and open descriptors in each quarter of the time, from when the
first step is compiled and done, and ends with 1 where the last is much more than the first.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from command_line import TINY, started, statuses, workers

EVERY = 0.25  # seconds
MORE = 1.05  # than in the first quarter, and 8 MiB or 2 descriptors on top: what a flat course may show
SWEEPS = {
    "5,000 steps of one run": ("--steps", 5000, "--record", "all", "--checkpoint-seconds", 1),
    "500 runs of one step": ("--steps", 1, "--seeds", 500),
}


class Sample(NamedTuple):
    """Of one process at one moment."""

    mebibytes: float
    descriptors: int


def sample(pid: int) -> Sample:
    """Resident memory and open descriptors."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0])
    return Sample(resident / 1024, len([*Path(f"/proc/{pid}/fd").iterdir()]))


def begun(results: Path) -> bool:
    """Whether a step is compiled and done: readings are on disk, and of short runs one has ended."""
    return any(results.glob("runs/*/metrics/part-*")) and any(one["step"] for one in statuses(results).values())


def watch(words: tuple[object, ...]) -> dict[str, list[Sample]]:
    """Gives a sweep and samples the worker and its parent until it ends."""
    samples: dict[str, list[Sample]] = {"worker": [], "parent": []}
    with tempfile.TemporaryDirectory(prefix="gradflow-soak-") as results:
        sweep = ("sweep", "--net", "plain", *TINY, *words, "--evaluations", 2, "--workers", 1, "--results", results)
        with started(*sweep) as process:
            while process.poll() is None:
                time.sleep(EVERY)
                try:
                    found = {"worker": sample(workers(process.pid)[0]), "parent": sample(process.pid)}
                except (OSError, IndexError, ValueError):  # one of them is about to end
                    continue
                if samples["worker"] or begun(Path(results) / "sweep"):
                    for name, one in found.items():
                        samples[name].append(one)
            assert process.returncode == 0, process.communicate()
            ended = statuses(Path(results) / "sweep").values()
            assert {one["state"] for one in ended} == {"done"}
    return samples


def main() -> int:
    """Prints the numbers of both sweeps; returns 1 where one of them grows."""
    grows = False
    for what, words in SWEEPS.items():
        for name, samples in watch(words).items():
            count = len(samples) // 4
            quarters = [
                Sample(*(median(column) for column in zip(*samples[i * count : (i + 1) * count], strict=True)))
                for i in range(4)
            ]
            first, last = quarters[0], quarters[-1]
            grows |= last.mebibytes > MORE * first.mebibytes + 8 or last.descriptors > MORE * first.descriptors + 2
            memory, descriptors = zip(*quarters, strict=True)
            print(
                f"{what}, {name}: {', '.join(f'{one:.0f}' for one in memory)} MiB; "
                f"{', '.join(f'{one:g}' for one in descriptors)} descriptors; {len(samples)} samples",
                flush=True,
            )
    return int(grows)


if __name__ == "__main__":
    sys.exit(main())
