"""Raw and published results as tables, and what is no such thing, in one line."""

import itertools
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from records import LAYERS, SETTINGS, fill, make, one_line

import gradflow as gf
from gradflow.errors import BadInput
from gradflow.runs import files, published, table
from gradflow.runs.readings import TABLES_FORMAT
from gradflow.runs.record import FORMAT, Record


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
