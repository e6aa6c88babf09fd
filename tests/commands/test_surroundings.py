"""What is around a command: a folder of somebody else's, the locale, the current directory, names of paths."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import TINY, Result, call
from PIL import Image

from gradflow.runs import published

IN_ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
HOSTILE = "a\x1b[31m\x1b]0;title\x07\nb\u202ec"
MINE = '''"""My own idea."""
from pathlib import Path

import gradflow as gf

Path(__file__).with_name("was_run").touch()


def runs(preset, **overrides):
    return gf.grid(1, net=("plain",), depth=(8,))


def verdict(table):
    return gf.Verdict("My title", (), {"rows": len(table)})


def figure(table, verdict):
    return {"mine": gf.plot.errors(table, title=verdict.title)}
'''


def publish(folder: Path, **verdict: Any) -> Path:
    """A results folder with a run of two readings, and a verdict if one is given."""
    runs = pd.DataFrame([{"run": "one", "net": "plain", "depth": 8, "data": "digits", "seed": 0, "status": "done"}])
    readings = [{"run": "one", "step": 1, "layer": "", "position": -1, "quantity": "train_error", "value": 0.5}]
    published.publish(folder, runs, pd.DataFrame(readings))
    if verdict:
        content = {"outcome": "NOT JUDGED", "made": {"command": "gradflow run mine.py"}, **verdict}
        (folder / "verdict.json").write_text(json.dumps(content))
    return folder


def refused(result: Result, *words: str) -> None:
    """Checks that a command ended in one line."""
    assert result.code == 2, result
    assert result.err.count("\n") == 1, result.err
    assert result.err[:-1].isprintable()
    for word in words:
        assert word in result.err


@pytest.mark.parametrize("verb", ["plot", "judge"])
def test_a_folder_runs_no_file_that_the_user_did_not_name(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "elsewhere" / "mine.py"
    mine.parent.mkdir()
    for path in (mine, tmp_path / "mine.py"):
        path.write_text(MINE)
    for named in (str(mine), "elsewhere/mine.py", "mine.py"):
        refused(call(verb, publish(tmp_path / "results", experiment=named)), "'mine.py'", "--experiment FILE")
    assert not [*tmp_path.rglob("was_run")]
    named = call(verb, tmp_path / "results", "--experiment", mine.rename(tmp_path / "moved.py"))
    assert named.code == 0, named
    assert ("mine.svg" in named.out) == (verb == "plot")
    assert ("rows: 1" in named.out) == (verb == "judge")
    assert (tmp_path / "was_run").exists()


def test_messages_of_names_are_lines_of_visible_characters(tmp_path):
    refused(call("plot", HOSTILE), r"\x1b[31m\x1b]0;title\x07\nb\u202ec")
    refused(call("run", f"{HOSTILE}.py"))
    refused(call("sweep", "--net", HOSTILE))
    refused(call("sweep", "--data", HOSTILE))
    refused(call("sweep", "--normalisation", HOSTILE))
    refused(call("plot", publish(tmp_path, experiment=HOSTILE)))
    broken = tmp_path / "broken.py"
    broken.write_text(f"raise ValueError({HOSTILE!r})")
    refused(call("run", broken), "ValueError: a")
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    plotted = call("plot", publish(tmp_path / HOSTILE), "--experiment", mine)
    assert plotted.code == 0, plotted
    assert [line.isprintable() for line in plotted.out[:-1].split("\n")] == [True]


def test_a_path_that_is_no_text_is_one_line(tmp_path):
    refused(call("plot", os.fsdecode(b"b\xffd")), r"b\udcffd is not text in utf-8")
    refused(call("sweep", "--data", os.fsdecode(b"b\xffd")), "is not text")
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/b\xffd"))
    odd.mkdir()
    before = Path.cwd()
    os.chdir(odd)
    try:
        refused(call("sweep", "--net", "plain", *TINY), "is not named in UTF-8")
    finally:
        os.chdir(before)


@pytest.mark.parametrize("verb", [("plot", "a" * 300), ("judge", "a" * 300), ("run", "a" * 300 + ".py")])
def test_a_path_that_is_too_long_is_one_line(verb):
    refused(call(*verb), "File name too long")


def test_a_deleted_directory_is_one_line(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for arguments in (("plot", "."), ("judge", "x"), ("sweep", "--net", "plain", *TINY), ("run", "border", "--smoke")):
        refused(call(*arguments), "the current directory has been deleted")


def test_a_folder_with_a_colon_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    publish(Path("published"))
    measures = (
        "import pandas\n\ndef measure(preset, folder, **overrides):\n"
        "    return pandas.read_csv('published/runs.csv'), pandas.read_parquet('published/readings.parquet')\n"
    )
    Path("mine.py").write_text(MINE.replace("def runs", "def other_runs") + measures)
    made = call("run", "mine.py", "--results", "x:y")
    assert made.code == 0, made
    assert "x:y/mine" in made.out
    assert call("plot", "x:y/mine", "--experiment", "mine.py").code == 0


def in_the_locale(*arguments: str) -> Result:
    environment = {**os.environ, **IN_ASCII}
    command = [sys.executable, "-P", "-m", "gradflow", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    return Result(done.returncode, done.stdout.decode("ascii"), done.stderr.decode("ascii"))


def in_the_terminal(*arguments: str) -> Result:
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    done = call(*arguments, out=terminal)
    terminal.flush()
    return done._replace(out=terminal.buffer.getvalue().decode("ascii"))  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("give", [in_the_locale, in_the_terminal])
def test_ascii_is_enough(give, tmp_path):
    publish(tmp_path / "results", experiment="border", made={"command": "×"})
    mine = tmp_path / "mine.py"
    mine.write_text(MINE.replace("My title", "×10⁻⁸"), "utf-8")
    done = give("judge", str(tmp_path / "results"), "--experiment", str(mine))
    assert (done.code, done.err) == (0, "")
    assert done.out == "rows: 1\nNOT JUDGED: \\xd710\\u207b\\u2078\n"


NAMES = (
    '"""The names of classes: naïve, ×10⁻⁸."""\nimport gradflow as gf, pandas as pd\n'
    + """
