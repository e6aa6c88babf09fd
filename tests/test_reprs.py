"""What a person sees of a run, a reading, a verdict, a data set or a net: a line or two, and a table of HTML."""

import dataclasses
import html.parser
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import gradflow as gf
from gradflow.measuring.measure import ReadingSpec
from gradflow.reports.results import Results

HOSTILE = "<script>alert(1)</script>&\"'|\x1b[31m\u202e\n<img src=x onerror=y>"


def reading(layers: int = 3, name: str = "layer") -> gf.Reading:
    """A reading of a chain of layers, as a training step returns it."""
    names = tuple(f"{name}{number}" for number in range(layers))
    spec = ReadingSpec(names, (), names[1:], {name: place for place, name in enumerate(names)})
    vectors = {"activation_gradient_norm": jnp.arange(1.0, layers + 1), "weight_norm": 2 * jnp.ones(layers - 1)}
    return gf.Reading(7, spec, {**vectors, "loss": jnp.float32(2.5), "train_error": jnp.float32(0.75)})


def dataset(name: str = "mine", classes: tuple[str, ...] = ("a", "b")) -> Any:
    images = np.zeros((4, 8, 8, 1), np.uint8)
    labels = np.array([*classes] * 2)
    made = gf.data.from_arrays(images, labels, images, labels)
    return dataclasses.replace(made, name=name)


def verdict(text: str = "it is", claims: int = 3) -> gf.Verdict:
    claim = gf.Claim(text, text, text, text, ">", 0.5)
    return gf.Verdict(text, tuple(gf.judge(claim, {0: 1.0, 1: 1.1, 2: 0.9}, 1) for _ in range(claims)), {text: text})


def results(text: str = "mine") -> Results:
    rows = [
        {"run": f"{text} {seed}", "net": text, "depth": 8, "seed": seed, "status": "done", "classes": 10, "step": 1}
        | {"layer": "", "position": -1, "quantity": "train_error", "value": 0.5}
        for seed in (0, 1)
    ]
    return Results(
        Path("/somewhere") / text, pd.DataFrame(rows), {text: gf.charts.dots({"a": {"b": [1.0]}})}, verdict(text)
    )


def run(text: str = "label") -> gf.Run:
    return gf.Run(net="plain", depth=56, steps=100, label=text)


LARGE: dict[str, Callable[[], Any]] = {
    "run": run,
    "reading": lambda: reading(2000),
    "verdict": lambda: verdict("long " * 1000, claims=200),
    "dataset": lambda: dataset("name" * 1000, tuple(f"class {number}" for number in range(1000))[:2]),
    "description": lambda: gf.describe("residual", depth=110),
    "results": results,
}


@pytest.mark.parametrize("what", LARGE)
def test_a_repr_is_a_line_or_two(what):
    shown = repr(LARGE[what]())
    assert len(shown) <= 240
    assert shown.count("\n") <= 1


