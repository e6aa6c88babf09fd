"""The store adds up or is refused: no foreign or missing row, no half publication, nothing removed that is not ours."""

import contextlib
import errno
import fcntl
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import TINY, call, compile_once, running, started, until  # noqa: F401
from records import BESIDE, SETTINGS, fill

import gradflow as gf
from gradflow.errors import BadInput
from gradflow.runs import checkpoint, files, published, table
from gradflow.runs.execute import execute
from gradflow.runs.record import Record

STEPS = 6


def make(results: Path, seed: int, state: str = "done", steps: int = STEPS) -> Record:
    """A record of three parts, as `execute` would have left it."""
    record = Record(results / "runs" / f"run-{seed}")
    record.write_config({"run": {**SETTINGS, "seed": seed, "steps": STEPS}, **BESIDE})
    fill(record, range(1, steps + 1), flush_at=(2, 4, steps))
    record.write_status(state, step=steps)
    return record


def parts(record: Record) -> list[Path]:
    return sorted(record.folder.glob("metrics/part-*"))


def publish(results: Path, *records: Record) -> pd.DataFrame:
    with published.publishing(results):
        published.publish(results, *table.collect(records))
    return gf.load(results)


DAMAGES: dict[str, Callable[[Record, Record], object]] = {
    "the first part deleted": lambda one, other: parts(one)[0].unlink(),
    "a part deleted": lambda one, other: parts(one)[1].unlink(),
    "the last part deleted": lambda one, other: parts(one)[2].unlink(),
    "all parts deleted": lambda one, other: [part.unlink() for part in parts(one)],
    "a part doubled": lambda one, other: shutil.copy(
        parts(one)[1], parts(one)[1].with_name(parts(one)[1].name.replace("0004-", "0005-"))
    ),
    "a part renamed": lambda one, other: parts(one)[2].rename(
        parts(one)[2].with_name(parts(one)[2].name.replace("0006-", "0007-"))
    ),
    "a part of another seed": lambda one, other: shutil.copy(parts(other)[1], parts(one)[1]),
    "a part of another seed under its own name": lambda one, other: (
        parts(one)[1].unlink(),
        shutil.copy(parts(other)[1], parts(one)[0].parent),
    ),
    "one bit of a part": lambda one, other: parts(one)[1].write_bytes(
        bytes([byte ^ (place == 40) for place, byte in enumerate(parts(one)[1].read_bytes())])
    ),
    "the configuration of another run": lambda one, other: shutil.copy(other.folder / "config.json", one.folder),
    "the folder of another run": lambda one, other: (
        shutil.rmtree(one.folder),
        shutil.copytree(other.folder, one.folder),
    ),
    "a status without a step": lambda one, other: one.write_status("done"),
    "a status with another step": lambda one, other: one.write_status("done", step=STEPS - 2),
    "a status of no known state": lambda one, other: one.write_status("finished", step=STEPS),
    "a negative step": lambda one, other: one.write_status("running", step=-1),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_record_that_does_not_add_up_is_refused(tmp_path, damage):
    one, other = make(tmp_path, 0), make(tmp_path, 1)
    assert one.finished
    assert set(gf.load(tmp_path).seed) == {0, 1}
    damage(one, other)
    with pytest.raises(BadInput, match=r"run-0 does not add up: .*; remove the folder and run again") as error:
        gf.load(tmp_path)
    assert "\n" not in str(error.value)
    shutil.rmtree(one.folder)
    assert set(gf.load(tmp_path).seed) == {1}  # and that helps


def test_a_run_said_to_be_done_before_its_last_step_is_refused_and_not_skipped(tmp_path):
    record = make(tmp_path, 0, "running", steps=4)
    assert not record.finished
    record.write_status("done", step=4)
    with pytest.raises(BadInput, match="said to be done, but its readings end at step 4 of 6"):
        record.finished  # noqa: B018
    with pytest.raises(BadInput, match="said to be done"):
        gf.load(tmp_path)
    record.write_status("diverged", step=4)  # which may be at any step
    assert record.finished


def test_files_that_are_not_named_as_ours_are_neither_read_nor_in_the_way_nor_removed(tmp_path):
    record = make(tmp_path, 0)
    before = gf.load(tmp_path)
    names = ("part-abc.parquet", "part-000000004.parquet", f"{parts(record)[1].stem} (copy).parquet", "notes.txt")
    for name in names:
        (record.folder / "metrics" / name).write_bytes(b"somebody's")
    pd.testing.assert_frame_equal(gf.load(tmp_path), before)
    assert record.finished
    with record.lock():
        record.drop_after(0)
    assert {path.name for path in (record.folder / "metrics").iterdir()} == {*names}


INTERRUPTED = "the writer was stopped here"


@pytest.mark.parametrize("kept", range(4))
def test_a_publication_that_is_interrupted_leaves_the_old_tables_or_the_new_ones(tmp_path, monkeypatch, kept):
    old = publish(tmp_path, make(tmp_path, 0))
    new = table.join(*table.collect([make(tmp_path, 1), make(tmp_path, 2)]))
    calls, replace = [], os.replace

    def stopping(*paths) -> None:
        if len(calls) == kept:
            raise KeyboardInterrupt(INTERRUPTED)
        calls.append(paths)
        replace(*paths)

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt), published.publishing(tmp_path):
        patched.setattr(os, "replace", stopping)
        published.publish(tmp_path, *table.collect([make_read(tmp_path, 1), make_read(tmp_path, 2)]))
    pd.testing.assert_frame_equal(gf.load(tmp_path), new if kept > 1 else old)
    pd.testing.assert_frame_equal(publish(tmp_path, make_read(tmp_path, 1), make_read(tmp_path, 2)), new)
    assert not (tmp_path / ".runs.csv.next").exists()


