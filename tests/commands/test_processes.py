"""The processes that a command is: signals, streams that are closed or full, and what is in the current directory."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import TINY, call, compile_once  # noqa: F401
from own_experiment import line_of, run_own

import gradflow as gf

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses /dev/full and signals")
COMMAND = [sys.executable, "-P", "-m", "gradflow"]
SWEEP = ["sweep", "--net", "plain", *TINY, "--steps", "2", "--evaluations", "0", "--workers", "1"]


def test_a_signal_at_any_moment_of_the_start_is_one_line_and_exit_code_130():
    delays = random.Random(0)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job would hand down that it is ignored
    for number in (signal.SIGINT, signal.SIGTERM) * 4:
        words = [*COMMAND, "describe", "residual", "--depth", "110"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(delays.uniform(0.2, 1.2))  # Python's own start takes less
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (130, "gradflow: stopped; the same command goes on from here\n")


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full", ">&-", ">&- 2>&-", "<&-"])
def test_a_sweep_whose_streams_are_closed_or_full_is_published(tmp_path, streams):
    command = " ".join([*COMMAND, *SWEEP, "--results", str(tmp_path), streams])
    assert subprocess.run(command, shell=True, timeout=300, capture_output=True).returncode == 0
    assert set(gf.load(tmp_path / "sweep").status) == {"done"}


def test_a_worker_ends_with_half_a_job_line():
    worker = subprocess.Popen([*COMMAND, "worker", "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    worker.communicate(b'{"run": "x", "sett', timeout=60)
    assert worker.returncode == 0


def test_what_lies_in_the_current_directory_is_not_imported(tmp_path):
    """By no process that gradflow starts; its own start is up to the user's Python."""
    for name in ("json.py", "gradflow/__init__.py", "gradflow/__main__.py", "numpy.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("from pathlib import Path; Path(__file__ + '.ran').touch(); raise SystemExit(9)")
    done = subprocess.run(
        [*COMMAND, *SWEEP, "--results", "results"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.ran"))


def test_a_users_net_that_prints_and_reads_does_not_disturb_its_worker(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import sys\nfrom gradflow.nets.mlp import mlp\nprint('{\"event\": \"done\"}')\nprint('x', file=sys.stderr)\n"
        "def build(*, classes, channels, seed, image, depth: int = 2):\n"
        "    print('building')\n    assert not sys.stdin.read()\n"
        "    return mlp(classes=classes, channels=channels, seed=seed, image=image, depth=depth, width=4)\n"
    )
    words = ["sweep", "--net", "mine.py:build", "--steps", "2", "--workers", "1", "--results", "results"]
    done = subprocess.run([*COMMAND, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    status = next(tmp_path.glob("results/sweep/runs/*/status.json"))
    assert json.loads(status.read_text())["state"] == "done"


@pytest.mark.parametrize("ending", ["raise SystemExit(0)", "exit()", "f = lambda: f()\nf()"])
@pytest.mark.parametrize("place", ["", "def runs(preset, **overrides):\n    "])
def test_a_users_experiment_that_exits_is_one_line(tmp_path, ending, place):
    path = Path(tmp_path / "mine.py")
    rest = "def verdict(table): ...\ndef figure(table, verdict): ...\n"
    path.write_text(f"{rest}{place}{ending.replace(chr(10), chr(10) + '    ' * bool(place))}\n")
    result = call("run", path, "--results", tmp_path / "results")
    assert result.code == 2, result
    assert result.err.count("\n") == 1
    assert "line " in result.err
    assert "mine.py" in result.err
    assert os.listdir(tmp_path) == ["mine.py"]


def test_numbers_of_numpy_in_a_verdict_are_numbers(tmp_path):
    assert run_own(tmp_path).code == 0
    said = json.loads((tmp_path / "results" / "own" / "verdict.json").read_text())
    assert said["facts"] == {"a": [0, 1], "3": None}
    assert said["findings"][0]["missing"] == [1]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("return RUNS, READINGS", "return None", "measure must return two tables"),
        ("return RUNS, READINGS", "return RUNS.drop(columns='status'), READINGS", "lacks the column 'status'"),
        ("return RUNS, READINGS", "return RUNS, READINGS.drop(columns='step')", "lacks the column 'step'"),
        ("def measure(preset, folder, **overrides):\n    return RUNS, READINGS", "def runs(preset): return []", "none"),
        (
            "def measure(preset, folder, **overrides):\n    return RUNS, READINGS",
            "def runs(preset): return [3]",
            "not of",
        ),
        ("def verdict(table)", "def verdict()", "verdict is no function of (table)"),
        ("def figure(table, verdict)", "def figure(table)", "figure is no function of (table, verdict)"),
        ("return gf.Verdict(", "return (", "verdict must return a gradflow.Verdict"),
        ("np.arange(2)", "object()", "a fact of a verdict is a object"),
        ('return gf.Verdict("t"', "return gf.Verdict(3", "Verdict: title is 3; legal is text (line"),
        ("return {}", "return None", "figure must return"),
        ("return {}", "1 / 0", f"ZeroDivisionError: division by zero (line {line_of('    return {}')})"),
    ],
)
def test_what_an_experiment_of_ones_own_returns_is_checked(tmp_path, old, new, words):
    result = run_own(tmp_path, old, new)
    assert result.code == 2, result
    assert result.err.count("\n") == 1
    assert words in result.err


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "def measure(preset, folder, **overrides):\n    return RUNS, READINGS",
            "def runs(preset, run=gf.Run()):\n    while True: yield run",
            "runs returned more than 100,000 runs",
        ),
        ("return RUNS, READINGS", "return RUNS, READINGS.assign(step='x')", "the table of readings cannot be written"),
        ("return RUNS, READINGS", "return RUNS, READINGS.assign(step=2**40)", "integers of 32 bits"),
        ("return RUNS, READINGS", "return RUNS, READINGS.assign(value=1j)", "value is a number"),
        ("return RUNS, READINGS", "return RUNS, READINGS.assign(layer=3)", "run, layer and quantity are text"),
        ("return RUNS, READINGS", "return RUNS.assign(x=10**5000), READINGS", "the table of runs cannot be written"),
        ("return RUNS, READINGS", "return RUNS.assign(**{'x': 1}).rename(columns={'x': 3}), READINGS", "is called 3"),
        ("np.arange(2)", "10**5000", "a fact of a verdict is an integer of 16,610 bits"),
        ("return RUNS, READINGS", "raise BaseException('enough')", "BaseException: enough"),
        ("return RUNS, READINGS", "raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})", "Odd (line"),
        (
            "import gradflow as gf",
            "def __getattr__(name): raise OSError(name)\nfigure, gf = None, 3\nimport io",
            "line",
        ),
    ],
)
def test_a_users_experiment_may_raise_and_return_anything(tmp_path, old, new, words):
    result = run_own(tmp_path, old, new)
    assert result.code == 2, result
    assert result.err.count("\n") == 1
    assert words in result.err


@pytest.mark.parametrize("change", ["del table['run']", "table['value'] = 'x'"])
def test_a_users_verdict_may_change_its_table(tmp_path, change):
    result = run_own(tmp_path, "    numbers = {", f"    {change}\n    numbers = {{")
    assert result.code == 0, result


def test_a_docstring_that_is_no_text_costs_no_run(tmp_path):
    assert run_own(tmp_path, "def ticks():", "__doc__ = 3\ndef ticks():").code == 0


@pytest.mark.parametrize("name", ["...py", "..py", "....py"])
def test_a_file_whose_results_would_lie_elsewhere_is_refused(tmp_path, name):
    source = run_own(tmp_path)
    assert source.code == 0
    (tmp_path / "own.py").rename(tmp_path / name)
    result = call("run", tmp_path / name, "--results", tmp_path / "a" / "b")
    assert result.code == 2
    assert not (tmp_path / "a").exists()
