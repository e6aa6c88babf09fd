"""The results store against its plainest twin: lists written down beside it, and what pyarrow alone reads back."""

import contextlib
import itertools
import json
import math
import threading
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gradflow as gf
from gradflow.errors import BadInput
from gradflow.runs import files, published, table
from gradflow.runs.readings import READINGS, TABLES_FORMAT
from gradflow.runs.record import FORMAT, Record

LAYERS = ("stem", "block01", "block01/conv1", "block02")
ODD = (math.nan, math.inf, -math.inf, 1e-45, -0.0, 3.4028235e38)  # each at the edge of float32 or beyond numbers
SETTINGS = {"net": "plain", "depth": 8, "width": None, "normalisation": "none", "learning_rate": 0.1 + 0.2}
SETTINGS |= {"augment": False}
BESIDE = {"data": {}, "counts": {}, "machine": {}}  # what else a configuration has


def fill(record: Record, steps: range, flush_at: tuple[int, ...] = ()) -> list[tuple]:
    """Adds readings of two kinds, and returns them as plain rows: step, layer, position, quantity, value."""
    rows = []
    for step in steps:
        record.add(step, "loss", [""], [-1], [1 / step])
        values = [ODD[(step + place) % len(ODD)] for place in range(len(LAYERS))]
        record.add(step, "weight_norm", LAYERS, range(len(LAYERS)), values)
        rows.append((step, "", -1, "loss", 1 / step))
        rows += [(step, layer, place, "weight_norm", values[place]) for place, layer in enumerate(LAYERS)]
        if step in flush_at:
            record.flush()
    return rows


def make(folder, name: str, seed: int, state: str = "done", steps: int = 4) -> Record:
    record = Record(folder / "runs" / name)
    record.write_config({"run": {**SETTINGS, "seed": seed, "steps": steps}, **BESIDE})
    fill(record, range(1, steps + 1), flush_at=(2, steps))
    record.write_status(state, step=steps)
    return record


def assert_rows(found: pa.Table, rows: list[tuple]) -> None:
    expected = [np.array(column) for column in zip(*rows, strict=True)]
    for name, column in zip(("step", "layer", "position", "quantity"), expected, strict=False):
        assert found[name].to_pylist() == column.tolist()
    np.testing.assert_array_equal(found["value"].to_numpy(), expected[-1].astype(np.float32))  # nan equals nan here
    assert np.signbit(found["value"].to_numpy()).tolist() == np.signbit(expected[-1]).tolist()


@pytest.mark.parametrize("flush_at", [(6,), (2, 4, 6), (1, 2, 3, 4, 5, 6), (5, 6)])
def test_what_goes_in_comes_out_however_it_is_cut_into_parts(tmp_path, flush_at):
    record = Record(tmp_path / "a=b, and spaces" / "run")
    rows = fill(record, range(1, 7), flush_at)
    assert_rows(record.readings(), rows)
    assert len(list(record.folder.glob("metrics/*"))) == len(flush_at)
    assert_rows(Record(record.folder).readings(), rows)  # and for another process


def test_the_columns_are_small_and_the_names_are_dictionaries(tmp_path):
    record = Record(tmp_path)
    fill(record, range(1, 3), (2,))
    found = pq.read_table(next(tmp_path.glob("metrics/part-000000002-*.parquet")))
    for name in ("layer", "quantity"):
        assert found.schema.field(name).type == pa.dictionary(pa.int32(), "string")
    assert [str(found.schema.field(name).type) for name in ("step", "position", "value")] == ["int32", "int32", "float"]
    assert found.schema.metadata[b"gradflow_format"] == str(TABLES_FORMAT).encode()


def test_what_is_not_flushed_is_not_on_disk_and_flushing_nothing_writes_nothing(tmp_path):
    record = Record(tmp_path)
    record.flush()
    assert not list(tmp_path.iterdir())
    fill(record, range(1, 3))
    assert len(record.readings()) == 0
    assert record.readings().schema == READINGS


@pytest.mark.parametrize("step", [0, 2, 4, 6])
def test_drop_after_forgets_exactly_what_is_later(tmp_path, step):
    record = Record(tmp_path)
    rows = fill(record, range(1, 7), (2, 4, 6))
    fill(record, range(7, 9))  # not flushed: forgotten in any case
    record.drop_after(step)
    record.flush()
    left = [row for row in rows if row[0] <= step]
    found = record.readings()
    assert len(found) == len(left)
    if left:
        assert_rows(found, left)
    again = fill(record, range(step + 1, 10), (9,))
    assert_rows(record.readings(), [*left, *again])


@pytest.mark.parametrize("step", [1, 3, 7])
def test_a_checkpoint_to_which_no_readings_lead_is_refused(tmp_path, step):
    record = Record(tmp_path)
    fill(record, range(1, 7), (2, 4, 6))
    with pytest.raises(BadInput, match=f"does not add up: its readings end at .* its checkpoint is of step {step}"):
        record.drop_after(step)


