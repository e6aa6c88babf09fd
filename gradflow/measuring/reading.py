"""What was read at one training step, as a person looks at it: numbers by layer, a table, a line."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax

from gradflow import html_table
from gradflow.measuring.measure import ReadingSpec

if TYPE_CHECKING:
    import pandas as pd

NET = ("", -1)  # layer and position of what is read once a step, of the whole net
SCALARS = ("loss", "train_error", "test_error")  # those
_MOST_ROWS = 40  # of the table that a notebook shows: the points nearest to the input and to the output


@dataclass(frozen=True, repr=False)
class Reading:
    """What was read at one training step; nothing is fetched from the device before it is asked for."""

    step: int  # counted from 1: the reading of step 1 is of the initial weights
    spec: ReadingSpec
    arrays: Mapping[str, Any]  # on the device: a vector a quantity, and the scalars

    @property
    def loss(self) -> float:
        """Mean cross-entropy of the batch in nats, before the update."""
        return float(self.arrays["loss"])

    @property
    def train_error(self) -> float:
        """Share of the batch that was classified wrongly."""
        return float(self.arrays["train_error"])

    @property
    def test_error(self) -> float | None:
        """Share of the whole test set that is classified wrongly after this step; None where that was not asked."""
        return float(self.arrays["test_error"]) if "test_error" in self.arrays else None

    @property
    def finite(self) -> bool:
        """Whether loss, activations and weight gradients are all finite; if not, the run has diverged."""
        return bool(self.arrays["finite"]) if "finite" in self.arrays else math.isfinite(self.loss)

    @property
    def values(self) -> dict[str, dict[str, float]]:
        """`{quantity: {layer: float}}` for every quantity that is read at layers, units or points."""
        fetched = jax.device_get({quantity: self.arrays[quantity] for quantity in self._vectors()})
        return {quantity: self.spec.of_vector(quantity, fetched[quantity]) for quantity in self._vectors()}

    def _vectors(self) -> list[str]:
        """The quantities that are read at layers, units or points: those of units not in a net that has none."""
        return [name for name, array in self.arrays.items() if getattr(array, "ndim", 0) and self.spec.names(name)]

    @property
    def scalars(self) -> dict[str, float]:
        """`{quantity: float}` of what is read once a step, of the whole net: the test error only where it was tried."""
        return {name: float(self.arrays[name]) for name in SCALARS if name in self.arrays}

    def to_frame(self) -> "pd.DataFrame":
        """A row a number, with the columns `quantity, layer, position, value`; positions count from the input.

        What is read once a step of the whole net (loss, train_error, test_error) has the layer "" and the position -1.
        """
        import pandas as pd  # takes a third of a second: not where nobody asks for a table

        rows = [(quantity, *NET, value) for quantity, value in self.scalars.items()]
        for quantity, values in self.values.items():
            rows += [(quantity, layer, self.spec.position[layer], value) for layer, value in values.items()]
        return pd.DataFrame(rows, columns=["quantity", "layer", "position", "value"])

    def __repr__(self) -> str:
        return f"<Reading of {self._summary()}>"

    def _summary(self) -> str:
        numbers = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in self.scalars.items()]
        read = f"{len(self._vectors())} quantities at {len(self.spec.position)} points"
        return ", ".join([f"step {self.step}: {numbers[0]}", *numbers[1:], read])

    def _repr_html_(self) -> str:
        """A row a point, a column a quantity, as a notebook shows it; of many points those at both ends."""
        values = self.values
        names = sorted({name for one in values.values() for name in one}, key=self.spec.position.__getitem__)
        rows = [
            [self.spec.position[name], name, *(_number(one.get(name)) for one in values.values())] for name in names
        ]
        left_out = len(rows) - _MOST_ROWS
        if left_out > 0:
            between = ["", f"({left_out} more points)", *[""] * len(values)]
            rows = [*rows[: _MOST_ROWS // 2], between, *rows[-_MOST_ROWS // 2 :]]
        headings = ["position", "layer", *(name.replace("_", " ") for name in values)]
        return html_table.table(headings, rows, self._summary())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
