"""A results folder as a person names it: whether the name is legal, where it lies, and which experiment it is of."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gradflow.errors import BadInput

if TYPE_CHECKING:
    from gradflow.claims.experiment import Experiment
    from gradflow.reports.report import Judged

_LONGEST_NAME = 200  # bytes; file systems allow 255


def check_name(name: str) -> None:
    """Raises `BadInput` for a name that would be another folder than one in the results, or none."""
    if not isinstance(name, str):
        raise BadInput(f"name {name!r} is not legal: it must be text")
    legal = name.isprintable() and name not in ("", ".", "..") and not {*name} & {*"/\\"}
    if not legal or len(name.encode()) > _LONGEST_NAME:
        raise BadInput(f"name {name[:60]!r} is not legal: it names a folder in the results, without / and \\")


def check_path(results: object) -> None:
    """Raises `BadInput` for what is no path."""
    if not isinstance(results, (str, Path)):
        raise BadInput(f"results {results!r} is not legal: it is the path of a folder")


def absolute(results: Path) -> Path:
    """Where results go. Not relative: of `x:y` pyarrow would think that it is a URI.

    Raises `BadInput` where the current directory is gone, or its name is no text.
    """
    try:
        folder = Path.cwd() / results
    except FileNotFoundError as error:
        raise BadInput("the current directory has been deleted: change to another one") from error
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding().upper()
        raise BadInput(
            f"the results folder {folder} is not named in {encoding}, the encoding here: choose another --results"
        ) from error
    return folder


def experiment(results: Path, judged: "Judged | None", named: str | None) -> "Experiment":
    """The experiment of a results folder: the file that the user names, or else one that comes with gradflow.

    No file is run because a folder, which may be anybody's, says so.
    """
    from gradflow.claims import experiment as experiments

    name = judged.experiment if judged else ""
    if named is None and name not in experiments.known():
        raise BadInput(
            f"{results} is of an experiment that does not come with gradflow, {name!r}: "
            "give its file with --experiment FILE"
        )
    return experiments.load(name if named is None else named)
