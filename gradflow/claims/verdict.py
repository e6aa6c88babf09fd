"""A claim judged by a measurement: where the interval of a statistic over seeds lies."""

import math
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from gradflow import html_table
from gradflow.claims.intervals import CONFIDENCE, confidence_interval, t_quantile, t_tail
from gradflow.errors import BadInput, choose
from gradflow.kinds import checked
from gradflow.plain_text import plain

PASS, FAIL, INCONCLUSIVE, NOT_JUDGED = "PASS", "FAIL", "INCONCLUSIVE", "NOT JUDGED"
SIDES = {">": "greater than", "<": "smaller than", "<=": "no worse than", "=": "equal to"}
LEAST_SEEDS = 3
_MOST_BITS = 10_000  # of an integer: Python writes no more than 4,300 digits
_MOST_SEEDS = 1000  # beyond these nobody is told how many would decide


@checked
@dataclass(frozen=True)
class Claim:
    """What a paper says, about one number, written down before the runs with its margin.

    There are four kinds, by `side`: the number is greater (`>`) or smaller (`<`) than `than`; it is no worse (`<=`),
    less than `margin` above `than`; or it is equal (`=`), less than `margin` away from it on either side.
    Raises `BadInput` for another side, or a margin where it is not wanted or missing where it is.
    """

    text: str
    source: str  # paper, section, table or equation
    paper: str  # the paper's own number, in words where it prints none
    statistic: str  # what is computed from the tables, in words, for each seed
    side: str
    than: float = 0.0
    margin: float = 0.0
    seeds: int = LEAST_SEEDS  # fewer than these decide nothing
    steps: int = 1  # the length of training that it is about: shorter runs decide nothing, for it or against it

    def __post_init__(self):
        choose("side", self.side, [*SIDES])
        if not math.isfinite(self.than):
            raise BadInput(f"than {self.than} is not legal: it is a finite number")
        if (self.margin > 0) != (self.side in ("<=", "=")) or not math.isfinite(self.margin):
            raise BadInput(
                f"margin {self.margin} is not legal with side {self.side!r}: <= and = have one above 0, > and < none"
            )

    @property
    def region(self) -> tuple[float, float]:
        """Where the number lies if the claim is true: between these two, which may be infinite."""
        return {
            ">": (self.than, math.inf),
            "<": (-math.inf, self.than),
            "<=": (-math.inf, self.than + self.margin),
            "=": (self.than - self.margin, self.than + self.margin),
        }[self.side]

    @property
    def rule(self) -> str:
        """How it is judged, in words."""
        low, high = self.region
        where = (
            f"above {low:g}"
            if math.isinf(high)
            else f"below {high:g}"
            if math.isinf(low)
            else f"in {low:g} to {high:g}"
        )
        return f"{CONFIDENCE:.0%} interval of the mean over seeds entirely {where}: PASS; entirely outside: FAIL"


@dataclass(frozen=True)
class Finding:
    """A claim, our number for each seed, and the outcome."""

    claim: Claim
    per_seed: dict[int, float]  # seeds that gave no number are left out and counted in `missing`
    mean: float | None
    interval: tuple[float, float] | None  # 95 % for the mean over seeds
    outcome: str  # among the claims of its verdict: see `Verdict`
    alone: str  # as the only claim
    p_value: float  # of the decision for or against the claim, two-sided: at most 0.05 where it is decided alone
    rule: str
    would_decide: str | None = None
    missing: tuple[int, ...] = ()


@checked
@dataclass(frozen=True, repr=False)
class Verdict:
    """All findings of an experiment, which are one family of claims.

    What is said of each claim holds for all of them together with an error rate of 5 %, by Holm's procedure (1979):
    those with the smallest p-values are decided first, the k-th of n at 5 % / (n - k + 1), up to the first that is not.
    The whole passes if each claim does alone, which needs no correction, and fails if one fails after it.
    """

    title: str  # the finding in words, for the figure
    findings: tuple[Finding, ...]
    facts: Mapping[Any, Any] = field(default_factory=dict)  # what was seen beside the claims, not judged
    judged: bool = True  # not where the runs were too short and few to be about any claim

    def __post_init__(self):
        object.__setattr__(self, "facts", {str(name): _plain(value) for name, value in self.facts.items()})
        among = _holm(tuple(self.findings)) if self.judged else tuple(map(_not_judged, self.findings))
        object.__setattr__(self, "findings", among)

    @property
    def outcome(self) -> str:
        """PASS, FAIL, INCONCLUSIVE or NOT JUDGED."""
        if not self.judged:
            return NOT_JUDGED
        if any(finding.outcome == FAIL for finding in self.findings):
            return FAIL
        return PASS if self.findings and all(one.alone == PASS for one in self.findings) else INCONCLUSIVE

    @property
    def summary(self) -> str:
        """Outcome, title (the first 150 characters of it) and how many claims came out how, in a line."""
        counts = Counter(finding.outcome for finding in self.findings)
        claims = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "no claims"
        return f"{self.outcome}: {plain(textwrap.shorten(self.title, 150, placeholder='...'))} ({claims})"

    def __repr__(self) -> str:
        return f"<Verdict {self.summary}>"

    def _repr_html_(self) -> str:
        """A row a claim, as a notebook shows it."""
        rows = [
            (f.claim.text, f.claim.source, f.claim.paper, region(f.claim), number(f.mean), interval(f), f.outcome)
            for f in self.findings
        ]
        columns = ("claim", "source", "the paper", "claimed", "mean over seeds", "95 % interval", "outcome")
        return html_table.table(columns, rows, f"{self.outcome}: {self.title}")

    def not_judged(self) -> "Verdict":
        """The same numbers without an outcome: of a preset that only shows that everything works."""
        return replace(self, judged=False)

    def to_json(self) -> dict[str, Any]:
        """What `verdict.json` holds."""
        said = {"outcome": self.outcome, "title": self.title, "facts": self.facts}
        return _plain(said | {"findings": [asdict(finding) for finding in self.findings]})


