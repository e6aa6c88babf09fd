"""Whatever is wrong with what a user gives: one line that says what and what is legal, exit code 2, nothing lost."""

import hashlib
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import QUICK, TINY, Result, call, compile_once  # noqa: F401

from gradflow.claims import experiment
from gradflow.data.load import load_data
from gradflow.runs.readings import TABLES_FORMAT
from gradflow.runs.record import FORMAT

SWEEP = ("sweep", *QUICK, "--steps", 2, "--evaluations", 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A results folder in which a run is finished and published."""
    results = tmp_path_factory.mktemp("finished")
    result = call(*SWEEP, "--results", results)
    assert result.code == 0, result
    return results


def content(folder: Path) -> dict[Path, str]:
    """Every file of a folder, by its digest."""
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def refused(result: Result, *words: str) -> str:
    """Checks that a command was refused as DESIGN.md wants it; returns the line."""
    assert result.code == 2, result
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("gradflow: ")
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err
    return result.err


CASES = {
    "an unknown verb": (("frobnicate",), "frobnicate", "list, run, sweep, plot, judge, describe"),
    "no experiment": (("run",), "gradflow list"),
    "an unknown experiment": (("run", "nonsense"), "'nonsense'", "degradation", "the path of a Python file"),
    "a file that is not there": (("run", "nonsense.py"), "'nonsense.py'", "degradation"),
    "smoke and full": (("run", "degradation", "--smoke", "--full"), "choose one"),
    "an unknown option": (("sweep", "--depht", 8), "--depht", "did you mean --depth?"),
    "initials": (("sweep", "--lr", 0.1), "--lr", "did you mean --learning-rate?"),
    "a part of a name": (("sweep", "--rate", 0.1), "--rate", "did you mean --learning-rate?"),
    "an American": (("sweep", "--normalization", "none"), "did you mean --normalisation?"),
    "nothing like it": (("sweep", "--xyzzy", 1), "--xyzzy", "--help"),
    "an option of another verb": (("plot", "x", "--smoke"), "--smoke", "--help"),
    "a word too many": (("run", "degradation", "more"), "more", "--help"),
    "no number": (("sweep", "--depth", "eight"), "--depth", "'eight'", "INT"),
    "no truth": (("sweep", "--augment", "yes"), "--augment", "'yes'", "'True', 'False'"),
    "no value": (("sweep", "--net", "--depth", 8), "--net has no value"),
    "no last value": (("sweep", "--depth"), "--depth has no value"),
    "an unknown net": (("sweep", "--net", "resnet"), "'resnet'", "plain, residual", "FILE.py:FUNCTION"),
    "an unknown setting's value": (("sweep", "--normalisation", "bn"), "'bn'", "batch, group, layer, none"),
    "a setting the net has not": (("sweep", "--net", "plain", "--shortcut", "B"), "'shortcut'", "it has depth"),
    "one bad value of several": (("sweep", "--net", "plain", "--depth", 8, 9), "depth 9", "even", "8 or 10"),
    "too small a depth": (("sweep", "--depth", 6), "depth 6", "at least 8"),
    "a depth the family lacks": (("sweep", "--family", "imagenet", "--depth", 20), "depth 20", "18, 34, 50, 101, 152"),
    "no steps": (("sweep", "--steps", 0), "steps 0", "at least 1"),
    "negative steps": (("sweep", "--steps", -5), "steps -5", "at least 1"),
    "negative steps of an experiment": (("run", "degradation", "--steps", -5), "steps -5", "at least 1"),
    "no seeds": (("sweep", "--seeds", 0), "seeds 0", "at least 1"),
    "negative seeds": (("run", "degradation", "--seeds", -1), "seeds -1", "at least 1"),
    **{f"no seeds of {name}": (("run", name, "--seeds", 0), "seeds 0", "at least 1") for name in experiment.known()},
    "two nets to describe": (("describe", "plain", "--depth", 20, 56), "depth", "one net at a time"),
    "no workers": (("sweep", "--workers", 0), "workers 0", "1 to"),
    "too many workers": (("sweep", "--workers", 100_000), "workers 100000", "1 to"),
    "unknown data": (("sweep", "--data", "digitz"), "digitz"),
    "data that is not there": (("sweep", "--data", "./nowhere"), "nowhere", "digits"),
    "not results": (("plot", "/dev"), "/dev is no results folder", "readings.parquet"),
    "results that are not there": (("plot", "nowhere"), "nowhere is no results folder"),
    "an unknown net to describe": (("describe", "resnet"), "'resnet'", "plain, residual"),
    "too large a batch": ((*SWEEP, "--batch", 100_000), "100000", "training images"),
    "too large a net": (
        ("sweep", "--net", "plain", *TINY, "--width", 65_536),
        "TiB of memory",
        "GRADFLOW_MAX_NET_BYTES",
    ),
    "too small an image": (("sweep", "--net", "plain", *TINY, "--image-size", 2), "2", "at least"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_arguments_are_one_line_and_lose_nothing(name, finished):
    arguments, *words = CASES[name]
    results = () if arguments[:1] in ((), ("plot",), ("describe",), ("frobnicate",)) else ("--results", finished)
    if name == "no last value":
        arguments = (arguments[0], *results, *arguments[1:])
        results = ()
    before = content(finished / "sweep")
    refused(call(*arguments, *results), *words)
    left = content(finished / "sweep")
    assert {path: left.get(path) for path in before} == before


def idx(values: np.ndarray) -> bytes:
    return b"\0\0\x08" + struct.pack(f">B{values.ndim}I", values.ndim, *values.shape) + values.tobytes()


def write_idx(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(np.arange(40, dtype=np.uint8) % 4))


def empty(folder: Path) -> None:
    pass


def truncated_idx(folder: Path) -> None:
    write_idx(folder)
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])


def missing_sibling(folder: Path) -> None:
    write_idx(folder)
    (folder / "t10k-labels-idx1-ubyte").unlink()


def truncated_parquet(folder: Path) -> None:
    wrong_schema(folder)
    path = folder / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def wrong_schema(folder: Path) -> None:
    for split in ("train", "test"):
        pq.write_table(pa.table({"text": ["a", "b"]}), folder / f"{split}-00000-of-00001.parquet")


def images_of_nothing(folder: Path) -> None:
    for split in ("train", "test"):
        (folder / split / "cat").mkdir(parents=True)
        (folder / split / "cat" / "1.png").write_bytes(b"no image")


def wrong_labels(folder: Path) -> None:
    """Labels beyond the classes that the file itself names."""
    from io import BytesIO

    from PIL import Image

    png = BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(png, "PNG")
    features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}, "image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for split in ("train", "test"):
        rows = pa.table({"image": [{"bytes": png.getvalue(), "path": None}] * 3, "label": [0, 1, 7]})
        pq.write_table(rows.replace_schema_metadata(metadata), folder / f"{split}-00000-of-00001.parquet")


DATA = {
    empty: "legal are",
    truncated_idx: "train-images-idx3-ubyte",
    missing_sibling: "t10k-images-idx3-ubyte has no partner",
    truncated_parquet: "train-00000-of-00001.parquet",
    wrong_schema: "image",
    images_of_nothing: "1.png",
    wrong_labels: "7",
}


@pytest.mark.parametrize("make", DATA, ids=lambda make: make.__name__)
def test_broken_data_are_one_line_and_lose_nothing(make, finished, tmp_path):
    make(tmp_path)
    before = content(finished / "sweep")
    refused(call(*SWEEP, "--data", tmp_path, "--results", finished), DATA[make])
    assert content(finished / "sweep") == before


def test_the_data_of_these_tests_are_good_where_nothing_is_broken(tmp_path):

    write_idx(tmp_path)
    assert len(load_data(str(tmp_path)).train_labels) == 40


@pytest.mark.parametrize("inside", ["", "deeper/still"])
def test_a_results_folder_that_cannot_be_written(tmp_path, inside):
    (tmp_path / "file").write_text("a file where the folder should be")
    refused(call(*SWEEP, "--results", tmp_path / "file" / inside), "cannot write", "choose another --results folder")
    assert (tmp_path / "file").read_text() == "a file where the folder should be"


def test_results_of_another_version(finished, tmp_path):
    results = Path(shutil.copytree(finished, tmp_path / "results"))
    path = next(results.glob("sweep/runs/*/config.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))
    before = content(results)
    refused(
        call(*SWEEP, "--results", results), f"results format {FORMAT + 1}", f"reads {FORMAT}", "another results folder"
    )
    published = results / "sweep" / "readings.parquet"
    assert call("plot", results / "sweep").code == 0  # what is published is still of this version
    pq.write_table(pq.read_table(published).replace_schema_metadata({"gradflow_format": "0"}), published)
    refused(call("plot", results / "sweep"), "results format 0", f"reads {TABLES_FORMAT}")
    after = content(results)
    assert {path for path in before if after[path] != before[path]} == {published}


@pytest.mark.parametrize("name", ["config.json", "status.json"])
def test_a_broken_record_is_one_line_with_the_way_out(finished, tmp_path, name):
    results = Path(shutil.copytree(finished, tmp_path / "results"))
    path = next(results.glob(f"sweep/runs/*/{name}"))
    path.write_text('{"state": "do')
    line = refused(call(*SWEEP, "--results", results), "cannot read", str(path), "remove it and run again")
    assert line.count(str(results)) == 1
    path.unlink()
    assert call(*SWEEP, "--results", results).code == 0
    for table in ("runs.csv", "readings.parquet"):
        assert (results / "sweep" / table).read_bytes() == (finished / "sweep" / table).read_bytes()


MINE = '''"""My own idea."""
import gradflow as gf

def runs(preset, **overrides):
    return gf.grid(1, net=("plain",), depth=(8,))

def verdict(table):
    return gf.Verdict("title", ())

def figure(table, verdict):
    return {}
'''
BROKEN = {
    "does not parse": (MINE + "def broken(:\n", "does not load: SyntaxError"),
    "does not import": (
        "import no_such_module\n" + MINE,
        "does not load: ModuleNotFoundError: No module named",
        "(line 1)",
    ),
    "lacks verdict": (MINE.replace("def verdict", "def opinion"), "lacks verdict", "runs, verdict and figure"),
    "lacks all": ('"""Nothing."""\n', "lacks runs, verdict, figure"),
    "has no such runs": (MINE.replace("**overrides", "colour"), "runs is no function of (preset)", "'colour'"),
    "has illegal runs": (MINE.replace("(8,)", "(9,)"), "depth 9", "even"),
    "asks for what is not there": (
        MINE.replace('"""My', "x = 1 / 0\n'''My").replace('idea."""', "idea.'''"),
        "ZeroDivision",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_experiment_of_ones_own(name, tmp_path):
    text, *words = BROKEN[name]
    (tmp_path / "mine.py").write_text(text)
    refused(call("run", tmp_path / "mine.py", "--results", tmp_path / "results"), *words)
    assert not (tmp_path / "results").exists()


def test_it_is_the_same_from_a_shell(tmp_path):
    command = [sys.executable, "-m", "gradflow", "run", "nonsense", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    refused(Result(done.returncode, done.stdout, done.stderr), "degradation")
    assert done.stdout == ""
