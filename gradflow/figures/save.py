"""A figure to a file."""

from pathlib import Path

from matplotlib.figure import Figure

from gradflow.errors import BadInput, choose
from gradflow.figures import drawing, layout
from gradflow.runs import files


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure as SVG or PNG, by the suffix: transparent, whole or not at all, same table same bytes.

    Raises `BadInput` for another suffix, and where the figure cannot be written.
    """
    path = Path(path)
    kind = choose("figure format", path.suffix.lower().lstrip("."), ("svg", "png"))
    try:
        with files.replacing(path) as part, drawing.styled():
            drawing.make_visible(figure)
            layout.settle(figure)
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(part, format=kind, transparent=True, dpi=160, metadata=metadata)
    except BadInput:
        raise
    except ValueError as error:  # a formula that is none, in a figure of the user's own
        raise BadInput(f"cannot write the figure {path}: {str(error).strip().partition(chr(10))[0]}") from error