def test_a_reader_never_sees_half_a_part(tmp_path):
    """One thread writes parts, another reads all the while: what it sees is a whole number of parts, in order."""
    record, seen, done = Record(tmp_path), [], threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                seen.append(Record(tmp_path).readings()["step"].to_pylist())
            except BadInput as error:
                seen.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(1, 120):
        record.add(step, "weight_norm", LAYERS, range(len(LAYERS)), np.ones(len(LAYERS)))
        record.flush()
    done.set()
    reader.join()
    assert len({len(steps) for steps in seen}) > 1  # it did read while they were written
    for steps in seen:
        assert steps == [step for step in range(1, len(steps) // len(LAYERS) + 1) for _ in LAYERS]


def test_who_has_a_file_open_keeps_what_it_was(tmp_path):
    """A file is replaced, never written over: another name of the old one still holds all of the old content."""
    record, path = Record(tmp_path), tmp_path / "status.json"
    record.write_status("running", step=1)
    before = path.read_bytes()
    path.with_name("old").hardlink_to(path)
    record.write_status("running", step=2)
    assert path.with_name("old").read_bytes() == before
    assert path.read_bytes() != before
    assert record.status["step"] == 2


def test_what_a_crash_leaves_of_a_part_is_not_read(tmp_path):
    record = Record(tmp_path)
    rows = fill(record, range(1, 3), (2,))
    with contextlib.suppress(RuntimeError), files.replacing(tmp_path / "metrics" / "part-000000009.parquet") as half:
        half.write_bytes(b"PAR1 half")
        assert half.exists()
        assert_rows(record.readings(), rows)
        raise RuntimeError
    assert not half.exists()
    half.write_bytes(b"PAR1 half")  # after a kill it is still there
    assert_rows(record.readings(), rows)
    record.drop_after(0)
    assert len(record.readings()) == 0


def test_the_status_is_queued_until_it_is_written(tmp_path):
    record = Record(tmp_path / "run")
    assert (record.status, record.config, record.finished) == ({"state": "queued", "step": 0}, None, False)
    record.write_config({"run": {**SETTINGS, "steps": 3}, **BESIDE})
    fill(record, range(1, 4), (3,))
    for state, finished in [("running", False), ("failed", False), ("done", True), ("diverged", True)]:
        record.write_status(state, step=3)
        assert record.finished == finished
    assert json.loads((tmp_path / "run" / "status.json").read_text()) == {"state": "diverged", "step": 3}


def test_one_process_at_a_time_has_the_lock(tmp_path):
    one, two = Record(tmp_path / "run"), Record(tmp_path / "run")
    with one.lock() as ours:
        assert ours
        with two.lock() as theirs:
            assert not theirs
    with two.lock() as theirs:
        assert theirs


@pytest.mark.parametrize("kind", ["category", "str"])
def test_settings_are_joined_as_a_merge_would(tmp_path, kind):
    records = [make(tmp_path, name, seed) for seed, name in enumerate(("b", "a", "c"))]
    runs: Any
    readings: Any
    runs, readings = table.collect(records)
    names = ["run", "layer", "quantity"]
    readings = readings[readings["step"] != 2].sample(frac=1, random_state=0).astype(dict.fromkeys(names, kind))
    runs = pd.concat([runs.sample(frac=1, random_state=1), runs.head(1).assign(run="without readings")])
    merged = readings.astype(dict.fromkeys(names, str) | {"value": float}).merge(runs, on="run", how="left")
    assert len(merged) == len(readings) > 0
    pd.testing.assert_frame_equal(table.join(runs, readings), merged)
    pd.testing.assert_frame_equal(table.join(runs, readings.head(0)), merged.head(0))
    with pytest.raises(ValueError, match="two rows"):
        table.join(pd.concat([runs, runs]), readings)


def test_raw_and_published_results_are_one_table(tmp_path):
    for seed, state in enumerate(("done", "diverged", "failed", "running")):
        make(tmp_path, f"run-{seed}", seed, state, steps=4 + seed)
    (tmp_path / "runs" / "begun").mkdir()  # a run that has a folder and nothing in it yet
    (tmp_path / "runs" / "notes.txt").write_text("a file of somebody's")
    raw = gf.load(tmp_path)
    runs, readings = table.collect([Record(folder) for folder in sorted((tmp_path / "runs").glob("[br]*"))])
    published.publish(tmp_path, runs, readings)
    pd.testing.assert_frame_equal(gf.load(tmp_path), raw)
    pd.testing.assert_frame_equal(gf.load(str(tmp_path)), raw)
    first = pq.read_table(tmp_path / "readings.parquet"), (tmp_path / "runs.csv").read_bytes()
    published.publish(tmp_path, *table.collect([Record(tmp_path / "runs" / f"run-{seed}") for seed in range(4)]))
    assert (pq.read_table(tmp_path / "readings.parquet"), (tmp_path / "runs.csv").read_bytes()) == first


def test_the_long_table_holds_every_reading_and_every_setting(tmp_path):
    for seed in range(2):
        make(tmp_path, f"run-{seed}", seed)
    frame: Any = gf.load(tmp_path)
    assert list(frame.columns[:6]) == ["run", "step", "layer", "position", "quantity", "value"]
    assert list(frame.columns[6:]) == [*SETTINGS, "seed", "steps", "status", "last_step"]
    assert len(frame) == 2 * 4 * (1 + len(LAYERS))
    assert set(frame.learning_rate) == {0.1 + 0.2}  # to the last bit, through the text of a csv
    assert frame.width.isna().all()
    assert set(frame.normalisation) == {"none"}  # a word, not a missing value
    assert frame.augment.dtype == bool
    expected = list(itertools.chain(*[fill(Record(tmp_path / "never"), range(1, 5)) for _ in range(2)]))
    np.testing.assert_array_equal(frame.value, np.array([row[-1] for row in expected], np.float32))
    assert frame[frame.layer == ""].position.eq(-1).all()


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("keep", [0, 3, 200, -9])
def test_a_truncated_part_is_one_line(tmp_path, keep):
    record = make(tmp_path, "run", 0)
    part = next(record.folder.glob("metrics/part-000000004-*.parquet"))
    part.write_bytes(part.read_bytes()[:keep])
    with pytest.raises(
        BadInput, match=r"run does not add up: part-000000004-.* is not what was written; remove the folder and run"
    ) as error:
        gf.load(tmp_path)
    one_line(error)


@pytest.mark.parametrize("name", ["readings.parquet", "runs.csv"])
def test_a_truncated_published_table_is_one_line(tmp_path, name):
    published.publish(tmp_path, *table.collect([make(tmp_path, "run", 0)]))
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadInput, match=rf"cannot read .*{name}: .*; remove it and run again|does not add up") as error:
        gf.load(tmp_path)
    one_line(error)


@pytest.mark.parametrize("column", ["run", "layer", "quantity"])
def test_a_published_name_that_is_no_text_is_one_line(tmp_path, column):
    published.publish(tmp_path, *table.collect([make(tmp_path, "run", 0)]))
    path = tmp_path / "readings.parquet"
    readings = pq.read_table(path)
    ends = pa.py_buffer(np.array([0, 1], np.int32).tobytes())
    names = pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(b"\x80")])
    wrong = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(readings), np.int32)), names)
    pq.write_table(readings.set_column(readings.schema.get_field_index(column), column, wrong), path)
    with pytest.raises(BadInput, match=r"cannot read .*readings.parquet: .*Invalid UTF8.*; remove it and run") as error:
        gf.load(tmp_path)
    one_line(error)


