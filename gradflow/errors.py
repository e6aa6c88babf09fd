"""The one exception that means: what you asked for cannot be. One line, what is wrong and what is legal."""

import difflib
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

from gradflow.plain_text import plain


class BadInput(ValueError):
    """Raised for anything a user can put right: a wrong name, an illegal depth, a broken file, a full disk.

    Its message is one line of visible characters, whatever names it holds: Python prints it to a terminal as it is. The
    command line prints it alone and exits with code 2; nothing already recorded is lost.
    """

    def __init__(self, message: object):
        super().__init__(plain(message))


class WrongKind(BadInput):
    """Raised for an argument of another kind than its function takes; of a user's own file the line is said as well."""


class RunsFailed(BadInput):
    """Raised where every run of a sweep failed: there is nothing to publish. What each printed is in its folder."""


def choose(what: str, name: Any, legal: Iterable[Any]) -> Any:
    """Returns `name` if it is among `legal`; raises `BadInput` that lists the legal names otherwise."""
    if not isinstance(name, Hashable) or name not in legal:
        raise BadInput(f"unknown {what} {name!r}: choose one of {', '.join(map(str, legal))}")
    return name


def nearest(name: str, legal: Iterable[str]) -> str | None:
    """The legal name that a misspelt one most likely stands for: by its initials, its beginning or its spelling."""
    legal, typed = list(legal), name.replace("-", "_").strip("_").lower()
    for same in (
        lambda other: "".join(word[0] for word in other.split("_") if word) == typed,
        lambda other: other.startswith(typed),
        lambda other: typed in other.split("_"),
    ):
        if found := [other for other in legal if typed and same(other.replace("-", "_").strip("_"))]:
            return found[0]
    return next(iter(difflib.get_close_matches(name, legal, 1, cutoff=0.5)), None)


def at_least(name: str, value: int | None, least: int) -> None:
    """Raises `BadInput` for a value below the least legal one; None is whatever is used by default."""
    if value is not None and value < least:
        raise BadInput(f"{name} {value} is not legal: it must be at least {least}")


def share(name: str, value: float | None) -> None:
    """Raises `BadInput` for a share that is not from 0 to below 1; None is whatever is used by default."""
    if value is not None and not 0 <= value < 1:
        raise BadInput(f"{name} {value} is not legal: it must be from 0 to below 1")


def refuse_links(*paths: Path) -> None:
    """Raises `BadInput` where one is a symbolic link: what we write or remove there would be somebody else's."""
    for path in paths:
        try:
            link = path.is_symlink()
        except OSError as error:
            raise BadInput(f"cannot use {path}: {error.strerror or error}") from error
        if link:
            raise BadInput(f"{path} is a symbolic link, which is not followed: remove the link and run again")


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or else what it is."""
    return (str(error).splitlines() or [type(error).__name__])[0]