def number(value: float | None) -> str:
    """A number as it is printed beside a claim."""
    return "none" if value is None else f"{value:.3g}"


def region(claim: Claim) -> str:
    """Where a claim says that its number lies: `> 0.5`, or `= 0 within 1`."""
    within = f" within {number(claim.margin)}" if claim.margin else ""
    return f"{claim.side} {number(claim.than)}{within}"


def interval(finding: Finding) -> str:
    """The interval of the mean over seeds in words; `none` where there is none."""
    return "none" if finding.interval is None else " to ".join(map(number, finding.interval))


@checked
def judge(claim: Claim, per_seed: Mapping[int, float], steps: float) -> Finding:
    """PASS if the interval lies where the claim says, FAIL if all of it lies elsewhere, INCONCLUSIVE otherwise.

    `steps` is the length of the shortest run behind the numbers. Inconclusive is also what has fewer seeds or steps
    than the claim needs, and where a seed gave no number (nan): leaving it out would be a choice among outcomes.
    """
    good = {seed: float(value) for seed, value in sorted(per_seed.items()) if math.isfinite(value)}
    missing = tuple(sorted(set(per_seed) - set(good)))
    if not good:
        why = "runs that give this number: " + ("no seed did" if missing else "there are none")
        return Finding(claim, {}, None, None, INCONCLUSIVE, INCONCLUSIVE, 1.0, claim.rule, why, missing)
    values = list(good.values())
    low, high = confidence_interval(values)
    outcome, p_value, why = INCONCLUSIVE, 1.0, None
    if missing:
        why = f"a number from seed {', '.join(map(str, missing))}"
    elif len(good) < claim.seeds:
        why = f"{claim.seeds} seeds"
    elif steps < claim.steps:
        why = f"{claim.steps} steps, the length the claim is about"
    else:
        outcome, p_value = _decide(claim, values)
        why = _seeds_that_decide(claim, values) if outcome == INCONCLUSIVE else None
    bounds = (low, high) if math.isfinite(low) else None
    mean = float(np.mean(values))
    return Finding(claim, good, mean, bounds, outcome, outcome, p_value, claim.rule, why, missing)


def _decide(claim: Claim, values: list[float]) -> tuple[str, float]:
    """The outcome by the values alone, and twice the p-value of the one-sided test that comes nearest to a decision.

    The claim passes when each border of its region is significantly on the outer side of the mean (two one-sided tests,
    where there are two), and fails when one of them is significantly on the inner side.
    """
    if len(values) < 2:
        return INCONCLUSIVE, 1.0
    low, high = claim.region
    inside = max(t_tail(values, border, sign) for border, sign in ((low, 1), (high, -1)) if math.isfinite(border))
    outside = min(t_tail(values, border, sign) for border, sign in ((low, -1), (high, 1)) if math.isfinite(border))
    p_value = min(1.0, 2 * min(inside, outside))
    if p_value > 1 - CONFIDENCE:
        return INCONCLUSIVE, p_value
    return PASS if inside < outside else FAIL, p_value


def _seeds_that_decide(claim: Claim, values: list[float]) -> str:
    """How many seeds would, if mean and deviation stay what they are."""
    distance = min(abs(float(np.mean(values)) - border) for border in claim.region)
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.inf
    for count in range(len(values) + 1, _MOST_SEEDS + 1):
        if distance and t_quantile(count - 1) * deviation / math.sqrt(count) < distance:
            return f"more seeds: about {count}, if mean and spread stay"
    return "more seeds: many, as the mean is close to the border"


def _holm(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """The findings, those that do not stand beside the others made inconclusive."""
    left, standing = len(findings), set()
    for place in sorted(range(len(findings)), key=lambda place: findings[place].p_value):
        if findings[place].p_value > (1 - CONFIDENCE) / left:
            break
        standing.add(place)
        left -= 1
    why = f"more seeds: decided alone, not as one of {len(findings)} claims"
    return tuple(
        finding
        if place in standing or finding.alone == INCONCLUSIVE
        else replace(finding, outcome=INCONCLUSIVE, would_decide=why)
        for place, finding in enumerate(findings)
    )


def _plain(value: Any) -> Any:
    """A fact as JSON can hold it: numbers of NumPy as Python's. Raises `BadInput` for what is none."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise BadInput(f"a fact of a verdict is an integer of {value.bit_length():,} bits: legal are {_MOST_BITS:,}")
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise BadInput(f"a fact of a verdict is a {type(value).__name__}: legal are numbers, text, lists, dictionaries")
    return value


def _not_judged(finding: Finding) -> Finding:
    return replace(finding, outcome=NOT_JUDGED, alone=NOT_JUDGED, would_decide=None)