@pytest.mark.parametrize("content", ["", "{", "[1]", "3", "\xff"])
@pytest.mark.parametrize("name", ["config.json", "status.json"])
def test_a_broken_json_file_is_one_line(tmp_path, name, content):
    record = make(tmp_path, "run", 0)
    (record.folder / name).write_text(content, encoding="latin-1")
    with pytest.raises(BadInput, match=f"cannot read .*{name}") as error:
        gf.load(tmp_path)
    one_line(error)


def test_results_of_another_version_are_refused(tmp_path):
    record = make(tmp_path, "run", 0)
    published.publish(tmp_path, *table.collect([record]))
    path = tmp_path / "readings.parquet"
    for metadata in (None, {"gradflow_format": str(TABLES_FORMAT + 1)}):
        pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
        with pytest.raises(BadInput, match=f"results format .*, this version reads {TABLES_FORMAT}"):
            gf.load(tmp_path)
    path.unlink()
    content = json.loads((record.folder / "config.json").read_text())
    assert content["format"] == FORMAT
    (record.folder / "config.json").write_text(json.dumps({**content, "format": FORMAT + 1}))
    with pytest.raises(BadInput, match=f"run has the results format {FORMAT + 1}, this version reads {FORMAT}"):
        gf.load(tmp_path)
    with pytest.raises(BadInput, match="use another results folder"):
        record.finished  # noqa: B018


def test_a_folder_without_results_is_one_line(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BadInput, match="is no results folder"):
            gf.load(folder)
    (tmp_path / "runs").mkdir()
    with pytest.raises(BadInput, match="run the experiment first"):
        gf.load(tmp_path)


def test_what_cannot_be_written_is_one_line_and_the_old_file_stays(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):  # nan is no JSON: nothing half is left
        files.write_json(tmp_path / "a.json", {"a": math.nan})
    assert files.read_json(tmp_path / "a.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    for target in (tmp_path / "a.json" / "b.json", tmp_path / "a.json" / "b" / "c.json"):  # a file is in the way
        with pytest.raises(BadInput, match=r"cannot write .*intact") as error:
            files.write_json(target, {})
        one_line(error)
    with pytest.raises(BadInput, match=r"cannot write .*choose another"), Record(tmp_path / "a.json" / "run").lock():
        pass
