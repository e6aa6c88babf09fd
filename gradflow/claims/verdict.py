"""A claim judged by a measurement: an inequality about a statistic of the tables, with its interval over seeds."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gradflow.claims.statistics import on_spine
from gradflow.errors import BadInput, choose

# pandas types every column as a union that no type checker can follow: tables are not checked here.
Frame = Any
Series = Any
PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"
CONFIDENCE = 0.95
# Two-sided 95 % points of Student's t for 1, 2, ... 30 degrees of freedom.
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
      2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484,
      2.0452, 2.0423)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """What a paper says, as an inequality about one number, written down before the runs."""

    text: str
    source: str  # paper, section, table or equation
    paper: str  # the paper's own number, in words where it prints none
    statistic: str  # what is computed from the tables, in words, for each seed
    side: str  # ">" or "<": the number is claimed to lie on that side of `than`
    than: float = 0.0
    seeds: int = 2  # fewer than these decide nothing
    steps: int = 1  # shorter runs decide nothing: for claims about the end of a long training

    def __post_init__(self):
        choose("side", self.side, ("<", ">"))


@dataclass(frozen=True)
class Finding:
    """A claim, our number for each seed, and the outcome."""

    claim: Claim
    per_seed: dict[int, float]  # seeds that gave no number (a diverged run) are left out and counted in `missing`
    mean: float | None
    interval: tuple[float, float] | None  # 95 % for the mean over seeds
    outcome: str
    rule: str
    would_decide: str | None = None
    missing: tuple[int, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """All findings of an experiment; the whole passes if each claim does and fails if one does."""

    title: str  # the finding in words, for the figure
    findings: tuple[Finding, ...]
    facts: dict[str, Any] = field(default_factory=dict)  # what was seen beside the claims, not judged

    @property
    def outcome(self) -> str:
        """PASS, FAIL or INCONCLUSIVE."""
        outcomes = [finding.outcome for finding in self.findings]
        if FAIL in outcomes:
            return FAIL
        return PASS if outcomes and all(outcome == PASS for outcome in outcomes) else INCONCLUSIVE

    def to_json(self) -> dict[str, Any]:
        """What `verdict.json` holds."""
        return {"outcome": self.outcome, "title": self.title, "facts": self.facts} | {
            "findings": [asdict(finding) for finding in self.findings]
        }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the mean, by Student's t; infinitely wide for a single value."""
    numbers = np.asarray(values, float)
    freedom = len(numbers) - 1
    if freedom < 1:
        return -math.inf, math.inf
    half = _t(freedom) * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return float(numbers.mean()) - half, float(numbers.mean()) + half


def _t(freedom: int) -> float:
    if freedom <= len(_T):
        return _T[freedom - 1]
    normal = 1.959964
    return normal + (normal**3 + normal) / (4 * freedom)  # Abramowitz and Stegun 26.7.5; right to 0.2 % from here on


def judge(claim: Claim, per_seed: dict[int, float], steps: int) -> Finding:
    """PASS if the interval lies on the claimed side, FAIL if on the other, INCONCLUSIVE otherwise.

    Also inconclusive with fewer seeds or steps than the claim needs. Seeds whose number is nan count as missing.
    """
    good = {seed: value for seed, value in sorted(per_seed.items()) if math.isfinite(value)}
    missing = tuple(sorted(set(per_seed) - set(good)))
    rule = f"{CONFIDENCE:.0%} interval of the mean over seeds entirely {claim.side} {claim.than:g}"
    if not good:
        would_decide = "runs that do not diverge" if missing else "runs that give this number: there are none"
        return Finding(claim, {}, None, None, INCONCLUSIVE, rule, would_decide, missing)
    low, high = interval(list(good.values()))
    bounds = (low, high) if math.isfinite(low) else None
    would_decide = None
    if len(good) < claim.seeds:
        outcome, would_decide = INCONCLUSIVE, f"{claim.seeds} seeds"
    elif steps < claim.steps:
        outcome, would_decide = INCONCLUSIVE, f"{claim.steps} steps, the length the claim is about"
    elif bounds is None or low <= claim.than <= high:
        outcome, would_decide = INCONCLUSIVE, "more seeds: the interval holds both sides"
    else:
        outcome = PASS if (low > claim.than) == (claim.side == ">") else FAIL
    return Finding(claim, good, float(np.mean(list(good.values()))), bounds, outcome, rule, would_decide, missing)


TWINS = ("net", "depth", "normalisation")  # what tells the runs of a depth sweep apart


def final_error(table: Frame, quantity: str = "train_error", by: Sequence[str] = TWINS) -> Series:
    """The error at the end of each run, indexed by the settings `by` and the seed.

    For `train_error` the mean over the last tenth of the steps, as single batches are noisy; for others the last
    reading. A diverged run has none (nan). A setting that was left to the net has the value "".
    """
    keys, table = [*by, "seed"], _with_values(table, by)
    rows = table[table.quantity == quantity]
    if quantity == "train_error":
        rows = rows[rows.step > 0.9 * rows.steps]
    else:
        rows = rows[rows.step == rows.groupby("run").step.transform("max")]
    everyone = table[[*keys, "status"]].drop_duplicates().set_index(keys)
    error = rows.groupby(keys).value.mean().reindex(everyone.index)
    return error.where(everyone.status == "done").sort_index()


def first_step(table: Frame, quantity: str, below: float, window: int, by: Sequence[str] = TWINS) -> Series:
    """The first step at which the mean of the last `window` readings of `quantity` is below `below`; nan for never.

    Indexed as `final_error`.
    """
    keys, table = [*by, "seed"], _with_values(table, by)

    def find(rows: Frame) -> float:
        smooth = rows.sort_values("step").set_index("step").value.rolling(window).mean()
        reached = smooth[smooth < below]
        return float(reached.index[0]) if len(reached) else math.nan

    return table[table.quantity == quantity].groupby(keys)[["step", "value"]].apply(find).sort_index()


