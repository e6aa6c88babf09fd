"""A process of several devices: the batch and the parameters are sharded, and the readings are printed."""

import json

import jax
import optax
from flax import nnx
from flax_nets import Transformer, next_word_loss, tokens
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradflow as gf

model = Transformer(nnx.Rngs(0), how="scan")
graph, params, rest = nnx.split(model, nnx.Param, ...)
mesh = Mesh(jax.devices(), ("all",))
over = len(jax.devices())


def shard(leaf):
    axes = [axis for axis, size in enumerate(leaf.shape) if size % over == 0]
    spec = (
        PartitionSpec(*["all" if axis == axes[-1] else None for axis in range(leaf.ndim)]) if axes else PartitionSpec()
    )
    return jax.device_put(leaf, NamedSharding(mesh, spec))


params = jax.tree.map(shard, params)
batch = jax.device_put(tokens(8), NamedSharding(mesh, PartitionSpec("all")))
optimiser = optax.adam(1e-2)
watched = gf.watch(model)


def loss(params, batch):
    return next_word_loss(nnx.merge(graph, params, rest, copy=True), batch)


@jax.jit
def step(params, moments, batch):
    _, gradients, reading = gf.value_and_grad(loss, watched)(params, batch)
    updates, moments = optimiser.update(gradients, moments)
    return optax.apply_updates(params, updates), moments, reading


moments = jax.jit(optimiser.init)(params)
params, moments, reading = step(params, moments, batch)
sharded = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(params))
print(json.dumps({"devices": over, "sharded": sharded, "loss": reading.loss, "values": reading.values}))
