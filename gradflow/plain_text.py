"""Text that only says what it says: on a terminal, in a line of a report, in Markdown, whatever a name holds.

Names come from files, folders, tables and libraries that others wrote. A terminal obeys escape sequences, an editor
shows what stands between two bidirectional marks in another order, and a newline makes a second message out of one.
"""

import re
import unicodedata

# What Markdown, its tables, formulas and HTML give a meaning to; `_` has one only at the border of a word.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~$&]|\b_|_\b|^(?:[#+=-]|\d+(?=[.)](?:\s|$)))")


def plain(text: object) -> str:
    """The text as one line of visible characters: what is none, such as ESC, a newline or U+202E, as `\\x1b`.

    Nor does a lone surrogate, which stands for a byte of a path that is not UTF-8, reach a file or a terminal.
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_visible, text))


def markdown(text: object) -> str:
    """The text as one line of Markdown that shows exactly it, in a paragraph, a list or a cell of a table."""
    return _MARKDOWN.sub(_escaped, plain(text))


def _visible(character: str) -> str:
    # Spaces that do not break are ours: they hold a caption together.
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")


def _escaped(found: re.Match[str]) -> str:
    return f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}"
