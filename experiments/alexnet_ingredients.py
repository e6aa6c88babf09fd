"""AlexNet's ingredients one at a time, on the four-layer net on which its paper tries them.

ReLU against tanh and sigmoid, each at the rate at which it learns fastest, as in the paper: how many steps to 25 %
training error (Krizhevsky et al. 2012, figure 1). Then, with ReLU: local response normalisation, overlapping pools,
random crops, mirror images, shifts of colour and dropout, on against off, each at the rate with the lowest error on
held-out training images. The first seed is run at every rate of a grid and chooses, the others are judged. The paper's
numbers are of ImageNet and CIFAR-10; on the digits a mirror image is often no digit any more.
"""

import math
from typing import Any

import gradflow as gf

STEPS = 400  # what shorter trainings end with decides nothing
RATES = (0.003, 0.01, 0.03, 0.1)
PRESETS = {
    "smoke": {"steps": 20, "seeds": 2, "batch": 16, "width": 4, "evaluations": 1, "learning_rate": (0.03,)},
    "default": {"steps": STEPS, "seeds": 4, "batch": 64, "learning_rate": RATES},
    "full": {"steps": 60_000, "seeds": 3, "batch": 128, "learning_rate": RATES, "validation": 5_000},
}
NET = {"net": "cnn", "normalisation": "none", "weight_decay": 0.0, "schedule": "constant"}
ACTIVATIONS = ("relu", "tanh", "sigmoid")
AS_IT_IS = {"lrn": False, "pooling": "overlapping", "augment": False, "transforms": "crop+mirror", "dropout": 0.0}
BY, BY_ACTIVATION = tuple(AS_IT_IS), ("activation",)
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
        f"steps to a training error of 25 % (mean of {WINDOW} batches), {other} / relu, each at its fastest rate; "
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
    """Every activation, every ingredient and what is without, at every rate; where there is one rate, of all seeds."""
    several = [NET | {"activation": name} for name in ACTIVATIONS]
    several += [NET | {"activation": "relu"} | one for one in (*INGREDIENTS.values(), *WITHOUT.values())]
    return gf.variants(several, **gf.choosing_settings(PRESETS[preset] | overrides))


def further_runs(table, preset, **overrides):
    """Of the seeds that are judged: the activations at the fastest rate of each, the ingredients at the best."""
    first, seeds = runs(preset, **overrides), (PRESETS[preset] | overrides)["seeds"]
    plain = [run for run in first if all(run.settings[name] == value for name, value in AS_IT_IS.items())]
    of_relu, activations = [run for run in first if run.activation == "relu"], _figure1(table)
    # The former train on as many images as the run that chose. The latter are tried on the test set.
    fastest = gf.runs_at_best_rates(plain, activations, BY_ACTIVATION, _slowness(activations), seeds=seeds)
    return fastest + gf.runs_at_best_rates(of_relu, _ingredients(table), BY, seeds=seeds, validation=0)


def _figure1(table):
    """The rows of the activations without ingredients. Where rates were chosen, images were held out of all of them."""
    for name, value in AS_IT_IS.items():
        table = table[table[name] == value]
    return table[table.validation > 0] if table.learning_rate.nunique() > 1 else table


def _ingredients(table):
    """The rows of the nets with ReLU. Where rates were chosen, those that are judged had no images held out."""
    table = table[table.activation == "relu"]
    own = (table.validation == 0) | (table.seed == table.seed.min())
    return table[own] if table.learning_rate.nunique() > 1 else table


def _slowness(table):
    """The steps to the mark; of a run that does not arrive all its steps and its final training error."""
    keys = [*BY_ACTIVATION, "learning_rate"]
    late = int(table.steps.max()) + gf.final_error(table, by=keys)
    return gf.first_step(table, "train_error", TARGET, WINDOW, keys).reindex(late.index).fillna(late)


def _at_fastest_rates(table):
    activations = _figure1(table)
    return gf.at_best_rates(activations, BY_ACTIVATION, _slowness(activations))


