"""A figure to a file."""

import os
from pathlib import Path

from matplotlib.figure import Figure

from gradflow.errors import BadInput, choose
from gradflow.figures import drawing, layout


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure as SVG or PNG, by the suffix: transparent, whole or not at all, same table same bytes.

    Raises `BadInput` for another suffix, and where the figure cannot be written.
    """
    path = Path(path)
    kind = choose("figure format", path.suffix.lower().lstrip("."), ("svg", "png"))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with drawing.styled():
            drawing.make_visible(figure)
            layout.settle(figure)
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(part, format=kind, transparent=True, dpi=160, metadata=metadata)
        os.replace(part, path)
    except (OSError, ValueError) as error:  # also a formula that is none, in a figure of the user's own
        reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
        raise BadInput(f"cannot write the figure {path}: {reason}") from error
    finally:
        if part.is_file():
            part.unlink()