class Parser(html.parser.HTMLParser):
    """Collects the tags of a page and the text of its cells."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.texts.append(data)


NAMED: dict[str, Callable[[], Any]] = {
    "run": lambda: run(HOSTILE),
    "reading": lambda: reading(3, HOSTILE),
    "verdict": lambda: verdict(HOSTILE),
    "dataset": lambda: dataset(HOSTILE, (HOSTILE, "other")),
    "results": lambda: results(HOSTILE),
}


@pytest.mark.parametrize("what", NAMED)
def test_names_from_outside_are_only_text_in_a_notebook(what):
    shown = NAMED[what]()
    page = Parser(shown._repr_html_())
    assert page.tags == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert page.attributes == {"style"}
    text = "".join(page.texts)
    assert "<script>alert(1)</script>&\"'|\\x1b[31m\\u202e\\n" in text
    assert text.isprintable()
    assert {*repr(shown)}.isdisjoint("\x1b\u202e")


def test_a_run_shows_its_net_and_what_is_not_at_its_default():
    shown = run()
    assert eval(repr(shown), {"Run": gf.Run}) == shown
    assert hash(eval(repr(shown), {"Run": gf.Run})) == hash(shown)
    cells = Parser(shown._repr_html_()).texts
    assert cells == ["Run of plain, seed 0", "setting", "value", "default", *(
        word for row in (("depth", "56", "18"), ("label", "label", "None"), ("steps", "100", "200")) for word in row
    )]  # fmt: skip


def test_a_run_shows_itself_though_the_file_of_its_net_has_changed_or_is_gone(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("def build(*, classes, channels, seed, depth: int = 4, wide: bool = True):\n    return None\n")
    shown = gf.Run(net=f"{mine}:build", wide=False)
    assert repr(shown) == f"Run(net='{mine}:build', wide=False, seed=0)"
    mine.write_text("def build(*, classes, channels, seed, depth: int = 4):\n    return None\n")
    assert repr(shown) == f"Run(net='{mine}:build', wide=False, seed=0)"
    mine.unlink()
    assert repr(shown) == f"Run(net='{mine}:build', depth=4, wide=False, seed=0)"
    assert Parser(shown._repr_html_()).texts[4:] == ["depth", "4", "wide", "False"]


def test_a_reading_shows_its_numbers_and_of_many_points_those_at_both_ends():
    assert repr(reading()) == "<Reading of step 7: loss 2.5, train error 0.75, 2 quantities at 3 points>"
    cells = Parser(reading()._repr_html_()).texts
    assert cells[1:5] == ["position", "layer", "activation gradient norm", "weight norm"]
    assert cells[5:] == ["0", "layer0", "1", "1", "layer1", "2", "2", "2", "layer2", "3", "2"]
    page = reading(2000)._repr_html_()
    assert page.count("<tr>") == 42
    assert "(1960 more points)" in page
    assert {"layer0", "layer19", "layer1980", "layer1999"} <= {*Parser(page).texts}


def test_a_reading_is_a_tidy_table():
    frame = reading().to_frame()
    assert [*frame] == ["quantity", "layer", "position", "value"]
    assert frame.to_numpy().tolist() == [
        ["loss", "", -1, 2.5],
        ["train_error", "", -1, 0.75],
        ["activation_gradient_norm", "layer0", 0, 1.0],
        ["activation_gradient_norm", "layer1", 1, 2.0],
        ["activation_gradient_norm", "layer2", 2, 3.0],
        ["weight_norm", "layer1", 1, 2.0],
        ["weight_norm", "layer2", 2, 2.0],
    ]


def test_a_verdict_shows_its_outcome_and_every_claim():
    assert repr(verdict("it holds")) == "<Verdict PASS: it holds (3 PASS)>"
    cells = Parser(verdict("it holds")._repr_html_()).texts
    assert cells[0] == "PASS: it holds"
    assert cells[8:15] == ["it holds"] * 3 + ["> 0.5", "1", "0.752 to 1.25", "PASS"]
    assert verdict() == verdict()


def test_a_data_set_shows_its_sizes():
    digits = gf.load_data("digits")
    assert repr(digits) == (
        "<Dataset 'digits': 1,500 training and 297 test images of 8x8x1, 10 classes>"
    )  # UCI: 1,797 images
    assert "1,500" in Parser(digits._repr_html_()).texts


def test_a_description_shows_the_papers_numbers():
    found = gf.describe("residual", depth=20)
    assert repr(found) == (
        "<residual(depth=20): 20 weighted layers, 269,722 parameters, 40,551,040 multiply-adds>"
    )  # He et al. 2015, section 4.2 and table 6
    assert found._repr_html_().count("<tr>") == len(str(found).splitlines())
    assert {"269,722", "40,551,040"} <= {*Parser(found._repr_html_()).texts}
    assert len(pd.DataFrame(found.layers)) == 20
    assert re.search(r"^total +269,722 ", str(found), re.M)


def test_results_show_their_verdict_and_where_they_are():
    shown = repr(results())
    assert shown == "<Results PASS: mine (3 PASS); 2 runs; figures mine; in /somewhere/mine>"
    assert {"PASS: mine", "50.0±0.0", "2 done"} <= {*Parser(results()._repr_html_()).texts}
