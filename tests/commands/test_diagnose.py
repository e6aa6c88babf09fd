"""`gradflow diagnose` as a person types it: a results folder, a run, and whatever is none."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import QUICK, ROOT, call, compile_once  # noqa: F401

from gradflow.runs.record import FORMAT

PUBLISHED = ROOT / "results" / "nin_head"


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """Two seeds of a tiny net, two steps."""
    results = tmp_path_factory.mktemp("swept")
    words = ("sweep", *QUICK, "--steps", 2, "--evaluations", 0, "--seeds", 2)
    result = call(*words, "--workers", 1, "--results", results)
    assert result.code == 0, result
    return results / "sweep"


def test_a_results_folder_is_a_paragraph_a_setting(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    result = call("diagnose", PUBLISHED)
    assert (result.code, result.err) == (0, "")
    first = [line for line in result.out.splitlines() if line and not line.startswith(" ")]
    assert len(first) == 4 * (3 + 1)  # four nets, each at three rates by the seed that chooses, and at the best one
    assert "head pool, dropout 0.5, validation 0, learning rate 0.05, 4 seeds: healthy" in first
    assert max(map(len, result.out.splitlines())) <= 100


def test_a_folder_of_runs_one_run_by_name_and_one_by_its_folder(swept, tmp_path):
    both = call("diagnose", swept)
    assert both.code == 0, both
    assert both.out.startswith("mlp 2, 2 seeds: ")
    run = sorted(path for path in (swept / "runs").iterdir() if path.is_dir())[1]
    named, folder = call("diagnose", swept, "--run", run.name), call("diagnose", run)
    assert (named.code, folder.code) == (0, 0)
    assert named.out.startswith("mlp 2, 1 seed: ")
    assert "one seed: no interval" in named.out
    assert folder.out == named.out
    raw = shutil.copytree(swept / "runs", tmp_path / "runs").parent  # not published
    assert call("diagnose", raw).out == both.out
    at = call("diagnose", swept, "--step", 1)
    assert at.code == 0
    assert "step 2" not in at.out


def refused(*arguments: object) -> str:
    result = call("diagnose", *arguments)
    assert (result.code, result.out) == (2, ""), result
    assert result.err.startswith("gradflow: ")
    assert result.err.count("\n") == 1
    return result.err


def test_what_cannot_be_diagnosed_is_one_line(swept, tmp_path):
    assert "no results folder" in refused(tmp_path)
    assert "no results folder" in refused(tmp_path / "nowhere")
    assert "no activation_gradient_norm, but compile_seconds" in refused(ROOT / "results" / "overhead")
    assert "step 3 was not recorded: choose one of 1, 2" in refused(swept, "--step", 3)
    assert "there is no run 'plain'" in refused(swept, "--run", "plain")
    assert "did you mean --step?" in refused(swept, "--steps", 3)


def test_a_run_of_another_version_or_that_does_not_add_up_is_one_line(swept, tmp_path):
    run = next(path for path in (swept / "runs").iterdir() if path.is_dir())
    other = shutil.copytree(run, tmp_path / run.name)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"format": FORMAT + 1}))
    assert f"results format {FORMAT + 1}, this version reads {FORMAT}" in refused(other)
    renamed = shutil.copytree(run, tmp_path / "renamed")
    assert "does not add up" in refused(renamed)


def test_a_run_without_readings_yet_is_one_line(swept, tmp_path):
    run = next(path for path in (swept / "runs").iterdir() if path.is_dir())
    begun = shutil.copytree(run, tmp_path / run.name)
    shutil.rmtree(begun / "metrics")
    (begun / "status.json").unlink()
    assert "no readings at all" in refused(begun)
