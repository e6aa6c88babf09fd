"""A run's resume point on disk: one `.npz` file, whole or not there, that says whose it is and what is in it.

By NumPy, not orbax: the storage library below that (tensorstore 0.1.86) keeps some Python objects of every array it
writes for ever, 40 KiB a checkpoint of a net of 8 layers, and takes a quarter of a second for it.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.errors import refuse_links
from gradflow.runs import files

# Ours by name: a checkpoint, and the folders of earlier versions, which are not read. Nothing else is ever removed.
_OURS = re.compile(r"([0-9]{9,})(\.npz|\.orbax-checkpoint-tmp.*)?")
_WHOSE = "whose"  # run, step, names, dtypes and shapes, as JSON; arrays are called by their path, as `['a'][0]`


def save(folder: Path, step: int, tree: Any, run: str) -> None:
    """Writes `tree` as the checkpoint of `step` of the run of that name, then removes the older ones.

    A crash leaves the older ones whole. Raises `BadInput` where it cannot be written.
    """
    _steps(folder)  # raises where one is a link
    arrays = {name: np.asarray(_numbers(leaf)) for name, leaf in _named(tree).items()}
    with files.replacing(_path(folder, step)) as temporary, temporary.open("wb") as file:
        np.savez(file, **{_WHOSE: np.array(_whose(run, step, tree)), **arrays})  # pyright: ignore[reportArgumentType]
    for older in _steps(folder):
        if older < step:
            _remove(_path(folder, older))


def latest(folder: Path, like: Any, run: str) -> tuple[int, Any] | None:
    """Step and content of the run's newest checkpoint that can be read, with structure, dtypes, shardings of `like`.

    What is damaged is passed over, and so is a checkpoint that another run wrote, or this run at another step or of a
    net of another structure. None where there is nothing to go on from.
    """
    for step in reversed(_steps(folder)):
        try:
            with files.open_whole(_path(folder, step)) as stream, np.load(stream, allow_pickle=False) as file:
                if str(file[_WHOSE]) == _whose(run, step, like):
                    leaves = [_placed(file[name], leaf) for name, leaf in _named(like).items()]
                    return step, jax.tree.unflatten(jax.tree.structure(like), leaves)
        except Exception:  # NumPy, zipfile and zlib raise many kinds for a damaged file
            continue
    return None


def drop_after(folder: Path, step: int) -> None:
    """Removes our checkpoints newer than `step`, and what earlier versions left, which nothing can go on from."""
    for path, number, ours in _found(folder):
        if number > step or not ours:
            _remove(path)


def exists(folder: Path) -> bool:
    """Whether something is there that is named as a checkpoint, whether or not it can be read."""
    return bool(_found(folder))


def _remove(path: Path) -> None:
    path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:09d}.npz"


def _named(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _whose(run: str, step: int, tree: Any) -> str:
    arrays = {name: [str(leaf.dtype), leaf.shape] for name, leaf in _named(tree).items()}
    return json.dumps({"run": run, "step": step, "arrays": arrays})


def _numbers(leaf: Any) -> Any:
    """An array as such, random keys as their numbers."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _placed(array: np.ndarray, like: Any) -> Any:
    """The array on the devices of `like`; the file has no names for the dtypes of accelerators, such as bfloat16."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.device_put(
            jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like)), like.sharding
        )
    return jax.device_put(array.view(like.dtype), like.sharding)


def _found(folder: Path) -> list[tuple[Path, int, bool]]:
    """What is named as ours: path, step, and whether it is a checkpoint of this version.

    Raises `BadInput` where one is a link.
    """
    names = ((path, _OURS.fullmatch(path.name)) for path in folder.glob("[0-9]*"))
    found = [(path, int(match[1]), match[2] == ".npz") for path, match in names if match]
    refuse_links(*(path for path, *_ in found))
    return found


def _steps(folder: Path) -> list[int]:
    return sorted(step for path, step, ours in _found(folder) if ours and path == _path(folder, step))
