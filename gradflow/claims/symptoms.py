"""What the runs of one setting show, its seeds together: the numbers that `diagnosis` judges, from the long table."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradflow.claims import columns, statistics
from gradflow.claims.endings import DEAD, final_loss
from gradflow.claims.geometry import Geometry, geometry
from gradflow.claims.intervals import confidence_interval
from gradflow.claims.regime import LEVEL, gradient_decades, regime_of
from gradflow.errors import BadInput
from gradflow.runs import variation

# pandas types every column as a union that no type checker can follow: inside this file tables are not checked.
Frame = Any
Series = Any
GRADIENT = "activation_gradient_norm"
COLUMNS = ("run", "seed", "step", "layer", "position", "quantity", "value")
LEAST_STEPS = 50  # of a training that is judged by its loss: before, a batch or two decide
_READ = ("activation_mean", "activation_std", "zero_fraction", "weight_norm", GRADIENT, statistics.IDENTITY)
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(80)  # for means over a standard normal variable
# The squared slope that a response around 0 meets on the average: half of a ReLU's are on.
AROUND_ZERO = {"relu": 1 / 2, "linear": 1.0, "tanh": 1.0, "sigmoid": 1 / 16}


@dataclass(frozen=True)
class State:
    """What was read at one step. Decades are over the whole net, positive where the gradient falls towards the input.

    A number that cannot be had (not read, or of a net whose layers are not known) is nan.
    """

    step: int
    decades: tuple[float, ...]  # of the gradient, one a seed
    gain: float = math.nan  # the variance of a weight times its fan-in by the layers' norms, geometric mean over them
    slope: float = math.nan  # the squared slope that the responses meet over that around 0, geometric mean over layers
    signal: float = math.nan  # decades by which the activations fall from input to output
    branches: float = math.nan  # what the residual branches add to what comes back through the identity: 0 or below
    off: float = math.nan  # the largest share of ReLUs of a layer that are off
    off_layer: str = ""

    @property
    def mean(self) -> float:
        """Of the decades, over seeds; nan where one of them has none."""
        return float(np.mean(self.decades))

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % for the mean over seeds; None of a single seed, or where a seed has no number."""
        several = len(self.decades) > 1 and math.isfinite(self.mean)
        return confidence_interval(self.decades) if several else None

    @property
    def regime(self) -> str:
        """That of `regime_of`; of a single seed it is where its number lies, which is said of that run alone."""
        if len(self.decades) == 1 and math.isfinite(self.mean):
            return "level" if abs(self.mean) <= LEVEL else "vanishing" if self.mean > 0 else "exploding"
        return regime_of(self.decades)


@dataclass(frozen=True)
class Symptoms:
    """Of the runs of one setting: what was read at the start and at the end, and how their training went."""

    run: Mapping[str, Any]  # a row of the table of runs
    geometry: Geometry | None
    depth: int
    start: State  # the first recorded step
    end: State
    since: int  # the recorded step from which on the regime is that of the end
    diverged: int  # seeds
    steps: int  # that were trained
    loss: float  # at the end over that of guessing, `final_loss`, the mean over seeds; nan where none has ended
    promise: float  # of the first step: see `_promises`; with the momentum that is still to come
    promised: float  # the largest of a recorded step, times the steps

    @property
    def learnt(self) -> bool | None:
        """Whether the loss fell below what a dead run has; None where the runs are too short to say."""
        if self.diverged:
            return False
        return None if self.steps < LEAST_STEPS or math.isnan(self.loss) else self.loss < DEAD

    @property
    def chain(self) -> bool:
        """Whether the net is one layer after another, as far as its readings and its settings say."""
        return math.isnan(self.start.branches) and (self.geometry is None or self.geometry.chain)

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting of the net, at the net's default where the table has none, or of the run."""
        of_net = self.geometry.settings.get(name) if self.geometry else None
        of_run = variation.clean(self.run.get(name))
        return of_net if of_net is not None else default if of_run is None else of_run


