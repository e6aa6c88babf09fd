"""ResNet's own choices one at a time, each against a twin that breaks it: stride, width, no hidden layers, no dropout.

He et al. 2015 (arXiv:1512.03385, section 3.3) let maps shrink by convolutions of stride 2, double the filters when they
do, and end in global average pooling and one fully connected layer, without dropout (section 3.4). They state these as
design, not as results: the claims here are that each is at least as good as its twin. Each is judged at its own best
learning rate of a grid: the first seed is run at every rate and chooses, by the error on held-out training images; the
others are run at the chosen rate and are judged.
"""

from typing import Any

import gradflow as gf

STEPS = 300  # what shorter trainings end with decides nothing
BY = ("pooling", "widen", "head", "dropout")
RATES = (0.015, 0.05, 0.15)
SMALL = {"steps": STEPS, "seeds": 4, "batch": 64, "depth": 20, "learning_rate": RATES}
PRESETS = {
    "smoke": SMALL
    | {"steps": 10, "seeds": 2, "batch": 16, "depth": 8, "width": 4, "evaluations": 1, "learning_rate": (0.05,)},
    "default": SMALL,
    "full": SMALL
    | {"steps": 64_000, "seeds": 3, "batch": 128, "augment": True, "centre": "pixel", "validation": 5_000},
}
RULES = {"net": "residual"}
TWINS = {
    "as it is": {},
    "max pool instead of stride 2": {"pooling": "max"},
    "as many filters in all stages": {"widen": False},
    "two hidden layers": {"head": "fc"},
    "two hidden layers, dropout 0.5": {"head": "fc", "dropout": 0.5},
}
WHY = {
    "max pool instead of stride 2": "section 3.3: down-sampling directly by convolutions of stride 2",
    "as many filters in all stages": "section 3.3: twice the filters when the map is halved",
    "two hidden layers": "section 3.3: global average pooling and one fully connected layer",
    "two hidden layers, dropout 0.5": "section 3.4: no dropout",
}
CLAIMS = {
    twin: gf.Claim(
        f"ResNet as it is has no higher a test error than with {twin}",
        f"He et al. 2015, {why}",
        "its design; no number",
        f"final test error, as it is - {twin}",
        "<=",
        margin=0.01,  # one point: what a hundred test images of a thousand decide by chance at 10 %
        steps=STEPS,
    )
    for twin, why in WHY.items()
}


def runs(preset, **overrides):
    """The net as it is, and each twin, at every rate; where there is one rate, of all seeds."""
    settings = gf.choosing_settings(PRESETS[preset] | overrides)
    return gf.variants([RULES | twin for twin in TWINS.values()], **settings)


def further_runs(table, preset, **overrides):
    """The same at the best rate of each, of the seeds that are judged, on the test set."""
    seeds = (PRESETS[preset] | overrides)["seeds"]
    return gf.runs_at_best_rates(runs(preset, **overrides), table, BY, seeds=seeds, validation=0)


def _levels(twin):
    own = {"pooling": "stride", "widen": True, "head": "pool", "dropout": 0.0}
    return own | TWINS[twin]


def verdict(table):
    """Differences of final test errors, seed by seed, each net at its best rate."""
    rates, table = gf.rates_in_words(table, BY), gf.at_best_rates(table, BY)
    error = gf.final_error(table, "test_error", BY)
    of = {twin: gf.per_seed(error, **_levels(twin)) for twin in TWINS}
    findings = tuple(
        gf.judge(claim, gf.difference(of["as it is"], of[twin]), int(table.steps.min()))
        for twin, claim in CLAIMS.items()
    )
    facts: dict[str, Any] = {"best rate": {twin: rates.get(tuple(_levels(twin).values()), "none") for twin in TWINS}}
    for quantity in ("train_error", "test_error"):
        series = gf.final_error(table, quantity, BY)
        facts[f"final {quantity.replace('_', ' ')}"] = {
            twin: _mean(gf.per_seed(series, **_levels(twin))) for twin in TWINS
        }
    for column in ("parameters", "multiply_adds"):
        series = gf.run_column(table, column, BY)
        facts[column.replace("_", "-")] = {twin: _mean(gf.per_seed(series, **_levels(twin))) for twin in TWINS}
    errors = facts["final test error"]
    best = min(errors, key=lambda twin: errors[twin])
    title = f"Of ResNet's choices and their twins the lowest test error has: {best} ({100 * errors[best]:.1f} %)"
    return gf.Verdict(title, findings, facts)


def _mean(numbers):
    return sum(numbers.values()) / len(numbers) if numbers else float("nan")


def figure(table, verdict):
    """Training and test error of the net as it is and of its twins."""
    table, panels = gf.at_best_rates(table, BY), {}
    for quantity in ("train_error", "test_error"):
        error = gf.final_error(table, quantity, BY)
        of = {twin: gf.per_seed(error, **_levels(twin)) for twin in TWINS}
        panels[f"final {quantity.replace('_', ' ')} (%)"] = {
            twin: [100 * value for value in numbers.values()] for twin, numbers in of.items()
        }
    return {"errors": gf.charts.dots(panels, title=verdict.title, note=gf.plot.caption(table), columns=1)}
