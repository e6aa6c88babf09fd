"""A model, and where in it the gradient is read."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gradflow.errors import BadInput
from gradflow.nets import calls
from gradflow.nets.marks import NNX, Marks, Outside, is_point, is_value
from gradflow.watching import equinox, linen, trees
from gradflow.watching.frames import counted
from gradflow.watching.tracker import Shapes, Tracker

# JAX keeps what it traced of an inner function; under another mark it traces it anew, for us to see. It is made here,
# not where it is first used: what was traced before there was one more context is traced and compiled again.
_trace = jax.make_user_context(None)


@dataclass(frozen=True, eq=False)
class Watched:
    """What `gf.watch` returns, for `gf.value_and_grad`."""

    model: Any
    points: tuple[str, ...] | None
    residual: tuple[str, ...] | None
    examples: int | None

    @property
    def is_linen(self) -> bool:
        """Whether the model is a Linen module, whose parameters are not in it."""
        return linen.is_module(self.model)

    @property
    def is_equinox(self) -> bool:
        """Whether the model is an Equinox module, which is a tree, and never changed."""
        return equinox.is_module(self.model)

    @property
    def marks(self) -> Marks:
        """How a module of the model is known by its path, of NNX and Equinox."""
        return equinox.marks() if self.is_equinox else NNX

    def root_is_point(self, shapes: Shapes) -> bool:
        """Whether the model's own output is a point: it has weights of its own, or no submodules."""
        if not self.is_linen:
            return is_point(self.model, self.marks)
        return not shapes or any("/" not in name for name in shapes[""])

    def shapes(self, params: Any) -> Shapes:
        """The shapes of the parameters of each module and of what is in it, by paths: of the model, or in `params`."""
        leaves = trees.leaves(params) if self.is_linen else self.marks.parameters(self.model)
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        for path, leaf in leaves.items():
            names = path.split("/")
            for cut in range(len(names)):
                found.setdefault("/".join(names[:cut]), {})["/".join(names[cut:])] = tuple(jnp.shape(leaf))
        return found

    def tied(self, shapes: Shapes) -> set[str]:
        """The paths of modules with a matrix that is another one's as well, whose `nnx.Param` they share: they make the
        net deeper, and their weights are those of the other one.
        """
        modules = self.marks.modules(self.model) if isinstance(self.model, nnx.Module) else ()
        own = ((path, name, value) for path, module in modules for name, value in vars(module).items())
        return {
            path
            for path, name, value in own
            if isinstance(value, nnx.Param) and len(jnp.shape(value)) > 1 and name not in shapes.get(path, {})
        }

    @contextlib.contextmanager
    def traced(self, tracker: Tracker, outside: Outside) -> Iterator[None]:
        """Inside, the calls of the model are handed to the tracker, and nothing that was traced before is used.

        Those of another model of its type are not: one whose parameters are all from `outside`.
        """
        if self.is_linen:
            watching = linen.watched(self.model, tracker, outside)
        else:
            watching = calls.watched(self.model, tracker, self.marks, outside)
        with _trace(object()), counted(), watching:
            yield


def watch(
    model: Any,
    points: str | Sequence[str] | None = None,
    residual: str | Sequence[str] | None = None,
    examples: int | None = None,
) -> Watched:
    """Watches a model of any kind, unchanged: `flax.nnx.Module`, `flax.linen.Module` or `equinox.Module`.

    The output of every module in it is a point, under the module's path (`blocks/0/attention/query`); a module's second
    use is `name@2`, part of an output that has several arrays `name.part`, and of layers that are one `nnx.scan` or
    `nnx.vmap` each has its number (`layers/3/mlp`). The model's own output is `output`, where the model has weights of
    its own or no submodules (`model output`, where a module is called `output`). What `gf.tap` marks is a point, too.

    Args:
        model: The model; it is not changed.
        points: Patterns (`fnmatch`) of the points to read, by default all; `!pattern` leaves out.
        residual: Patterns of the modules whose input comes back added to their output, where the identity and the
            residual path are told apart; by default all of which the trace shows it, with `[]` none.
        examples: B, over which the loss is a mean: readings are `sqrt(B) ||dL/dx||`. By default the length of the first
            axis of the first array in the batch, models, their states and random keys apart; where the loss is given
            none, 1, which a warning says.

    Raises `BadInput` for what is no such model, and where two modules of it have one path.
    """
    if not (isinstance(model, nnx.Module) or linen.is_module(model) or equinox.is_module(model)):
        legal = "a flax.nnx.Module, a flax.linen.Module or an equinox.Module"
        raise BadInput(f"cannot watch a {type(model).__name__}: legal is {legal}")
    watched = Watched(model, _patterns(points), _patterns(residual), examples)
    paths = [] if watched.is_linen else [path for path, _ in watched.marks.modules(model)]
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        raise BadInput(f"two modules have the path {twice[0]!r}: a key of a dictionary is legal without a slash")
    if examples is not None and not (type(examples) is int and examples > 0):
        raise BadInput(f"examples {examples!r} is not legal: it is how many examples the loss is a mean over")
    return watched


def _patterns(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    patterns = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise BadInput(f"the patterns {given!r} are not legal: they are names of points, such as 'layers/*'")
    return patterns


def tap(name: str, x: jax.Array) -> jax.Array:
    """`x` itself, which becomes the point `name` wherever a watched model is traced.

    Raises `BadInput` for what is no array of floating-point numbers and, where it is watched, a name that is taken.
    """
    if not isinstance(name, str) or not name:
        raise BadInput(f"the name {name!r} is not legal: it must be text")
    if not is_value(x):
        raise BadInput(f"the point {name!r} is a {type(x).__name__}: legal are arrays of floating-point numbers")
    watcher = calls.ACTIVE.get()
    return x if watcher is None else watcher.tap(name, x)
