"""The one exception that means: what you asked for cannot be. One line, what is wrong and what is legal."""


class BadInput(ValueError):
    """Raised for anything a user can put right: a wrong name, an illegal depth, a broken file, a full disk.

    The command line prints its message as one line and exits with code 2; nothing already recorded is lost.
    """


def choose(what: str, name: str, legal) -> str:
    """Returns `name` if it is among `legal`; raises `BadInput` that lists the legal names otherwise."""
    if name not in legal:
        raise BadInput(f"unknown {what} {name!r}: choose one of {', '.join(legal)}")
    return name


def at_least(name: str, value: int | None, least: int) -> None:
    """Raises `BadInput` for a value below the least legal one; None is whatever is used by default."""
    if value is not None and value < least:
        raise BadInput(f"{name} {value} is not legal: it must be at least {least}")


def share(name: str, value: float | None) -> None:
    """Raises `BadInput` for a share that is not from 0 to below 1; None is whatever is used by default."""
    if value is not None and not 0 <= value < 1:
        raise BadInput(f"{name} {value} is not legal: it must be from 0 to below 1")
