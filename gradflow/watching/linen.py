"""The calls of a Linen model's submodules, handed on by Flax's own `intercept_methods`."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import linen

from gradflow.nets import calls, marks


@contextlib.contextmanager
def watched(model: Any, watcher: Any, outside: marks.Outside = None) -> Iterator[None]:
    """Inside, the calls of the model's modules are handed to the watcher, each under its path in the parameters.

    What another model calls is not, nor what this one does with parameters that are all from `outside`.
    """
    others = []  # that are being called

    def intercept(call: Callable[..., Any], arguments: tuple, keywords: dict, context: Any) -> Any:
        module = context.module
        if others or (not module.path and _is_another(module, model, outside)):
            others.append(module)
            try:
                return call(*arguments, **keywords)
            finally:
                others.pop()
        name, given = context.method_name, map(marks.is_value, (*arguments, *keywords.values()))
        if name != "__call__" and (name.startswith("_") or hasattr(linen.Module, name) or not any(given)):
            return call(*arguments, **keywords)
        inside = lambda: parameters(module.variables.get("params", {}))  # noqa: E731
        return watcher.call("/".join(module.path), module, call, arguments, keywords, inside)

    active = calls.ACTIVE.set(watcher)
    try:
        with linen.intercept_methods(intercept):
            yield
    finally:
        calls.ACTIVE.reset(active)


def _is_another(module: Any, model: Any, outside: marks.Outside) -> bool:
    """Whether what is called by the user is no copy of the model."""
    if not isinstance(module, type(model)) and not isinstance(model, type(module)):
        return True
    return marks.is_another(module.variables.get("params", {}), outside)


def parameters(tree: Any) -> dict[str, jax.Array]:
    """The parameters in a nested dict, by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def is_module(model: Any) -> bool:
    """Whether it is a Linen module."""
    return isinstance(model, linen.Module)
