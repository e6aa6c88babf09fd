"""The nets by name, and a user's own by file and function: what settings each has, and how it is built.

A net's settings are the keyword arguments of its constructor; nothing lists them a second time.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import Literal

from gradflow.errors import BadInput, nearest
from gradflow.kinds import checked
from gradflow.nets import alexnet, cnn, googlenet, mlp, nin, residual, vgg
from gradflow.nets.calls import takes_hook
from gradflow.nets.functional import split
from gradflow.nets.layers.initialisers import draws_recorded
from gradflow.nets.layers.streams import Checked
from gradflow.settings import ranges, user_code
from gradflow.settings.signature import Setting, of_function

NETS: dict[str, Callable[..., nnx.Module]] = {
    "plain": residual.plain,
    "residual": residual.residual,
    "mlp": mlp.mlp,
    "residual_mlp": mlp.residual_mlp,
    "cnn": cnn.cnn,
    "alexnet": alexnet.alexnet,
    "nin": nin.nin,
    "vgg": vgg.vgg,
    "googlenet": googlenet.googlenet,
}
# What the data and the run say: no settings. A constructor must take the first three and may take the others.
REQUIRED, OPTIONAL = ("classes", "channels", "seed"), ("image", "dtype")


def own_file(net: str) -> tuple[Path, str] | None:
    """The file and the function of `FILE.py:FUNCTION`; None for a net that comes with gradflow.

    Raises `BadInput` for a name that is neither.
    """
    if not isinstance(net, str):
        raise BadInput(f"unknown net {net!r}: choose one of {', '.join(NETS)}, or your own as FILE.py:FUNCTION")
    if net in NETS:
        return None
    file, colon, function = net.rpartition(":")
    if not (colon and file.endswith(".py") and function):
        near = nearest(net, NETS)
        guess = f" did you mean {near!r}?" if near else ""
        raise BadInput(f"unknown net {net!r}:{guess} choose one of {', '.join(NETS)}, or your own as FILE.py:FUNCTION")
    return Path(file).expanduser(), function


def constructor(net: str) -> Callable[..., nnx.Module]:
    """The function that builds the net. Raises `BadInput` for an unknown name, or a file without that function."""
    own = own_file(net)
    if own is None:
        return NETS[net]
    path, name = own
    module = vars(user_code.load(path))
    function = module.get(name)
    if not callable(function):
        has = [key for key, value in module.items() if inspect.isfunction(value) and not key.startswith("_")]
        raise BadInput(f"{path} has no function {name!r}: it has {', '.join(has) or 'none'}")
    return typing.cast(Callable[..., nnx.Module], function)


def settings(net: str) -> dict[str, Setting]:
    """The settings of a net by name. Raises `BadInput` for an unknown net, or one whose constructor is not legal."""
    return _settings(constructor(net), net)


@functools.lru_cache(maxsize=256)
def _settings(function: Callable[..., nnx.Module], net: str) -> dict[str, Setting]:
    with user_code.in_one_line(net, "cannot be read"):
        if missing := [name for name in REQUIRED if name not in inspect.signature(function).parameters]:
            raise BadInput(f"net {net!r} does not take {', '.join(missing)}: {_FORM}")
        try:
            return of_function(function, (*REQUIRED, *OPTIONAL))
        except BadInput as error:
            raise BadInput(f"net {net!r}: {error}") from error


_FORM = "legal is a function build(*, classes, channels, seed, ...) that returns an nnx.Module"


@checked
def complete(net: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a net, those not `given` at their defaults.

    Raises `BadInput` for a name that the net does not have, or for a value that is not legal; no weights are drawn.
    """
    legal = settings(net)
    for name in given:
        if name not in legal:
            near = nearest(name, legal)
            guess = f" did you mean {near!r}?" if near else ""
            raise BadInput(f"net {net!r} has no setting {name!r}:{guess} it has {', '.join(legal) or 'none'}")
    found = {name: setting.exact(given.get(name, setting.default)) for name, setting in legal.items()}
    if net in NETS:  # a user's own net is checked when it is built: it may draw weights before it checks its settings
        with contextlib.suppress(Checked):
            NETS[net](classes=10, channels=3, seed=None, **found)
    return found


def takes_image(net: str) -> bool:
    """Whether a net is made for images of one size."""
    return "image" in inspect.signature(constructor(net)).parameters


def identity(net: str) -> str:
    """What a net is, for the hash of a run: its name, or of a user's own the function and the content of the file."""
    own = own_file(net)
    return net if own is None else f"{own[1]}@{hashlib.sha256(user_code.read(own[0])).hexdigest()}"


