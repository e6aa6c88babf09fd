"""What the README promises: its commands are those that CI runs, and its Python examples run."""

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from command_line import call
from flax import nnx

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
OWN = re.search(r"```python\n(.+?)```\n\n```sh\n(.+?)\n```", README, re.S)
EXAMPLE = re.search(r"## Or from Python\n\n```python\n(.+?)```", README, re.S)


def test_ci_runs_the_test_line_of_the_readme_to_the_letter():
    line = next(line for line in (ROOT / ".ci" / "run").read_text().splitlines() if "pytest" in line)
    assert f"\n{line}\n" in README


def test_the_readme_has_a_figure_and_it_is_there():
    figures = re.findall(r"!\[.*?\]\((.+?)\)|<img src=\"(.+?)\"", README)
    assert figures
    assert all((ROOT / (one or other)).is_file() for one, other in figures)


def test_from_the_install_line_to_the_picture_of_a_model_of_ones_own_in_ten_lines(tmp_path):
    assert OWN
    source, commands = OWN.groups()
    lines = [line for line in (source + commands).splitlines() if line.strip()]
    assert len(lines) <= 10
    assert README[: OWN.end()].count("\n") <= 45, "on the first screen"
    assert commands.split(" && ")[1:] == [".venv/bin/pip install -q .", ".venv/bin/python mine.py"]
    (tmp_path / "mine.py").write_text(source)
    fresh = [sys.executable, "-P", "-W", "error", "mine.py"]
    done = subprocess.run(fresh, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")

    *setup, last = source.rstrip().splitlines()
    drawing, saved = last.split(".savefig(")
    own: dict[str, Any] = {}
    exec("\n".join([*setup, f"figure = {drawing}"]), own)
    (curve,) = [line for line in own["figure"].axes[0].lines if len(line.get_xdata()) > 2]
    expected = gradients_between(own["model"].layers, own["batch"], own["loss"])
    np.testing.assert_allclose(curve.get_ydata(), expected, rtol=1e-4)
    again = io.BytesIO()
    own["figure"].savefig(again, format="png")
    assert (tmp_path / saved.strip('")')).read_bytes() == again.getvalue(), "the picture is that of these points"


def gradients_between(layers, batch, loss):
    """sqrt(B) times the norm of the gradient at the output of each layer with weights."""

    def shifted(shifts):
        def model(x):
            for layer, shift in zip(layers, shifts, strict=True):
                x = layer(x) + shift
            return x

        return loss(model, batch)

    gradients = jax.jit(jax.grad(shifted))([jax.numpy.zeros(batch.shape)] * len(layers))
    return [
        len(batch) ** 0.5 * float(jax.numpy.linalg.norm(gradient))
        for layer, gradient in zip(layers, gradients, strict=True)
        if isinstance(layer, nnx.Linear)
    ]


def test_the_example_of_the_readme_runs_and_is_about_ten_lines(capsys):
    assert EXAMPLE
    lines = [line for line in EXAMPLE[1].splitlines() if line.strip()]
    assert len(lines) <= 12
    exec(EXAMPLE[1], {})
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_the_own_net_of_the_readme_is_swept_by_the_command_beside_it(tmp_path):
    example = re.search(r"In `my_nets.py`:\n\n```python\n(.+?)```\n\n```sh\n(.+?)\n```", README, re.S)
    assert example
    source, command = example.groups()
    (tmp_path / "my_nets.py").write_text(source)
    words = [sys.executable, "-m", *shlex.split(command), "--steps", "3", "--results", str(tmp_path / "results")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^4 .* 2 done\n16 .* 2 done$", done.stdout, re.M)
    assert (tmp_path / "results" / "sweep" / "gradient_norm.svg").is_file()


@pytest.mark.parametrize("command", re.findall(r"`(gradflow [a-z].+?)`", README))
def test_every_command_that_the_readme_names_is_one_the_parser_takes(command):
    from gradflow.commands.verbs import VERBS

    words = shlex.split(command)
    assert words[1] in VERBS


ROWS = [line for line in README.splitlines() if line.startswith("|") and "`gradflow judge " in line]


@pytest.mark.parametrize("row", ROWS)
def test_every_number_of_a_verdict_is_printed_by_the_command_beside_it(row, monkeypatch):
    """From the committed tables. Numbers that name a setting (56 layers, 8x8) are printed there, too."""
    monkeypatch.chdir(ROOT)
    told = row.split("|")[3]
    printed = call(*re.search(r"`gradflow (judge .+?)`", told)[1].split())  # pyright: ignore[reportOptionalSubscript]
    assert printed.code in (0, 1), printed
    text = printed.out.replace("\N{MINUS SIGN}", "-")
    numbers = re.findall(
        r"[-+\N{MULTIPLICATION SIGN}]?\d[\d.]*[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]*",
        re.sub(r"`.+?`|\(results/.+?\)|\d+x\d+", "", told.replace("\N{MINUS SIGN}", "-").split("`", 2)[2]),
    )
    assert len(numbers) > 1
    for number in numbers:
        assert number.rstrip(".") in text, number


def test_the_diagnoses_of_the_readme_are_printed_by_the_command_beside_them(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "100")
    said = re.search(r"Of `gradflow (diagnose .+?)`:\n\n  ```text\n(.+?)\n  ```", README, re.S)
    assert said
    command, block = said.groups()
    printed = call(*command.split())
    assert printed.code == 0, printed
    paragraphs = re.sub("^  ", "", block, flags=re.M).split("\n\n")
    assert paragraphs
    for paragraph in paragraphs:
        assert paragraph in printed.out.split("\n\n")


def test_there_are_verdicts_with_a_command():
    assert len(ROWS) >= 3
