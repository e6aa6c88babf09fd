"""Records with readings in them, and the plainest twin of these: lists written down beside them."""

import math

import numpy as np
import pyarrow as pa
import pytest

from gradflow.runs.record import Record

LAYERS = ("stem", "block01", "block01/conv1", "block02")
ODD = (math.nan, math.inf, -math.inf, 1e-45, -0.0, 3.4028235e38)  # each at the edge of float32 or beyond numbers
SETTINGS = {"net": "plain", "depth": 8, "width": None, "normalisation": "none", "learning_rate": 0.1 + 0.2}
SETTINGS |= {"augment": False}
BESIDE = {"data": {}, "counts": {}, "machine": {}}  # what else a configuration has


def fill(record: Record, steps: range, flush_at: tuple[int, ...] = ()) -> list[tuple]:
    """Adds readings of two kinds, and returns them as plain rows: step, layer, position, quantity, value."""
    rows = []
    for step in steps:
        record.add(step, "loss", [""], [-1], [1 / step])
        values = [ODD[(step + place) % len(ODD)] for place in range(len(LAYERS))]
        record.add(step, "weight_norm", LAYERS, range(len(LAYERS)), values)
        rows.append((step, "", -1, "loss", 1 / step))
        rows += [(step, layer, place, "weight_norm", values[place]) for place, layer in enumerate(LAYERS)]
        if step in flush_at:
            record.flush()
    return rows


def make(folder, name: str, seed: int, state: str = "done", steps: int = 4) -> Record:
    record = Record(folder / "runs" / name)
    record.write_config({"run": {**SETTINGS, "seed": seed, "steps": steps}, **BESIDE})
    fill(record, range(1, steps + 1), flush_at=(2, steps))
    record.write_status(state, step=steps)
    return record


def assert_rows(found: pa.Table, rows: list[tuple]) -> None:
    expected = [np.array(column) for column in zip(*rows, strict=True)]
    for name, column in zip(("step", "layer", "position", "quantity"), expected, strict=False):
        assert found[name].to_pylist() == column.tolist()
    np.testing.assert_array_equal(found["value"].to_numpy(), expected[-1].astype(np.float32))  # nan equals nan here
    assert np.signbit(found["value"].to_numpy()).tolist() == np.signbit(expected[-1]).tolist()


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message