def build(
    net: str,
    *,
    classes: int,
    channels: int,
    seed: int | jax.Array = 0,
    image: int | None = None,
    dtype: Any = None,
    **given: Any,
) -> nnx.Module:
    """The net for images of `channels` channels: an `nnx.Module`, `net(images, hook=...) -> logits`.

    Images are `(batch, height, width, channel)`, logits `(batch, classes)`. The same seed gives the same weights.
    `image` is their side in pixels: nets with fully connected layers are made for it (None: the net's own), others
    take any. `dtype` is that of the computation (None: that of the parameters, float32). Raises `BadInput` for an
    unknown net or setting, or a value that the net does not have.
    """
    classes, channels = ranges.whole("classes", classes), ranges.whole("channels", channels)
    image = None if image is None else ranges.whole("image", image)
    chosen, function = complete(net, given), constructor(net)
    takes = inspect.signature(function).parameters
    provided = {"classes": classes, "channels": channels, "seed": seed}
    optional = {name: value for name, value in (("image", image), ("dtype", dtype)) if value is not None}
    if "dtype" in optional and "dtype" not in takes:
        raise BadInput(f"net {net!r} takes no dtype: it computes in that of its parameters, float32")
    provided |= {name: value for name, value in optional.items() if name in takes}
    if net in NETS:
        return function(**provided, **chosen)
    own = own_file(net)
    assert own
    with user_code.in_one_line(own[0].absolute(), f"cannot build {own[1]!r} with {json.dumps(chosen)}"):
        return _check_module(net, function(**provided, **chosen))


def _check_module(net: str, built: Any) -> nnx.Module:
    if not isinstance(built, nnx.Module):
        raise BadInput(f"net {net!r} is a {type(built).__name__}: {_FORM}")
    try:
        arguments = (None, None) if takes_hook(built) else (None,)
        inspect.signature(built).bind(*arguments)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise BadInput(f"net {net!r} can be called neither as net(images) nor as net(images, hook)") from None
    return built


def first_arrays(net: str, *, seed: int, **given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and all other arrays of `build(net, seed=seed, **given)`, to the bit, for a net of `NETS`.

    To make the modules takes most of the time of that, and for another seed they are the same: here they are made once.
    """
    draws, _, shapes = _traced(net, tuple(sorted(given.items())))
    values = dict(zip((*draws.jaxpr.constvars, *draws.jaxpr.invars), (*draws.consts, jnp.uint32(seed)), strict=True))
    read = lambda variable: variable.val if isinstance(variable, Literal) else values[variable]  # noqa: E731
    for equation in draws.eqns:  # not by `jax.core.eval_jaxpr`: in its contexts what draws would be compiled again
        found = equation.primitive.bind(*map(read, equation.invars), **equation.params)
        several = equation.primitive.multiple_results
        values |= zip(equation.outvars, found if several else [found], strict=True)
    return jax.tree.unflatten(jax.tree.structure(shapes), map(read, draws.jaxpr.outvars))


def abstract(net: str, **given: Any) -> nnx.Module:
    """`build(net, **given)` with a `jax.ShapeDtypeStruct` in the place of every array: no weights are drawn, so that
    the largest net costs about a second.
    """
    # What a user's own name means may change from call to call.
    _, graph, shapes = (_traced if net in NETS else _trace)(net, tuple(sorted(given.items())))
    return nnx.merge(graph, *shapes)


def _trace(net: str, given: tuple[tuple[str, Any], ...]) -> tuple[Any, Any, Any]:
    """What draws the arrays of a net from a seed, operation by operation; the net's structure; the arrays' shapes."""
    graphs, own = [], net not in NETS

    def parts(seed):
        # What does not depend on the seed is computed, the counts of draws above all: Flax takes time quadratic in
        # depth when they are traced (87 s instead of 8 at 1202 layers, flax 0.12.8). Weights then must not be.
        # A user's own constructor may need a seed that is a number, and then nothing must be computed from it.
        with contextlib.nullcontext() if own else jax.ensure_compile_time_eval(), draws_recorded():
            graph, params, rest = split(build(net, seed=0 if own else seed, **dict(given)))
        graphs.append(graph)
        return params, rest

    draws, shapes = jax.make_jaxpr(parts, return_shape=True)(jax.ShapeDtypeStruct((), jnp.uint32))
    return draws, graphs[0], shapes


_traced = functools.lru_cache(maxsize=64)(_trace)
