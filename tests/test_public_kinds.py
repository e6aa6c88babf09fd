"""Every public function with arguments of every kind, one at a time: it answers, or says in one line what is legal.

What trains, compiles or starts a process is called in `test_wrong_kinds.py`; the last test here knows every name.
"""

import inspect
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flax import nnx
from matplotlib.figure import Figure
from test_wrong_kinds import CALLS

import gradflow as gf

SETTINGS = {"net": ["plain", "residual"], "depth": 8, "normalisation": "none", "seed": 0, "data": "digits"}
RUNS = pd.DataFrame({"run": list("ab"), **SETTINGS, "status": "done", "learning_rate": 0.1, "classes": 10})
QUANTITIES = ("activation_gradient_norm", "identity_gradient_norm", "residual_gradient_norm")
READINGS = pd.DataFrame(
    [
        {"run": run, "step": step, "layer": layer, "position": position, "quantity": quantity, "value": 0.5 + position}
        for run in RUNS.run
        for step in (1, 2)
        for layers, quantities in (
            ((("", -1),), ("loss", "train_error", "test_error")),
            ((("a", 1), ("b", 2)), QUANTITIES),
        )
        for layer, position in layers
        for quantity in quantities
    ]
)
TABLE = READINGS.merge(RUNS, on="run")
ERROR = gf.final_error(TABLE)
CLAIM: dict[str, Any] = {
    "text": "a claim",
    "source": "a paper",
    "paper": "no number",
    "statistic": "a number",
    "side": ">",
}
RUN = gf.Run(net="mlp", depth=2, steps=2)
MAP = ("a map", "plain", np.ones((2, 2)))
CURVE = ("a curve", "plain", {"a": {1: [1.0]}}, {})

WRONG: dict[str, Any] = {
    **{
        repr(value): value
        for value in (None, True, 0, 3, -2.5, 10**400, "x", b"x", "", "a\0b", (), [], [3], [None], ["x"])
    },
    **{
        repr(value): value
        for value in ({}, {"a": None}, {3: "x"}, {"a": {"b": "x"}}, {0: [1.0]}, [[]], [["x"]], {"a": {}})
    },
    "an array": np.arange(3.0),
    "an array of two axes": np.zeros((2, 2)),
    "an array of objects": np.array([None, object()]),
    "an object": object(),
    "a type": np.ndarray,
    "a function": lambda: 0,
    "a generator": (one for one in (1, None)),
    "an empty table": pd.DataFrame(),
    "a table of text": pd.DataFrame({name: ["x"] for name in TABLE}),
    "a table of one row twice": pd.concat([TABLE, TABLE], axis=1),
    "a table without rows": TABLE[:0],
    "a column": TABLE["value"],
    "a net": nnx.Linear(2, 2, rngs=nnx.Rngs(0)),
    **{f"a table without {name}": TABLE.drop(columns=name) for name in (*READINGS, "net", "seed", "status")},
}

