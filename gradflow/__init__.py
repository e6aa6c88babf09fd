"""gradflow: watch gradients vanish, explode and survive in plain and residual nets of any depth.

Public names are imported when they are first used, so that `import gradflow` and `gradflow --help` do not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradflow import charts, data, hooks, nets, plot
    from gradflow.data import load as load_data
    from gradflow.errors import BadInput
    from gradflow.measure import QUANTITIES, Reading
    from gradflow.nets import count_parameters
    from gradflow.rows import times
    from gradflow.run import Run, train, train_seeds
    from gradflow.stopwatch import Stopwatch
    from gradflow.sweep import grid, variants
    from gradflow.table import load
    from gradflow.training import read
    from gradflow.verdict import (
        Claim,
        Verdict,
        at,
        difference,
        error_facts,
        factors,
        final_error,
        first_step,
        judge,
        per_seed,
        regimes,
        setting,
        slopes,
        spine,
    )

_HOME = {
    "BadInput": "errors",
    "Claim": "verdict",
    "QUANTITIES": "measure",
    "Reading": "measure",
    "Run": "run",
    "Stopwatch": "stopwatch",
    "Verdict": "verdict",
    "count_parameters": "nets",
    "difference": "verdict",
    "error_facts": "verdict",
    "factors": "verdict",
    "final_error": "verdict",
    "grid": "sweep",
    "judge": "verdict",
    "load": "table",
    "load_data": "data",
    "per_seed": "verdict",
    "read": "training",
    "regimes": "verdict",
    "slopes": "verdict",
    "at": "verdict",
    "first_step": "verdict",
    "setting": "verdict",
    "spine": "verdict",
    "times": "rows",
    "train": "run",
    "train_seeds": "run",
    "variants": "sweep",
}
_ROOMS = ("charts", "data", "hooks", "nets", "plot")

__all__ = [
    "QUANTITIES",
    "BadInput",
    "Claim",
    "Reading",
    "Run",
    "Stopwatch",
    "Verdict",
    "at",
    "charts",
    "count_parameters",
    "data",
    "difference",
    "error_facts",
    "factors",
    "final_error",
    "first_step",
    "grid",
    "hooks",
    "judge",
    "load",
    "load_data",
    "nets",
    "per_seed",
    "plot",
    "read",
    "regimes",
    "setting",
    "slopes",
    "spine",
    "times",
    "train",
    "train_seeds",
    "variants",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"gradflow.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'gradflow' has no attribute {name!r}")
    room = importlib.import_module(f"gradflow.{_HOME[name]}")
    value = getattr(room, "load" if name == "load_data" else name)
    globals()[name] = value
    return value
