"""One step after another: a net, a data set and an optimiser compiled together, and a generator of readings."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from gradflow import nets
from gradflow.data import batches
from gradflow.data import transforms as image_transforms
from gradflow.data.dataset import Dataset
from gradflow.errors import BadInput
from gradflow.measuring.hooks import unstacked_names
from gradflow.measuring.measure import ReadingSpec
from gradflow.measuring.reading import Reading
from gradflow.nets import padding, stack
from gradflow.training import platform
from gradflow.training.step import State, make_step


def pad(net: nnx.Module, batch: int, image_shape: tuple[int, ...]) -> padding.Padded | None:
    """The padded net, where a step is short next to its compilation: small maps on a CPU."""
    small = batch * math.prod(image_shape[:2]) <= stack.SMALL and jax.default_backend() == "cpu"
    return padding.pad_units(net) if small else None


class Training:
    """A net's structure, a data set and an optimiser, compiled once: `start` from any seed, `step`, `evaluate`.

    The state is donated to the step and the batch is sharded over all devices. Images are transformed at each step by
    the `transforms` (see `data.augment`). `record=False` compiles the hooks out. With `padded` the rows of a net with
    small maps are, on a CPU: then nets of several depths have one program, and `of` makes a training of another.
    Raises `BadInput` when the data do not fit the net, the batch or the devices.
    """

    def __init__(
        self,
        net: nnx.Module,
        dataset: Dataset,
        optimiser: optax.GradientTransformation,
        *,
        batch: int,
        transforms: Sequence[str] = (),
        centre: str = "channel",
        record: bool = True,
        padded: bool = False,
    ):
        self.mesh, self.batch, self.count = platform.batch_mesh(), batch, len(dataset.train_images)
        if batch % self.mesh.size:
            raise BadInput(f"batch {batch} cannot be split over {self.mesh.size} devices: choose a multiple of that")
        batches.indices(0, 0, batch, self.count)  # raises if the data set is smaller than the batch
        self.data, self.classes, self.image_shape = dataset.summary(), len(dataset.classes), dataset.image_shape
        self.optimiser, self.padded = optimiser, pad(net, batch, dataset.image_shape) if padded else None
        joined = self.padded.net if self.padded else self._joined(net)
        graph, params, _ = nets.split(joined)
        points = nets.points_of(joined, dataset.image_shape)
        layers = [layer for name in nets.weighted_layers(params) for layer in unstacked_names(name)]
        self.program = ReadingSpec.of(points, layers)
        self._describe(net)
        mean, deviation = image_transforms.statistics(dataset.train_images, centre)
        colours = image_transforms.colours(dataset.train_images, deviation) if "colour" in transforms else None
        take = make_step(graph, points if record else (), layers, optimiser)

        def step(state: State, images, labels, indices, read, rate):
            chosen = image_transforms.normalise(images[indices], mean, deviation)
            if transforms:
                key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
                chosen = image_transforms.augment(key, chosen, transforms=transforms, colours=colours)
            return take(state, chosen, labels[indices], read, rate)

        def count_errors(state: State, images, labels):
            logits, _ = nets.apply(
                graph, state.params, state.rest, image_transforms.normalise(images, mean, deviation), train=False
            )
            return jnp.sum((jnp.argmax(logits, axis=-1) != labels) & (labels >= 0))

        def init(params, rest, key):
            state = State(params, rest, optimiser.init(params), jnp.zeros((), jnp.int32), jax.random.key_data(key))
            return jax.tree.map(jnp.copy, state)  # the step uses it up

        self._init = platform.jit_once(init)
        self._step, self._compiled = platform.jit(step, donate_argnums=0), False
        self._steps = platform.jit(jax.vmap(step, in_axes=(0, None, None, 0, None, None)), donate_argnums=0)
        self._count_errors = platform.jit(count_errors)
        self._train = platform.replicate(self.mesh, (dataset.train_images, dataset.train_labels))
        self._test = dataset.test_images, dataset.test_labels

    def of(self, net: nnx.Module) -> "Training":
        """The training of another net whose program is this one: with `padded`, one of another depth."""
        other = copy.copy(self)
        other.padded = self.padded and pad(net, self.batch, self.image_shape)
        other._describe(net)
        return other

    def _describe(self, net: nnx.Module) -> None:
        """What is said of a net, its own names and counts: not of the program, which may be that of several."""
        joined, weighted = self._joined(net), nets.weighted_layers(nets.split(net)[1])
        points = nets.points_of(joined, self.image_shape)
        self.rows = stack.stacked_names(nets.split(joined)[1])
        self.spec = ReadingSpec.of(points, weighted)
        if self.padded:
            self.spec = self.spec.within(self.program, self.padded.name)
        self.counts = {
            "parameters": nets.count_parameters(net),
            "multiply_adds": sum(nets.multiply_adds(weighted, points).values()),
            "classes": self.classes,
        }

    def _joined(self, net: nnx.Module) -> nnx.Module:
        return stack.stack_units(net, self.batch * math.prod(self.image_shape[:2]))

    def restack(self, state: State) -> State:
        """A state in which each unit is by itself, as the program has it: see `nets.stack` and `nets.padding`."""
        if not self.padded:
            return stack.restack(state, self.rows)
        return self.padded.pad(state._replace(rest=()))._replace(rest=self.padded.pad_rest(state.rest))

    def unstack(self, state: State) -> State:
        """The inverse of `restack`: that of a checkpoint, in which each unit is by itself under its own name."""
        return self.padded.unpad(state) if self.padded else stack.unstack(state)

    def start(self, net: nnx.Module, seed: int, hyperparameters: Mapping[str, float] | None = None) -> State:
        """The state before the first step: the weights of `net`, the seed of batches and augmentation, and the
        optimiser's `hyperparameters` where they are not those that it was made with.
        """
        return self.start_from(*nets.split(net)[1:], seed, hyperparameters)

    def start_from(
        self, params: Any, rest: Any, seed: int, hyperparameters: Mapping[str, float] | None = None
    ) -> State:
        """The same from the parameters of a net and its other arrays: see `nets.split`."""
        params, rest, *_ = self.restack(State(params, rest, *[None] * 3))  # pyright: ignore[reportArgumentType]
        key = jax.random.fold_in(jax.random.key(seed), 2)
        jax.block_until_ready(params)  # a net too large for the memory raises here; jax would wait for it for ever
        state = self._init(params, rest, key)
        if hyperparameters:
            given = {name: np.float32(value) for name, value in hyperparameters.items()}
            state = state._replace(optimiser=state.optimiser._replace(hyperparams=given))
        return platform.replicate(self.mesh, state)

    def step(
        self, state: State, seed: int, number: int, read: bool = True, rate: float = 1.0
    ) -> tuple[State, dict[str, jax.Array]]:
        """Step `number` (from 0) on the batch that seed and number say. The state given is used up.

        Unless `read`, large activations and their gradients, weights and updates are not (nan); all else is the same to
        the bit. The updates of the optimiser are multiplied by `rate`.
        """
        result = self._step(state, *self._train, self._indices(seed, number), np.bool_(read), np.float32(rate))
        if not self._compiled:
            platform.trim_memory()
            self._compiled = True
        return result

    def lower(self, state: State) -> Any:
        """The step, traced and not yet compiled: what compiling costs and needs can be asked of it (`jax.stages`)."""
        return self._step.lower(state, *self._train, self._indices(0, 0), np.bool_(True), np.float32(1))

    def _indices(self, seed: int, number: int) -> jax.Array:
        indices = batches.indices(seed, number, self.batch, self.count)
        return jax.device_put(indices, platform.batch_sharding(self.mesh))

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
            total += self._count_errors(state, *jax.device_put((some, answers), platform.batch_sharding(self.mesh)))
        return total / len(labels)

    def steps(
        self,
        state: State,
        seed: int,
        steps: int,
        *,
        read_at: Callable[[int], bool] = lambda step: True,
        test_at: Callable[[int], bool] = lambda step: False,
        pause_at: Callable[[int], bool] = lambda step: False,
        rate_at: Callable[[int], float] = lambda step: 1.0,
    ) -> Iterator[tuple[Reading, State | None]]:
        """Trains from `state` to `steps` steps, one `Reading` a step; unless `read_at(step)` it may lack most.

        The updates of step `step` (from 1) are multiplied by `rate_at(step)`.

        A reading is yielded only when the next step is already under way, so that the device never waits for its
        reader. Where `pause_at(step)` it is yielded before that, with the state after the step: a checkpoint can be
        written of it until the next reading is asked for. Elsewhere there is None in its place.
        """
        pending = None
        for number in range(int(state.step), steps):
            state, arrays = self.step(state, seed, number, read_at(number + 1), rate_at(number + 1))
            if pending:
                yield pending, None
            if test_at(number + 1):
                arrays["test_error"] = self.evaluate(state)
            pending = Reading(number + 1, self.spec, arrays)
            if pause_at(number + 1):
                yield pending, state
                pending = None
        if pending:
            yield pending, None

    def readings(self, state: State, seed: int, steps: int, **schedule: Callable[[int], Any]) -> Iterator[Reading]:
        """The readings of `steps` alone, without the states."""
        return (reading for reading, _ in self.steps(state, seed, steps, **schedule))

    def vmapped_readings(
        self,
        states: Sequence[State],
        seeds: Sequence[int],
        steps: int,
        rate_at: Callable[[int], float] = lambda step: 1.0,
    ) -> Iterator[tuple[Reading, ...]]:
        """Trains from several states, one a seed, in one vmapped step; yields a `Reading` a seed, step by step.

        For nets too small to keep an accelerator busy. The numbers are those of each seed alone, to rounding.
        """
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        for number in range(int(states[0].step), steps):
            indices = np.stack([batches.indices(seed, number, self.batch, self.count) for seed in seeds])
            indices = jax.device_put(indices, platform.batch_sharding(self.mesh, 1))
            rate = np.float32(rate_at(number + 1))
            state, arrays = self._steps(state, *self._train, indices, np.bool_(True), rate)
            yield tuple(
                Reading(number + 1, self.spec, jax.tree.map(lambda leaf, i=i: leaf[i], arrays))
                for i in range(len(seeds))
            )
