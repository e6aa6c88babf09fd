"""A transformer and its training loop as a user writes them, watched or not: steps that the stopwatch can time."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from gradflow.watching.value_and_grad import value_and_grad
from gradflow.watching.watch import watch

WORDS = 256


class Block(nnx.Module):
    """Normalise, attend, add; normalise, two dense layers, add."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.wide, self.narrow = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x):
        """`x`, of shape `(batch, length, width)`, and what the block adds to it."""
        x = x + self.attention(self.norm1(x), mask=nnx.make_causal_mask(jnp.ones(x.shape[:2])))
        return x + self.narrow(jax.nn.gelu(self.wide(self.norm2(x))))


class Transformer(nnx.Module):
    """Numbers of words to the logits of the next one's."""

    def __init__(self, depth: int, width: int, rngs: nnx.Rngs):
        self.embed = nnx.Embed(WORDS, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, rngs) for _ in range(depth)])
        self.norm, self.head = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, WORDS, rngs=rngs)

    def __call__(self, ids):
        """Logits of shape `(batch, length, WORDS)`."""
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def make(
    depth: int, width: int, length: int, batch: int, record: bool
) -> tuple[Callable[[], Any], Callable[[bool], Any]]:
    """`lower()`, the traced program of a step that is read, and `step(read)`, which takes one and returns its reading;
    not recorded it is the same step without gradflow, and returns the loss.
    """
    model = Transformer(depth, width, nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    ids = jax.random.randint(jax.random.key(0), (batch, length + 1), 0, WORDS)
    words = {"ids": ids[:, :-1], "next": ids[:, 1:]}
    optimiser = optax.sgd(0.01, momentum=0.9)
    state = {"params": params, "moments": optimiser.init(params)}

    def loss(params: Any, words: Mapping[str, jax.Array]) -> jax.Array:
        logits = nnx.merge(graph, params, rest, copy=True)(words["ids"])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, words["next"]))

    def train(state: Any, words: Any, read: bool) -> Any:
        if record:
            value, gradients, reading = value_and_grad(loss, watch(model))(state["params"], words, read=read)
        else:
            value, gradients = jax.value_and_grad(loss)(state["params"], words)
            reading = value
        updates, moments = optimiser.update(gradients, state["moments"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "moments": moments}, reading

    compiled = jax.jit(train, static_argnums=2, donate_argnums=0)

    def step(read: bool) -> Any:
        nonlocal state
        state, reading = compiled(state, words, read)
        return reading

    return lambda: compiled.lower(state, words, True), step
