"""One run, from its settings to a finished record."""

import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
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
from gradflow.nets import stack
from gradflow.reading import NET, Reading
from gradflow.runs import checkpoint
from gradflow.runs.record import Record
from gradflow.runs.settings import Run
from gradflow.training import memory, optimiser, platform
from gradflow.training.loop import Training
from gradflow.training.step import State


def load_dataset(run: Run, data: Dataset | None = None) -> Dataset:
    """The data of a run, or `data` made what the run wants of them. Raises `BadInput` for anything wrong with them."""
    return prepared(read(run.data, run.label) if data is None else data, run.image_size, run.validation, 0, run.shuffle)


def build_net(run: Run, dataset: Dataset | None = None) -> nnx.Module:
    """The net of a run for its data, with the weights of its seed; the data are read where they are not given.

    Raises `BadInput` where the two do not fit.
    """
    return nets.build(run.net, seed=run.seed, **_of_net(run, dataset or load_dataset(run)))


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
    return training, _start(training, run, build_net(run, dataset))


_KEPT: dict[Any, Training] = {}  # the last training, under each of its keys


def _training(run: Run, dataset: Dataset, workers: int = 1) -> Training:
    """The last training again where its programs serve this run: they are compiled once for nets of one structure.

    What a net holds in arrays (weights, a shortcut's factor) is an input of the program, whatever setting decides it.
    """
    # By what the net is: its name may mean another after a `chdir`.
    asked = (nets.identity(run.net), run.net_settings), run.program, dataset
    if asked in _KEPT:
        return _KEPT[asked]
    update = optimiser.optimiser(run.optimiser, 1.0, run.momentum, run.weight_decay)  # the rate comes in step by step
    net, found = _structure(run, dataset, update, workers), asked
    if run.net in nets.NETS:  # a user's own two nets may differ in what looks the same, or cannot be compared
        found = nets.structure(net), run.program, dataset
    if found not in _KEPT:
        _KEPT.clear()
        transforms = tuple(run.transforms.split("+")) if run.augment else ()
        _KEPT[found] = Training(net, dataset, update, batch=run.batch, transforms=transforms, centre=run.centre)
    return _KEPT.setdefault(asked, _KEPT[found])


def _start(training: Training, run: Run, net: nnx.Module) -> State:
    return training.start(net, run.seed, optimiser.hyperparameters(run.momentum, run.weight_decay))


def _rates(run: Run) -> Callable[[int], float]:
    return optimiser.rates(optimiser.schedule(run.schedule, run.learning_rate, run.steps, run.warmup), run.steps)


def train(run: Run, data: Dataset | None = None) -> Iterator[Reading]:
    """Trains `run` in this process, on `data` if given (`gf.data.from_arrays`), and yields one reading a step.

    Nothing is written. `data` stand in the place of `run.data`; image size, validation and shuffle are the run's.

    `reading.step`, `reading.loss`, `reading.train_error`, `reading.test_error`, and
    `reading.values`, `{quantity: {layer: float}}`. A diverged run goes on yielding: look at `reading.finite`.
    """
    training, state = prepare(run, data)
    yield from training.readings(state, run.seed, run.steps, test_at=run.tests, rate_at=_rates(run))


def trained(
    run: Run, data: Dataset | None = None, watch: Callable[[Reading], None] = lambda reading: None
) -> nnx.Module:
    """Trains `run` as `train` does and returns the net after its last step, with its weights and running statistics.

    Nothing is written; `watch` is given every reading. A diverged run gives a net whose numbers are not finite.
    """
    dataset = load_dataset(run, data)
    net = build_net(run, dataset)
    training = _training(run, dataset)
    state = _start(training, run, net)
    schedule = {"test_at": run.tests, "rate_at": _rates(run), "pause_at": lambda step: step == run.steps}
    for reading, after in training.steps(state, run.seed, run.steps, **schedule):
        watch(reading)
        state = after or state
    graph, *_ = nets.split(net)
    return nnx.merge(graph, stack.unstack(state.params), stack.unstack(state.rest))


