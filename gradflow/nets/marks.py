"""How a module is known inside a trace: by a static mark on it, its path in the model.

A mark travels through split, merge, scan, vmap and remat as any static attribute does.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer

MARK = "to_nnx__gradflow_path"  # so begins what `nnx.bridge.ToNNX` does not take for variables of its Linen module
ROOT = "output"  # the name of a model's own output, where it has weights of its own or no submodules


@dataclass(frozen=True)
class Marks:
    """How the modules of a framework are known by their paths."""

    modules: Callable[[Any], Iterator[tuple[str, Any]]]  # of a model those that can be called, each with its path
    write: Callable[[Any, str], None]  # the path on a module
    read: Callable[[Any], str | None]
    remove: Callable[[Any], None]
    parameters: Callable[[Any], dict[str, Any]]  # of a module and of what is in it, by their paths
    base: type  # of all modules
    maker: tuple[Any, str]  # whose function of that name makes a model out of its parts


Outside = frozenset[Any] | None  # the traces around the one that is watched; None where that is not asked


def traces(tree: Any) -> frozenset[Any]:
    """The traces that the arrays of a tree belong to."""
    return frozenset(leaf._trace for leaf in jax.tree.leaves(tree) if isinstance(leaf, Tracer))


def is_another(parameters: Any, outside: Outside) -> bool:
    """Whether these are the parameters of another model of the same type, as a target net or a teacher is.

    The loss is not differentiated by any of them: all are numbers, or of the traces around.
    """
    leaves = jax.tree.leaves(parameters)
    if outside is None or not leaves:
        return False
    return all(not isinstance(leaf, Tracer) or leaf._trace in outside for leaf in leaves)


def modules(model: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """The path of every module that can be called, and the module; the model's own path is empty."""
    for path, module in nnx.iter_modules(model):
        if callable(module):
            yield "/".join(map(str, path)), module


def parameters(module: nnx.Module) -> dict[str, Any]:
    """The parameters of a module and of what is in it, by their paths."""
    return {
        "/".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param))
    }


NNX = Marks(
    modules,
    write=lambda module, path: object.__setattr__(module, MARK, path),  # its own would refuse one of an outer trace
    read=lambda module: getattr(module, MARK, None),
    remove=lambda module: vars(module).pop(MARK, None),
    parameters=parameters,
    base=nnx.Module,
    maker=(nnx, "merge"),
)


def mark(model: Any, marks: Marks = NNX) -> list[Any]:
    """Writes its path on each module of a model; returns those."""
    found = list(marks.modules(model))
    for path, module in found:
        marks.write(module, path)
    return [module for _, module in found]


def is_value(x: Any) -> bool:
    """Whether `x` is an array of floating-point numbers, which a gradient flows through."""
    return hasattr(x, "dtype") and hasattr(x, "shape") and jnp.issubdtype(x.dtype, jnp.floating)


def is_point(root: Any, marks: Marks = NNX) -> bool:
    """Whether a model's own output is a point: it has weights of its own, or no submodules."""
    children = [module for path, module in marks.modules(root) if path]
    return not children or any(isinstance(value, nnx.Param) or is_value(value) for value in vars(root).values())


def root_name(paths: Iterable[str]) -> str:
    """The name of a model's own output: none of the paths of its modules."""
    taken, name = {*paths}, ROOT
    while name in taken:
        name = f"model {name}"
    return name