def make_read(results: Path, seed: int) -> Record:
    return Record(results / "runs" / f"run-{seed}")


def test_tables_of_two_publications_are_refused(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    publish(one, make(one, 0))
    publish(two, make(two, 1))
    shutil.copy(two / "runs.csv", one)
    with pytest.raises(BadInput, match=r"does not add up: runs.csv was not published with readings.parquet"):
        gf.load(one)
    # Tables of version 0.3.0 and before do not know each other: there the names of the runs must do.
    plain = pq.read_table(two / "readings.parquet")
    pq.write_table(plain.replace_schema_metadata({"gradflow_format": "1"}), one / "readings.parquet")
    assert set(gf.load(one).seed) == {1}
    shutil.copy(two / "readings.parquet", one)
    (one / "runs.csv").unlink()
    with pytest.raises(BadInput, match="does not add up"):
        gf.load(one)


@pytest.mark.parametrize(
    "change",
    [
        lambda runs: runs.drop(columns="run"),
        lambda runs: runs.assign(run=runs.run + "x"),
        lambda runs: pd.concat([runs, runs]),
        lambda runs: runs.assign(step=1),
        lambda runs: runs.assign(run=None),
        lambda runs: runs.head(0),
        lambda runs: runs.assign(last_step="x"),
        lambda runs: runs.assign(last_step="inf"),
        lambda runs: runs.assign(classes="ten"),
    ],
)
def test_a_table_of_runs_that_is_not_ours_is_one_line(tmp_path, change):
    publish(tmp_path, make(tmp_path, 0))
    readings = pq.read_table(tmp_path / "readings.parquet")
    pq.write_table(readings.replace_schema_metadata({"gradflow_format": "1"}), tmp_path / "readings.parquet")
    change(pd.read_csv(tmp_path / "runs.csv")).to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(BadInput, match=r"runs\.csv") as error:
        gf.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda readings: readings.drop_columns("value"),
        lambda readings: readings.set_column(1, "step", pa.array(["x"] * len(readings))),
        lambda readings: readings.set_column(1, "step", pa.nulls(len(readings), pa.int32())),
        lambda readings: readings.set_column(5, "value", pa.array([[1.0]] * len(readings))),
        lambda readings: readings.set_column(1, "step", pa.array([2**40] * len(readings))),
    ],
)
def test_a_table_of_readings_that_is_not_ours_is_one_line(tmp_path, change):
    publish(tmp_path, make(tmp_path, 0))
    pq.write_table(change(pq.read_table(tmp_path / "readings.parquet")), tmp_path / "readings.parquet")
    with pytest.raises(BadInput, match=r"readings\.parquet is no table of readings") as error:
        gf.load(tmp_path)
    assert "\n" not in str(error.value)