RUNS = pd.DataFrame({"run": ["é"], "net": ["Ω-Netz"], "seed": [0], "steps": [1], "status": ["done"]})
ROW = {"run": "é", "step": 1, "layer": "schicht_ä", "position": 1, "quantity": "activation_gradient_norm", "value": 1.0}
READINGS = pd.DataFrame([ROW, {**ROW, "layer": "b", "position": 2, "value": 2.0}])
def measure(preset, folder, **overrides):
    return RUNS, READINGS
def verdict(table):
    classes = gf.load_data("photos", validation=1).classes
    return gf.Verdict(f"Classes {', '.join(classes)}: ×10⁻⁸", (), {"classes": classes, "net": table.net.iloc[0]})
def figure(table, verdict):
    return {"größe": gf.plot.gradient_curves(table, title=verdict.title, note="naïve")}
"""
)


def test_what_is_written_is_utf8_in_any_locale(tmp_path):
    """README, verdict and figure of non-ASCII names are those of a UTF-8 locale, to the byte but for the seconds."""
    for name in ("café", "日本", "ascii"):
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (4, 4), number).save(tmp_path / "photos" / "train" / name / f"{number}.png")
    (tmp_path / "own.py").write_text(NAMES, "utf-8")
    own = "results/own"
    utf8 = {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
    written = {}
    for kind, locale in (("ascii", IN_ASCII), ("utf-8", utf8)):
        command = [sys.executable, "-P", "-m", "gradflow", "run", "own.py"]
        environment = {**os.environ, **locale}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        files = [path for path in (tmp_path / own).iterdir() if path.suffix in (".md", ".json", ".svg")]
        written[kind] = {os.fsencode(path.name): path.read_bytes().decode("utf-8") for path in files}
        (tmp_path / "results").rename(tmp_path / kind)
    assert {*written["ascii"]} == {b"README.md", b"verdict.json", "größe.svg".encode()}
    for name, text in written["ascii"].items():
        assert re.sub(r"runs took \d+|_seconds\W+\d+", "", text) == re.sub(
            r"runs took \d+|_seconds\W+\d+", "", written["utf-8"][name]
        )
    assert "Classes ascii, café, 日本: ×10⁻⁸" in written["ascii"][b"README.md"]
    assert "naïve" in written["ascii"][b"README.md"]
    assert json.loads(written["ascii"][b"verdict.json"])["facts"] == {
        "classes": ["ascii", "café", "日本"],
        "net": "Ω-Netz",
    }


def test_a_variable_that_jax_refuses_is_one_line():
    command = [sys.executable, "-P", "-m", "gradflow", "describe", "mlp"]
    environment = {**os.environ, "JAX_ENABLE_X64": "perhaps"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    refused(Result(done.returncode, done.stdout, done.stderr), "JAX refuses a variable", "perhaps", "JAX_ENABLE_X64")
