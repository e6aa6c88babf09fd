"""AlexNet's ingredients one at a time, on the four-layer net on which its paper tries them.

ReLU against tanh and sigmoid, each at its own best rate: how many steps to 25 % training error (Krizhevsky et al. 2012,
figure 1). Then, with ReLU: local response normalisation, overlapping pools, random crops, mirror images, shifts of
colour and dropout, on against off. The paper's numbers are of ImageNet and CIFAR-10; on the digits a mirror image is
often no digit any more.
"""

import math
from typing import Any

import gradflow as gf

STEPS = 400  # what shorter trainings end with decides nothing
BY = ("activation", "learning_rate", "lrn", "pooling", "augment", "transforms", "dropout")
PRESETS = {
    "smoke": {"steps": 20, "seeds": 2, "batch": 16, "width": 4, "evaluations": 1},
    "default": {"steps": STEPS, "seeds": 4, "batch": 64},
    "full": {"steps": 60_000, "seeds": 3, "batch": 128},
}
NET = {"net": "cnn", "normalisation": "none", "weight_decay": 0.0, "schedule": "constant"}
ACTIVATIONS, RATES = ("relu", "tanh", "sigmoid"), (0.003, 0.01, 0.03, 0.1)
BASE = {"activation": "relu", "learning_rate": 0.03}
INGREDIENTS = {
    "local response normalisation": {"lrn": True},
    "overlapping pools": {},  # the net has them: the twin has not
    "crops": {"augment": True, "transforms": "crop"},
    "mirror images": {"augment": True, "transforms": "mirror"},
    "shifts of colour": {"augment": True, "transforms": "colour"},
    "dropout": {"dropout": 0.5},
}
WITHOUT = {"overlapping pools": {"pooling": "plain"}}
PAPER = "Krizhevsky et al. 2012"
PRINTED = {
    "local response normalisation": ("3.3", "CIFAR-10, four layers: 13 % to 11 % test error"),
    "overlapping pools": ("3.4", "top-1 error down 0.4 points, ImageNet"),
    "crops": ("4.1", "without, substantial over-fitting; no number of its own"),
    "mirror images": ("4.1", "without, substantial over-fitting; no number of its own"),
    "shifts of colour": ("4.1", "top-1 error down by over one point, ImageNet"),
    "dropout": ("4.2", "without, substantial over-fitting; no number"),
}
TARGET, WINDOW = 0.25, 10
CLAIMS = {
    other: gf.Claim(
        f"ReLU reaches 25 % training error in fewer steps than {other}",
        f"{PAPER}, section 3.1, figure 1",
        paper,
        f"steps to a training error of 25 % (mean of {WINDOW} batches), {other} / relu, each at its best rate; "
        "a net that does not arrive counts with all its steps",
        ">",
        1.0,
        steps=STEPS,
    )
    for other, paper in (("tanh", "six times as fast (four-layer net, CIFAR-10)"), ("sigmoid", "none"))
}
CLAIMS |= {
    name: gf.Claim(
        f"with {name} the test error is lower",
        f"{PAPER}, section {section}",
        paper,
        "final test error, with - without",
        "<",
        steps=STEPS,
    )
    for name, (section, paper) in PRINTED.items()
}  # fmt: skip


def runs(preset, **overrides):
    """Every activation at every rate; every ingredient and what is without."""
    several = [NET | {"activation": name, "learning_rate": rate} for name in ACTIVATIONS for rate in RATES]
    several += [NET | BASE | one for one in (*INGREDIENTS.values(), *WITHOUT.values())]
    return gf.variants(several, **(PRESETS[preset] | overrides))


def _levels(own):
    plain = {"lrn": False, "pooling": "overlapping", "augment": False, "transforms": "crop+mirror", "dropout": 0.0}
    return plain | BASE | own


def _best(steps, activation):
    """The rate at which the activation is fastest in the mean over seeds; one that leaves a seed behind counts last."""

    def mean(rate):  # fmt: skip
        found = list(gf.per_seed(steps, **_levels({"activation": activation, "learning_rate": rate})).values())
        return sum(found) / len(found) if found and all(map(math.isfinite, found)) else math.inf

    return min(RATES, key=mean)


