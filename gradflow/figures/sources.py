"""What a figure can be drawn of, as the long table that it is a function of: a table, a results folder, readings."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gradflow.errors import BadInput
from gradflow.measuring.reading import Reading
from gradflow.runs import table
from gradflow.watching.reading import WatchedReading

Source = pd.DataFrame | str | Path | Reading | Iterable[Reading] | Mapping[str, Iterable[Reading]]


def as_table(source: Source) -> pd.DataFrame:
    """The long table of a source, with the columns that every figure needs.

    A table (`gradflow.load`) as it is; a results folder by its path; what `gf.train` or `gf.read` gave, a list or any
    iterable, as one run; or several of these by name, which stands in the figure in the place of the net's. Several
    readings of a loop of the user's own, which do not know their step, are those of its first steps, in order.
    Raises `BadInput` for anything else.
    """
    if isinstance(source, pd.DataFrame):
        return source
    if isinstance(source, (str, Path)):
        return table.load(source)
    runs = source if isinstance(source, Mapping) else {"net": source}
    frames = [_of_run(str(name), readings) for name, readings in runs.items()]
    if not frames:
        raise BadInput("cannot draw an empty dictionary: give the readings of one net or more by its name")
    return pd.concat(frames, ignore_index=True)


_LEGAL = "give a table of gf.load, the path of a results folder, or readings"


def _of_run(name: str, readings: Any) -> pd.DataFrame:
    several = [readings] if isinstance(readings, Reading) else readings
    found: list[Reading] = []
    for one in several if isinstance(several, Iterable) else [several]:
        if not isinstance(one, Reading):
            raise BadInput(f"cannot draw {type(one).__name__}: {_LEGAL}")
        found.append(one)
    if not found:
        raise BadInput(f"cannot draw an empty list: {_LEGAL}")
    own = len(found) > 1 and all(isinstance(reading, WatchedReading) for reading in found)
    steps = [number if own else reading.step for number, reading in enumerate(found, start=1)]
    frames = [reading.to_frame().assign(step=step) for step, reading in zip(steps, found, strict=True)]
    return pd.concat(frames, ignore_index=True).assign(run=name, net=name, seed=0)
