"""Many runs: what is skipped, what diverges, what fails, who does what; and what a person sees of it."""

import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import TINY, call, compile_once, published, statuses  # noqa: F401

import gradflow as gf
from gradflow.errors import BadInput
from gradflow.reports.live import View
from gradflow.runs import pool, sweep
from gradflow.runs.record import Record
from gradflow.training import memory
from gradflow.training import platform as runtime

DIVERGING = ("sweep", "--net", "mlp", *TINY, "--normalisation", "none", "--steps", 8, "--record", 100)
DIVERGING += ("--workers", 1, "--learning-rate", 1e9, 0.01)


@pytest.fixture(scope="module")
def diverging(tmp_path_factory):
    """A sweep of two runs, one of which diverges."""
    results = tmp_path_factory.mktemp("diverging")
    return results / "sweep", call(*DIVERGING, "--results", results)


def test_a_run_that_diverges_is_a_result_and_the_sweep_goes_on(diverging):
    folder, result = diverging
    assert result.code == 0, result
    assert sorted(status["state"] for status in statuses(folder).values()) == ["diverged", "done"]
    assert sum("diverged" in line for line in result.err.splitlines()) == 1
    assert sum("done" in line for line in result.err.splitlines()) == 1


def test_what_a_diverged_run_recorded_is_kept_and_published(diverging):
    frame: Any = gf.load(diverging[0])
    lost, done = frame[frame.status == "diverged"], frame[frame.status == "done"]
    assert set(lost.learning_rate) == {1e9}
    assert set(done.learning_rate) == {0.01}
    last = int(lost.last_step.iloc[0])
    assert 1 < last < 8
    assert lost.step.max() == last
    # Every step is there up to the last, which was not finite, and of that one the layers are kept to see where.
    assert sorted(lost[lost.quantity == "loss"].step) == list(range(1, last + 1))
    before = lost[(lost.step < last) & lost.quantity.isin(["loss", "gradient_norm", "activation_std"])]
    assert np.isfinite(before.value).all()
    assert not np.isfinite(lost[lost.step == last].value).all()
    assert lost[(lost.step == last) & (lost.quantity == "gradient_norm")].layer.nunique() == 8
    assert np.isfinite(done[done.quantity == "loss"].value).all()
    assert done.step.max() == 8


def test_a_diverged_run_is_finished(diverging):
    folder, _ = diverging
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*")}
    result = call(*DIVERGING, "--results", folder.parent)
    assert result.code == 0
    assert "2 of 2 runs are finished already" in result.err
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*")} == before


def test_a_sweep_has_figures_and_publishes_exactly_its_own_runs(diverging):
    folder, _ = diverging
    assert {path.name for path in folder.glob("*.svg")} == {"gradient_norm.svg", "film.svg", "errors.svg"}
    whole = published(folder)
    result = call(*DIVERGING[:-2], 0.01, 0.01, "--results", folder.parent)  # twice the same is once
    assert result.code == 0
    assert "1 of 1 runs are finished already" in result.err
    assert gf.load(folder).run.nunique() == 1
    assert len(list(folder.glob("runs/mlp*"))) == 2  # the other's record stays
    call(*DIVERGING, "--results", folder.parent)
    assert published(folder) == whole


