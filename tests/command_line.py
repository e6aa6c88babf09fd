"""gradflow's commands as the tests give them: called in this process, or started in one that can be killed."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import pytest

from gradflow.commands.cli import main

TINY = ("--depth", "8", "--width", "4", "--batch", "16")
QUICK = ("--net", "mlp", "--depth", "2", "--width", "4", "--batch", "16")  # traced in a third of the time
ROOT = Path(__file__).parent.parent


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def call(*arguments: object, out: TextIO | None = None) -> Result:
    """Gives a command in this process; its workers are processes of their own all the same.

    With `out`, a file, that is its standard output.
    """
    argv, handler, environment = sys.argv, signal.getsignal(signal.SIGTERM), dict(os.environ)
    sys.argv = ["gradflow", *map(str, arguments)]
    kept, err = io.StringIO(), io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(out or kept),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as left,
        ):
            main()
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
        for name in os.environ.keys() - environment:  # where a command keeps what it compiles is for its process alone
            del os.environ[name]
    code = left.value.code
    assert isinstance(code, int)
    return Result(code, kept.getvalue(), err.getvalue())


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen]:
    """Gives a command in a process of its own, which is gone at the end of the block."""
    command = [sys.executable, "-m", "gradflow", *map(str, arguments)]
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job would hand down that it is ignored
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], object], process: subprocess.Popen | None = None, seconds: float = 240) -> None:
    """Waits until the condition holds; fails if `process` ends before, or after a time that only a hang takes."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "waited in vain"
        if process and process.poll() is not None:
            pytest.fail(f"it ended with {process.returncode}: {process.communicate()}")
        time.sleep(0.01)


def statuses(folder: Path) -> dict[str, dict]:
    """The `status.json` of every run of a results folder, by folder name."""
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("runs/*/status.json")}


def running(folder: Path, least: int, most: int) -> list[str]:
    """The runs that are under way, with `least` to `most` steps on disk."""
    return [n for n, s in statuses(folder).items() if s["state"] == "running" and least <= s["step"] <= most]


def workers(parent: int) -> list[int]:
    """The processes that a sweep started."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def published(folder: Path) -> tuple[bytes, bytes]:
    """The published tables, to the byte. There is no time in them."""
    return (folder / "runs.csv").read_bytes(), (folder / "readings.parquet").read_bytes()


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory) -> None:
    """The workers of all tests compile a step once: most of a tiny run's time. Children inherit the environment."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.getbasetemp().parent / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
