"""A name on the Hugging Face Hub: the library `datasets` downloads, caches and verifies it."""

import functools
import importlib

from gradflow.data.dataset import LEGAL, TEST_NAMES, Dataset, assemble, one_line
from gradflow.data.parquet import unpack
from gradflow.errors import BadInput


def read(name: str) -> Dataset:
    """The data set called `name` on the Hub. Raises `BadInput` where it cannot be had."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise BadInput(
            f"unknown data set {name!r}: not a path; legal are {LEGAL} with pip install 'gradflow[hub]'"
        ) from error
    try:  # downloads, caches and verifies by itself; HF_HUB_OFFLINE=1 keeps it to its cache
        return _splits(name, datasets)
    except BadInput:
        raise
    except Exception as error:  # the library's failures have no common class
        raise BadInput(f"cannot get {name!r} from the Hub ({one_line(error)}): legal are {LEGAL}") from error


@functools.lru_cache(maxsize=1)
def _splits(name: str, datasets) -> Dataset:
    splits = datasets.load_dataset(name)
    test = next((split for split in TEST_NAMES if split in splits), None)
    if "train" not in splits or test is None:
        raise BadInput(f"{name!r} has the splits {', '.join(splits)}; wanted train and one of {', '.join(TEST_NAMES)}")
    tables = [datasets.table.embed_table_storage(splits[split].data.table) for split in ("train", test)]
    train, held = (unpack(table, f"{name} ({split})") for table, split in zip(tables, ("train", test), strict=True))
    return assemble(name, train, held)
