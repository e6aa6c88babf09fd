"""Why a gradient vanishes or explodes, or a net does not learn: the likely causes, each a rule over a run's symptoms.

A cause of vanishing or exploding is named by a law that says from the readings how many decades it alone makes; the
laws together must account for what is seen. What keeps a level net from learning is found by what a step of training
promises. Every threshold follows from a law or from a definition that stands elsewhere, none was fitted.
"""

import math
from dataclasses import replace
from typing import Any

import pandas as pd

from gradflow.claims.endings import DEAD
from gradflow.claims.laws import BATCH, BORDER, LARGE, LAWS, SATURATED, SMALL, SUM, Cause
from gradflow.claims.regime import LEVEL
from gradflow.claims.symptoms import State, Symptoms, symptoms
from gradflow.kinds import checked
from gradflow.runs import variation

HEALTHY, UNKNOWN = "healthy", "not known"
DEAD_UNITS, FAST, SLOW = "dead units", "the rate is too large", "the rate is too small"
CAUSES = (SMALL, LARGE, SATURATED, BORDER, BATCH, SUM, DEAD_UNITS, FAST, SLOW)
# Of a layer with a share a of its ReLUs on, the gradient's norm is sqrt(2 a) times that of one with half of them on:
# with more than this share off, one layer takes a decade.
OFF = 1 - 0.5 * 10 ** (-2 * LEVEL)
# A step that would take the loss to 0 if the slope stayed is Polyak's; on a convex loss one twice as long may not come
# closer to the minimum (Polyak 1969).
LONGEST_STEP = 2.0


@checked
def diagnose(frame: pd.DataFrame, step: int | None = None) -> pd.DataFrame:
    """What is likely wrong with the runs of a long table (`gradflow.load`): a row a setting, its seeds together.

    Columns: the settings that vary; `run`, one of its runs; `seeds`, how many; of `start_step`, the first recorded one,
    `start_regime` (vanishing, exploding, level, undecided), `start_decades` by which the gradient falls from output to
    input over the whole net (the mean over seeds), and `start_low`, `start_high`, its 95 % interval (nan of a single
    seed, whose regime is then where its number lies); the same of `end_step` (`step`, or the last that all seeds
    recorded) as `end_...`; `since`, the step from which on the regime is that of the end; `diverged`, how many seeds;
    `cause`, one of `CAUSES`, "healthy" or "not known"; `also`, further causes; `evidence`, with the numbers; `cure`.

    "Likely" is all that is claimed: how often it is right in nets with one known fault says the experiment
    `planted_faults`. Raises `BadInput` for a table without readings of gradients, or a step that was not recorded.
    """
    found = symptoms(frame, step)
    shown = variation.varying(pd.DataFrame([one.run for one in found])) or ["net", "depth"]
    return pd.DataFrame([{name: one.run[name] for name in shown if name in one.run} | _row(one) for one in found])


def _row(seen: Symptoms) -> dict[str, Any]:
    first, *others = causes(seen)
    return {
        "run": seen.run["run"],
        "seeds": len(seen.start.decades),
        "start_step": seen.start.step,
        **_of_state(seen.start, "start"),
        "end_step": seen.end.step,
        **_of_state(seen.end, "end"),
        "since": seen.since,
        "diverged": seen.diverged,
        "cause": first.name,
        "also": "; ".join(one.name for one in others),
        "evidence": "; ".join(one.evidence for one in (first, *others)),
        "cure": "; ".join(dict.fromkeys(one.cure for one in (first, *others))),
    }


def _of_state(state: State, at: str) -> dict[str, Any]:
    low, high = state.interval or (math.nan, math.nan)
    return {f"{at}_regime": state.regime, f"{at}_decades": state.mean, f"{at}_low": low, f"{at}_high": high}


def causes(seen: Symptoms) -> list[Cause]:
    """The likely causes, the first the likeliest; `HEALTHY` or `UNKNOWN` alone where there are none.

    What is wrong before the first step comes first, as training can only follow from it.
    """
    start = seen.start
    if dead := dead_units(seen, start):
        return [dead]
    if start.regime in ("vanishing", "exploding"):
        return explained(seen, start)
    if not math.isfinite(start.mean):
        return [
            _unknown(
                f"of the gradient at the start there are no two points that are positive and finite; {_outcome(seen)}"
            )
        ]
    if seen.learnt or (seen.learnt is None and start.regime == "level"):
        return [_healthy(seen)]
    if seen.learnt is None:
        return [_unknown(f"whether the gradient is level is open: {_interval(start)}")]
    found = rate_too_large(seen) or rate_too_small(seen) or dead_units(seen, seen.end)
    if found:
        return [found]
    if seen.end.regime in ("vanishing", "exploding"):
        return explained(seen, seen.end)
    return [_unknown(f"{_outcome(seen)}, and no rule says why")]


