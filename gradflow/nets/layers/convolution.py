"""A convolution whose backward convolutions are written out, so that a CPU runs them fast inside a scan as well.

That is with `fast_gradients`; without, the same forward pass is differentiated by JAX.

XLA's CPU compiler brings a convolution into the layout of its fast path everywhere, but the two of its backward pass
only outside the bodies of loops; inside, they fall to a naive one, fifty times slower (jax issue 12868). Here they are
in that layout from the start. On other platforms it is `jax.lax.conv_general_dilated` and nothing else.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradflow.arrays import Maps
from gradflow.nets.layers.backward import fast_gradients

LAYOUT = ("NHWC", "HWIO", "NHWC")
# Measured at batch 128 on two cores. From 32 channels on XLA fuses what stands before a convolution into it and then
# computes it again for each of the nine taps: 7.6 instead of 4.0 ms for a ReLU.
_FUSES_FROM = 32
# The weight gradient of few channels runs over the whole batch's pixels once a row of its small result, so the batch is
# cut into pieces that stay in the cache: 10.5 to 8.0 ms at 32x32x16.
_PIECES, _PIECES_UP_TO, _PIECES_FROM = 8, 16, 2**20


def convolve(x: Maps, kernel: jax.Array, stride: int, padding: int, circular: bool = False) -> Maps:
    """`(batch, h, w, in)` with kernel `(k, k, in, out)`, both sides padded by `padding` pixels: zeros, or with
    `circular` those of the opposite edge.
    """
    if jax.default_backend() == "cpu" and _is_small(x, kernel, stride, padding):
        return _small(x, kernel, padding, circular)
    if circular and 2 * padding + 1 != len(kernel):  # the backward pass below is for windows centred on their pixel
        x, padding, circular = _wrap(x, padding, padding), 0, False
    if jax.default_backend() != "cpu":
        return _lax(_wrap(x, padding, padding), kernel, stride, 0) if circular else _lax(x, kernel, stride, padding)
    return (_cpu if fast_gradients.value else _forward_pass)(x, kernel, stride, padding, circular)


def _lax(x, kernel, stride, padding):
    return lax.conv_general_dilated(x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=LAYOUT)


def _wrap(x, before: int, after: int):
    """Maps with `before` and `after` more rows and columns, which are those of the opposite edge."""
    sides = (before, after)
    return jnp.pad(x, ((0, 0), sides, sides, (0, 0)), mode="wrap")


def _forward_pass(x, kernel, stride, padding, circular):
    if circular:
        x, padding = _wrap(x, padding, padding), 0
    return _canonical(_unfused(x), kernel, stride, [(padding, padding)] * 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _cpu(x, kernel, stride, padding, circular):
    return _forward_pass(x, kernel, stride, padding, circular)


def _forward(x, kernel, stride, padding, circular):
    return _cpu(x, kernel, stride, padding, circular), (x, kernel)


def _backward(stride, padding, circular, saved, gradient):
    x, kernel = saved
    if circular:
        of_input = _circular_input_gradient(gradient, kernel, x.shape, stride, padding)
        x, padding = _wrap(x, padding, padding), 0
    else:
        of_input = input_gradient(gradient, kernel, x.shape, stride, padding)
    return of_input, weight_gradient(x, gradient, kernel.shape, stride, padding)


_cpu.defvjp(_forward, _backward)


def _is_small(x, kernel, stride, padding) -> bool:
    """Whether most of a window's taps lie beyond the edges of such a map, or fall on one pixel: all pairs of pixels
    are then less than half of the products.
    """
    same_size = stride == 1 and 2 * padding + 1 == len(kernel)
    return x.dtype == jnp.float32 and same_size and 2 * math.prod(x.shape[1:3]) <= math.prod(kernel.shape[:2])


def _small(x, kernel, padding, circular):
    """The same for maps of a few pixels: a product with one matrix for each pair of an input and an output pixel.

    Six layers of 64 channels on 2x2 maps, forward and backward: 4.2 to 1.6 ms with circular padding, 2.1 to 1.6 with
    zeros (batch 32, one core).
    """
    batch, height, width, channels = x.shape
    taps = _taps((height, width), kernel.shape[:2], padding, circular)
    pairs = jnp.einsum("tio,tcd->iocd", taps, kernel.reshape(-1, *kernel.shape[2:]))
    y = jnp.einsum("bic,iocd->bod", x.reshape(batch, -1, channels), pairs)
    return y.reshape(batch, height, width, -1)


def _taps(sides, kernel_sides, padding, circular) -> np.ndarray:
    """How often a tap leads from an input to an output pixel: `(taps, pixels, pixels)`."""
    taps, pixels = list(np.ndindex(*kernel_sides)), list(np.ndindex(*sides))
    found = np.zeros((len(taps), len(pixels), len(pixels)), np.float32)
    for (t, tap), (o, pixel) in itertools.product(enumerate(taps), enumerate(pixels)):
        at = tuple(place + step - padding for place, step in zip(pixel, tap, strict=True))
        if circular:
            at = tuple(np.mod(at, sides))
        if at in pixels:
            found[t, pixels.index(at), o] += 1
    return found


def _canonical(x, kernel, stride: int, pads, dilation: int = 1):
    """The convolution of x, its pixels `dilation` apart, in the fast path's layout.

    Where the kernel is larger than the map, XLA exchanges the two and loses that path: 2.8 instead of 0.25 ms for 64
    maps of 2x2x64. So such a map is padded beforehand.
    """
    if x.dtype == jnp.float32 and math.prod(x.shape[1:3]) < math.prod(kernel.shape[:2]):
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pad, dilation - 1) for pad in pads), (0, 0, 0)])
        x, pads, dilation = fusion_barrier(x), [(0, 0)] * 2, 1
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, (dilation, dilation), dimension_numbers=LAYOUT)


def _unfused(x: jax.Array) -> jax.Array:
    """`x`, where that pays kept from being fused into the convolution that follows."""
    return x if x.shape[-1] < _FUSES_FROM else fusion_barrier(x)


def fusion_barrier(x: jax.Array) -> jax.Array:
    """`x`, if float32 kept by XLA from being fused with what uses it: rounding to its own precision changes nothing."""
    if x.dtype != jnp.float32:
        return x
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=23)


def input_gradient(gradient, kernel, shape, stride: int, padding: int):
    """dL/dx, of shape `shape`: the gradient, dilation out by the stride, convolved with the flipped kernel."""
    flipped = jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2)
    before = [side - 1 - padding for side in kernel.shape[:2]]
    dilation = [(side - 1) * stride + 1 for side in gradient.shape[1:3]]
    after = [
        pixels + side - 1 - first - given
        for pixels, side, first, given in zip(shape[1:3], kernel.shape[:2], before, dilation, strict=True)
    ]
    pads = list(zip(before, after, strict=True))
    return _canonical(gradient, flipped, 1, pads, stride)


def _circular_input_gradient(gradient, kernel, shape, stride: int, padding: int):
    """The same where the maps are circular: so is this convolution, and no pixel beyond the edges is worked out."""
    flipped = jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2)
    if stride > 1:
        missing = [
            pixels - ((given - 1) * stride + 1) for pixels, given in zip(shape[1:3], gradient.shape[1:3], strict=True)
        ]
        edges = [(0, 0, 0), *((0, more, stride - 1) for more in missing), (0, 0, 0)]
        gradient = lax.pad(gradient, jnp.zeros((), gradient.dtype), edges)
    return _canonical(_unfused(_wrap(gradient, padding, padding)), flipped, 1, [(0, 0)] * 2)


def weight_gradient(x, gradient, shape, stride: int, padding: int):
    """dL/dW of shape `shape`: x convolved with the gradient, the batch in the place of the channels."""
    if x.shape[-1] <= _PIECES_UP_TO and x.size >= _PIECES_FROM and len(x) % _PIECES == 0:
        size = len(x) // _PIECES
        cuts = [slice(start, start + size) for start in range(0, len(x), size)]
        return sum(_weight_gradient(x[cut], gradient[cut], shape, stride, padding) for cut in cuts)
    return _weight_gradient(x, gradient, shape, stride, padding)


def _weight_gradient(x, gradient, shape, stride, padding):
    images, kernel = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    pads = [
        (padding, (given - 1) * stride + side - pixels - padding)
        for pixels, given, side in zip(x.shape[1:3], gradient.shape[1:3], shape[:2], strict=True)
    ]
    result = lax.conv_general_dilated(images, kernel, (1, 1), pads, (1, 1), (stride, stride), dimension_numbers=LAYOUT)
    return result.transpose(1, 2, 0, 3)
