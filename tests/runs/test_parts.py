"""The readings of a run, in parts, against lists written down beside them and what pyarrow alone reads back."""

import contextlib
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from records import LAYERS, assert_rows, fill, make, one_line

import gradflow as gf
from gradflow.errors import BadInput
from gradflow.runs import files
from gradflow.runs.readings import READINGS, TABLES_FORMAT
from gradflow.runs.record import Record


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
