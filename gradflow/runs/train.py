"""A run in this process: its data, its net, its training, compiled once for all that share it; nothing is written."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from gradflow import nets
from gradflow.data import batches
from gradflow.data import transforms as image_transforms
from gradflow.data.dataset import Dataset
from gradflow.data.load import prepared, read
from gradflow.errors import BadInput
from gradflow.kinds import checked
from gradflow.measuring.reading import Reading
from gradflow.nets import padding
from gradflow.runs.settings import Run
from gradflow.settings import ranges
from gradflow.training import loop, memory, optimiser, platform
from gradflow.training.loop import Training
from gradflow.training.step import State


def load_dataset(run: Run, data: Dataset | None = None) -> Dataset:
    """The data of a run, or `data` made what the run wants of them. Raises `BadInput` for anything wrong with them."""
    if not isinstance(run, Run) or not isinstance(data, Dataset | None):
        given = type(run).__name__, type(data).__name__
        raise BadInput(f"cannot train a {given[0]} on a {given[1]}: legal are a gf.Run and data of gf.data.from_arrays")
    return prepared(read(run.data, run.label) if data is None else data, run.image_size, run.validation, 0, run.shuffle)


@checked
def build_net(run: Run, dataset: Dataset | None = None) -> nnx.Module:
    """The net of a run for its data, with the weights of its seed; the data are read where they are not given.

    Raises `BadInput` where the two do not fit.
    """
    return nets.build(run.net, seed=run.seed, **_of_net(run, dataset or load_dataset(run)))


def _first_arrays(run: Run, dataset: Dataset) -> tuple[Any, Any]:
    """What `build_net` draws, without its modules; those of a user's own net may be made by what it likes."""
    if run.net not in nets.NETS:
        return nets.split(build_net(run, dataset))[1:]
    return nets.first_arrays(run.net, seed=run.seed, **_of_net(run, dataset))


def _of_net(run: Run, dataset: Dataset) -> dict[str, Any]:
    """What the net of a run is built with, its seed apart."""
    height, width, channels = dataset.image_shape
    if height != width and nets.takes_image(run.net):
        raise BadInput(f"net {run.net!r} is made for square images: these are {height}x{width}")
    of_data = {"classes": len(dataset.classes), "channels": channels, "image": height}
    return {**of_data, "dtype": platform.dtype(run.precision), **dict(run.net_settings)}


_DEEP = 200  # layers: to build more takes seconds, also without their weights


def _deep_size(run: Run, dataset: Dataset, optimiser: optax.GradientTransformation) -> int | None:
    """The bytes of a deep net, by two shallow ones: six layers more are a unit more in each of three stages, or six
    more in a row, and always take the same. None where the net is not that deep, or is a user's own.
    """
    depth = dict(run.net_settings).get("depth")
    if run.net not in nets.NETS or not isinstance(depth, int) or depth <= _DEEP:
        return None
    least = 8 + (depth - 8) % 6
    given = _of_net(run, dataset)
    one, other = (
        memory.size(nets.split(nets.abstract(run.net, **{**given, "depth": shallow}))[1], optimiser)
        for shallow in (least, least + 6)
    )
    return one + (depth - least) // 6 * (other - one)


def _structure(run: Run, dataset: Dataset, optimiser: optax.GradientTransformation, workers: int) -> nnx.Module:
    """The net of a run for its structure and shapes. Raises `BadInput`, before any weight is drawn, for one that the
    memory cannot hold, in that many workers; of a net that comes with gradflow none is drawn at all.
    """
    together = memory.processes(workers), "--workers"
    if size := _deep_size(run, dataset, optimiser):  # before thousands of layers are built
        memory.check(size, run.name, *together)
    own = run.net not in nets.NETS
    try:
        net = nets.abstract(run.net, **_of_net(run, dataset))
    except BadInput:
        if own:  # its constructor wants numbers: how large it is shows only when it is drawn
            return build_net(run, dataset)
        raise
    memory.check(memory.size(nets.split(net)[1], optimiser), run.name, *together)
    return build_net(run, dataset) if own else net  # a user's own may have kept arrays outside its parameters


def prepare(run: Run, data: Dataset | None = None, workers: int = 1) -> tuple[Training, State]:
    """The compiled training of `run`, shared by runs of one program, and the state before its first step.

    So many `workers` must find room for such a net at the same time.
    """
    dataset = load_dataset(run, data)
    training = _training(run, dataset, workers)
    return training, _start(training, run, *_first_arrays(run, dataset))


_KEPT: dict[Any, Training] = {}  # the last training, under each of its keys


