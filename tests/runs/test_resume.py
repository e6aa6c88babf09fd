"""Crashes for real: processes are killed in the middle of a run, and the tables must not show it."""

import os
import resource
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from command_line import QUICK, alive, call, compile_once, published, running, started, statuses, until, workers  # noqa: F401

import gradflow as gf
from gradflow.runs import checkpoint
from gradflow.runs.record import Record

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
STEPS = 120
SWEEP = ("sweep", *QUICK, "--steps", STEPS, "--record", "all", "--evaluations", 4, "--seeds", 2)
SWEEP += ("--workers", 1)  # one process to start
EVERY_STEP = ("--checkpoint-seconds", 0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The results of the command when nothing happens."""
    results = tmp_path_factory.mktemp("undisturbed")
    result = call(*SWEEP, "--results", results)
    assert result.code == 0, result
    return results / "sweep"


@pytest.fixture(scope="module")
def crashed(tmp_path_factory) -> Path:
    """The results folder of a command that was killed with runs under way; its workers have ended by themselves."""
    results = tmp_path_factory.mktemp("crashed")
    with started(*SWEEP, *EVERY_STEP, "--results", results) as parent:
        until(lambda: running(results / "sweep", 5, STEPS - 20), parent)
        children = workers(parent.pid)
        assert len(children) >= 1
        parent.kill()
        parent.wait()
        until(lambda: not any(map(alive, children)), seconds=60)
    assert running(results / "sweep", 5, STEPS - 1)
    assert not (results / "sweep" / "readings.parquet").exists()
    return results


@pytest.fixture
def again(crashed, tmp_path) -> Path:
    """A copy of the crashed results, to go on from."""
    return Path(shutil.copytree(crashed, tmp_path / "again"))


def unchanged(part: Path, time: int) -> bool:
    return part.exists() and part.stat().st_mtime_ns == time


def newest_checkpoint(run: Path) -> Path:
    return max((run / "checkpoints").glob("*.npz"))


def test_an_undisturbed_sweep_is_whole(undisturbed):
    frame: Any = gf.load(undisturbed)
    assert (frame.groupby("run").step.max() == STEPS).all()
    assert frame.seed.nunique() == 2
    assert (frame.status == "done").all()
    losses = frame[frame.quantity == "loss"]
    assert (losses.groupby("run").step.apply(list).map(lambda steps: steps == list(range(1, STEPS + 1)))).all()
    assert losses.groupby("seed").value.first().nunique() == 2  # the seeds are not one run twice


def test_a_killed_sweep_goes_on_to_the_same_tables(undisturbed, again):
    half = running(again / "sweep", 5, STEPS)
    before = {part: part.stat().st_mtime_ns for part in again.glob("sweep/runs/*/metrics/*.parquet")}
    result = call(*SWEEP, "--results", again)
    assert result.code == 0, result
    assert published(again / "sweep") == published(undisturbed)
    assert all(status["state"] == "done" for status in statuses(again / "sweep").values())
    # It went on, it did not begin anew: the parts up to the checkpoint are those that were there.
    for name in half:
        assert sum(name in str(part) and unchanged(part, time) for part, time in before.items()) >= 5


def truncate(checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])


def flip_a_bit_of_an_array(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)


def empty(checkpoint: Path) -> None:
    checkpoint.write_bytes(b"")


def no_file(checkpoint: Path) -> None:
    checkpoint.unlink()
    checkpoint.mkdir()


@pytest.mark.parametrize("damage", [truncate, flip_a_bit_of_an_array, empty, no_file])
def test_the_newest_checkpoint_that_can_be_read_is_used(tmp_path, damage):
    tree = {"a": (jax.numpy.arange(20_000, dtype="int32"),)}
    older, newer = (tmp_path / "run" / f"{step:09d}.npz" for step in (4, 9))
    checkpoint.save(older.parent, 4, tree, "run")
    shutil.copy(older, tmp_path / "copy")
    checkpoint.save(older.parent, 9, jax.tree.map(lambda x: 2 * x, tree), "run")
    assert not older.exists()  # one at a time is enough
    found = checkpoint.latest(older.parent, tree, "run")
    assert found
    assert found[0] == 9
    np.testing.assert_array_equal(found[1]["a"][0], range(0, 40_000, 2))
    (tmp_path / "copy").rename(older)  # as after a crash between the saving of the newer and the removal of the older
    damage(newer)
    found = checkpoint.latest(older.parent, tree, "run")
    assert found
    assert found[0] == 4
    np.testing.assert_array_equal(found[1]["a"][0], range(20_000))
    assert found[1]["a"][0].dtype == "int32"
    checkpoint.drop_after(older.parent, 4)
    assert [path.name for path in older.parent.iterdir()] == [older.name]
    other = {"a": jax.numpy.arange(20_000, dtype="int32")}
    assert checkpoint.latest(older.parent, other, "run") is None  # another net cannot go on from it
    assert checkpoint.latest(tmp_path / "nothing", tree, "run") is None


def test_a_broken_checkpoint_does_not_stop_a_resume(undisturbed, again):
    name = running(again / "sweep", 5, STEPS)[0]
    run = again / "sweep" / "runs" / name
    broken = newest_checkpoint(run)
    # What a crash in the middle of a save leaves, and what nobody knows where it came from.
    shutil.copy(broken, broken.with_name(f".{STEPS:09d}.npz.{'0' * 32}.tmp"))
    broken.with_name(f"{STEPS - 1:09d}.npz").mkdir()
    truncate(broken)
    result = call(*SWEEP, "--results", again)
    assert result.code == 0, result
    assert published(again / "sweep") == published(undisturbed)
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"{STEPS:09d}.npz"]


def test_a_record_of_another_machine_is_begun_anew(undisturbed, again):
    """Rounding differs with the number of cores: readings of two machines must not be mixed in one run."""
    name = running(again / "sweep", 5, STEPS)[0]
    record = Record(again / "sweep" / "runs" / name)
    config = record.config
    assert config
    config["machine"]["cores"] += 1
    record.write_config({key: value for key, value in config.items() if key != "format"})
    before = {part: part.stat().st_mtime_ns for part in record.folder.glob("metrics/*.parquet")}
    result = call(*SWEEP, "--results", again)
    assert result.code == 0, result
    assert published(again / "sweep") == published(undisturbed)
    assert not any(unchanged(part, time) for part, time in before.items() if name in str(part))


def test_stopped_again_and_again_by_signals(undisturbed, tmp_path):
    """SIGTERM, Ctrl-C, and the same command each time: a checkpoint, exit code 130, one line, no worker left."""
    folder, least = tmp_path / "sweep", 2
    for number in (signal.SIGTERM, signal.SIGINT):
        with started(*SWEEP, *EVERY_STEP, "--results", tmp_path) as parent:
            until(lambda least=least: running(folder, least, STEPS - 10), parent)
            children = workers(parent.pid)
            parent.send_signal(number)
            _, err = parent.communicate(timeout=120)
        assert parent.returncode == 130
        assert "the same command goes on from here" in err
        assert "Traceback" not in err
        until(lambda children=children: not any(map(alive, children)), seconds=60)
        stopped = running(folder, 1, STEPS - 1)
        assert stopped
        for name in stopped:
            step = statuses(folder)[name]["step"]
            assert int(newest_checkpoint(folder / "runs" / name).stem) == step
            assert Record(folder / "runs" / name).readings()["step"].to_pylist()[-1] == step
            least = max(least, step + 2)  # the next signal comes when it has gone on
    result = call(*SWEEP, "--results", tmp_path)
    assert result.code == 0, result
    assert published(folder) == published(undisturbed)


def test_a_finished_run_is_not_run_again(undisturbed):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.glob("runs/*/*")}
    tables = published(undisturbed)
    result = call(*SWEEP, "--results", undisturbed.parent)
    assert result.code == 0
    assert "2 of 2 runs are finished already" in result.err
    assert "done" not in result.err
    assert {path: path.stat().st_mtime_ns for path in undisturbed.glob("runs/*/*")} == before
    assert published(undisturbed) == tables


def test_one_killed_worker_costs_its_own_run_only(undisturbed, tmp_path):
    """The runs come one after the other: the worker that died is replaced for the second."""
    folder = tmp_path / "sweep"
    with started(*SWEEP, *EVERY_STEP, "--results", tmp_path) as parent:
        until(lambda: running(folder, 5, STEPS - 20), parent)
        victim = running(folder, 5, STEPS)[0]
        holders = [pid for pid in workers(parent.pid) if victim in open_files(pid)]
        assert len(holders) == 1
        os.kill(holders[0], signal.SIGKILL)
        _, err = parent.communicate(timeout=240)
    assert parent.returncode == 3, err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 1
    assert victim in lines[0]
    assert "SIGKILL" in lines[0]
    ended = {name: status["state"] for name, status in statuses(folder).items()}
    assert ended.pop(victim) == "failed"
    assert list(ended.values()) == ["done"]
    frame: Any = gf.load(folder)  # published all the same, and honest about it
    assert set(frame[frame.run == victim].status) == {"failed"}
    # The next command completes it.
    result = call(*SWEEP, "--results", tmp_path)
    assert result.code == 0, result
    assert "1 of 2 runs are finished already" in result.err
    assert published(folder) == published(undisturbed)


def open_files(pid: int) -> str:
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(link))
        except FileNotFoundError:  # closed while we looked
            continue
    return "\n".join(links)


def test_two_commands_on_one_folder_write_each_run_once(undisturbed, tmp_path):
    folder = tmp_path / "sweep"
    with started(*SWEEP, *EVERY_STEP, "--results", tmp_path) as first:
        until(lambda: running(folder, 5, STEPS - 20), first)
        held = workers(first.pid)
        for pid in held:
            os.kill(pid, signal.SIGSTOP)  # the second command shall meet it in the middle of a run
        with started(*SWEEP, *EVERY_STEP, "--results", tmp_path) as second:
            lines: list[str] = []
            output = second.stderr
            assert output
            reader = threading.Thread(target=lambda: lines.extend(iter(output.readline, "")))
            reader.start()
            until(lambda: any("another command is running it" in line for line in lines), second)
            steps = {name: status["step"] for name, status in statuses(folder).items()}
            for pid in held:
                os.kill(pid, signal.SIGCONT)
            assert second.wait(timeout=240) == 0, lines
            reader.join()
        _, err = first.communicate(timeout=240)
    assert first.returncode == 0, err
    assert steps  # it was in the middle
    # A run that a command made itself is reported with its loss; one that the other made is not.
    made = [line for line in [*err.splitlines(), *lines] if "done" in line and "loss" in line]
    assert len(made) == 2, [err, lines]
    assert len({line.partition("done")[2].partition("loss")[0] for line in made}) == 2
    assert sum("another command" in line for line in lines) <= 2  # result once a run, not once a second
    assert published(folder) == published(undisturbed)


def test_a_full_disk_is_one_line_and_loses_nothing(undisturbed, again):
    """No file may grow beyond 4 kB: as on a full disk, small files still fit and checkpoints do not."""
    folder = again / "sweep"
    before: Any = gf.load(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        result = call(*SWEEP, *EVERY_STEP, "--results", again)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.code == 2, result
    lines = [line for line in result.err.splitlines() if line.startswith("gradflow: ")]
    assert len(lines) == 1
    assert "cannot write" in lines[0]
    assert "Traceback" not in result.err
    after: Any = gf.load(folder)
    merged = before.merge(after, on=["run", "step", "layer", "quantity"], how="left", suffixes=("", "_after"))
    assert (merged.value == merged.value_after).all()
    result = call(*SWEEP, "--results", again)
    assert result.code == 0, result
    assert published(folder) == published(undisturbed)
