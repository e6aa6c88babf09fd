"""The readings of one run on disk: parts, each written at once, that follow one another without a gap.

A part is `part-<last step>-<digest>.parquet`, and says whose it is and where it begins.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gradflow.errors import BadInput, first_line, refuse_links
from gradflow.runs import files
from gradflow.runs.readings import NAME, READINGS, read_table

_PART = re.compile(r"part-(\d{9,})-([0-9a-f]{16})\.parquet")
Row = tuple[int, Sequence[str], Sequence[int], str, np.ndarray]  # step, names, positions, quantity, values


class Part(NamedTuple):
    """One part, as it was read."""

    path: Path
    content: bytes
    last: int  # step


class Parts:
    """Those of the run `name` in a folder. `check(holds, otherwise)` raises `BadInput` where something does not."""

    def __init__(self, folder: Path, name: str, check: Callable[[bool, str], None]):
        self.folder, self.name, self._check = folder, name, check

    @property
    def last_step(self) -> int:
        """The last step whose readings are on disk; 0 where none are."""
        return max((step for step, _ in self._found()), default=0)

    def write(self, rows: Sequence[Row]) -> None:
        """Writes a part, named by its last step."""
        lengths = [len(names) for _, names, _, _, _ in rows]
        columns = {
            "step": np.repeat([row[0] for row in rows], lengths),
            "layer": [name for row in rows for name in row[1]],
            "position": np.concatenate([row[2] for row in rows]),
            "quantity": np.repeat([row[3] for row in rows], lengths),
            "value": np.concatenate([row[4] for row in rows]),
        }
        plain = pa.schema([(f.name, pa.string() if f.type == NAME else f.type) for f in READINGS])
        part = pa.table(columns, schema=plain)
        # So that parts follow one another without a gap, each says where it begins: after the one before.
        first, last = self.last_step + 1, rows[-1][0]
        own = {"gradflow_part": json.dumps({"run": self.name, "first": first, "last": last})}
        stream = pa.BufferOutputStream()
        pq.write_table(
            part.cast(READINGS.with_metadata({**(READINGS.metadata or {}), **own})), stream, compression="zstd"
        )
        content = stream.getvalue().to_pybytes()
        files.write_bytes(self.folder / f"part-{last:09d}-{_digest(content)}.parquet", content)

    def drop_after(self, step: int) -> None:
        """Removes those that end after `step`."""
        for last, path in self._found():
            if last > step:
                path.unlink()

    def read(self) -> list[Part]:
        """The parts in order. Raises `BadInput` unless each is whole, of this run, and begins after the one before."""
        refuse_links(self.folder)
        parts, before = [], 0
        for last, path in self._found():
            try:
                content = files.read_bytes(path)
            except OSError as error:
                raise BadInput(f"cannot read {path}: {error.strerror or error}") from error
            whole = _digest(content) == path.stem.rpartition("-")[2]
            self._check(whole, f"{path.name} is not what was written")
            own = _whose(content, path)
            self._check(own.get("run") == self.name, f"{path.name} is of the run {own.get('run')!r}")
            follows = own.get("first") == before + 1 and own.get("last") == last
            self._check(follows, f"the readings after step {before} are missing, or there twice")
            parts.append(Part(path, content, last))
            before = last
        return parts

    def _found(self) -> list[tuple[int, Path]]:
        """Last step and path of the files that are named as we name parts. Raises `BadInput` where one is a link."""
        names = ((_PART.fullmatch(path.name), path) for path in self.folder.glob("part-*.parquet"))
        found = sorted((int(match[1]), path) for match, path in names if match)
        refuse_links(*(path for _, path in found))
        return found


def tables(parts: Sequence[Part]) -> pa.Table:
    """The readings of all parts, in the order they were made."""
    read = [read_table(pa.BufferReader(part.content), part.path) for part in parts]
    table = pa.concat_tables(read).unify_dictionaries() if read else READINGS.empty_table()
    return table.replace_schema_metadata(READINGS.metadata)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _whose(content: bytes, path: Path) -> dict[str, Any]:
    """What a part says of itself: the run, its first and its last step."""
    try:
        metadata = pq.read_schema(pa.BufferReader(content)).metadata or {}
        own = json.loads(metadata.get(b"gradflow_part", b"{}"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadInput(f"cannot read {path}: {first_line(error)}") from error
    return own if isinstance(own, dict) else {}