TREE = {"a": jax.numpy.arange(4)}


def test_a_checkpoint_of_another_run_or_another_step_is_passed_over(tmp_path):
    checkpoint.save(tmp_path / "mine", 3, TREE, "mine")
    assert checkpoint.latest(tmp_path / "mine", TREE, "mine")
    shutil.copy(tmp_path / "mine" / "000000003.npz", tmp_path / "mine" / "000000009.npz")
    found = checkpoint.latest(tmp_path / "mine", TREE, "mine")
    assert found
    assert found[0] == 3  # the copy says that it is of step 3
    checkpoint.save(tmp_path / "other", 5, TREE, "other")
    assert checkpoint.latest(tmp_path / "other", TREE, "mine") is None


def test_only_our_own_checkpoints_are_removed(tmp_path):
    checkpoint.save(tmp_path, 3, TREE, "run")
    ours = ["000000007.npz", "000000002", "000000009.orbax-checkpoint-tmp-12"]  # the latter two of earlier versions
    others = ["notes", "12", "12.npz", "best.orbax-checkpoint-tmp", "000000007-backup"]
    for name in (*ours, *others):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("somebody's")
    (tmp_path / "notes.txt").write_text("somebody's")
    checkpoint.drop_after(tmp_path, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"000000003.npz", *others, "notes.txt"}
    checkpoint.save(tmp_path, 4, TREE, "run")
    assert {path.name for path in tmp_path.iterdir()} == {"000000004.npz", *others, "notes.txt"}


@pytest.mark.parametrize("name", ["checkpoints", "metrics", "log.txt", "lock", "config.json", "status.json", ""])
def test_a_link_to_somewhere_else_is_refused_and_what_is_there_stays(tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "000000009").write_text("somebody's")
    folder = tmp_path / "results" / "runs" / "run"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(BadInput, match=r"is a symbolic link, which is not followed"), Record(folder).lock():
        pass
    assert (elsewhere / "000000009").read_text() == "somebody's"


@pytest.mark.parametrize("name", ["000000009.npz", "000000003.npz", "000000009.orbax-checkpoint-tmp"])
@pytest.mark.parametrize(
    "use",
    [
        lambda folder: checkpoint.drop_after(folder, 3),
        lambda folder: checkpoint.latest(folder, TREE, "run"),
        lambda folder: checkpoint.save(folder, 11, TREE, "run"),
        checkpoint.exists,
    ],
    ids=["drop_after", "latest", "save", "exists"],
)
def test_a_link_that_is_named_as_a_checkpoint_is_refused_and_stays(tmp_path, name, use):
    checkpoint.save(tmp_path / "elsewhere", 9, TREE, "run")
    folder = tmp_path / "checkpoints"
    checkpoint.save(folder, 5, TREE, "run")
    (folder / name).symlink_to(tmp_path / "elsewhere" / "000000009.npz")
    with pytest.raises(BadInput, match=rf"{name} is a symbolic link, which is not followed"):
        use(folder)
    assert (folder / name).is_symlink()
    assert (folder / "000000005.npz").is_file()
    assert checkpoint.latest(tmp_path / "elsewhere", TREE, "run")


@pytest.mark.parametrize("use", [lambda record: record.drop_after(0), lambda record: record.readings()])
def test_a_link_that_is_named_as_a_part_is_refused_and_stays(tmp_path, use):
    record = make(tmp_path, 0)
    part = parts(record)[-1]
    part.rename(tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match=rf"{part.name} is a symbolic link, which is not followed"):
        use(record)
    assert part.is_symlink()


def test_a_run_whose_checkpoints_are_a_link_is_refused_by_the_command(tmp_path):
    sweep = ("sweep", "--net", "plain", *TINY, "--steps", 2, "--evaluations", 0, "--results", tmp_path / "results")
    assert call(*sweep).code == 0
    folder = next(tmp_path.glob("results/sweep/runs/plain*"))
    shutil.move(folder / "checkpoints", tmp_path / "elsewhere")
    (folder / "checkpoints").symlink_to(tmp_path / "elsewhere")
    (folder / "status.json").unlink()
    result = call(*sweep)
    assert result.code == 2
    assert "is a symbolic link" in result.err
    assert (tmp_path / "elsewhere" / "000000002.npz").is_file()


