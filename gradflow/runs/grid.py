"""Which runs: all combinations of some settings, or several variants of some, each from several seeds."""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any

from gradflow.errors import BadInput
from gradflow.kinds import checked
from gradflow.runs.settings import Run
from gradflow.settings import ranges


def grid(seeds: int, **choices: Sequence[Any]) -> list[Run]:
    """All combinations of the choices, each from `seeds` seeds; the seeds of one setting are neighbours."""
    seeds = ranges.whole("seeds", seeds)
    for name, values in choices.items():
        if isinstance(values, str) or not isinstance(values, Collection) or getattr(values, "ndim", 1) == 0:
            raise BadInput(f"{name} {values!r} is not legal: a grid has a tuple of values of each setting, also of one")
    ranges.check("runs", seeds * math.prod(map(len, choices.values())))
    names = list(choices)
    settings = [dict(zip(names, values, strict=True)) for values in product(*choices.values())]
    return [Run(**setting, seed=seed) for setting in settings for seed in range(seeds)]


@checked
def variants(several: Sequence[Mapping[str, Any]], seeds: int, **common: Any) -> list[Run]:
    """Each of several settings, from the same `seeds` seeds; a value is one, or a tuple of several to make a grid of.

    What is `common` to all replaces a variant's own; variants that become equal are run once.
    """
    runs = []
    for own in several:
        choices = {name: value if isinstance(value, tuple) else (value,) for name, value in {**own, **common}.items()}
        runs += grid(seeds, **choices)
    return list(dict.fromkeys(runs))
