"""A run's resume point on disk: orbax behind three functions."""

import logging
import shutil
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every save


def save(folder: Path, step: int, tree: Any) -> None:
    """Writes `tree` as the checkpoint of `step`, then removes the older ones. A crash leaves the older ones whole."""
    ocp.save_pytree(folder.absolute() / f"{step:09d}", tree)
    for older in _steps(folder):
        if older < step:
            shutil.rmtree(folder / f"{older:09d}")


def latest(folder: Path) -> int | None:
    """The step of the newest whole checkpoint, or None."""
    steps = [step for step in _steps(folder) if ocp.is_orbax_checkpoint(folder.absolute() / f"{step:09d}")]
    return max(steps, default=None)


def load(folder: Path, step: int, like: Any) -> Any:
    """The checkpoint of `step`, with the structure, dtypes and shardings of `like`."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    return ocp.load_pytree(folder.absolute() / f"{step:09d}", abstract)


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit())
