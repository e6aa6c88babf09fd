"""A name on the Hugging Face Hub: the library `datasets` downloads, caches and verifies it."""

import functools
import importlib

from gradflow.data.dataset import LEGAL, TEST_NAMES, Dataset, Split, assemble, one_line, unlabelled
from gradflow.data.parquet import unpack
from gradflow.errors import BadInput

_ROWS = 1024  # at a time


def read(name: str, label: str | None = None) -> Dataset:
    """The data set called `name` on the Hub. Raises `BadInput` where it cannot be had."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise BadInput(
            f"unknown data set {name!r}: not a path; legal are {LEGAL} with pip install '.[hub]' in gradflow's checkout"
        ) from error
    try:  # downloads, caches and verifies by itself; HF_HUB_OFFLINE=1 keeps it to its cache
        return _splits(name, label, datasets)
    except BadInput:
        raise
    except Exception as error:  # the library's failures have no common class
        raise BadInput(f"cannot get {name!r} from the Hub ({one_line(error)}): legal are {LEGAL}") from error


@functools.lru_cache(maxsize=1)
def _splits(name: str, label: str | None, datasets) -> Dataset:
    splits = datasets.load_dataset(name)
    if "train" not in splits:
        raise BadInput(f"{name!r} has the splits {', '.join(splits)}; wanted train and one of {', '.join(TEST_NAMES)}")

    def split(key: str) -> Split:
        table, embed = splits[key].data.table, datasets.table.embed_table_storage
        # Images that are files become bytes a few at a time: all of them may be more than there is memory for.
        parts = (embed(table.slice(row, _ROWS)) for row in range(0, len(table), _ROWS))
        batches = (batch for part in parts for batch in part.to_batches())
        return unpack(batches, embed(table.slice(0, 0)).schema, len(table), f"{name} ({key})", label)

    tests = (split(key) for key in TEST_NAMES if key in splits)
    return assemble(name, split("train"), next((test for test in tests if not unlabelled(test)), None))