def at(table: Frame, quantity: str, layer: str, step: int = 1, by: Sequence[str] = TWINS) -> Series:
    """The reading of one layer at one step, indexed as `final_error`; of the whole net where `layer` is ""."""
    keys, table = [*by, "seed"], _with_values(table, by)
    rows = table[(table.quantity == quantity) & (table.layer == layer) & (table.step == step)]
    return rows.groupby(keys).value.mean().sort_index()


def setting(table: Frame, column: str, by: Sequence[str] = TWINS) -> Series:
    """A column of the table of runs, such as `parameters`, indexed as `final_error`."""
    keys = [*by, "seed"]
    return _with_values(table, by).drop_duplicates("run").set_index(keys)[column].astype(float).sort_index()


def _with_values(table: Frame, columns: Sequence[str]) -> Frame:
    return table.assign(**{name: table[name].astype(object).where(table[name].notna(), "") for name in columns})


def error_facts(table: Frame) -> dict[str, dict[str, float]]:
    """The final training and test errors of each net, by depth and normalisation: means over seeds that finished."""
    facts = {}
    for quantity in ("train_error", "test_error"):
        error = final_error(table, quantity).groupby(["net", "normalisation", "depth"]).mean()
        for (net, normalisation), rows in error.groupby(["net", "normalisation"]):
            by_depth = {str(depth): float(value) for (_, _, depth), value in rows.items()}
            facts[f"final {quantity.replace('_', ' ')}, {net}, normalisation {normalisation}"] = by_depth
    return facts


def spine(table: Frame, step: int, quantity: str = "activation_gradient_norm") -> Frame:
    """The points on the spine of each run at one step: columns run, net, depth, normalisation, seed, position, value.

    These are the units, or of a net without units the layers of its main path.
    """
    rows = table[(table.quantity == quantity) & (table.step == step)]
    rows = rows[on_spine(rows)]
    if rows.empty:
        raise BadInput(f"the table has no {quantity} at step {step}: legal are the steps that were recorded")
    return rows.sort_values(["run", "position"])


def slopes(table: Frame, step: int = 1, by: Sequence[str] = TWINS) -> Series:
    """The fitted slope of log10 gradient norm against position, in decades a layer, indexed as `final_error`.

    Positive: the gradient shrinks on its way back to the input. Zeros and what is not finite are not fitted.
    """

    def fit(rows: Frame) -> float:
        good = rows[(rows.value > 0) & np.isfinite(rows.value)]
        return float(np.polyfit(good.position, np.log10(good.value), 1)[0]) if len(good) > 1 else math.nan

    return _with_values(spine(table, step), by).groupby([*by, "seed"])[["position", "value"]].apply(fit)


def regimes(table: Frame, step: int = 1) -> Series:
    """`vanishing`, `exploding` or `healthy` for each (net, depth, normalisation), by the fitted slope of `slopes`.

    The side of zero on which its 95 % interval lies, no threshold; healthy where it holds zero. The seeds share one
    slope and have each a level of their own; the interval is that of the points' scatter about the fit. `undecided`
    where there are too few points to fit.
    """
    return spine(table, step).groupby(["net", "depth", "normalisation"])[["seed", "position", "value"]].apply(_regime)


def _regime(rows: Frame) -> str:
    good = rows[(rows.value > 0) & np.isfinite(rows.value)].assign(height=lambda rows: np.log10(rows.value))
    x, y = (good[name] - good.groupby("seed")[name].transform("mean") for name in ("position", "height"))
    freedom, spread = len(good) - good.seed.nunique() - 1, float(x @ x)
    if freedom < 1 or spread == 0:
        return "undecided"
    slope = float(x @ y) / spread
    half = _t(freedom) * math.sqrt(float(((y - slope * x) ** 2).sum()) / freedom / spread)
    return "vanishing" if slope > half else "exploding" if slope < -half else "healthy"


def factors(table: Frame, step: int = 1) -> Series:
    """By how much the gradient changes on its way back: its norm at the first unit over that at the last.

    The geometric mean over seeds, indexed by (net, depth, normalisation); nan where a norm is 0 or not finite.
    """
    keys = ["net", "depth", "normalisation"]
    ends = spine(table, step).groupby([*keys, "seed"]).value.agg(["first", "last"])
    good = ends.where((ends > 0) & np.isfinite(ends))
    return np.exp(np.log(good["first"] / good["last"]).groupby(keys).mean())


def per_seed(series: Series, **levels: Any) -> dict[int, float]:
    """The numbers of one setting, by seed: `per_seed(slopes, net="plain", depth=56, normalisation="none")`.

    Raises `BadInput` when the levels do not pick one number a seed.
    """
    chosen = series[np.logical_and.reduce([series.index.get_level_values(name) == at for name, at in levels.items()])]
    seeds = chosen.index.get_level_values("seed")
    if seeds.has_duplicates:
        names = ", ".join(map(str, series.index.names))
        raise BadInput(f"{levels} picks several runs of the same seed: say which by {names}")
    return {int(seed): float(value) for seed, value in zip(seeds, chosen, strict=True)}


def difference(a: dict[int, float], b: dict[int, float]) -> dict[int, float]:
    """`a - b`, seed by seed: twins and depths of one seed saw the same batches. A seed that only one has gives nan."""
    return {seed: a.get(seed, math.nan) - b.get(seed, math.nan) for seed in sorted({*a, *b})}