def _training(run: Run, dataset: Dataset, workers: int = 1, padded: bool = True) -> Training:
    """The last training again where its programs serve this run: they are compiled once for nets of one structure.

    What a net holds in arrays (weights, a shortcut's factor) is an input of the program, whatever setting decides it;
    where it is `padded`, so are its depth and its shortcuts.
    """
    padded = padded and run.steps <= padding.STEPS
    # By what the net is: its name may mean another after a `chdir`. In our own nets first weights are no part of it.
    settings = (item for item in run.net_settings if item[0] != "initialisation" or run.net not in nets.NETS)
    asked = (nets.identity(run.net), tuple(settings)), run.program, dataset, padded
    if asked in _KEPT:
        return _KEPT[asked]
    update = optimiser.optimiser(run.optimiser, 1.0, run.momentum, run.weight_decay)  # the rate comes in step by step
    net, found = _structure(run, dataset, update, workers), asked
    if run.net in nets.NETS:  # a user's own two nets may differ in what looks the same, or cannot be compared
        program = loop.pad(net, run.batch, dataset.image_shape) if padded else None
        found = nets.structure(program.net if program else net), run.program, dataset, padded
    if kept := _KEPT.get(found):
        return _KEPT.setdefault(asked, kept.of(net) if kept.padded else kept)
    _KEPT.clear()
    transforms = tuple(run.transforms.split("+")) if run.augment else ()
    given = {"transforms": transforms, "centre": run.centre, "padded": padded}
    _KEPT[found] = _KEPT[asked] = Training(net, dataset, update, batch=run.batch, **given)
    return _KEPT[asked]


def _start(training: Training, run: Run, params: Any, rest: Any) -> State:
    hyperparameters = optimiser.hyperparameters(run.momentum, run.weight_decay)
    return training.start_from(params, rest, run.seed, hyperparameters)


def rates(run: Run) -> Callable[[int], float]:
    """The learning rate of each step of a run, counted from 1."""
    return optimiser.rates(optimiser.schedule(run.schedule, run.learning_rate, run.steps, run.warmup), run.steps)


def train(run: Run, data: Dataset | None = None) -> Iterator[Reading]:
    """Trains `run` in this process, on `data` if given (`gf.data.from_arrays`), and yields one reading a step.

    Nothing is written. `data` stand in the place of `run.data`; image size, validation and shuffle are the run's.

    `reading.step`, `reading.loss`, `reading.train_error`, `reading.test_error`, and
    `reading.values`, `{quantity: {layer: float}}`. A diverged run goes on yielding: look at `reading.finite`.
    """
    training, state = prepare(run, data)
    yield from training.readings(state, run.seed, run.steps, test_at=run.tests, rate_at=rates(run))


@checked
def trained(
    run: Run, data: Dataset | None = None, watch: Callable[[Reading], None] = lambda reading: None
) -> nnx.Module:
    """Trains `run` as `train` does and returns the net after its last step, with its weights and running statistics.

    Nothing is written; `watch` is given every reading. A diverged run gives a net whose numbers are not finite.
    """
    dataset = load_dataset(run, data)
    net = build_net(run, dataset)
    training = _training(run, dataset)
    graph, params, rest = nets.split(net)
    state = _start(training, run, params, rest)
    schedule = {"test_at": run.tests, "rate_at": rates(run), "pause_at": lambda step: step == run.steps}
    for reading, after in training.steps(state, run.seed, run.steps, **schedule):
        watch(reading)
        state = after or state
    state = training.unstack(state)
    return nnx.merge(graph, state.params, state.rest)


@checked
def batch_of(run: Run, step: int = 1, data: Dataset | None = None) -> tuple[jax.Array, jax.Array]:
    """The batch of a step (from 1) as the net of `run` is given it: images `(batch, height, width, channel)`, labels.

    Without augmentation, which depends on the state of the training.
    """
    dataset, step = load_dataset(run, data), ranges.whole("step", step)
    chosen = batches.indices(run.seed, step - 1, run.batch, len(dataset.train_images))
    mean, deviation = image_transforms.statistics(dataset.train_images, run.centre)
    return image_transforms.normalise(dataset.train_images[chosen], mean, deviation), jnp.asarray(
        dataset.train_labels[chosen]
    )


def train_seeds(run: Run, seeds: Iterable[int], data: Dataset | None = None) -> Iterator[dict[int, Reading]]:
    """Trains several seeds of `run` in one vmapped step, for nets too small for their accelerator.

    Yields `{seed: reading}` a step; nothing is written and the test set is not tried. `run.seed` is not used; `data`
    stand in the place of `run.data`.
    """
    if not isinstance(seeds, Iterable):
        raise BadInput(f"seeds {seeds!r} are not legal: give one or more, each once")
    seeds = [ranges.whole("seed", seed) for seed in islice(seeds, ranges.MOST_RUNS + 1)]
    ranges.check("seeds", len(seeds) or None)  # an iterator may never end
    if not seeds or len(set(seeds)) < len(seeds):
        raise BadInput(f"seeds {seeds} are not legal: give one or more, each once")
    dataset = load_dataset(run, data)
    training = _training(run, dataset, padded=False)
    states = []
    for seed in seeds:
        states.append(training.start(build_net(run.replace(seed=seed), dataset), seed))
        if len(states) == 1:
            memory.check(memory.size(states[0].params, training.optimiser), run.name, len(seeds), "seeds")
    for readings in training.vmapped_readings(states, seeds, run.steps, rates(run)):
        yield dict(zip(seeds, readings, strict=True))
