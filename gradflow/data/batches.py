"""Which training images a step sees: a pure function of the seed and the step."""

import functools

import numpy as np

from gradflow.errors import BadInput


def indices(seed: int, step: int, batch: int, count: int) -> np.ndarray:
    """Which of `count` training images step `step` (from 0) sees: int32 (batch,).

    An epoch is `count // batch` full batches of a permutation drawn from (seed, epoch); the rest of it is left out.
    A pure function of its arguments, so a resumed run sees what an undisturbed one sees. Raises `BadInput` unless
    1 <= batch <= count.
    """
    if not 1 <= batch <= count:
        raise BadInput(f"batch {batch} is impossible: legal are 1 to {count}, the number of training images")
    epoch, place = divmod(step, count // batch)
    return _permutation(seed, epoch, count)[place * batch : (place + 1) * batch]


@functools.lru_cache(maxsize=16)  # the current epoch of a few runs side by side
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    order = np.random.default_rng((seed, epoch)).permutation(count).astype(np.int32)
    order.flags.writeable = False
    return order
