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