# Of a gradient that vanishes or explodes


def explained(seen: Symptoms, state: State) -> list[Cause]:
    """The causes whose laws together account for the decades of a state, the largest first.

    A cause is named where it makes at least a decade, or half of what is seen, in that direction. They account for it
    where no more than a decade, or half of what is seen, is left.
    """
    seen_decades, size = state.mean, abs(state.mean)
    laws = [law for rule in LAWS if (law := rule(seen, state))]
    left = seen_decades - sum(law.decades for law in laws)
    named = [law for law in laws if math.copysign(law.decades, seen_decades * law.decades) >= min(LEVEL, size / 2)]
    if named and abs(left) <= max(LEVEL, size / 2):
        first, *others = sorted(named, key=lambda law: -abs(law.decades))
        return [replace(first, evidence=f"{first.evidence}; {_outcome(seen)}"), *others]
    said = "".join(f"; {law.name} would make {law.decades:+.1f}" for law in laws if abs(law.decades) >= 0.1)
    return [
        _unknown(
            f"the gradient changes by {seen_decades:+.1f} decades, and no law accounts for that{said}; {_outcome(seen)}"
        )
    ]


# Of a net that does not learn though its gradient is level


def dead_units(seen: Symptoms, state: State) -> Cause | None:
    """A layer whose ReLUs are off for nearly all images lets no gradient through."""
    if not state.off > OFF:
        return None
    evidence = f"at step {state.step} {state.off:.1%} of the units of {state.off_layer} are off"
    return Cause(DEAD_UNITS, evidence, "wider layers, a smaller rate, or an activation that is nowhere flat")


def rate_too_large(seen: Symptoms) -> Cause | None:
    """It diverged from a level start, or its first step promised more than twice the loss."""
    if not (seen.diverged or seen.promise > LONGEST_STEP):
        return None
    rate = seen.run.get("learning_rate", math.nan)
    evidence = (
        f"{_start(seen)}, and {_outcome(seen)}; at rate {rate:g} a step at the first slope would take "
        f"{seen.promise:.2g} times the loss, momentum included"
    )
    cure = f"a smaller rate, towards {rate * LONGEST_STEP / seen.promise:.1g}" if seen.promise > LONGEST_STEP else ""
    return Cause(FAST, evidence, cure or "a smaller rate")


def rate_too_small(seen: Symptoms) -> Cause | None:
    """All steps together, each at the best slope that was read, promise less than the least that counts as learning."""
    if not 0 < seen.promised < 1 - DEAD:
        return None
    rate = seen.run.get("learning_rate", math.nan)
    evidence = (
        f"{_start(seen)}, and {_outcome(seen)}; at rate {rate:g} all {seen.steps} steps together would take "
        f"{seen.promised:.1%} of the loss at the steepest slope that was read"
    )
    return Cause(SLOW, evidence, f"a larger rate, from {rate * (1 - DEAD) / seen.promised:.1g} on, or more steps")


# Of a net that has no fault, or none that is known


def _healthy(seen: Symptoms) -> Cause:
    return Cause(HEALTHY, f"{_start(seen)}; {_outcome(seen)}", "none needed")


def _start(seen: Symptoms) -> str:
    if seen.start.regime == "level":
        return "the gradient is level at the start"
    return f"the gradient is not shown to vanish or explode at the start ({_interval(seen.start)})"


def _outcome(seen: Symptoms) -> str:
    if seen.diverged:
        return f"{seen.diverged} of {len(seen.start.decades)} seeds diverged"
    if seen.learnt is None:
        return (
            "whether it learns cannot be said from so few steps"
            if math.isfinite(seen.loss)
            else "its loss is not known"
        )
    return f"it has {'' if seen.learnt else 'not '}learnt (loss {seen.loss:.2f} times that of guessing)"


def _interval(state: State) -> str:
    low, high = state.interval or (math.nan, math.nan)
    return f"{state.mean:+.2f} decades, 95 % in {low:.2f} to {high:.2f}"


def _unknown(why: str) -> Cause:
    return Cause(UNKNOWN, why, "not known either")
