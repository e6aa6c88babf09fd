"""A table as a notebook shows it: plain HTML in which names from outside are only text, in the page's own colours."""

import html
from collections.abc import Iterable, Sequence

from gradflow.plain_text import plain


def text(value: object) -> str:
    """The value as one line of visible characters that HTML shows and does not obey."""
    return html.escape(plain(value))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table with a heading a column and a caption above it; every heading, cell and the caption is only text."""
    above = f'<caption style="text-align: left; caption-side: top">{text(caption)}</caption>' if caption else ""
    head = "".join(f'<th style="text-align: left">{text(column)}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, cells))}</tr>" for cells in rows)
    return f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    return f'<td style="text-align: left">{text(value)}</td>'
