"""The calls of an Equinox model's submodules, each known by its path in the tree that the model is.

Every transform takes a module apart and puts a new one together, so the path is written where Equinox itself carries
the docstring of a wrapped function along. Equinox is imported for those alone who give a model of it.
"""

import sys
from collections.abc import Iterator
from typing import Any

import jax

from gradflow.nets.marks import Marks, is_value

_CARRIED = ("__module__", "__name__", "__qualname__", "__doc__")  # through every transform, as of a wrapped function


class _Path(str):
    """A mark, told by its type from a docstring, and what stood in the places that Equinox carries."""

    before: dict[str, Any]


def is_module(x: Any) -> bool:
    """Whether it is an Equinox module."""
    equinox: Any = sys.modules.get("equinox")
    return equinox is not None and isinstance(x, equinox.Module)


def is_state(x: Any) -> bool:
    """Whether it is what Equinox's stateful layers hand on, whose arrays are no outputs."""
    equinox: Any = sys.modules.get("equinox")
    return equinox is not None and isinstance(x, equinox.nn.State)


def modules(model: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The path of every module that can be called, and the module; the model's own path is empty."""
    if callable(model):
        yield path, model
    below, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda x: x is not model and is_module(x))
    for keys, module in below:
        if is_module(module):
            here = jax.tree_util.keystr(keys, simple=True, separator="/")
            yield from modules(module, f"{path}/{here}" if path else here)


def parameters(module: Any) -> dict[str, jax.Array]:
    """The parameters of a module and of what is in it, by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(module)
    named = {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf for keys, leaf in leaves}
    return {path: leaf for path, leaf in named.items() if is_value(leaf)}


def split(tree: Any) -> tuple[Any, Any]:
    """What a loss is differentiated by, the arrays of floating-point numbers, and the rest of a tree of modules."""
    import equinox

    return equinox.partition(tree, equinox.is_inexact_array)


def join(params: Any, rest: Any) -> Any:
    """The tree that was split, as a new one."""
    import equinox

    return equinox.combine(params, rest)


def _write(module: Any, path: str) -> None:
    kind, own, mark = type(module), vars(module), _Path(path)
    mark.before = {name: own[name] for name in _CARRIED if name in own}
    named = {"__module__": kind.__module__, "__name__": kind.__name__, "__qualname__": kind.__qualname__}
    own.update({**named, **mark.before, "__doc__": mark})


def _read(module: Any) -> str | None:
    path = vars(module).get("__doc__")
    return path if isinstance(path, _Path) else None


def _remove(module: Any) -> None:
    own = vars(module)
    before = own["__doc__"].before
    for name in _CARRIED:
        del own[name]
    own.update(before)


def marks() -> Marks:
    """Those of Equinox, which a model of it has imported."""
    import equinox

    return Marks(modules, _write, _read, _remove, parameters, base=equinox.Module, maker=(equinox, "combine"))