def test_what_a_killed_writer_left_is_removed_when_the_lock_is_taken_and_nothing_else(tmp_path):
    record = make(tmp_path, 0)
    left = [record.folder / f".config.json.{'0' * 32}.tmp", record.folder / "metrics" / f".part.{'a' * 32}.tmp"]
    left.append(record.checkpoints / f".000000002.npz.{'b' * 32}.tmp")
    record.checkpoints.mkdir()
    others = [record.folder / ".notes.tmp", record.folder / "metrics" / f"x.{'a' * 32}.tmp"]
    for path in (*left, *others):
        path.write_text("half")
    with record.lock():
        assert not any(path.exists() for path in left)
        assert all(path.exists() for path in others)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_flock_has_locks_all_the_same(tmp_path, monkeypatch, number):
    def no_flock(*_) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    one, two = Record(tmp_path / "run"), Record(tmp_path / "run")
    for _ in range(2):
        with one.lock() as ours, two.lock() as theirs:
            assert (ours, theirs) == (True, False)


HOLD = """
import errno, fcntl, sys, time
from pathlib import Path
def no_flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = no_flock
from gradflow.runs import files
with files.lock(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    time.sleep(60)
"""


def test_without_flock_the_lock_of_a_killed_process_is_free(tmp_path):
    def take() -> str:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout
        with holder.stdout:
            line = holder.stdout.readline().strip()
        holder.kill()
        holder.wait()
        return line

    assert take() == "True"
    assert take() == "True"  # the first one has left its file behind


def test_data_that_changed_since_the_command_began_are_not_recorded(tmp_path):
    record = Record(tmp_path / "run")
    run = gf.Run(net="plain", depth=8, width=4, batch=16, steps=1, evaluations=0)
    with pytest.raises(BadInput, match="the data of run changed since this command began"):
        execute(run, record, digest="of other data")
    assert not record.folder.exists()


def test_a_run_that_begins_anew_says_so_and_why(tmp_path):
    record, said = Record(tmp_path / "run"), []
    run = gf.Run(net="plain", depth=8, width=4, batch=16, steps=2, evaluations=0)
    execute(run, record, note=said.append)
    assert not said
    record.write_status("running", step=2)
    for file in record.checkpoints.iterdir():
        file.write_text("{")
    execute(run, record, note=said.append)
    assert said == ["begins anew, 2 steps are made again: no checkpoint of it can be read"]
    config = files.read_json(record.folder / "config.json")
    assert config
    record.write_config({**config, "machine": {**config["machine"], "gradflow": "0.0.1"}})
    execute(run, record, note=said.append)
    assert said[1:] == ["begins anew, 2 steps are made again: it was begun by another version or on another machine"]
    assert json.loads((record.folder / "config.json").read_text())["name"] == "run"


def test_two_commands_that_publish_one_folder_leave_the_tables_of_one_of_them(tmp_path):
    """With overlapping grids: each waits for the runs that the other does, then both publish at the same time."""
    sweep = ("sweep", *TINY[2:], "--steps", 2, "--evaluations", 0, "--results", tmp_path, "--workers", 1)
    grids = (("--net", "plain", "--depth", 8, 14), ("--net", "plain", "--depth", 14, 20))
    with started(*sweep, *grids[0]) as one, started(*sweep, *grids[1]) as two:
        for process in (one, two):
            process.wait(timeout=300)
        assert (one.returncode, two.returncode) == (0, 0), (one.communicate(), two.communicate())
    frame = gf.load(tmp_path / "sweep")
    assert set(frame.depth) in ({8, 14}, {14, 20})
    assert set(frame.net) == {"plain"}
    assert {path.stem for path in (tmp_path / "sweep").glob("*.svg")} == {"gradient_norm", "film", "errors"}


def test_random_keys_and_the_dtypes_of_accelerators_come_back_from_a_checkpoint(tmp_path):
    tree = {"key": jax.random.key(3), "half": jax.numpy.arange(4, dtype="bfloat16"), "step": jax.numpy.int32(7)}
    checkpoint.save(tmp_path, 3, tree, "run")
    found = checkpoint.latest(tmp_path, jax.tree.map(jax.numpy.zeros_like, tree), "run")
    assert found
    assert found[1].keys() == tree.keys()
    for name, leaf in found[1].items():
        assert leaf.dtype == tree[name].dtype
        assert (leaf == tree[name]).all()


