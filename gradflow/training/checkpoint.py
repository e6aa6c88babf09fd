"""A run's resume point on disk: orbax behind three functions."""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from gradflow.errors import BadInput, refuse_links

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every save


# Ours by name: a checkpoint, and what a crash leaves of one. Nothing else is ever removed.
_OURS = re.compile(r"([0-9]{9,})(\.orbax-checkpoint-tmp.*)?")


def save(folder: Path, step: int, tree: Any, run: str) -> None:
    """Writes `tree` as the checkpoint of `step` of the run of that name, then removes the older ones.

    A crash leaves the older ones whole. Raises `BadInput` where it cannot be written.
    """
    try:
        ocp.save(str(folder.absolute() / f"{step:09d}"), tree, custom_metadata=_whose(run, step))
    except (OSError, ValueError) as error:  # the latter is how its storage library says that the disk is full
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BadInput(f"cannot write {folder}: {reason}; what was recorded before is intact") from error
    for older in _steps(folder):
        if older < step:
            shutil.rmtree(folder / f"{older:09d}")


def latest(folder: Path, like: Any, run: str) -> tuple[int, Any] | None:
    """Step and content of the run's newest checkpoint that can be read, with structure, dtypes, shardings of `like`.

    What a crash or a full disk left of a newer one is passed over, and so is one that another run wrote, or this run at
    another step. None where there is nothing to go on from.
    """
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    for step in reversed(_steps(folder)):
        path = str(folder.absolute() / f"{step:09d}")
        try:
            if ocp.metadata(path).custom_metadata == _whose(run, step):
                return step, ocp.load(path, abstract)
        except Exception:  # orbax raises many kinds for half a checkpoint, or for one of another structure
            continue
    return None


def drop_after(folder: Path, step: int) -> None:
    """Removes our checkpoints newer than `step`, and what a crash left of one: it would be in the way of new ones."""
    for path, number, whole in _found(folder):
        if number > step or not whole:
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)


def exists(folder: Path) -> bool:
    """Whether something is there that is named as a checkpoint, whether or not it can be read."""
    return bool(_steps(folder))


def _whose(run: str, step: int) -> dict[str, Any]:
    return {"run": run, "step": step}


def _found(folder: Path) -> list[tuple[Path, int, bool]]:
    """What is named as ours: path, step, and whether it is a checkpoint or what a crash left of one.

    Raises `BadInput` where one is a link.
    """
    names = ((path, _OURS.fullmatch(path.name)) for path in folder.glob("[0-9]*"))
    found = [(path, int(match[1]), not match[2]) for path, match in names if match]
    refuse_links(*(path for path, *_ in found))
    return found


def _steps(folder: Path) -> list[int]:
    return sorted(step for path, step, whole in _found(folder) if whole and path.name == f"{step:09d}")
