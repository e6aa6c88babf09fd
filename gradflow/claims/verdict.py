"""A claim judged by a measurement: an inequality about a statistic of the tables, with its interval over seeds."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gradflow.claims.statistics import CONFIDENCE, confidence_interval
from gradflow.errors import choose

PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"


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
    low, high = confidence_interval(list(good.values()))
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