# What never ends, and what is larger than it looks


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["config.json", "status.json", "log.txt", "metrics/part-*"])
def test_a_pipe_in_a_run_is_refused_and_not_waited_for(tmp_path, name):
    record = make(tmp_path, 0)
    path = next(record.folder.glob(name), record.folder / name)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(BadInput, match="no regular file"), record.lock():
        gf.load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.timeout(30)
@pytest.mark.parametrize("make_odd", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("name", ["readings.parquet", "runs.csv", "verdict.json"])
def test_a_pipe_or_a_folder_among_published_files_is_refused(tmp_path, name, make_odd):
    publish(tmp_path, make(tmp_path, 0))
    (tmp_path / name).unlink(missing_ok=True)
    make_odd(tmp_path / name)
    result = call("plot", tmp_path)
    assert result.code == 2
    assert f"cannot read {tmp_path / name}: " in result.err
    assert "no regular file" in result.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.timeout(30)
def test_a_pipe_for_a_checkpoint_is_passed_over(tmp_path):
    checkpoint.save(tmp_path, 3, TREE, "run")
    os.mkfifo(tmp_path / "000000009.npz")
    found = checkpoint.latest(tmp_path, TREE, "run")
    assert found
    assert found[0] == 3


def test_a_table_that_memory_cannot_hold_is_refused_before_it_is_read(tmp_path, monkeypatch):
    publish(tmp_path, make(tmp_path, 0))
    with monkeypatch.context() as bounded:
        bounded.setenv("GRADFLOW_MAX_DATA_BYTES", "100")
        with pytest.raises(BadInput, match=r"readings\.parquet would take .* of memory; legal are 100 bytes"):
            gf.load(tmp_path)
    monkeypatch.setenv("GRADFLOW_MAX_TABLE_BYTES", "1000")
    with pytest.raises(BadInput, match=r"would take .* where the environment sets GRADFLOW_MAX_TABLE_BYTES"):
        gf.load(tmp_path)


def test_a_long_text_of_a_run_counts_in_each_of_its_rows(tmp_path):
    record = make(tmp_path, 0)
    record.write_config({**BESIDE, "run": {**SETTINGS, "seed": 0, "steps": STEPS, "note": "x" * 2**24}})
    rows = record.readings().num_rows
    assert rows * 2**24 < 2**34  # which a machine of 32 GiB would try to hold
    fill(record, range(STEPS + 1, 2000), (1999,))
    record.write_status("running", step=1999)
    with pytest.raises(BadInput, match="GiB of memory"):
        gf.load(tmp_path)


@pytest.mark.parametrize("seconds", ["x", None, -1, math.nan, math.inf])
def test_seconds_that_are_no_number_are_refused(tmp_path, seconds):
    record = make(tmp_path, 0)
    (record.folder / "status.json").write_text(json.dumps({"state": "done", "step": STEPS, "seconds": seconds}))
    with pytest.raises(BadInput, match=r"status\.json has no state of .* or seconds that are no number"):
        gf.load(tmp_path)


@pytest.mark.parametrize("name", ["run", "step", "value", "status"])
def test_a_setting_that_is_called_as_a_column_of_the_tables_is_refused(tmp_path, name):
    """Else the run would have another name in one of the tables, or the table two columns of one name."""
    record = make(tmp_path, 0)
    record.write_config({**BESIDE, "run": {**SETTINGS, "seed": 0, "steps": STEPS, name: "another"}})
    with pytest.raises(BadInput, match=f"config.json has a setting '{name}', as every table"):
        gf.load(tmp_path)


def test_a_folder_that_looks_like_a_uri_is_published_and_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("x:y")
    assert len(publish(folder, make(folder, 0)))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_part_is_on_disk_before_its_folder_says_that_it_is_there_and_then_the_folder(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def watching(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watching)
    record = Record(tmp_path / "run")
    fill(record, range(1, 3), (2,))
    content, folder = synced
    assert content.name.startswith(".part-000000002-")
    assert folder == record.folder / "metrics" == content.parent
