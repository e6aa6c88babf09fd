"""What varies between runs: which settings tell them apart, and how settings, groups of runs and runs are named.

A group of runs has the same settings but for the seed. Input is a table with one row a run, whose columns are settings;
a value that is None or nan is missing: its net has no such setting, or takes its own default.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from gradflow.plain_text import plain

# pandas types every `frame["x"]` as a union that no type checker can follow: inside this file tables are not checked.
Frame = Any

# Columns of the tables that are no settings: what was read, how the run ended, and what its net costs.
NOT_SETTINGS = ("run", "step", "layer", "position", "quantity", "value", "seed", "status", "last_step")
NOT_SETTINGS += ("parameters", "multiply_adds", "classes")
FIRST = ("net", "depth", "normalisation")  # named first, and kept where another setting would do as well


def varying(runs: Frame) -> list[str]:
    """The settings with more than one value, where missing counts as a value: net and depth first."""
    names = [name for name in runs.columns if name not in NOT_SETTINGS]
    found = [name for name in names if len(values(runs, name)) > 1]
    return [name for name in FIRST if name in found] + [name for name in found if name not in FIRST]


def keys(runs: Frame) -> list[str]:
    """The fewest varying settings that still tell all groups apart; the net is one of them wherever it varies.

    Left out are settings that follow from the others, such as a learning rate that was chosen by normalisation. Of two
    that say the same, the one that is in `FIRST`, has more values or comes first in the table is kept.
    """
    kept = varying(runs)
    # Each value by its number: a group is then a row of integers.
    codes: Frame = pd.DataFrame({name: pd.factorize(pd.Series(_clean(runs[name]), dtype=object))[0] for name in kept})
    groups = len(codes.drop_duplicates())

    def dispensable(name: str) -> tuple[int, int, int]:
        return FIRST[::-1].index(name) if name in FIRST else -1, codes[name].nunique(), -order.index(name)

    order = list(kept)
    for name in sorted(order, key=dispensable):
        rest = [other for other in kept if other != name]
        if name != "net" and rest and len(codes[rest].drop_duplicates()) == groups:
            kept = rest
    return kept


def values(runs: Frame, setting: str) -> list[Any]:
    """The values of a setting in order, None for missing: missing and "none" first, numbers by size, text by letter."""
    return sorted(dict.fromkeys(_clean(runs[setting])), key=_rank)


def chosen(runs: Frame, setting: str) -> list[Any]:
    """The values of a setting that somebody chose between: missing is one only if its net also has the setting set."""
    found = values(runs, setting)
    if None not in found or setting == "net":
        return found
    missing = runs[setting].isna()
    by_choice = len(found) > 1 and ("net" not in runs or runs["net"][missing].isin(runs["net"][~missing]).any())
    return found if by_choice else found[1:]


def text(value: Any) -> str:
    """A value in words: `0.001`, `on`, `not set`, a path by its last name and a user's own net as `my_nets.build`."""
    if (value := clean(value)) is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        short = f"{value:g}"
        return (
            str(int(value))
            if value.is_integer() and abs(value) < 1e7
            else short
            if float(short) == value
            else repr(value)
        )
    if not isinstance(value, str):
        return str(value)
    path, colon, name = value.rpartition(".py:")
    short = f"{PurePosixPath(path).name}.{name}" if colon else PurePosixPath(value.replace("\\", "/")).name or value
    return plain(short)


def phrase(setting: str, value: Any, beside_net: bool = False) -> str:
    """A setting and its value in words: `plain`, `depth 56` (beside a net `56`), `batch norm`, `learning rate 0.1`."""
    name, value = plain(setting).replace("_", " "), clean(value)
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if value is None or setting not in FIRST:
        return f"{name} {text(value)}"
    if setting == "normalisation":
        return "no normalisation" if value == "none" else f"{text(value)} norm"
    return text(value) if setting == "net" or beside_net else f"depth {text(value)}"


def phrases(setting: str, found: Iterable[Any], beside_net: bool = False) -> dict[Any, str]:
    """The phrase of each value; whole paths where their last names are the same."""
    said = {value: phrase(setting, value, beside_net) for value in found}
    if len(set(said.values())) == len(said):
        return said
    return {value: plain(f"{setting.replace('_', ' ')} {value}") for value in said}


def label(row: Mapping[str, Any], keys: Sequence[str], names: Mapping[str, Mapping[Any, str]] | None = None) -> str:
    """A group in words, by the settings that tell it apart; by net and depth where there are none.

    Missing settings are left out. `names` are the `phrases` of some settings, for values whose own would not do.
    """
    wanted = [key for key in (keys or FIRST[:2]) if key in row]
    said = [key for key in wanted if clean(row[key]) is not None] or wanted
    parts: dict[str, str] = {}
    for key in said:
        value = clean(row[key])
        parts[key] = (names or {}).get(key, {}).get(value) or phrase(key, value, beside_net="net" in said)
    beside = [parts.pop(key) for key in FIRST[:2] if key in parts and "net" in said]
    return ", ".join([*([" ".join(beside)] if beside else []), *parts.values()]) or "run"


def labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each run, by what tells the runs apart: the settings that vary, and the seed if there are several."""
    runs: Frame = pd.DataFrame(settings)
    apart = keys(runs)
    names = {key: phrases(key, values(runs, key), beside_net=key == "depth" and "net" in apart) for key in apart}
    seeds = "seed" in runs and runs["seed"].nunique() > 1
    return [label(row, apart, names) + (f", seed {text(row['seed'])}" if seeds else "") for row in settings]


def clean(value: Any) -> Any:
    """A value as Python has it: None for what is missing, numpy's numbers as Python's, a list as its text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _clean(column: Iterable[Any]) -> list[Any]:
    return [clean(value) for value in column]


def _rank(value: Any) -> tuple[int, Any, str]:
    if value is None or value == "none":
        return 0, 0, str(value)
    return (1, value, "") if isinstance(value, (bool, int, float)) else (2, 0, str(value))