def batch_of(run: Run, step: int = 1, data: Dataset | None = None) -> tuple[jax.Array, jax.Array]:
    """The batch of a step (from 1) as the net of `run` is given it: images `(batch, height, width, channel)`, labels.

    Without augmentation, which depends on the state of the training.
    """
    dataset = load_dataset(run, data)
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
    seeds = list(seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise BadInput(f"seeds {seeds} are not legal: give one or more, each once")
    dataset = load_dataset(run, data)
    training = _training(run, dataset)
    states = []
    for seed in seeds:
        states.append(training.start(build_net(run.replace(seed=seed), dataset), seed))
        if len(states) == 1:
            memory.check(memory.size(states[0].params, training.optimiser), run.name, len(seeds), "seeds")
    for readings in training.vmapped_readings(states, seeds, run.steps, _rates(run)):
        yield dict(zip(seeds, readings, strict=True))


def execute(
    run: Run,
    record: Record,
    *,
    digest: str | None = None,
    workers: int = 1,
    checkpoint_seconds: float = 60.0,
    stop: Callable[[], bool] = lambda: False,
    watch: Callable[[Reading], None] = lambda reading: None,
    note: Callable[[str], None] = lambda text: None,
) -> str:
    """Brings `run` to its end in `record`, from its last checkpoint if there is one; the caller holds the lock.

    Returns how it ended: `done`; `diverged`, when the loss, an activation or a gradient was not finite (what was read
    is kept); or `stopped`, after a checkpoint, when `stop()` was true. `note` is told what a person should know of it.
    Raises `BadInput` when data or folder are bad, when the data are not those of the `digest`, and where the memory
    cannot hold such a net in each of the `workers` that do runs at the same time.
    """
    training, state = prepare(run, workers=workers)
    if digest not in (None, training.data["digest"]):
        raise BadInput(f"the data of {record.name} changed since this command began: run it again")
    config = _config(run, training)
    state = _resume(record, config, state, note)
    record.write_config(config)
    record.write_status("running", step=int(state.step), steps=run.steps)
    begun = saved = time.monotonic()
    stopping = False

    def checkpoint_at(step: int) -> bool:
        nonlocal stopping
        stopping = stop()
        return stopping or step == run.steps or time.monotonic() - saved >= checkpoint_seconds

    status, step = "done", int(state.step)
    schedule = {"read_at": run.keeps, "test_at": run.tests, "pause_at": checkpoint_at, "rate_at": _rates(run)}
    for reading, after in training.steps(state, run.seed, run.steps, **schedule):
        step = reading.step
        _add(record, run, reading)
        watch(reading)
        if not reading.finite:
            status = "diverged"
            break
        if after is not None:
            _save(record, run, step, after)
            saved = time.monotonic()
            if stopping and step < run.steps:
                return "stopped"
    record.flush()
    record.write_status(status, step=step, steps=run.steps, seconds=round(time.monotonic() - begun, 1))
    return status


def _add(record: Record, run: Run, reading: Reading) -> None:
    """Adds what `run` keeps of a reading to the rows of the record."""
    layer, position = NET
    for quantity in ("loss", "train_error", "test_error"):
        value = getattr(reading, quantity)
        if value is not None:
            record.add(reading.step, quantity, [layer], [position], [value])
    if run.keeps(reading.step) or not reading.finite:
        for quantity, values in reading.values.items():
            positions = [reading.spec.position[name] for name in values]
            record.add(reading.step, quantity, tuple(values), positions, list(values.values()))


def _save(record: Record, run: Run, step: int, state: State) -> None:
    # The readings up to the checkpoint first: a resumed run finds all of them, or an older checkpoint.
    record.flush()
    checkpoint.save(record.checkpoints, step, stack.unstack(state), record.name)
    record.write_status("running", step=step, steps=run.steps)


def _config(run: Run, training: Training) -> dict[str, Any]:
    """What `config.json` says of a run: its settings, and what else its result depends on."""
    return {
        "run": run.settings,
        "data": training.data,
        "counts": training.counts,
        "machine": platform.machine(),
        "commit": _commit(),
        "command": sys.argv,
    }


def _resume(record: Record, config: dict[str, Any], state: State, note: Callable[[str], None]) -> State:
    """The state of the last checkpoint, or `state` where there is none. What is newer than it is dropped.

    A record made by another version or on another number of cores or devices may differ in rounding: it starts from
    the first step. Raises `BadInput` where its readings do not go up to the checkpoint.
    """
    same = (record.config or {"machine": None})["machine"] == config["machine"]
    found = checkpoint.latest(record.checkpoints, stack.unstack(state), record.name) if same else None
    if found is None and checkpoint.exists(record.checkpoints):
        why = "no checkpoint of it can be read" if same else "it was begun by another version or on another machine"
        note(f"begins anew, {record.last_step} steps are made again: {why}")
    step, state = (found[0], stack.restack(found[1], stack.stacked_names(state.params))) if found else (0, state)
    record.drop_after(step)
    checkpoint.drop_after(record.checkpoints, step)
    return state


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that runs, marked when files differ from it; None when there is no checkout."""
    folder = Path(__file__).parent
    try:
        git = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
