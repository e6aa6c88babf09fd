"""The log says what the commands in it print: each measured number that stands beside a `gradflow judge`."""

import functools
import re
from pathlib import Path

import pytest
from command_line import call

ROOT = Path(__file__).parent.parent
JUDGED = re.compile(r"`gradflow (judge results/[\w/]+)`")
PARAGRAPHS = re.split(r"\n(?=- |\n|## )", (ROOT / "results" / "LOG.md").read_text())
ENTRIES = [paragraph for paragraph in PARAGRAPHS if JUDGED.search(paragraph)]


def measured(text: str) -> list[str]:
    """The numbers with a decimal point, a factor or a power; whole ones count layers, seeds or steps, or are a year."""
    bare = re.sub(r"`.+?`", "", text, flags=re.S)
    return re.findall(r"-?\d+\.\d+|\N{MULTIPLICATION SIGN}[\d.]*\d[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]*", bare)


@functools.cache
def printed_by(command: str) -> str:
    return call(*command.split()).out.replace("\N{MINUS SIGN}", "-")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: JUDGED.findall(entry)[0])
def test_every_measured_number_beside_a_judge_command_is_printed_by_it(entry, monkeypatch):
    monkeypatch.chdir(ROOT)
    printed = "".join(map(printed_by, JUDGED.findall(entry)))
    assert printed
    assert not [number for number in measured(entry) if number not in printed]


def test_measured_numbers_are_found_and_counts_are_not():
    text = "- In 80 steps 56 layers end at 0.975 (\N{MULTIPLICATION SIGN}10⁻⁸; -0.4, see `a --lr 0.1`), He 2015."
    assert measured(text) == ["0.975", "\N{MULTIPLICATION SIGN}10⁻⁸", "-0.4"]
    assert len(ENTRIES) > 8
