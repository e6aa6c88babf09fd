"""A user's experiment of one run, as a file of their own, for tests that change a line of it and run it."""

from pathlib import Path

from command_line import Result, call

SOURCE: str = r'''"""An experiment of one run, which it makes up."""
import gradflow as gf, numpy as np, pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
CLAIM = gf.Claim(text="t", source="s", paper="p", statistic="x", side=">", than=np.float32(1), seeds=np.int64(3))
RUNS = pd.DataFrame({"run": ["a"], "net": ["n"], "seed": [0], "steps": [1], "status": ["done"]})
READINGS = pd.DataFrame(
    {"run": ["a"], "step": [1], "layer": [""], "position": [-1], "quantity": ["loss"], "value": [1.0]}
)
def measure(preset, folder, **overrides):
    return RUNS, READINGS
def verdict(table):
    numbers = {np.int64(0): np.float32(1), np.int64(1): np.nan}
    return gf.Verdict("t", (gf.judge(CLAIM, numbers, 1),), {"a": np.arange(2), 3: np.nan})
def formula():
    figure = Figure()
    figure.suptitle(r"$\nonsense{$")
    return figure
def ticks():
    figure = Figure()
    figure.subplots().xaxis.set_major_formatter(FuncFormatter(lambda value, place: {}[value]))
    return figure
def figure(table, verdict):
    return {}
'''


def run_own(folder: Path, old: str = "", new: str = "") -> Result:
    """Writes the experiment into `folder`, with `new` for `old`, and gives the command that runs it."""
    assert old in SOURCE
    (folder / "own.py").write_text(SOURCE.replace(old, new) if old else SOURCE)
    return call("run", folder / "own.py", "--results", folder / "results")


def line_of(text: str) -> int:
    """The number of the line of the experiment that says this."""
    return 1 + [*SOURCE.splitlines()].index(text)
