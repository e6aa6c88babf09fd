"""How runs ended: their error and loss at the end, whether they learnt anything, when they had learnt so much.

What has one number a run is indexed by the settings `by` and the seed.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd

from gradflow.claims import columns
from gradflow.claims.statistics import TWINS, Frame, Rows, Series, Table, with_values
from gradflow.errors import at_least
from gradflow.kinds import checked

Ends = Annotated[Any, columns.needs(*columns.READING, "status")]
DEAD = 0.95  # times the loss of guessing: a net that never did better has learnt nothing
_LEAST_STEPS = 50  # of a run that may be called dead for that: before, a batch or two decide


@checked
def final_error(table: Ends, quantity: str = "train_error", by: Sequence[str] = TWINS) -> Series:
    """The error (a share, 0 to 1) at the end of each run, indexed by the settings `by` and the seed.

    For `train_error` the mean over the last tenth of the steps, as single batches are noisy; for others the last
    reading. A run that diverged has the error of chance, 1 - 1 / classes: it is an outcome, and leaving it out would
    favour the net that diverges. One that is not done (failed, under way) has none: nan. A setting that is missing is
    "".
    """
    return _final(table, quantity, by, chance(table))


@checked
def final_loss(table: Ends, by: Sequence[str] = TWINS) -> Series:
    """The training loss at the end of each run over that of guessing, ln(classes) nats, indexed as `final_error`.

    1 is what a net has that learnt nothing, and what a diverged one counts as. The mean over the last tenth of the
    steps; it tells sooner than the error whether a net learns, as a batch knows it to more digits.
    """
    guess = np.log(table["classes"]) if "classes" in table else math.nan
    scaled = table.assign(value=table["value"] / guess)
    return _final(scaled, "loss", by, pd.Series(1.0, table.index))


def _final(table: Frame, quantity: str, by: Sequence[str], guessing: Series) -> Series:
    # Of a large table only what is needed: a row a run, and of one quantity the columns that say whose it is.
    columns.settings(table, by)
    keys = [*by, "seed"]
    ends = table.assign(guessing=guessing).loc[
        ~table["run"].duplicated(), [*dict.fromkeys([*keys, "status"]), "guessing"]
    ]
    everyone = with_values(ends, by).drop_duplicates().set_index(keys)
    kept = [*dict.fromkeys(["run", "step", "value", *keys])]
    rows = with_values(table.loc[table["quantity"] == quantity, kept], by)
    last = rows.groupby("run")["step"].transform("max")
    rows = rows[rows["step"] == last if quantity == "test_error" else rows["step"] > 0.9 * last]
    final = rows.groupby(keys)["value"].mean().reindex(everyone.index)
    final = final.where(everyone["status"] != "diverged", everyone["guessing"])
    return final.where(everyone["status"].isin(["done", "diverged"])).sort_index()


@checked
def chance(table: Table) -> Series:
    """The error (a share, 0 to 1) of guessing, 1 - 1 / classes, for each row; nan for a table without `classes`."""
    return 1 - 1 / table["classes"] if "classes" in table else pd.Series(math.nan, table.index)


@checked
def fate(table: Ends) -> Series:
    """How each run ended, indexed by run: its status, or `dead`.

    Dead is a run that came to its end and learnt nothing: its gradients are all zero at the last step that has any, or
    the mean loss of no tenth of its steps (of 50 or more in all) was below 95 % of that of guessing, ln(classes).
    """
    status = table.groupby("run")["status"].first()
    gradients = table[table["quantity"] == "activation_gradient_norm"]
    last = gradients[gradients["step"] == gradients.groupby("run")["step"].transform("max")]
    dead = (last.groupby("run")["value"].max() == 0).reindex(status.index, fill_value=False)
    if "classes" in table:
        for run, rows in table[table["quantity"] == "loss"].groupby("run"):
            steps = int(rows["step"].max())
            if steps >= _LEAST_STEPS:
                smooth = rows.set_index("step")["value"].sort_index().rolling(steps // 10).mean()
                dead[run] |= bool(smooth.min() >= DEAD * math.log(rows["classes"].iloc[0]))
    return status.where((status != "done") | ~dead, "dead")


@checked
def first_step(table: Rows, quantity: str, below: float, window: int, by: Sequence[str] = TWINS) -> Series:
    """The first step at which the mean of the last `window` readings of `quantity` is below `below`; nan for never.

    Indexed as `final_error`.
    """
    at_least("window", window, 1)
    keys, table = [*by, "seed"], with_values(table, by)

    def find(rows: Frame) -> float:
        smooth = rows.sort_values("step").set_index("step")["value"].rolling(window).mean()
        reached = smooth[smooth < below]
        return float(reached.index[0]) if len(reached) else math.nan

    return table[table["quantity"] == quantity].groupby(keys)[["step", "value"]].apply(find).sort_index()


@checked
def error_facts(table: Ends) -> dict[str, dict[str, float]]:
    """The final training and test errors of each net, by depth and normalisation: means over seeds."""
    facts = {}
    for quantity in ("train_error", "test_error"):
        error = final_error(table, quantity).groupby(["net", "normalisation", "depth"]).mean()
        for (net, normalisation), rows in error.groupby(["net", "normalisation"]):
            by_depth = {str(depth): float(value) for (_, _, depth), value in rows.items()}
            facts[f"final {quantity.replace('_', ' ')}, {net}, normalisation {normalisation}"] = by_depth
    return facts