def verdict(table):
    """Ratios of steps, and differences of final test errors, seed by seed."""
    steps = gf.first_step(table, "train_error", TARGET, WINDOW, BY)
    error = gf.final_error(table, "test_error", BY)
    best = {name: _best(steps, name) for name in ACTIVATIONS}
    taken = {
        name: gf.per_seed(steps, **_levels({"activation": name, "learning_rate": rate})) for name, rate in best.items()
    }
    # A net that does not arrive counts with the length of its run: the ratio is then a lower bound.
    longest = int(table.steps.max())
    late = {
        name: {seed: one if math.isfinite(one) else longest for seed, one in taken[name].items()}
        for name in ("tanh", "sigmoid")
    }
    numbers = {
        name: {seed: late[name].get(seed, math.nan) / one for seed, one in taken["relu"].items()} for name in late
    }
    base = gf.per_seed(error, **_levels({}))
    for name, own in INGREDIENTS.items():
        with_it = gf.per_seed(error, **_levels(own))
        without = gf.per_seed(error, **_levels(WITHOUT[name])) if name in WITHOUT else base
        numbers[name] = gf.difference(with_it, without)
    findings = tuple(gf.judge(claim, numbers[name], longest) for name, claim in CLAIMS.items())
    facts: dict[str, Any] = {"best rate": {name: str(rate) for name, rate in best.items()}}
    facts["steps to 25 % training error"] = {name: _mean(taken[name]) for name in ACTIVATIONS}
    for layer in ("conv1", "head"):
        norm = gf.reading_at(table, "activation_gradient_norm", layer, 1, BY)
        facts[f"gradient norm at {layer}, step 1"] = {
            name: _mean(gf.per_seed(norm, **_levels({"activation": name, "learning_rate": rate})))
            for name, rate in best.items()
        }
    facts["final test error"] = {"as it is": _mean(base)} | {
        name: _mean(gf.per_seed(error, **_levels(own))) for name, own in (INGREDIENTS | WITHOUT).items() if own
    }
    ratio = _mean(numbers["tanh"])
    title = (
        f"ReLU needs {_mean(taken['relu']):.0f} steps to 25 % training error, tanh {ratio:.2g} times as many (paper: 6)"
    )
    return gf.Verdict(title, findings, facts)


def _mean(numbers):
    good = [value for value in numbers.values() if math.isfinite(value)]
    return sum(good) / len(good) if good else math.nan


def figure(table, verdict):
    """Figure 1 of the paper, ours; the gradient beside it; and what each ingredient does to the test error."""
    note = gf.plot.caption(table)
    steps, error = gf.first_step(table, "train_error", TARGET, WINDOW, BY), gf.final_error(table, "test_error", BY)
    curves, norms = {}, {}
    for name in ACTIVATIONS:
        rows = table[(table.activation == name) & (table.learning_rate == _best(steps, name)) & ~table.augment]
        rows = rows[~rows.lrn & (rows.pooling == "overlapping") & (rows.dropout == 0)]
        loss = rows[rows.quantity == "train_error"].sort_values("step")
        loss = loss.assign(value=100 * loss.groupby("run").value.transform(lambda x: x.rolling(WINDOW).mean()))
        kept = loss[loss.step % max(1, WINDOW // 2) == 0]
        curves[name] = {step: list(values) for step, values in kept.groupby("step").value}
        first = rows[(rows.quantity == "activation_gradient_norm") & (rows.layer == "conv1") & (rows.value > 0)]
        norms[name] = {step: list(values) for step, values in first.groupby("step").value}
    words = {"title": verdict.title, "note": note}
    base = gf.per_seed(error, **_levels({}))
    change = {}
    for name, own in INGREDIENTS.items():
        without = gf.per_seed(error, **_levels(WITHOUT[name])) if name in WITHOUT else base
        change[name] = [100 * v for v in gf.difference(gf.per_seed(error, **_levels(own)), without).values()]
    panel = "test error, with - without (points; left of the line it helps)"
    return {
        "figure1": gf.charts.lines({"25 % is the paper's mark": curves}, "step", "training error (%)", **words),
        "gradient_norm": gf.charts.lines({"first layer": norms}, "step", "gradient norm", log_y=True, **words),
        "ingredients": gf.charts.dots({panel: change}, limits={panel: 0.0}, **words),
    }