# A legal call of each.
LEGAL: dict[str, tuple[Any, dict[str, Any]]] = {
    "at_best_rates": (gf.at_best_rates, {"table": TABLE, "by": ["net"]}),
    "choosing_settings": (gf.choosing_settings, {"settings": {"learning_rate": (0.1, 1.0)}, "validation": 2}),
    "rates_in_words": (gf.rates_in_words, {"table": TABLE, "by": ["net"]}),
    "best_rates": (gf.best_rates, {"table": TABLE, "by": ["net"]}),
    "runs_at_best_rates": (
        gf.runs_at_best_rates,
        {"choosing": [RUN, RUN.replace(learning_rate=1.0)], "table": TABLE, "by": ["net"], "seeds": 2},
    ),
    "gradient_decades": (gf.gradient_decades, {"table": TABLE, "step": 1, "by": ["net"]}),
    "gradient_regime": (gf.gradient_regime, {"table": TABLE, "step": 1, "by": ["net"]}),
    "regime_of": (gf.regime_of, {"decades": [1.0, 2.0]}),
    "chance": (gf.chance, {"table": TABLE}),
    "difference": (gf.difference, {"a": {0: 1.0}, "b": {0: 2.0}}),
    "error_facts": (gf.error_facts, {"table": TABLE}),
    "fate": (gf.fate, {"table": TABLE}),
    "final_error": (gf.final_error, {"table": TABLE, "quantity": "test_error", "by": ["net"]}),
    "final_loss": (gf.final_loss, {"table": TABLE, "by": ["net"]}),
    "first_step": (
        gf.first_step,
        {"table": TABLE, "quantity": "loss", "below": 1.0, "window": 1, "by": ["net"]},
    ),
    "gradient_ratio": (gf.gradient_ratio, {"table": TABLE, "step": 1, "by": ["net"]}),
    "gradient_slope": (gf.gradient_slope, {"table": TABLE, "step": 1, "by": ["net"]}),
    "per_seed": (gf.per_seed, {"series": ERROR, "net": "plain"}),
    "reading_at": (gf.reading_at, {"table": TABLE, "quantity": "loss", "layer": "", "step": 1, "by": ["net"]}),
    "run_column": (gf.run_column, {"table": TABLE, "column": "depth", "by": ["net"]}),
    "spine": (gf.spine, {"table": TABLE, "step": 1, "quantity": "activation_gradient_norm"}),
    "border_decades": (gf.border_decades, {"sides": [8, 8, 4]}),
    "check_law": (gf.check_law, {"padding": "circular", "anything": 3}),
    "gradient_course": (
        gf.gradient_course,
        {
            "net": "plain",
            "kernels": [(9, 4), (9, 4)],
            "initialisation": "he",
            "normalisation": "none",
            "activation": "relu",
        },
    ),
    "gradient_law": (
        gf.gradient_law,
        {"net": "plain", "initialisation": "he", "normalisation": "none", "activation": "tanh", "depth": 8},
    ),
    "Claim": (gf.Claim, {**CLAIM, "than": 0.0, "margin": 0.0, "seeds": 3, "steps": 1}),
    "Verdict": (gf.Verdict, {"title": "a title", "findings": (), "facts": {}, "judged": True}),
    "judge": (gf.judge, {"claim": gf.Claim(**CLAIM), "per_seed": {0: 1.0, 1: 2.0, 2: 3.0}, "steps": 3}),
    "diagnose": (gf.diagnose, {"frame": TABLE, "step": None}),
    "format_ratio": (gf.format_ratio, {"ratio": 2.0}),
    "grid": (gf.grid, {"seeds": 2, "depth": [8]}),
    "variants": (gf.variants, {"several": [{"depth": 8}], "seeds": 2, "steps": 3}),
    "load": (gf.load, {"results": "nowhere", "quantities": ["loss"]}),
    "build_net": (gf.build_net, {"run": RUN, "dataset": None}),
    "count_parameters": (gf.count_parameters, {"net": WRONG["a net"]}),
    "nets.split": (gf.nets.split, {"net": WRONG["a net"]}),
    "nets.structure": (gf.nets.structure, {"net": WRONG["a net"]}),
    "nets.complete": (gf.nets.complete, {"net": "mlp", "given": {"depth": 2}}),
    "plot.caption": (gf.plot.caption, {"table": TABLE, "command": "gradflow"}),
    "plot.depth_errors": (gf.plot.depth_errors, {"table": TABLE, "title": "a title", "note": "a note"}),
    "plot.errors": (gf.plot.errors, {"table": TABLE, "title": "a title", "note": "a note"}),
    "plot.film": (gf.plot.film, {"table": TABLE, "title": "a title", "note": "a note", "quantity": "weight_norm"}),
    "plot.gradient_curves": (
        gf.plot.gradient_curves,
        {"table": TABLE, "title": "", "note": "", "quantity": "weight_norm", "steps": [1], "laws": {"a": 1.0}},
    ),
    "plot.paths": (gf.plot.paths, {"table": TABLE, "title": "a title", "note": "a note", "step": 1}),
    "plot.save": (gf.plot.save, {"figure": Figure(), "path": "figure.nothing"}),
    "charts.dots": (
        gf.charts.dots,
        {"panels": {"a": {"b": [1.0]}}, "title": "", "note": "", "limits": {"a": 1.0}, "log": False, "columns": 1},
    ),
    "charts.lines": (
        gf.charts.lines,
        {
            "panels": {"a": {"b": {1: [1.0]}}},
            "across": "",
            "up": "",
            "title": "",
            "note": "",
            "log_x": False,
            "log_y": True,
        },
    ),
    "charts.heat": (
        gf.charts.heat,
        {"panels": {"a": {"b": {"c": 1.0}}}, "columns": 1, "title": "", "note": "", "form": "{:.1f}", "centre": 0.0}
        | {"span": 1.0},
    ),
    "charts.depth_curves": (
        gf.charts.depth_curves,
        {"panels": [[CURVE]], "across": "", "up": "", "title": "", "note": "", "log": True, "side": -1},
    ),
    "charts.reach": (gf.charts.reach, {"panels": [[MAP]], "title": "", "note": "", "label": ""}),
}
# What has no arguments of its own to be checked, or is a module.
OTHERS = {"BadInput", "RunsFailed", "QUANTITIES", "charts", "plot", "data", "hooks", "nets", "Reading"}


