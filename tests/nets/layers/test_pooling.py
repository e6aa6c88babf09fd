"""Pools, against a loop over windows; the way back through the largest, against that loop and against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow.nets.layers import pooling

WINDOWS = pytest.mark.parametrize(
    ("side", "window", "stride", "padding", "partial", "out"),
    [
        (55, 3, 2, 0, False, 27),  # Krizhevsky 2012
        (27, 3, 2, 0, False, 13),
        (13, 3, 2, 0, False, 6),
        (55, 2, 2, 0, False, 27),
        (112, 3, 2, 0, True, 56),  # Szegedy 2014
        (112, 3, 2, 0, False, 55),
        (28, 3, 2, 0, True, 14),
        (32, 3, 2, 0, True, 16),
        (32, 2, 2, 0, False, 16),
        (9, 3, 2, 0, True, 4),
        (9, 2, 2, 0, True, 5),
        (2, 3, 2, 0, True, 1),
        (7, 3, 1, 1, False, 7),
        (8, 3, 2, 1, False, 4),
        (8, 3, 2, 1, True, 5),
        (7, 2, 2, 1, True, 4),
    ],
)


def random(*shape: int) -> np.ndarray:
    """Normal float32 numbers from a fixed seed."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def pooled(x, window, stride, padding, partial, summarise):
    """Window by window; what lies outside the image is not there."""
    side = x.shape[1]
    starts = range(-padding, side + padding - window + 1, stride)
    if partial:  # as many as it takes to reach the far edge, if they begin inside the image or before it
        starts = [start for start in range(-padding, side + padding, stride) if start < side]
        starts = starts[: -(-(side + 2 * padding - window) // stride) + 1]
    cut = [slice(max(0, start), min(side, start + window)) for start in starts]
    return np.array([[summarise(x[:, row, column], axis=(1, 2)) for column in cut] for row in cut]).transpose(
        2, 0, 1, 3
    )


@WINDOWS
def test_pools_are_what_a_loop_over_windows_finds(side, window, stride, padding, partial, out):
    x = random(2, side, side, 3) - 5  # so that a zero of the padding would be the largest
    for ours, summarise in ((pooling.max_pool, np.max), (pooling.average_pool, np.mean)):
        y = np.asarray(ours(jnp.asarray(x), window, stride, padding, partial))
        assert y.shape == (2, out, out, 3)
        np.testing.assert_allclose(y, pooled(x, window, stride, padding, partial, summarise), rtol=1e-5)


@WINDOWS
def test_the_gradient_goes_to_the_first_of_the_largest(side, window, stride, padding, partial, out):
    x = np.maximum(random(2, side, side, 3), 0)  # half of it zeros, as after a ReLU: many windows have no other
    back = np.random.default_rng(1).normal(size=(2, out, out, 3)).astype(np.float32)
    theirs = np.zeros(x.shape)
    for example, row, column, channel in np.ndindex(back.shape):
        top, left = (max(0, stride * place - padding) for place in (row, column))
        bottom, right = (stride * place - padding + window for place in (row, column))
        some = x[example, top:bottom, left:right, channel]
        down, across = divmod(int(np.argmax(some)), some.shape[1])
        theirs[example, top + down, left + across, channel] += back[example, row, column, channel]
    _, pull = jax.vjp(lambda x: pooling.max_pool(x, window, stride, padding, partial), jnp.asarray(x))
    np.testing.assert_allclose(pull(jnp.asarray(back))[0], theirs, rtol=1e-5, atol=1e-6)


@WINDOWS
def test_what_a_cpu_does_is_what_xla_does(side, window, stride, padding, partial, out):
    x = jnp.maximum(random(2, side, side, 3), 0)
    pads = pooling._pads(x, window, stride, padding, partial)
    y, back = jax.vjp(lambda x: pooling._cpu(x, window, stride, pads), x)
    plain, back_plain = jax.vjp(lambda x: pooling._lax(x, window, stride, pads), x)
    np.testing.assert_array_equal(y, plain)
    gradient = random(2, out, out, 3)
    np.testing.assert_allclose(back(gradient)[0], back_plain(gradient)[0], rtol=1e-5, atol=1e-6)