def symptoms(table: Frame, step: int | None = None) -> list[Symptoms]:
    """Of each setting of the long table, in the order of the settings; `step` is the end (None: the last recorded), or
    of a setting that did not record it the last one before.

    A setting that has no readings of gradients is left out. Raises `BadInput` for a table without any, or a step that
    was not recorded.
    """
    if wrong := columns.lacks(table, COLUMNS):
        raise BadInput(f"the table cannot be diagnosed: it {wrong}")
    table = table if "status" in table else table.assign(status="done")
    rows = table[[*COLUMNS]]
    gradients = rows[rows["quantity"] == GRADIENT]
    if gradients.empty:
        has = ", ".join(sorted(rows["quantity"].unique())) or "no readings at all"
        raise BadInput(f"the table cannot be diagnosed: it has no {GRADIENT}, but {has}")
    steps = sorted(set(gradients["step"]))
    if step is not None and step not in steps:
        raise BadInput(f"step {step} was not recorded: choose one of {', '.join(map(str, steps))}")
    runs = table.drop_duplicates("run").sort_values(["seed", "run"], kind="stable")
    loss = final_loss(table, by=["run"]).droplevel("seed")
    return [
        _symptoms(
            group,
            gradients[gradients["run"].isin(group["run"])],
            rows[rows["run"].isin(group["run"])],
            float(loss.reindex(group["run"]).mean()),
            step,
        )
        for group in groups(runs[runs["run"].isin(gradients["run"])])
    ]


def groups(runs: Frame) -> list[Frame]:
    """The runs by setting, all that differ only by their seed together, in the order of the settings that vary."""
    shown = variation.varying(runs)
    if not shown:
        return [runs]
    order = {name: variation.values(runs, name) for name in shown}
    ranks = runs[["run"]].assign(
        **{name: [order[name].index(variation.clean(value)) for value in runs[name]] for name in shown}
    )
    return [runs[runs["run"].isin(group["run"])] for _, group in ranks.groupby(shown)]


def _symptoms(runs: Frame, gradients: Frame, rows: Frame, loss: float, step: int | None) -> Symptoms:
    """Of the runs of one setting. A step that only some of them recorded, as where one diverges, is none of all."""
    row = dict(runs.iloc[0])
    recorded = sorted(set.intersection(*(set(steps) for _, steps in gradients.groupby("run")["step"])))
    first = recorded[0]
    last = max((at for at in recorded if step is None or at <= step), default=first)
    if step is None and (runs["status"] == "diverged").any():  # what such a run reads last are no numbers
        last = next((at for at in recorded[::-1] if np.isfinite(_decades(gradients, at)).all()), first)
    end, since = State(last, _decades(gradients, last)), last
    for at in (at for at in recorded[::-1] if at < last):
        if State(at, _decades(gradients, at)).regime != end.regime:
            break
        since = at
    shape, promises = geometry(row), _promises(rows)
    momentum = variation.clean(row.get("momentum")) if row.get("optimiser", "sgd") in ("sgd", "nesterov") else 0.0
    if not isinstance(momentum, (int, float)) or not 0 <= momentum < 1:
        momentum = 0.0  # of a record of a user's own, where it may be anything
    told = runs["last_step"].dropna() if "last_step" in runs else runs["step"][:0]
    trained = int(told.max()) if len(told) else last
    return Symptoms(
        run=row,
        geometry=shape,
        depth=int(gradients["position"].max()),
        start=_state(first, _decades(gradients, first), rows, shape),
        end=_state(last, end.decades, rows, shape),
        since=since,
        diverged=int((runs["status"] == "diverged").sum()),
        steps=trained,
        loss=loss,
        promise=float(promises[promises.index.get_level_values("step") == first].mean()) / (1 - momentum),
        promised=float(promises.groupby("run").max().mean()) * trained,
    )


def _decades(gradients: Frame, step: int) -> tuple[float, ...]:
    """Of each run, in the order of their seeds; nan where one has no positive numbers."""
    rows = gradients[gradients["step"] == step]
    return tuple(gradient_decades(rows, step, ["run"]).sort_index(level="seed").tolist())


def _promises(rows: Frame) -> Series:
    """By run and recorded step the loss that the update takes if the slope stays what it is, over the loss.

    The sum over layers of |dL/dW| |update|, which the scalar product of the two does not exceed.
    """
    keys = ["run", "step"]
    norms = rows[rows["quantity"].isin(["gradient_norm", "update_norm"])]
    sides = norms.pivot_table(index=[*keys, "layer"], columns="quantity", values="value", dropna=False)
    sides = sides.reindex(columns=["gradient_norm", "update_norm"])
    taken = (sides["gradient_norm"] * sides["update_norm"]).groupby(keys).sum(min_count=1)
    loss = rows[rows["quantity"] == "loss"].groupby(keys)["value"].mean()
    ratio = taken / loss.reindex(taken.index)
    return ratio[np.isfinite(ratio)]


