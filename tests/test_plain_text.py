"""What others named reaches a line, a terminal and Markdown as visible characters that mean nothing else."""

import pytest

from gradflow.errors import BadInput
from gradflow.plain_text import markdown, plain

SHOWN = {
    "\x1b[31mred\x1b[0m": r"\x1b[31mred\x1b[0m",  # a colour
    "\x1b]0;title\x07": r"\x1b]0;title\x07",  # the title of the window
    "\x9b2J": r"\x9b2J",  # the same as ESC [, in one character
    "two\nlines\r\tone": r"two\nlines\r\tone",
    "cod\u202egnp.exe": r"cod\u202egnp.exe",  # shown from right to left
    "\u2066hidden\u2069\u200b\ufeff": r"\u2066hidden\u2069\u200b\ufeff",
    "one\u2028two": r"one\u2028two",
    "b\udcffd": r"b\udcffd",  # a byte of a path that is not UTF-8
    "\U000e0041": r"\U000e0041",
    "größe 日本 — ×10⁻⁷ 🙂": "größe 日本 — ×10⁻⁷ 🙂",
    "no\N{NO-BREAK SPACE}break": "no\N{NO-BREAK SPACE}break",
}


def test_the_message_of_bad_input_is_one_line_that_a_terminal_shows_and_does_not_obey():
    """Python prints it as it is where nobody catches it."""
    assert str(BadInput("a\x1b[31m\nb\u202ec")) == r"a\x1b[31m\nb\u202ec"


@pytest.mark.parametrize("text", SHOWN, ids=ascii)
def test_what_is_no_visible_character_is_an_escape(text):
    assert plain(text) == SHOWN[text]
    plain(text).encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<img src=x>&amp;", r"\<img src=x\>\&amp;"),
        ("[text](address) `code` ~~no~~", r"\[text\](address) \`code\` \~\~no\~\~"),
        ("*bold* _slanted_ snake_case", r"\*bold\* \_slanted\_ snake_case"),
        ("$x^2$", r"\$x^2\$"),
        ("# heading", r"\# heading"),
        ("- point - dash", r"\- point - dash"),
        ("10. ten", r"10\. ten"),
        ("two\n\n# lines", r"two\\n\\n# lines"),
        ("learning rate 0.1, (56 layers)", "learning rate 0.1, (56 layers)"),
    ],
)
def test_markdown_shows_exactly_the_text(text, shown):
    assert markdown(text) == shown
