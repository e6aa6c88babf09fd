"""The initialisations of weights by name, from delta-orthogonal to plain normal."""

import contextlib
import contextvars
import functools
import math
import os
import re
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from flax.nnx import initializers
from jax import core
from jax.extend.core import Primitive

from gradflow.errors import BadInput, choose

_RECORDED = contextvars.ContextVar("whether a draw is an operation of the trace", default=False)


@contextlib.contextmanager
def draws_recorded() -> Iterator[None]:
    """Inside, a draw by a key that is traced is one operation of the trace: evaluated, it does what it does outside."""
    token = _RECORDED.set(True)
    try:
        yield
    finally:
        _RECORDED.reset(token)


# It has no rule for a compiler: a trace with it in is evaluated, operation by operation.
_drawn = Primitive("draw")
_drawn.def_impl(lambda key, *, draw, shape, dtype: draw(key, shape, dtype))
_drawn.def_abstract_eval(lambda key, *, draw, shape, dtype: core.ShapedArray(shape, jnp.dtype(dtype)))


def delta_orthogonal(gain: float = 1.0, dtype=jnp.float32):
    """An orthogonal matrix at the centre tap of a kernel with odd sides, zero elsewhere (Xiao 2018, section 2.4).

    Where the layer narrows, the matrix is semi-orthogonal: it keeps the norm of the gradient, not of the activation.
    """

    def initialise(key, shape, dtype=dtype, out_sharding=None):
        del out_sharding
        *window, channels_in, channels_out = shape
        matrix = initializers.orthogonal(gain)(key, (channels_in, channels_out), dtype)
        centre = tuple(side // 2 for side in window)
        return jnp.zeros(shape, dtype).at[centre].set(matrix)

    return initialise


# Each takes the number in `name(number)`: the gain, or for `normal` the standard deviation.
INITIALISATIONS: dict[str, Callable[[float], Callable]] = {
    # Delving Deep into Rectifiers (He 2015, arXiv:1502.01852), equation 10: variance 2 / fan-in.
    "he": lambda gain: initializers.variance_scaling(2 * gain**2, "fan_in", "normal"),
    # Glorot and Bengio 2010: uniform of variance 2 / (fan-in + fan-out).
    "glorot": lambda gain: initializers.variance_scaling(gain**2, "fan_avg", "uniform"),
    "lecun": lambda gain: initializers.variance_scaling(gain**2, "fan_in", "normal"),
    "orthogonal": lambda gain: initializers.orthogonal(gain),
    "delta_orthogonal": delta_orthogonal,
    "normal": lambda deviation: initializers.normal(deviation),
}


@functools.cache  # one function a name, so that nets of one architecture share what is compiled
def initialiser(name: str) -> Callable:
    """The initialiser called `name`: `he`, `glorot`, `lecun`, `orthogonal`, `delta_orthogonal`, each with an optional
    gain as in `orthogonal(1.414)`, or `normal(0.01)` with its standard deviation.

    Raises `BadInput` for an unknown name or a number that is not a positive, finite one.
    """
    match = re.fullmatch(r"([a-z_]+)(?:\((.*)\))?", name)
    kind, number = match.groups() if match else (name, None)
    choose("initialisation", kind, INITIALISATIONS)
    if number is None:
        if kind == "normal":
            raise BadInput("initialisation 'normal' needs its standard deviation: write normal(0.01)")
        return _soon_compiled(INITIALISATIONS[kind](1.0))
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise BadInput(f"initialisation {name!r}: the number in brackets must be positive and finite: {kind}(0.5)")
    return _soon_compiled(INITIALISATIONS[kind](value))


def _soon_compiled(initialise: Callable) -> Callable:
    """An initialiser that compiles in a quarter of the time on a CPU, and draws about as fast: level 0 would compile in
    two thirds of that and draw eight times slower (results/LOG.md). A level in XLA_FLAGS stays as it is.
    """
    chosen = "xla_backend_optimization_level" in os.environ.get("XLA_FLAGS", "")
    options = {} if chosen else {"xla_backend_optimization_level": 1}
    quick = jax.jit(initialise, static_argnums=(1, 2), compiler_options=options)

    @functools.wraps(initialise)
    def draw(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        if _RECORDED.get() and isinstance(key, core.Tracer):
            return _drawn.bind(key, draw=draw, shape=tuple(shape), dtype=dtype)
        # Only the outermost function may have compile options, and these are for the CPU's compiler.
        if isinstance(key, core.Tracer) or jax.default_backend() != "cpu":
            return initialise(key, shape, dtype)
        return quick(key, tuple(shape), dtype)

    return draw
