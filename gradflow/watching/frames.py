"""The scans and vmaps around a point: which iteration it is in, and whether the iterations are layers.

`jax.lax.scan` and `jax.vmap`, which Flax's own transforms call, are wrapped for the time of one trace: their body is
told its index, by which a point in it has one sink an iteration.
"""

import contextlib
import functools
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from gradflow.errors import BadInput
from gradflow.nets import calls


@dataclass(eq=False)
class Frame:
    """One scan or vmap that is being traced."""

    kind: str  # scan or vmap
    index: Any  # of the iteration, an array of int32
    size: int
    stacked: bool = False  # the iterations have parameters of their own: they are layers, not time or examples
    prefixes: list[str] = field(default_factory=list)  # the paths of the modules that are stacked


class Frames(list[Frame]):
    """Those around the present point, outer first; `uses` counts what was called how often."""

    def __init__(self):
        super().__init__()
        self.uses: Counter[str] = Counter()
        self.axes: dict[str, int | None] = {}  # of a stacked module's parameters, that of its layers; None if not known

    @contextlib.contextmanager
    def entered(self, frame: Frame, before: list[Counter[str]]) -> Iterator[None]:
        """Inside, the frame is around. A body that is traced a second time counts as it did the first time."""
        if before:
            self.uses = before[0].copy()
        else:
            before.append(self.uses.copy())
        self.append(frame)
        try:
            yield
        finally:
            self.pop()

    def settle(self, path: str, outer: dict[str, tuple[int, ...]], inner: dict[str, Any]) -> None:
        """Finds out which frames run over layers: the parameters of the module at `path` have one axis less inside.

        Raises `BadInput` where two frames are of that length and nothing tells which it is.
        """
        known = [(outer[name], leaf) for name, leaf in inner.items() if name in outer]
        if not known:
            return
        shape, leaf = known[0]  # one parameter of a module tells of all
        more = Counter(shape) - Counter(leaf.shape)
        for size in more.elements():
            self._stacked_by(size, path, leaf)
        if more.total():
            self.axes[path] = _axis([(shape, tuple(leaf.shape)) for shape, leaf in known], more.total())

    def _stacked_by(self, size: int, path: str, leaf: Any) -> None:
        found = [frame for frame in self if frame.size == size]
        if len(found) > 1:
            own = [frame for frame in found if getattr(frame.index, "_trace", 0) is getattr(leaf, "_trace", None)]
            if len(own) != 1:
                raise BadInput(
                    f"{path!r} is inside two loops of length {size}: which of them its layers are is not known"
                )
            found = own
        for frame in found:
            frame.stacked = True
            if not any(_is_below(path, prefix) for prefix in frame.prefixes):
                frame.prefixes.append(path)


def _axis(shapes: list[tuple[tuple[int, ...], tuple[int, ...]]], more: int) -> int | None:
    """The axis that all outer shapes have more than the inner ones, counted from the front or, below 0, from the end;
    of several more the first, if all are in front.
    """
    if more > 1:
        return 0 if all(outer[more:] == inner for outer, inner in shapes) else None
    places = [{k for k in range(len(outer)) if outer[:k] + outer[k + 1 :] == inner} for outer, inner in shapes]
    from_end = [{k - len(outer) for k in at} for at, (outer, _) in zip(places, shapes, strict=True)]
    return min(set.intersection(*places) or set.intersection(*from_end), default=None)


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or prefix == "" or path.startswith(prefix + "/")


def numbered(path: str, stacked: list[tuple[tuple[str, ...], int]]) -> list[str]:
    """The names of a point in stacked frames, `(prefixes, size)` outer first, one an iteration: `layers` + `/mlp` in
    three layers is `layers/0/mlp` to `layers/2/mlp`.
    """
    names = []
    for numbers in itertools.product(*(range(size) for _, size in stacked)):
        # Inner first, so that the place of an outer number does not move.
        name, cuts = path, sorted(((_cut(path, prefixes), k) for k, (prefixes, _) in enumerate(stacked)), reverse=True)
        for cut, k in cuts:
            name = f"{name[:cut]}/{numbers[k]}{name[cut:]}" if cut else f"{numbers[k]}/{name}"
        names.append(name)
    return names


def _cut(path: str, prefixes: tuple[str, ...]) -> int:
    """Where in a path the number of its layer goes: behind the stacked module that it lies in."""
    bare = path.partition("@")[0]
    return max((len(prefix) for prefix in prefixes if _is_below(bare, prefix)), default=len(bare))


_lock, _users = threading.RLock(), []


@contextlib.contextmanager
def counted() -> Iterator[None]:
    """Inside, scans and vmaps tell the active watcher's frames of their iterations; several threads may be inside."""
    with _lock:
        if not _users:
            _users.append((jax.lax.scan, jax.vmap))
            jax.lax.scan, jax.vmap = _scan(jax.lax.scan), _vmap(jax.vmap)
        _users.append(None)
    try:
        yield
    finally:
        with _lock:
            _users.pop()
            if len(_users) == 1:
                jax.lax.scan, jax.vmap = _users.pop()


def _frames() -> Frames | None:
    return getattr(calls.ACTIVE.get(), "frames", None)


def _scan(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def scan(f, init, xs=None, length=None, *arguments, **keywords):
        frames, lengths = _frames(), [*map(len, jax.tree.leaves(xs))]
        if frames is None or not (lengths or length):
            return original(f, init, xs, length, *arguments, **keywords)
        size: Any = lengths[0] if lengths else length
        before: list[Counter[str]] = []

        def body(carry, indexed):
            index, x = indexed
            with frames.entered(Frame("scan", index, size), before):
                return f(carry, x)

        return original(body, init, (jnp.arange(size), xs), size if length is None else length, *arguments, **keywords)

    return scan


def _vmap(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def vmap(fun, in_axes=0, out_axes=0, axis_name=None, *arguments, **keywords):
        if _frames() is None:
            return original(fun, in_axes, out_axes, axis_name, *arguments, **keywords)
        name, before = axis_name or f"gradflow_{next(_fresh)}", []

        @functools.wraps(fun, assigned=("__module__", "__name__", "__qualname__"), updated=())
        def body(*given, **named):
            frames = _frames()
            if frames is None:
                return fun(*given, **named)
            with frames.entered(Frame("vmap", jax.lax.axis_index(name), jax.lax.axis_size(name)), before):
                return fun(*given, **named)

        return original(body, in_axes, out_axes, name, *arguments, **keywords)

    return vmap


_fresh = itertools.count()
