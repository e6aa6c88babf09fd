"""Who is handed the calls of a model while it is traced: the one who looks for its points, and the one who reads them.

Both give a point the same name, as they see the same calls in the same order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from gradflow.errors import BadInput
from gradflow.measuring.hooks import STACK_MARK
from gradflow.nets import dependencies, marks
from gradflow.nets.marks import ROOT, is_value
from gradflow.watching import equinox, sinks
from gradflow.watching.frames import Frame, Frames

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]  # of the parameters of each module, by their paths in it


@dataclass(eq=False)
class Found:
    """One point, or one for each iteration of the scans and vmaps around it."""

    key: str  # path of the module, `@2` at its second use, `.carry` for a part of its output; or the tap's name
    path: str  # of the module, empty of the model itself; of a tap its name
    frames: tuple[Frame, ...]
    shape: tuple[int, ...]  # in one iteration
    dtype: Any
    call: str  # the key without the part of the output


@dataclass(eq=False)
class _Call:
    path: str
    key: str
    frames: int  # how many were around
    seen: bool = False  # a call of the same module in a scan was inside: the points are in there


class Tracker:
    """Follows the calls; `visit` is handed the value of each point, `enter` what goes into each module."""

    def __init__(self, shapes: Shapes, root: bool):
        self.shapes, self.root = shapes, root  # whether the model's own output is a point
        self.frames, self.stack, self.called = Frames(), [], False

    def visit(self, key: str, path: str, call: str, x: jax.Array) -> jax.Array:
        """`x`, the value of the point `key`."""
        raise NotImplementedError

    def enter(self, key: str, x: jax.Array) -> tuple[jax.Array, Callable[[Any], Any]]:
        """`x`, which goes into the module whose call is `key`, and a function of that call's output."""
        raise NotImplementedError

    def call(
        self,
        path: str,
        module: Any,
        call: Callable[..., Any],
        arguments: tuple,
        keywords: dict,
        parameters: Callable[[], dict[str, Any]] | None = None,
    ) -> Any:
        """A module's call: see `calls.Watcher`. `parameters` are those of the module, as they are inside."""
        self.called = True
        outer = self.stack[-1] if self.stack and self.stack[-1].path == path else None
        if outer and outer.frames == len(self.frames):  # its own `super().__call__`
            return call(*arguments, **keywords)
        if self.frames:
            inside = (
                parameters() if parameters else (equinox if equinox.is_module(module) else marks).parameters(module)
            )
            self.frames.settle(path, dict(self.shapes.get(path, {})), inside)
        if outer:
            outer.seen = True
        this = _Call(path, outer.key if outer else self._key(path or ROOT), len(self.frames))
        (arguments, keywords), leave = self._enter(this.key, arguments, keywords)
        self.stack.append(this)
        output = call(*arguments, **keywords)
        self.stack.pop()
        if this.seen or not (path or self.root):
            return output
        return leave(self._outputs(this, output))

    def tap(self, name: str, x: jax.Array) -> jax.Array:
        """A value that a function marked. Raises `BadInput` for a name that is there already."""
        if self.frames.uses[name]:
            raise BadInput(f"two points are called {name!r}: each gf.tap and each module needs a name of its own")
        return self.visit(self._key(name), name, name, x)

    def _key(self, path: str) -> str:
        self.frames.uses[path] += 1
        return path if self.frames.uses[path] == 1 else f"{path}@{self.frames.uses[path]}"

    def _enter(self, key: str, arguments: tuple, keywords: dict) -> tuple[tuple[tuple, dict], Callable[[Any], Any]]:
        """The arguments; the first value among them, wherever it stands, is what goes into the module."""
        first = next((x for x in (*arguments, *keywords.values()) if is_value(x)), None)
        if first is None:
            return (arguments, keywords), lambda output: output
        entered, leave = self.enter(key, first)
        new = lambda x: entered if x is first else x  # noqa: E731
        return (tuple(map(new, arguments)), {name: new(x) for name, x in keywords.items()}), leave

    def _outputs(self, this: _Call, output: Any) -> Any:
        """The output, each of whose values is a point."""
        if is_value(output):
            return self.visit(this.key, this.path, this.key, output)
        leaves, tree = jax.tree_util.tree_flatten_with_path(output, is_leaf=_is_whole)
        several = sum(is_value(leaf) for _, leaf in leaves) > 1
        found = []
        for at, leaf in leaves:
            if is_value(leaf):
                part = jax.tree_util.keystr(at, simple=True, separator=".")
                leaf = self.visit(f"{this.key}.{part}" if several else this.key, this.path, this.key, leaf)
            found.append(leaf)
        return jax.tree.unflatten(tree, found)


def _is_whole(x: Any) -> bool:
    """Whether what a module returns is handed on as it is."""
    return callable(x) or equinox.is_state(x)


class Search(Tracker):
    """Looks for the points of a trace, and marks them in it."""

    def __init__(self, shapes: Shapes, root: bool):
        super().__init__(shapes, root)
        self.found: dict[str, Found] = {}
        self.entered: dict[str, tuple[Any, Any]] = {}  # shape and dtype of what goes into each call

    def visit(self, key: str, path: str, call: str, x: jax.Array) -> jax.Array:
        """Marks `x`."""
        if STACK_MARK in key or not key.isprintable():
            raise BadInput(f"the name {key!r} is not legal: it must be text in one line, without {STACK_MARK}")
        x = jnp.asarray(x)
        self.found[key] = Found(key, path, tuple(self.frames), x.shape, x.dtype, call)
        return dependencies.mark(key, x)

    def enter(self, key: str, x: jax.Array) -> tuple[jax.Array, Callable[[Any], Any]]:
        """Marks `x` as an input."""
        self.entered[key] = jnp.shape(x), x.dtype
        return dependencies.mark_input(key, jnp.asarray(x)), lambda output: output


class Reader(Tracker):
    """Reads the points that have a sink; `met` are those that were passed."""

    def __init__(
        self, shapes: Shapes, root: bool, flow: Mapping[str, sinks.Sink], units: Mapping[str, tuple[Any, Any, int]]
    ):
        super().__init__(shapes, root)
        self.flow, self.units = flow, units  # of a unit the sink, the dtype of its output, and the frames around it
        self.met: set[str] = set()

    def visit(self, key: str, path: str, call: str, x: jax.Array) -> jax.Array:
        """`x`, read."""
        if key not in self.flow:
            return x
        self.met.add(key)
        return sinks.read(jnp.asarray(x), sinks.Sink(*(self._here(sink) for sink in self.flow[key])))

    def enter(self, key: str, x: jax.Array) -> tuple[jax.Array, Callable[[Any], Any]]:
        """`x`, whose gradient is told apart where the call is that of a unit."""
        if key not in self.units or self.units[key][2] != len(self.frames):
            return x, lambda output: output
        sink, dtype, _ = self.units[key]
        entered, carrier = sinks.enter(x, self._here(sink), dtype)
        return entered, lambda output: jax.tree.map(lambda y: sinks.leave(y, carrier) if is_value(y) else y, output)

    def _here(self, sink: jax.Array) -> jax.Array:
        """The sink of this iteration."""
        for frame in self.frames:
            sink = sink[frame.index]
        return sink