def verdict(table):
    """Ratios of steps, and differences of final test errors, seed by seed."""
    activations, ingredients = _figure1(table), _ingredients(table)
    fastest = gf.rates_in_words(activations, BY_ACTIVATION, _slowness(activations))
    best, activations = gf.rates_in_words(ingredients, BY), _at_fastest_rates(table)
    steps = gf.first_step(activations, "train_error", TARGET, WINDOW, BY_ACTIVATION)
    error = gf.final_error(gf.at_best_rates(ingredients, BY), "test_error", BY)
    taken = {name: gf.per_seed(steps, activation=name) for name in ACTIVATIONS}
    # A net that does not arrive counts with the length of its run: the ratio is then a lower bound.
    longest = int(table.steps.max())
    late = {
        name: {seed: one if math.isfinite(one) else longest for seed, one in taken[name].items()}
        for name in ("tanh", "sigmoid")
    }
    numbers = {
        name: {seed: late[name].get(seed, math.nan) / one for seed, one in taken["relu"].items()} for name in late
    }
    numbers |= _changes(error)
    findings = tuple(gf.judge(claim, numbers[name], longest) for name, claim in CLAIMS.items())
    facts: dict[str, Any] = {"fastest rate": {name: fastest.get(name, "none") for name in ACTIVATIONS}}
    facts["steps to 25 % training error"] = {name: _mean(taken[name]) for name in ACTIVATIONS}
    for layer in ("conv1", "head"):
        norm = gf.reading_at(activations, "activation_gradient_norm", layer, 1, BY_ACTIVATION)
        facts[f"gradient norm at {layer}, step 1"] = {
            name: _mean(gf.per_seed(norm, activation=name)) for name in ACTIVATIONS
        }
    nets = {"as it is": {}} | {f"without {name}": own for name, own in WITHOUT.items()}
    nets |= {name: own for name, own in INGREDIENTS.items() if own}
    facts["best rate"] = {name: best.get(tuple((AS_IT_IS | own).values()), "none") for name, own in nets.items()}
    facts["final test error"] = {name: _mean(_of(error, own)) for name, own in nets.items()}
    ratio = _mean(numbers["tanh"])
    title = (
        f"ReLU needs {_mean(taken['relu']):.0f} steps to 25 % training error, tanh {ratio:.2g} times as many (paper: 6)"
    )
    return gf.Verdict(title, findings, facts)


def _of(error, own):
    return gf.per_seed(error, **(AS_IT_IS | own))


def _changes(error):
    """What each ingredient adds to the test error, seed by seed."""
    return {
        name: gf.difference(_of(error, own), _of(error, WITHOUT.get(name, {}))) for name, own in INGREDIENTS.items()
    }


def _mean(numbers):
    good = [value for value in numbers.values() if math.isfinite(value)]
    return sum(good) / len(good) if good else math.nan


def figure(table, verdict):
    """Figure 1 of the paper, ours; the gradient beside it; and what each ingredient does to the test error."""
    note, activations = gf.plot.caption(table), _at_fastest_rates(table)
    error = gf.final_error(gf.at_best_rates(_ingredients(table), BY), "test_error", BY)
    curves, norms = {}, {}
    for name in ACTIVATIONS:
        rows = activations[activations.activation == name]
        loss = rows[rows.quantity == "train_error"].sort_values("step")
        loss = loss.assign(value=100 * loss.groupby("run").value.transform(lambda x: x.rolling(WINDOW).mean()))
        kept = loss[loss.step % max(1, WINDOW // 2) == 0]
        curves[name] = {step: list(values) for step, values in kept.groupby("step").value}
        first = rows[(rows.quantity == "activation_gradient_norm") & (rows.layer == "conv1") & (rows.value > 0)]
        norms[name] = {step: list(values) for step, values in first.groupby("step").value}
    words = {"title": verdict.title, "note": note}
    change = {name: [100 * value for value in added.values()] for name, added in _changes(error).items()}
    panel = "test error, with - without (points; left of the line it helps)"
    return {
        "figure1": gf.charts.lines({"25 % is the paper's mark": curves}, "step", "training error (%)", **words),
        "gradient_norm": gf.charts.lines({"first layer": norms}, "step", "gradient norm", log_y=True, **words),
        "ingredients": gf.charts.dots({panel: change}, limits={panel: 0.0}, **words),
    }
