"""A figure to a file."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from gradflow.errors import BadInput, choose
from gradflow.figures import drawing, layout
from gradflow.kinds import checked
from gradflow.runs import files


@checked
def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure as SVG or PNG, by the suffix: transparent, whole or not at all, same table same bytes.

    Raises `BadInput` for another suffix, and where the figure cannot be drawn or written.
    """
    path = Path(path)
    kind = choose("figure format", path.suffix.lower().lstrip("."), ("svg", "png"))
    files.write_bytes(path, drawn(figure, kind, f"cannot write the figure {path}"))


def drawn(figure: Figure, kind: str, otherwise: str) -> bytes:
    """The content of the file that a figure becomes; `kind` is svg or png.

    Raises `BadInput`, which begins with `otherwise`, where it cannot be drawn.
    """
    image = io.BytesIO()
    try:
        with drawing.styled():
            drawing.make_visible(figure)
            layout.settle(figure)
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(image, format=kind, transparent=True, dpi=160, metadata=metadata)
    except BadInput:
        raise
    except Exception as error:  # of a user's own figure: a formula that is none, ticks that raise anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise BadInput(f"{otherwise}: {reason}") from error
    return image.getvalue()
