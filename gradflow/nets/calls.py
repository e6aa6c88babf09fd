"""The calls of a module's submodules, seen from outside: whoever watches is handed each call and what it returns.

For the time of one trace the `__call__` of each class in the model is wrapped, and put back afterwards.
"""

import contextlib
import contextvars
import functools
import inspect
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
from flax import nnx
from jax.extend.core import get_opaque_trace_state

from gradflow.errors import BadInput
from gradflow.measuring.hooks import Hook
from gradflow.nets.marks import NNX, Marks, Outside, is_another, is_point, is_value, mark, modules, root_name


@runtime_checkable
class Watcher(Protocol):
    """Who is handed the calls."""

    def call(self, path: str, module: Any, call: Callable[..., Any], arguments: tuple, keywords: dict) -> Any:
        """In the place of `call(*arguments, **keywords)`, of the module at `path`: returns its output."""

    def tap(self, name: str, x: jax.Array) -> jax.Array:
        """A value that a function marked."""
        ...


@dataclass(frozen=True)
class _Root:
    """The model that is watched: what is of its type and has no mark was made inside, and is marked when it is seen."""

    kind: type
    marks: Marks
    marked: list[Any]
    outside: Outside

    def meet(self, module: Any) -> None:
        """Marks what is in a module, if it is the model."""
        if ACTIVE.get() is None or type(module) is not self.kind or self.marks.read(module) is not None:
            return
        if not is_another(self.marks.parameters(module), self.outside):
            self.marked.extend(mark(module, self.marks))

    def forget(self, part: Any) -> None:
        """Takes the marks off a part of the model that has its type: other parts that it is joined to have none."""
        for _, module in self.marks.modules(part) if type(part) is self.kind else ():
            if self.marks.read(module) is not None:
                self.marks.remove(module)


ACTIVE: contextvars.ContextVar[Watcher | None] = contextvars.ContextVar("gradflow_watcher", default=None)
_ROOT: contextvars.ContextVar[_Root | None] = contextvars.ContextVar("gradflow_root", default=None)
_patching, _patched = threading.RLock(), {}


@contextlib.contextmanager
def watched(model: Any, watcher: Watcher, marks: Marks = NNX, outside: Outside = None) -> Iterator[None]:
    """Inside, the calls of modules with a mark are handed to the watcher: `__call__`, and other public methods that are
    given an array (`embed.attend(x)`).

    A model of the same type that has none, because it was merged inside, is marked when it is called or merged, unless
    all its parameters are from `outside`.
    """
    found = {place for _, module in marks.modules(model) for place in _methods(module, marks)}
    wraps = {(kind, name): functools.partial(_by_watcher, is_call=name == "__call__") for kind, name in found}
    places = {**wraps, marks.maker: _marking}
    root = _Root(type(model), marks, [], outside)
    active, outer = ACTIVE.set(watcher), _ROOT.set(root)
    try:
        with _wrapped(places):
            yield
    finally:
        ACTIVE.reset(active)
        _ROOT.reset(outer)
        for module in root.marked:
            if marks.read(module) is not None:
                marks.remove(module)


def _methods(module: Any, marks: Marks) -> Iterator[tuple[type, str]]:
    """The classes of a module and the names of what is called in them."""
    for kind in {*type(module).__mro__} - {*marks.base.__mro__}:
        for name, function in vars(kind).items():
            public = isinstance(function, types.FunctionType) and not (
                name.startswith("_") or hasattr(marks.base, name)
            )
            if name == "__call__" or public:
                yield kind, name


@contextlib.contextmanager
def _wrapped(places: dict[tuple[Any, str], Callable[[Any], Any]]) -> Iterator[None]:
    """Inside, the functions at `(owner, name)` are wrapped; several threads may be inside."""
    with _patching:
        for (owner, name), wrap in places.items():
            original, users = _patched.get((owner, name)) or (vars(owner)[name], 0)
            _patched[owner, name] = original, users + 1
            if not users:
                setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        with _patching:
            for owner, name in places:
                original, users = _patched.pop((owner, name))
                if users > 1:
                    _patched[owner, name] = original, users - 1
                else:
                    setattr(owner, name, original)


def _by_watcher(original: Any, is_call: bool) -> Any:
    def call(self, *arguments, **keywords):
        watcher, root = ACTIVE.get(), _ROOT.get()
        if watcher is None or root is None:
            return original(self, *arguments, **keywords)
        root.meet(self)
        path = root.marks.read(self)
        if path is None or not (is_call or any(map(is_value, (*arguments, *keywords.values())))):
            return original(self, *arguments, **keywords)
        return watcher.call(path, self, lambda *a, **k: original(self, *a, **k), arguments, keywords)

    with contextlib.suppress(AttributeError):
        call.__wrapped__ = original  # its signature, for whoever asks  # pyright: ignore[reportFunctionMemberAccess]
    return call


def _marking(maker: Callable[..., Any]) -> Callable[..., Any]:
    def marking(*arguments, **keywords):
        root = _ROOT.get()
        if root is None:
            return maker(*arguments, **keywords)
        for part in arguments:
            root.forget(part)
        found = maker(*arguments, **keywords)
        root.meet(found)
        return found

    return marking


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
    with watched(net, _AtOutputs(hook, root_name(path for path, _ in modules(net)))):
        return net(images)  # pyright: ignore[reportCallIssue]


class _AtOutputs:
    """Hands the output of each module to a hook, under its path; the second use of a module is `name@2`."""

    def __init__(self, hook: Hook, root: str):
        self.hook, self.root, self.uses, self.stack = hook, root, Counter(), []
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
        name = path or self.root
        return self.tap(name if self.uses[path] == 1 else f"{name}@{self.uses[path]}", output)

    def tap(self, name: str, x: jax.Array) -> jax.Array:
        if get_opaque_trace_state(convention="flax") != self.outside:
            raise BadInput(
                f"{name!r} is called inside a transform (nnx.scan, nnx.vmap, nnx.remat, jit): a net that is trained by "
                "gradflow must then take the hook itself, net(images, hook); gf.watch and a loop of your own do without"
            )
        return self.hook(name, x)
