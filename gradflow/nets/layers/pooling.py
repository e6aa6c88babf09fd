"""Max and average pools; on a CPU the backward pass of the max pool is written out, with `fast_gradients`.

XLA's CPU compiler scatters the gradient, one window after another. Measured at 64 maps of 16x16x64, forward and
backward, one core: windows of 2x2, 2 apart, 11.9 ms, here 3.4; of 3x3, 1 apart, 92 ms, here 49 to 72. (XLA adds up
shifted maps in 7 ms, but not while it is asked for the fast library, whose sums take 5 ms each.) Windows of 3x3, 2
apart, are faster as XLA does them. On other platforms it is `jax.lax.reduce_window` and nothing else.
"""

import functools
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from gradflow.arrays import Maps
from gradflow.nets.layers.backward import fast_gradients
from gradflow.nets.layers.convolution import fusion_barrier

Pads = tuple[tuple[int, int], tuple[int, int]]  # pixels before and after, by axis


def max_pool(x: Maps, window: int, stride: int, padding: int = 0, partial: bool = False) -> Maps:
    """The largest of each window; with `partial` also of windows that reach over the far edges (Caffe's rounding up).

    `(batch, h, w, channel)` to `(batch, h', w', channel)`, h' = (h + 2 padding - window) / stride + 1, rounded down, or
    up with `partial`. The gradient goes to the first of several that are the largest.
    """
    pads = _pads(x, window, stride, padding, partial)
    ours = fast_gradients.value and jax.default_backend() == "cpu" and (stride == 1 or stride >= window)
    return (_cpu if ours else _lax)(x, window, stride, pads)


def average_pool(x: Maps, window: int, stride: int, padding: int = 0, partial: bool = False) -> Maps:
    """The mean of each window over the pixels that are there; windows as in `max_pool`."""
    pads = _pads(x, window, stride, padding, partial)
    return nnx.avg_pool(x, (window, window), (stride, stride), pads, count_include_pad=False)  # pyright: ignore[reportArgumentType]


def _pads(x: jax.Array, window: int, stride: int, padding: int, partial: bool) -> Pads:
    """Pixels to put around; a window must begin inside the image or its leading padding."""

    def along(side: int) -> tuple[int, int]:
        windows = -(-(side + 2 * padding - window) // stride) + 1 if partial else 0
        while windows and (windows - 1) * stride >= side + padding:
            windows -= 1
        return padding, max(padding, (windows - 1) * stride + window - side - padding)

    return along(x.shape[1]), along(x.shape[2])


def _lax(x: jax.Array, window: int, stride: int, pads: Pads) -> jax.Array:
    return nnx.max_pool(x, (window, window), (stride, stride), pads)  # pyright: ignore[reportArgumentType]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _cpu(x, window, stride, pads):
    return _lax(x, window, stride, pads)


def _forward(x, window, stride, pads):
    y = _cpu(x, window, stride, pads)
    return y, (x, y)


def _backward(window, stride, pads, saved, gradient):
    x, y = saved
    padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])
    reach = [(count - 1) * stride + 1 for count in y.shape[1:3]]  # from the first window's pixel to the last one's
    offsets = list(product(range(window), repeat=2))

    def pixels(row, column):
        """The pixel at that place of every window, shaped as y."""
        end = (len(x), row + reach[0], column + reach[1], x.shape[3])
        return lax.slice(padded, (0, row, column, 0), end, (1, stride, stride, 1))

    place = jnp.zeros(y.shape, jnp.float32)
    for number, offset in reversed(list(enumerate(offsets))):  # the first that is the largest comes last and stays
        place = jnp.where(pixels(*offset) == y, number, place)

    def dilate(some, fill):
        """What there is a window of, at the place of its first pixel, with room before for the reach of a window."""
        room = [
            (window - 1, pad[0] + side - far, stride - 1) for pad, side, far in zip(pads, sides, reach, strict=True)
        ]
        return fusion_barrier(lax.pad(some, jnp.array(fill, some.dtype), [(0, 0, 0), *room, (0, 0, 0)]))

    sides = x.shape[1:3]
    place, gradient = dilate(place, -1), dilate(gradient, 0)
    total = jnp.zeros(x.shape, gradient.dtype)
    for number, (row, column) in enumerate(offsets):
        top, left = (window - 1 - first + pad[0] for first, pad in zip((row, column), pads, strict=True))
        cut = np.s_[:, top : top + sides[0], left : left + sides[1]]
        more = gradient[cut] + total if stride < window else gradient[cut]  # windows apart have nothing to add up
        total = jnp.where(place[cut] == number, more, total)
    return (total,)


_cpu.defvjp(_forward, _backward)
