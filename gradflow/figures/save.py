"""A figure to a file."""

import os
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from gradflow.errors import BadInput, choose
from gradflow.figures import layout, style


@matplotlib.rc_context(style.STYLE)
def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure as SVG or PNG, by the suffix: transparent, whole or not at all, same table same bytes.

    Raises `BadInput` for another suffix, and where the figure cannot be written.
    """
    path = Path(path)
    kind = choose("figure format", path.suffix.lower().lstrip("."), ("svg", "png"))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        layout.settle(figure)
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(part, format=kind, transparent=True, dpi=160, metadata=metadata)
        os.replace(part, path)
    except OSError as error:
        raise BadInput(f"cannot write the figure {path}: {error.strerror or error}") from error
    finally:
        if part.is_file():
            part.unlink()
