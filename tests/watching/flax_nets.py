"""Networks as their users write them, who never heard of gradflow: every kind of module that Flax has."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

WORDS, WIDTH = 11, 8


class Mlp(nnx.Module):
    def __init__(self, rngs, dtype=None):
        self.wide = nnx.Linear(WIDTH, 2 * WIDTH, dtype=dtype, rngs=rngs)
        self.narrow = nnx.Linear(2 * WIDTH, WIDTH, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.narrow(jax.nn.gelu(self.wide(x)))


class Block(nnx.Module):
    """As in Flax's lm1b: normalise, attend, add; normalise, two dense layers, add."""

    def __init__(self, rngs, dtype=None):
        self.norm1 = nnx.LayerNorm(WIDTH, dtype=dtype, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, WIDTH, decode=False, dtype=dtype, rngs=rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(rngs, dtype)
        self.dropout = nnx.Dropout(0.0, rngs=rngs)

    def __call__(self, x):
        mask = nnx.make_causal_mask(jnp.ones(x.shape[:2]))
        x = x + self.dropout(self.attention(self.norm1(x), mask=mask))
        return x + self.mlp(self.norm2(x))


class Transformer(nnx.Module):
    """Token ids to logits; `how` says how the blocks are called."""

    def __init__(self, rngs, blocks=2, how="loop", dtype=None):
        self.embed = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.how = how
        if how == "scan":

            @nnx.split_rngs(splits=blocks)
            @nnx.vmap(in_axes=0, out_axes=0)
            def make(rngs):
                return Block(rngs, dtype)

            self.blocks = make(rngs)
        else:
            self.blocks: Any = nnx.List([Block(rngs, dtype) for _ in range(blocks)])
        self.norm = nnx.LayerNorm(WIDTH, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(WIDTH, WORDS, dtype=dtype, rngs=rngs)

    def __call__(self, ids):
        x = self.embed(ids)
        if self.how == "scan":
            x = nnx.scan(lambda block, x: block(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(self.blocks, x)
        else:
            call = nnx.remat(lambda block, x: block(x)) if self.how == "remat" else lambda block, x: block(x)
            for block in self.blocks:
                x = call(block, x)
        return self.head(self.norm(x))


def tokens(examples=4, length=5):
    """A batch, as a dict: ids, and what follows each."""
    ids = jax.random.randint(jax.random.key(7), (examples, length + 1), 0, WORDS)
    return {"inputs": ids[:, :-1], "targets": ids[:, 1:]}


def next_word_loss(model, batch):
    """Mean cross-entropy over examples and places."""
    logits = model(batch["inputs"]).astype(jnp.float32)
    right = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["targets"][..., None], -1)
    return -jnp.mean(right)


class Shifted(nnx.Module):
    """Another module, to whose output something is added; `seen` keeps the output's shape."""

    def __init__(self, inner, shift, seen):
        self.inner, self.shift, self.seen = inner, nnx.Variable(shift), nnx.static(seen)

    def __call__(self, *arguments, **keywords):
        output = self.inner(*arguments, **keywords)
        self.seen.append((output.shape, output.dtype))
        return output + self.shift[...].astype(output.dtype)


def gradient_by_vjp(model, path, loss, batch):
    """sqrt(B) times the norm of the gradient at the output of the module at `path`: the net is cut there."""
    return gradients_by_vjp(model, [path], loss, batch)[path]


def gradients_by_vjp(model, paths, loss, batch):
    """The same of several modules, by path: what is added to each output is 0, so that all may be cut at once."""
    graph, state = nnx.split(model)
    examples, seen = jax.tree.leaves(batch)[0].shape[0], {path: [] for path in paths}

    def shifted(shifts):
        copy = nnx.merge(graph, state, copy=True)
        for path in sorted(paths, key=len, reverse=True):  # a module before the one that it is in
            *above, last = path.split("/")
            parent: Any = copy
            for name in above:
                parent = parent[int(name)] if name.isdigit() else getattr(parent, name)
            if last.isdigit():
                parent[int(last)] = Shifted(parent[int(last)], shifts[path], seen[path])
            else:
                setattr(parent, last, Shifted(getattr(parent, last), shifts[path], seen[path]))
        return loss(copy, batch)

    jax.eval_shape(shifted, dict.fromkeys(paths, jnp.zeros(())))
    gradients = jax.jit(jax.grad(shifted))({path: jnp.zeros(*seen[path][0]) for path in paths})
    norm = lambda gradient: jnp.sqrt(examples * jnp.sum(jnp.square(gradient.astype(jnp.float32))))  # noqa: E731
    return {path: float(norm(gradient)) for path, gradient in gradients.items()}
