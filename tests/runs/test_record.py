"""The folder of one run: its status, its lock, its files."""

import json

import pytest
from records import BESIDE, SETTINGS, fill, make, one_line

import gradflow as gf
from gradflow.errors import BadInput
from gradflow.runs.record import Record


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


@pytest.mark.parametrize("content", ["", "{", "[1]", "3", "\xff"])
@pytest.mark.parametrize("name", ["config.json", "status.json"])
def test_a_broken_json_file_is_one_line(tmp_path, name, content):
    record = make(tmp_path, "run", 0)
    (record.folder / name).write_text(content, encoding="latin-1")
    with pytest.raises(BadInput, match=f"cannot read .*{name}") as error:
        gf.load(tmp_path)
    one_line(error)