def _state(step: int, decades: tuple[float, ...], rows: Frame, shape: Geometry | None) -> State:
    """Of all seeds of a setting at one step, whose `decades` are known."""
    wanted = rows[(rows["step"] == step) & rows["quantity"].isin(_READ) & np.isfinite(rows["value"])]
    values = wanted.pivot_table(index=["run", "seed", "position", "layer"], columns="quantity", values="value")
    values = values.reindex(columns=[*_READ]).reset_index()
    spine = values[statistics.on_spine(values)]
    off, layer = _off(values, spine) if _activation(shape) == "relu" else (math.nan, "")
    return State(
        step=step,
        decades=decades,
        gain=_gain(values, shape),
        slope=_slope(values, shape),
        signal=_signal(spine, step),
        branches=_branches(values),
        off=off,
        off_layer=layer,
    )


def _activation(shape: Geometry | None) -> str:
    """Of a net whose settings do not say it, a ReLU."""
    return str(shape.settings.get("activation", "relu")) if shape else "relu"


def _gain(values: Frame, shape: Geometry | None) -> float:
    """|W|^2 / outputs is the variance times the fan-in. The first layer and the last are on no way between layers."""
    if shape is None or len(shape.layers) < 3:
        return math.nan
    outputs = {layer.name: layer.outputs for layer in shape.layers[1:-1]}
    rows = values[values["layer"].isin(outputs)]
    return statistics.geometric_mean(rows["weight_norm"] ** 2 / rows["layer"].map(outputs).astype(float))


def _slope(values: Frame, shape: Geometry | None) -> float:
    """Of tanh and sigmoid, by the mean and the deviation of each layer's responses, taken for normal; 1 of others."""
    activation = _activation(shape)
    if shape is None or activation not in ("tanh", "sigmoid"):
        return 1.0
    rows = values[values["layer"].isin([layer.name for layer in shape.layers[:-1]])]
    z = rows["activation_mean"].to_numpy()[:, None] + rows["activation_std"].to_numpy()[:, None] * _NODES
    met = _squared_slope(activation, z) @ _WEIGHTS / _WEIGHTS.sum()
    return float(10 ** np.mean(np.log10(met / AROUND_ZERO[activation]))) if len(met) else math.nan


def _squared_slope(activation: str, z: Any) -> Any:
    z = np.clip(z.astype(float), -150, 150)  # flat there, and within float64
    return 1 / np.cosh(z) ** 4 if activation == "tanh" else 1 / (2 * np.cosh(z / 2)) ** 4


def _signal(spine: Frame, step: int) -> float:
    """As `gradient_decades`, of the root mean square of the activations, from input to output."""
    square = spine["activation_mean"] ** 2 + spine["activation_std"] ** 2
    if not (square > 0).any():
        return math.nan
    # Fitted by what fits the gradient, which counts the other way.
    rows = spine.assign(step=step, quantity=GRADIENT, value=square**0.5)
    return -float(gradient_decades(rows, step, ["run"]).mean())


def _branches(values: Frame) -> float:
    """The sum over units, the mean over seeds; nan of a net without shortcuts."""
    units = values[values[statistics.IDENTITY].notna()]
    if units.empty:
        return math.nan
    logs = statistics.finite_log10(units[statistics.IDENTITY]) - statistics.finite_log10(units[GRADIENT])
    return float(np.nansum(logs)) / units["run"].nunique()


def _off(values: Frame, spine: Frame) -> tuple[float, str]:
    """The layer of the spine with the most ReLUs off, and their share.

    Of a point behind the activation that is its share of zeros. Of a layer's response, which is before it, the share of
    a normal variable of that mean and deviation that is below 0, or that of zeros where nothing comes in.
    """
    if spine.empty:
        return math.nan, ""
    response = spine["layer"].isin(values["layer"][values["weight_norm"].notna()])
    last = spine["position"] == spine.groupby("run")["position"].transform("max")
    spine = spine.assign(off=spine["zero_fraction"].where(~response, _below(spine)))[~(response & last)]
    means = spine.groupby(["position", "layer"])["off"].mean().dropna()
    return (float(means.max()), str(means.idxmax()[1])) if len(means) else (math.nan, "")


def _below(spine: Frame) -> Series:
    deviation = spine["activation_std"].where(spine["activation_std"] > 0)
    z = (-spine["activation_mean"] / deviation).fillna(0)
    share = [0.5 * math.erfc(-one / math.sqrt(2)) for one in z]
    return spine["zero_fraction"].clip(lower=0).where(spine["zero_fraction"] > 0.5, share)