def test_figures_are_functions_of_the_tables_alone(diverging, tmp_path):
    folder, _ = diverging
    for name in ("runs.csv", "readings.parquet"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    result = call("plot", tmp_path)
    assert result.code == 0, result
    drawn = {path.name: path.read_bytes() for path in folder.glob("*.svg")}
    assert drawn == {path.name: path.read_bytes() for path in tmp_path.glob("*.svg")}
    assert result.out.split() == [str(tmp_path / name) for name in ("gradient_norm.svg", "film.svg", "errors.svg")]


def test_a_run_that_fails_is_one_line_and_the_others_are_complete(tmp_path, monkeypatch):
    """A net of 65,000 channels fits no memory. Its traceback is in its log; the terminal has one line."""
    monkeypatch.setenv(memory.VARIABLE, str(10**15))  # more than there is: else it is refused, as are the others
    command = (
        "sweep",
        "--net",
        "cnn",
        "--batch",
        16,
        "--width",
        4,
        65_000,
        "--steps",
        2,
        "--evaluations",
        0,
        "--workers",
        1,
    )
    result = call(*command, "--results", tmp_path)
    assert result.code == 3, result
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 1
    label, log = lines[0].split(": ")[1], Path(lines[0].rpartition("; see ")[2])
    assert label == "width 65000"  # what tells it from the other
    assert "Traceback" in log.read_text()
    name = log.parent.name
    states = {run: status["state"] for run, status in statuses(tmp_path / "sweep").items()}
    assert states.pop(name) == "failed"
    assert list(states.values()) == ["done"]
    assert "log.txt" not in json.loads((log.parent / "status.json").read_text())["reason"]
    assert set(gf.load(tmp_path / "sweep").width) == {4}  # it had nothing to publish
    # All runs failed: nothing to publish, the same exit code. A failed run is tried again.
    result = call(*[word for word in command if word != 4], "--results", tmp_path)
    assert result.code == 3
    assert "failed: cnn 4: " in result.err


def test_the_workers_share_the_cores():
    total = len(os.sched_getaffinity(0))
    assert 1 <= len(pool.Pool().cores) <= total
    assert [list(part) for part in pool.Pool(1).cores] == [list(range(total))]
    for workers in (0, -1, total + 1):
        with pytest.raises(BadInput, match=f"workers {workers} is not legal: this machine has cores for 1 to {total}"):
            pool.Pool(workers)
    for size in range(1, 5):
        cores = [core for part in pool.Pool(size, cores=8).cores for core in part]
        assert len(cores) == len(set(cores)) == size * (8 // size)
        assert set(cores) <= set(range(8))


def test_a_worker_goes_on_with_the_program_that_it_has_compiled():
    """Rate and seed are no part of it, the depth is."""
    runs = [
        gf.Run(depth=depth, learning_rate=rate, seed=seed)
        for seed in (0, 1)
        for rate in (0.1, 1)
        for depth in (8, 14, 20)
    ]
    waiting = pool.Jobs({"run": str(i), "settings": run.settings} for i, run in enumerate(runs))
    depths = [[], []]
    for worker in (0, 1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0):  # in the order in which they are free
        depths[worker] += [job["settings"]["depth"] for job in [waiting.take(worker)] if job]
    assert depths == [[8, 8, 8, 8, 20, 20, 20, 20], [14, 14, 14, 14]]
    assert waiting.take(0) is None


def test_two_runs_of_one_result_have_one_record(tmp_path):
    runs = gf.grid(2, depth=(8, 8), net=("plain",))
    found = sweep.records(runs, tmp_path)
    assert len(runs) == 4
    assert len(found) == 2
    for name, (run, record) in found.items():
        assert isinstance(record, Record)
        assert record.folder == tmp_path / "runs" / name
        assert run.folder_name(gf.load_data("digits").digest) == name


def event(kind: str, run: str = "plain-8-batch-seed0-0123456789", **more) -> dict:
    return {"event": kind, "run": run, **more}


READING = {"step": 4, "steps": 8, "loss": 1.25, "train_error": 0.5, "norms": [1e-3, 1e-2, 1e-1]}


def test_plain_lines_where_there_is_no_terminal(capsys):
    with View(total=3, finished=1) as view:
        view(event("started"))
        view(event("reading", **READING))
        view(event("done"))
        view(event("busy", "plain-10-batch-seed0-0123456789"))
        view(event("failed", "plain-12-batch-seed0-0123456789", reason="ValueError: no"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "1 of 3 runs are finished already",
        "[2/3] done     plain-8-batch-seed0  loss 1.25  error 0.500  0.001 ▁▅█ 0.1",
        "plain-10-batch-seed0: another command is running it; left to that one",
        "[3/3] failed   plain-12-batch-seed0  ValueError: no",
    ]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
@pytest.mark.parametrize("goes", ["before", "while it is drawn", "and the stream is closed"])
def test_a_terminal_that_goes_leaves_the_sweep_alone(monkeypatch, goes):
    master, slave = os.openpty()
    raw = os.fdopen(slave, "wb", buffering=0)
    terminal = io.TextIOWrapper(io.BufferedWriter(raw))
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    if goes == "before":
        os.close(master)
    with View(total=2, finished=1) as view:
        assert bool(view.live) == (goes != "before")
        view(event("started"))
        if goes != "before":
            os.close(master)
        if goes == "and the stream is closed":
            with contextlib.suppress(OSError):
                terminal.close()
        view(event("reading", **READING))
        view(event("note", text="begins anew"))
        time.sleep(0.3)  # the live view refreshes by itself, in a thread of its own
        view(event("failed", reason="ValueError: no"))
    with contextlib.suppress(OSError):
        terminal.close()
    raw.close()  # which the stream leaves open where it cannot write what is left
    assert view.finished == 2


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_a_terminal_shows_the_gradient_vanish_and_is_clean_at_the_end(monkeypatch):
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal, os.fdopen(master, "rb", buffering=0) as screen:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("LINES", "24")
        with View(total=2, finished=0) as view:
            view(event("started"))
            view(event("reading", **READING))
            assert view.live
            view.live.refresh()
            view(event("diverged"))
        terminal.flush()
        os.set_blocking(screen.fileno(), False)  # one read gives at most 4096 bytes of a terminal
        text = b"".join(iter(lambda: screen.read(4096), None)).decode()
    assert "(compiling)" not in text.rpartition("diverged")[2]
    assert "4/8" in text
    assert "0.001 ▁▅█ 0.1" in text
    assert "0 of 2 runs done" in text
    assert "0123456789" not in text  # hashes are for folders
    last = text.rpartition("diverged")[2]
    assert "plain-8-batch-seed0" in last
    assert "\x1b[2K" in last  # the table is wiped away, what ended stays


@pytest.mark.parametrize(
    ("workers", "visible", "shares"),
    [
        (1, "0,1", [{}]),
        (2, "0,1", [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]),
        (2, "4,5,7", [{"CUDA_VISIBLE_DEVICES": "4,7"}, {"CUDA_VISIBLE_DEVICES": "5"}]),
        (2, "GPU-8932f937", [{"CUDA_VISIBLE_DEVICES": "GPU-8932f937"}] * 2),
        (2, "", [{}, {}]),
    ],
)
def test_each_worker_sees_its_own_share_of_the_accelerators(workers, visible, shares):
    environment = {"CUDA_VISIBLE_DEVICES": visible}
    assert [runtime.share_of_accelerators(i, workers, environment) for i in range(workers)] == shares
