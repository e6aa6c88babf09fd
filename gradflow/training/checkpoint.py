"""A run's resume point on disk: orbax behind three functions."""

import logging
import shutil
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from gradflow.errors import BadInput

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every save


def save(folder: Path, step: int, tree: Any) -> None:
    """Writes `tree` as the checkpoint of `step`, then removes the older ones. A crash leaves the older ones whole.

    Raises `BadInput` where it cannot be written.
    """
    try:
        ocp.save(str(folder.absolute() / f"{step:09d}"), tree)
    except (OSError, ValueError) as error:  # the latter is how its storage library says that the disk is full
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BadInput(f"cannot write {folder}: {reason}; what was recorded before is intact") from error
    for older in _steps(folder):
        if older < step:
            shutil.rmtree(folder / f"{older:09d}")


def latest(folder: Path, like: Any) -> tuple[int, Any] | None:
    """Step and content of the newest checkpoint that can be read, with the structure, dtypes and shardings of `like`.

    What a crash or a full disk left of a newer one is passed over. None where there is nothing to go on from.
    """
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    for step in reversed(_steps(folder)):
        try:
            return step, ocp.load(str(folder.absolute() / f"{step:09d}"), abstract)
        except Exception:  # orbax raises many kinds for half a checkpoint, or for one of another structure
            continue
    return None


def drop_after(folder: Path, step: int) -> None:
    """Removes what is newer than `step`, and what a crash left unfinished: it would be in the way of new ones."""
    for path in folder.glob("*"):
        if not path.name.isdigit() or int(path.name) > step:
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit())
