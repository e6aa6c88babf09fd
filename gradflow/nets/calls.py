"""The calls of a module's submodules, seen from outside: whoever watches is handed each call and what it returns.

For the time of one trace the `__call__` of each class in the model is wrapped, and put back afterwards. A module is
known by a static mark, its path, which travels through split, merge, scan, vmap and remat as any static attribute does.
"""

import contextlib
import contextvars
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import get_opaque_trace_state

from gradflow.errors import BadInput
from gradflow.hooks import Hook

MARK = "_gradflow_path"
ROOT = "output"  # the name of a model's own output, where it has weights of its own or no submodules


@runtime_checkable
class Watcher(Protocol):
    """Who is handed the calls."""

    def call(self, path: str, module: Any, call: Callable[..., Any], arguments: tuple, keywords: dict) -> Any:
        """In the place of `call(*arguments, **keywords)`, of the module at `path`: returns its output."""

    def tap(self, name: str, x: jax.Array) -> jax.Array:
        """A value that a function marked."""
        ...


ACTIVE: contextvars.ContextVar[Watcher | None] = contextvars.ContextVar("gradflow_watcher", default=None)
_ROOT_TYPE: contextvars.ContextVar[type | None] = contextvars.ContextVar("gradflow_root", default=None)
_patching, _patched = threading.RLock(), {}


def modules(model: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """The path of every module that can be called, and the module; the model's own path is empty."""
    for path, module in nnx.iter_modules(model):
        if callable(module):
            yield "/".join(map(str, path)), module


def mark(model: nnx.Module) -> list[nnx.Module]:
    """Writes its path on each module of a model; returns those."""
    marked = []
    for path, module in modules(model):
        object.__setattr__(module, MARK, path)  # the module's own would refuse one of an outer trace
        marked.append(module)
    return marked


@contextlib.contextmanager
def watched(model: nnx.Module, watcher: Watcher) -> Iterator[None]:
    """Inside, the calls of modules with a mark are handed to the watcher.

    A model of the same type that has none, because it was merged inside, is marked when it is called or merged.
    """
    classes = {kind for _, module in modules(model) for kind in type(module).__mro__ if "__call__" in vars(kind)}
    marked: list[nnx.Module] = []
    active, root = ACTIVE.set(watcher), _ROOT_TYPE.set(type(model))
    _MARKED.set(marked)
    try:
        with _wrapped(classes - {object}):
            yield
    finally:
        ACTIVE.reset(active)
        _ROOT_TYPE.reset(root)
        for module in marked:
            vars(module).pop(MARK, None)


_MARKED: contextvars.ContextVar[list[nnx.Module]] = contextvars.ContextVar("gradflow_marked")


def _mark_root(module: Any) -> None:
    if ACTIVE.get() is not None and type(module) is _ROOT_TYPE.get() and not hasattr(module, MARK):
        _MARKED.get().extend(mark(module))


@contextlib.contextmanager
def _wrapped(classes: set[type]) -> Iterator[None]:
    """Inside, the classes' calls go by the active watcher; several threads may be inside."""
    with _patching:
        for kind in classes:
            original, users = _patched.get(kind) or (vars(kind)["__call__"], 0)
            _patched[kind] = original, users + 1
            if not users:
                setattr(kind, "__call__", _by_watcher(original))  # noqa: B010
        merge, users = _patched.get("merge") or (nnx.merge, 0)
        _patched["merge"] = merge, users + 1
        if not users:
            nnx.merge = _marking(merge)
    try:
        yield
    finally:
        with _patching:
            for kind in [*classes, "merge"]:
                original, users = _patched.pop(kind)
                if users > 1:
                    _patched[kind] = original, users - 1
                elif kind == "merge":
                    nnx.merge = original
                else:
                    setattr(kind, "__call__", original)  # noqa: B010


def _by_watcher(original: Any) -> Any:
    def call(self, *arguments, **keywords):
        watcher = ACTIVE.get()
        if watcher is None:
            return original(self, *arguments, **keywords)
        _mark_root(self)
        path = getattr(self, MARK, None)
        if path is None:
            return original(self, *arguments, **keywords)
        return watcher.call(path, self, lambda *a, **k: original(self, *a, **k), arguments, keywords)

    with contextlib.suppress(AttributeError):
        call.__wrapped__ = original  # its signature, for whoever asks  # pyright: ignore[reportFunctionMemberAccess]
    return call


def _marking(merge: Callable[..., Any]) -> Callable[..., Any]:
    def marking_merge(*arguments, **keywords):
        found = merge(*arguments, **keywords)
        _mark_root(found)
        return found

    return marking_merge


def parameters(module: nnx.Module) -> dict[str, jax.Array]:
    """The parameters of a module and of what is in it, by their paths."""
    return {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param))}


def is_value(x: Any) -> bool:
    """Whether `x` is an array of floating-point numbers, which a gradient flows through."""
    return hasattr(x, "dtype") and hasattr(x, "shape") and jnp.issubdtype(x.dtype, jnp.floating)


def takes_hook(net: nnx.Module) -> bool:
    """Whether a net is called as `net(x, hook)`; one that takes `x` alone is watched at its modules' outputs."""
    parameters = [*inspect.signature(net).parameters.values()]  # pyright: ignore[reportArgumentType]
    if "hook" in {parameter.name for parameter in parameters}:
        return True
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 1 and positional[1].default is inspect.Parameter.empty


def call_watched(net: nnx.Module, images: jax.Array, hook: Hook) -> Any:
    """`net(images)`, whose submodules' outputs pass the hook; what a function tapped passes it as well.

    Raises `BadInput` where a module is called inside a transform, whose values a hook cannot take out of it.
    """
    mark(net)
    with watched(net, _AtOutputs(hook)):
        return net(images)  # pyright: ignore[reportCallIssue]


class _AtOutputs:
    """Hands the output of each module to a hook, under its path; the second use of a module is `name@2`."""

    def __init__(self, hook: Hook):
        self.hook, self.uses, self.stack = hook, Counter(), []
        self.outside = get_opaque_trace_state(convention="flax")

    def call(self, path: str, module: Any, call: Callable[..., Any], arguments: tuple, keywords: dict) -> Any:
        if self.stack and self.stack[-1] is module:  # its own `super().__call__`
            return call(*arguments, **keywords)
        self.stack.append(module)
        output = call(*arguments, **keywords)
        self.stack.pop()
        if not is_value(output) or not (path or is_point(module)):
            return output
        self.uses[path] += 1
        name = path or ROOT
        return self.tap(name if self.uses[path] == 1 else f"{name}@{self.uses[path]}", output)

    def tap(self, name: str, x: jax.Array) -> jax.Array:
        if get_opaque_trace_state(convention="flax") != self.outside:
            raise BadInput(
                f"{name!r} is called inside a transform (nnx.scan, nnx.vmap, nnx.remat, jit): a net that is trained by "
                "gradflow must then take the hook itself, net(images, hook); gf.watch and a loop of your own do without"
            )
        return self.hook(name, x)


def is_point(root: nnx.Module) -> bool:
    """Whether a model's own output is a point: it has weights of its own, or no submodules."""
    children = [module for path, module in modules(root) if path]
    return not children or any(isinstance(value, nnx.Param) for value in vars(root).values())
