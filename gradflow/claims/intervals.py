"""Student's t: the interval of a mean, and the p-value of the claim that it lies beyond a border."""

import functools
import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the mean, by Student's t; infinitely wide for a single value."""
    numbers = np.asarray(values, float)
    if len(numbers) < 2:
        return -math.inf, math.inf
    half = t_quantile(len(numbers) - 1) * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return float(numbers.mean()) - half, float(numbers.mean()) + half


@functools.cache
def t_quantile(freedom: int) -> float:
    """How many standard errors a 95 % interval reaches to each side: Student's t with so many degrees of freedom."""
    from scipy.special import stdtrit  # not `scipy.stats`, which takes half a second to import and 20 times as long

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def t_tail(values: Sequence[float], border: float, sign: int) -> float:
    """The p-value of Student's one-sided test that the mean lies above a border (`sign` 1) or below it (-1).

    Values that are all the same leave no doubt: 0 where they lie on that side, 1 elsewhere.
    """
    from scipy.special import stdtr

    numbers = np.asarray(values, float)
    distance = sign * (float(numbers.mean()) - border)
    error = float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stdtr(len(numbers) - 1, -distance / error))