@pytest.mark.parametrize("name", LEGAL)
def test_an_argument_of_any_kind_is_answered_or_one_line(name):
    function, legal = LEGAL[name]
    for parameter in legal:
        for what, value in WRONG.items():
            if isinstance(value, str) and isinstance(legal[parameter], str):
                continue  # it is of the right kind
            try:
                with warnings.catch_warnings(action="ignore"):  # of numbers that are none, as a library has them
                    function(**{**legal, parameter: value})
            except gf.BadInput as refused:
                said = str(refused)
                assert len(said.splitlines()) == 1, (parameter, what)
            except Exception as error:
                pytest.fail(f"{name}: {parameter} as {what} is {type(error).__name__}: {error}")


@pytest.mark.parametrize("name", LEGAL)
def test_an_argument_that_is_missing_or_unknown_is_one_line(name):
    function, legal = LEGAL[name]
    for keywords in ({}, {**legal, "nonsense": 3}):
        takes_any = inspect.Parameter.VAR_KEYWORD in [
            one.kind for one in inspect.signature(function).parameters.values()
        ]
        if not (takes_any or name in ("grid", "check_law")):
            with pytest.raises(gf.BadInput, match=rf"^{name.rpartition('.')[2]}: "):
                function(**keywords)


@pytest.mark.parametrize("name", ["a\0b.svg", "a\0/b.svg", "\ud800.svg"])
def test_a_figure_under_a_name_that_no_system_takes_is_one_line(name, tmp_path):
    with pytest.raises(gf.BadInput, match="no system takes such a name"):
        gf.plot.save(Figure(), tmp_path / name)


def test_every_public_name_is_called_with_what_it_does_not_take():
    of_modules = {f"{of}.{name}" for of in ("plot", "charts") for name in dir(getattr(gf, of)) if _is_own(of, name)}
    called = {name for name in dir(gf) if f"gf.{name}(" in CALLS}
    assert {*dir(gf)} - OTHERS - called - {*LEGAL} == set()
    assert of_modules - {*LEGAL} == {"plot.format_ratio"}  # which has its own name


def _is_own(of: str, name: str) -> bool:
    value = getattr(getattr(gf, of), name)
    return inspect.isfunction(value) and "figures" in value.__module__ and hasattr(value, "__wrapped__")
