"""What a probe's process does for `gradflow doctor`: answers what it has and how long a small step takes it."""

import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.training import platform

_TURNS = 5  # steps timed: enough for a median, few enough for ten seconds in all


def step(images: jax.Array, kernels: list[jax.Array]) -> list[jax.Array]:
    """The gradient of some convolutions, each with its ReLU: quick to compile, over 100 MB of temporary memory."""

    def loss(kernels: list[jax.Array]) -> jax.Array:
        x = images
        for kernel in kernels:
            x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = jax.nn.relu(x)
        return x.mean()

    return jax.grad(loss)(kernels)


@functools.cache
def inputs() -> tuple[jax.Array, list[jax.Array]]:
    """Images and kernels for `step`, of the size of a CIFAR ResNet's first stage."""
    draw = np.random.default_rng(0).standard_normal  # NumPy's: JAX would compile for seconds
    scale = (2 / (3 * 3 * 16)) ** 0.5  # keeps the signal's size from layer to layer
    kernels = [jnp.asarray(scale * draw((3, 3, 16, 16)), jnp.float32) for _ in range(6)]
    return jnp.asarray(draw((128, 32, 32, 16)), jnp.float32), kernels


@functools.cache
def _compiled(fast: bool) -> Callable:
    return platform.jit(step) if fast else jax.jit(step)


def seconds(fast: bool = True) -> float:
    """The time of one step, with this platform's compile options or without."""
    begun = time.perf_counter()
    jax.block_until_ready(_compiled(fast)(*inputs()))
    return time.perf_counter() - begun


def ratio(slow: Callable[[], float], fast: Callable[[], float]) -> float:
    """How many times as fast: medians, taken in turns so that a busy moment meets both. The first turn compiles."""
    turns = [(slow(), fast()) for _ in range(1 + _TURNS)][1:]
    return statistics.median(one for one, _ in turns) / statistics.median(other for _, other in turns)


def active(gain: float) -> str:
    """The state of a switch whose gain was measured."""
    return f"active: makes a small convolution probe {gain:.1f} times as fast"


def library() -> str:
    """The state of the fast CPU library in this process."""
    off = platform.library_off()
    return f"not active: {off}" if off else active(ratio(lambda: seconds(fast=False), seconds))


def accelerator() -> str:
    """What this process sees beside the CPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    cuda = "CUDA_VISIBLE_DEVICES is " + ("not set" if visible is None else repr(visible))
    if jax.default_backend() == "cpu":
        return f"not active: a worker sees only the CPU; {cuda}"
    return f"active: a worker sees {jax.device_count()} {jax.default_backend()}; gain not measured; {cuda}"


def devices() -> list[str]:
    """Platform and kind of every device of this process."""
    return [f"{device.platform} ({device.device_kind})" for device in jax.devices()]


def cached() -> bool:
    """Whether a small program came from JAX's cache, which a process before this one has filled."""
    hits = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
    jax.block_until_ready(platform.jit(lambda x: jnp.tanh(x @ x))(np.ones((8, 8), np.float32)))
    return "/jax/compilation_cache/cache_hits" in hits


QUESTIONS = {one.__name__: one for one in (devices, library, accelerator, seconds, cached)}


def answer() -> None:
    """Answers questions, one a line on standard input, as lines of JSON, until the input ends."""
    for question in sys.stdin:
        try:
            reply = {"found": QUESTIONS[question.strip()]()}
        except Exception as error:  # it is the asking process that prints it, in one line
            reply: dict[str, Any] = {"failed": f"the probe failed: {type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(reply), flush=True)
