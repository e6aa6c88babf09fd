"""What is written into a results folder: no figure beside it, no verdict of another kind read, no markup from names."""

import json
from typing import Any

import pandas as pd
import pytest
from command_line import call
from own_experiment import line_of, run_own

import gradflow as gf
from gradflow.claims.experiment import Experiment
from gradflow.reports import report
from gradflow.reports.live import View
from gradflow.reports.summary import summary
from gradflow.runs import published, table

HOSTILE = "<img src=x>|[link](there)\n# heading \x1b[31m$x$ [red]"
ILLEGAL = ("../../escaped", "a/b", "a\\b", "", "/absolute", "..", ".hidden", "two\nlines", "a" * 101, "a\0b", 3, None)

WRONG = {
    **{f"called {name!a}": (f"{{'good': Figure(), {name!r}: Figure()}}", "cannot be called") for name in ILLEGAL},
    "no dictionary": ("None", "figure must return a dictionary of names and matplotlib figures, not NoneType"),
    "figures alone": ("[Figure()]", "figure must return a dictionary of names and matplotlib figures, not list"),
    **{
        f"{name} is no figure": (f"{{'good': Figure(), 'bad': {name}}}", "the figure bad is a ")
        for name in ("None", "'text'", "[Figure()]", "3")
    },
}
UNDRAWABLE = {"a formula that is none": "{'good': Figure(), 'bad': formula()}", "ticks that raise": "{'bad': ticks()}"}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_figure_names_the_line_and_leaves_no_verdict(case, tmp_path):
    figures, why = WRONG[case]
    result = run_own(tmp_path, "return {}", f"return {figures}")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert why in result.err
    assert f"{tmp_path / 'own.py'}: figure must return " in result.err
    assert f"(line {line_of('def figure(table, verdict):')})" in result.err
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"own.py", "runs.csv", "readings.parquet", "publish.lock"}


@pytest.mark.parametrize("case", UNDRAWABLE)
def test_a_figure_that_cannot_be_drawn_leaves_the_folder_as_it_was(case, tmp_path):
    assert run_own(tmp_path, "return {}", "return {'before': Figure()}").code == 0
    folder = tmp_path / "results" / "own"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".svg", ".json", ".md")}
    assert {*before} == {"before.svg", "verdict.json", "README.md"}
    result = run_own(tmp_path, "return {}", f"return {UNDRAWABLE[case]}")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"{tmp_path / 'own.py'}: cannot draw the figure bad: " in result.err
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
    assert not (folder / "good.svg").exists()


GOOD = {"experiment": "border", "outcome": "PASS", "made": {"command": "gradflow run border"}}


def test_a_verdict_is_read_and_of_an_own_file_the_name_alone(tmp_path):
    assert report.read_verdict(tmp_path) is None
    (tmp_path / "verdict.json").write_text(json.dumps({**GOOD, "experiment": str(tmp_path / "mine.py")}))
    assert report.read_verdict(tmp_path) == report.Judged("mine.py", "PASS", "gradflow run border")


@pytest.mark.parametrize("verb", ["plot", "judge"])
@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "3",
        "null",
        "{",
        "{}",
        *(json.dumps({**GOOD, "experiment": one}) for one in (3, None, [], {})),
        json.dumps({**GOOD, "made": []}),
        json.dumps({**GOOD, "made": {}}),
        json.dumps({key: GOOD[key] for key in ("experiment", "made")}),
    ],
)
def test_a_foreign_verdict_is_one_line(content, verb, tmp_path):
    published.publish(tmp_path, *tables())
    (tmp_path / "verdict.json").write_text(content)
    result = call(verb, tmp_path)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "verdict.json" in result.err


def tables(data: str = "digits") -> tuple[Any, Any]:
    """A run with two readings."""
    runs = pd.DataFrame([{"run": "one", "net": "plain", "depth": 8, "data": data, "seed": 0, "status": "done"}])
    readings = [{"run": "one", "step": 1, "layer": "", "position": -1, "quantity": name, "value": 0.5} for name in "ab"]
    readings = pd.DataFrame(readings).assign(quantity=["train_error", "test_error"])
    return runs, readings


def test_a_readme_shows_names_and_obeys_none(tmp_path):
    claim = gf.Claim(HOSTILE, HOSTILE, HOSTILE, HOSTILE, ">", 0.0)
    verdict = gf.Verdict(HOSTILE, (gf.judge(claim, {0: 1.0, 1: 1.1, 2: 1.2}, 1),), {HOSTILE: HOSTILE})
    frame = table.join(*tables(HOSTILE))
    chosen = Experiment(
        "mine",
        str(tmp_path / "mine.py"),
        "An idea.\n\n<script>",
        None,
        None,
        None,
        lambda frame: verdict,
        lambda *_: {},
    )
    made = report.provenance(HOSTILE, 1.0, {"device": HOSTILE})
    report.write(tmp_path, frame, chosen, made)
    text = (tmp_path / "README.md").read_text("utf-8")
    lines = text.splitlines()
    assert not [c for c in text if not c.isprintable() and c not in "\n\N{NO-BREAK SPACE}"]
    assert [line for line in lines if line.startswith("#")] == ["# mine: PASS"]
    rows = [line.replace(r"\|", "") for line in lines if line.startswith("|")]
    assert {row.count("|") for row in rows} == {10}  # no name makes a column
    prose = [line for line in lines if not line.startswith("    ")]  # a command is code, where nothing has a meaning
    for markup in ("<img", "<script", "[link]", "$x$"):
        assert not [line for line in prose if markup in line.replace("\\" + markup[0], "").replace("\\$", "")]
    assert str(tmp_path) not in text + (tmp_path / "verdict.json").read_text("utf-8")


def test_lines_for_a_terminal_are_lines():
    claim = gf.Claim(HOSTILE, "", "", "", ">", 0.0)
    finding = gf.judge(claim, {0: 1.0}, 1)
    for line in (report.line(finding), *report.facts(gf.Verdict("", (), {HOSTILE: HOSTILE}))):
        assert line.isprintable()
    runs, readings = tables(HOSTILE)
    other = runs.assign(run="two", data="other", **{"a\x1b": 1})
    both = pd.concat([readings, readings.assign(run="two")])
    lines = summary(table.join(pd.concat([runs, other]), both)).splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


def test_the_live_view_shows_brackets_and_obeys_no_escape(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with View(1, 0, {"one": HOSTILE}) as view:
        view({"event": "started", "run": "one"})
        view.console.print(view._table())
        view({"event": "busy", "run": "one"})
        view({"event": "failed", "run": "one", "reason": "because\x1b]0;x\x07\nof [bold]this"})
    shown = capsys.readouterr().err
    assert shown.count("[red]") == 3
    assert "[bold]this" in shown
    assert not {*shown} & {"\x1b", "\x07"}


def test_a_table_is_loaded_with_the_quantities_that_are_wanted_alone(tmp_path):
    published.publish(tmp_path, *tables())
    whole: Any = gf.load(tmp_path)
    part = table.load(tmp_path, quantities=["test_error"])
    assert len(part) == 1 < len(whole)
    pd.testing.assert_frame_equal(part, whole[whole.quantity == "test_error"].reset_index(drop=True))
