"""Training as a pure step, `(state, batch) -> (state, reading)`, and a generator of its readings."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from gradflow import data, nets, runtime
from gradflow.arrays import Heads, Labels, Logits, Scalar
from gradflow.errors import BadInput
from gradflow.hooks import Recorder, make_sinks, silent
from gradflow.measure import Places, Reading, measure_flow, measure_weights
from gradflow.nets import stack


class State(NamedTuple):
    """All that changes from step to step; with the seed and the data it decides what follows."""

    params: Any
    rest: Any  # running statistics of batch norm
    optimiser: Any
    step: jax.Array  # steps taken
    key: jax.Array  # raw key data, of the augmentation


def loss_and_error(logits: Logits, labels: Labels) -> tuple[Scalar, Scalar]:
    """Mean cross-entropy in nats, and the share of wrong answers; logits `(batch, classes)`, labels `(batch,)`."""
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
    return loss, jnp.mean(jnp.argmax(logits, axis=-1) != labels, dtype=loss.dtype)


def gradients(graph, points, params, rest, images, labels, read=True):
    """One forward and one backward pass: the gradient of the parameters, and what the hooks saw.

    Returns `(gradients, backward, forward, rest, loss, error)`; `backward` is the gradient of the sinks. Loss and error
    are those of the net's own answer; what is differentiated is the loss with those of auxiliary classifiers added.
    Unless `read`, what the hooks saw may be missing (nan).
    """

    def loss_of(params, sinks):
        recorder = Recorder(sinks) if points else silent
        answer, new_rest = nets.apply(graph, params, rest, images, recorder)
        logits, auxiliary, weight = answer if isinstance(answer, Heads) else Heads(answer, (), 0.0)
        loss, error = loss_and_error(logits, labels)
        others = sum(loss_and_error(other, labels)[0] for other in auxiliary)
        return loss + weight * others, (getattr(recorder, "forward", {}), new_rest, loss, error)

    (_, (forward, rest, loss, error)), (gradient, backward) = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)(
        params, make_sinks(points, stack.rows(params), read)
    )
    return gradient, backward, forward, rest, loss, error


def finite(readings: dict[str, jax.Array], read: jax.Array | bool) -> jax.Array:
    """Whether the loss, every weight gradient and, where they were `read`, every activation's spread are finite.

    The loss alone does not tell: XLA's maximum on CPUs may turn a nan into 0, so a ReLU can hide an overflow from it.
    """
    spread = jnp.where(read, readings["activation_std"], 0)
    return jnp.all(jnp.isfinite(jnp.concatenate([readings["loss"][None], readings["gradient_norm"], spread])))


def make_step(graph, points, layers, optimiser: optax.GradientTransformation) -> Callable:
    """The step `(state, images, labels, read) -> (state, readings)`; without `points` only loss and error are read, and
    where `read` is false activations and their gradients need not be.
    """
    places = Places.of(points, layers) if points else None

    def step(state: State, images, labels, read=True):
        gradient, backward, forward, rest, loss, error = gradients(
            graph, points, state.params, state.rest, images, labels, read
        )
        updates, moments = optimiser.update(gradient, state.optimiser, state.params)
        params = optax.apply_updates(state.params, updates)
        readings = {"loss": loss, "train_error": error}
        if places:
            readings |= measure_flow(places, len(labels), forward, backward)
            readings |= measure_weights(
                places,
                weight_norm=nets.weighted_layers(state.params),
                gradient_norm=nets.weighted_layers(gradient),
                update_norm=nets.weighted_layers(updates),
            )
            readings["finite"] = finite(readings, read)
        return State(params, rest, moments, state.step + 1, state.key), readings

    return step


class Training:
    """A net's structure, a data set and an optimiser, compiled once: `start` from any seed, `step`, `evaluate`.

    The state is donated to the step and the batch is sharded over all devices. Images are changed anew at each step by
    the `transforms` (see `data.augment`). `record=False` compiles the hooks out.
    Raises `BadInput` when the data do not fit the net, the batch or the devices.
    """

    def __init__(
        self,
        net: nnx.Module,
        dataset: data.Dataset,
        optimiser: optax.GradientTransformation,
        *,
        batch: int,
        transforms: Sequence[str] = (),
        centre: str = "channel",
        record: bool = True,
    ):
        self.mesh, self.batch, self.count = runtime.mesh(), batch, len(dataset.train_images)
        if batch % self.mesh.size:
            raise BadInput(f"batch {batch} cannot be split over {self.mesh.size} devices: choose a multiple of that")
        data.indices(0, 0, batch, self.count)  # raises if the data set is smaller than the batch
        self.pixels = batch * math.prod(dataset.image_shape[:2])
        joined = stack.joined(net, self.pixels)
        graph, *_ = nets.split(joined)
        points = nets.points_of(joined, dataset.image_shape)
        weighted = nets.weighted_layers(nets.split(net)[1])
        layers, adds = tuple(weighted), nets.multiply_adds(weighted, points)
        self.counts = {"parameters": nets.count_parameters(net), "multiply_adds": sum(adds.values())}
        self.places, self.optimiser = Places.of(points, layers), optimiser
        mean, deviation = data.statistics(dataset.train_images, centre)
        colours = data.colours(dataset.train_images, deviation) if "colour" in transforms else None
        take = make_step(graph, points if record else (), layers, optimiser)

        def step(state: State, images, labels, indices, read):
            chosen = data.normalise(images[indices], mean, deviation)
            if transforms:
                key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
                chosen = data.augment(key, chosen, transforms=transforms, colours=colours)
            return take(state, chosen, labels[indices], read)

        def wrong(state: State, images, labels):
            logits, _ = nets.apply(
                graph, state.params, state.rest, data.normalise(images, mean, deviation), train=False
            )
            return jnp.sum((jnp.argmax(logits, axis=-1) != labels) & (labels >= 0))

        def begin(params, rest, key):
            state = State(params, rest, optimiser.init(params), jnp.zeros((), jnp.int32), jax.random.key_data(key))
            return jax.tree.map(jnp.copy, state)  # the step uses it up

        self._begin = runtime.compiled_once(begin)
        self._step, self._compiled = runtime.compiled(step, donate_argnums=0), False
        self._steps = runtime.compiled(jax.vmap(step, in_axes=(0, None, None, 0, None)), donate_argnums=0)
        self._wrong = runtime.compiled(wrong)
        self._train = runtime.everywhere(self.mesh, (dataset.train_images, dataset.train_labels))
        self._test = dataset.test_images, dataset.test_labels

    def start(self, net: nnx.Module, seed: int) -> State:
        """The state before the first step: the weights of `net`, and the seed of batches and augmentation."""
        _, params, rest = nets.split(stack.joined(net, self.pixels))
        key = jax.random.fold_in(jax.random.key(seed), 2)
        jax.block_until_ready(params)  # a net too large for the memory raises here; jax would wait for it for ever
        return runtime.everywhere(self.mesh, self._begin(params, rest, key))

    def step(self, state: State, seed: int, number: int, read: bool = True) -> tuple[State, dict[str, jax.Array]]:
        """Step `number` (from 0) on the batch that seed and number say. The state given is used up.

        Unless `read`, large activations and their gradients are not (nan); all else is the same to the bit.
        """
        result = self._step(state, *self._train, self._indices(seed, number), np.bool_(read))
        if not self._compiled:
            runtime.give_back()
            self._compiled = True
        return result

    def lower(self, state: State) -> Any:
        """The step, traced and not yet compiled: what compiling costs and needs can be asked of it (`jax.stages`)."""
        return self._step.lower(state, *self._train, self._indices(0, 0), np.bool_(True))

    def _indices(self, seed: int, number: int) -> jax.Array:
        indices = data.indices(seed, number, self.batch, self.count)
        return jax.device_put(indices, runtime.along_batch(self.mesh))

    def evaluate(self, state: State) -> Any:
        """Share of wrong answers on the whole test set, with the running statistics."""
        images, labels = self._test
        chunk = -(-min(len(labels), 512) // self.mesh.size) * self.mesh.size
        total = 0
        for start in range(0, len(labels), chunk):
            some, answers = images[start : start + chunk], labels[start : start + chunk]
            missing = chunk - len(answers)  # the last chunk is filled up, so that one compiled shape serves all
            some = np.pad(some, ((0, missing), (0, 0), (0, 0), (0, 0)))
            answers = np.pad(answers, (0, missing), constant_values=-1)
            total += self._wrong(state, *jax.device_put((some, answers), runtime.along_batch(self.mesh)))
        return total / len(labels)

    def readings(
        self,
        state: State,
        seed: int,
        steps: int,
        *,
        read_at: Callable[[int], bool] = lambda step: True,
        test_at: Callable[[int], bool] = lambda step: False,
        save_at: Callable[[int], bool] = lambda step: False,
        save: Callable[[int, State], None] = lambda step, state: None,
    ) -> Iterator[Reading]:
        """Trains from `state` to `steps` steps, one `Reading` a step; unless `read_at(step)` it may lack activations.

        A reading is handed out only when the next step is already under way, so that the device never waits for who
        reads. Where `save_at(step)`, all readings so far are handed out first and then `save(step, state)` is called.
        """
        late = None
        for number in range(int(state.step), steps):
            state, arrays = self.step(state, seed, number, read_at(number + 1))
            if late:
                yield late
            if test_at(number + 1):
                arrays["test_error"] = self.evaluate(state)
            late = Reading(number + 1, self.places, arrays)
            if save_at(number + 1):
                yield late
                late = None
                save(number + 1, state)
        if late:
            yield late

    def seeds_together(
        self, states: Sequence[State], seeds: Sequence[int], steps: int
    ) -> Iterator[tuple[Reading, ...]]:
        """Trains from several states, one a seed, in one vmapped step; yields a `Reading` a seed, step by step.

        For nets too small to keep an accelerator busy. The numbers are those of each seed alone, to rounding.
        """
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        for number in range(int(states[0].step), steps):
            indices = np.stack([data.indices(seed, number, self.batch, self.count) for seed in seeds])
            indices = jax.device_put(indices, runtime.along_batch(self.mesh, 1))
            state, arrays = self._steps(state, *self._train, indices, np.bool_(True))
            yield tuple(
                Reading(number + 1, self.places, jax.tree.map(lambda leaf, i=i: leaf[i], arrays))
                for i in range(len(seeds))
            )


def read(net: nnx.Module, images: Any, labels: Any) -> Reading:
    """One reading of a net on one batch: images `(batch, height, width, channel)`, used as they are, labels `(batch,)`.

    Nothing is updated, neither weights nor running statistics, so there is no `update_norm`. Raises `BadInput` for
    images or labels that do not fit.
    """
    images, labels = jnp.asarray(images, dtype=float), jnp.asarray(labels)
    if images.ndim != 4 or labels.shape != images.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise BadInput(
            f"images {images.shape} with labels {labels.shape} of {labels.dtype}: legal are images "
            "(batch, height, width, channel) and integer labels (batch,)"
        )
    net = stack.joined(net, math.prod(images.shape[:3]))
    graph, params, rest = nets.split(net)
    points = nets.points_of(net, images.shape[1:])
    places = Places.of(points, nets.weighted_layers(params))
    return Reading(0, places, _read(graph, points, params, rest, images, labels))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _read(graph, points, params, rest, images, labels):
    layers = nets.weighted_layers
    gradient, backward, forward, _, loss, error = gradients(graph, points, params, rest, images, labels)
    places = Places.of(points, layers(params))
    return {
        "loss": loss,
        "train_error": error,
        **measure_flow(places, len(labels), forward, backward),
        **measure_weights(places, weight_norm=layers(params), gradient_norm=layers(gradient)),
    }
