"""A fixed shuffle of the pixels leaves a perceptron where it was and costs a convolutional net its advantage.

A fully connected layer does not know which pixels are neighbours: its net is the same after any fixed permutation of
the inputs, up to the order of its weights. A convolution is made of neighbourhoods. So its advantage, if it comes from
them, must go when they do. Each net is judged at its own best learning rate of a grid, in order and shuffled: the first
seed is run at every rate and chooses, by the error on held-out training images; the others are run at the chosen rate
and are judged.
"""

import gradflow as gf

BY = ("net", "shuffle")
STEPS = 400  # what shorter trainings end with decides nothing
RATES = (0.01, 0.03, 0.1)
PRESETS = {
    "smoke": {"steps": 20, "seeds": 2, "batch": 32, "evaluations": 1, "learning_rate": (0.03,)},
    "default": {"steps": STEPS, "seeds": 4, "batch": 64, "learning_rate": RATES},
    "full": {"steps": 20_000, "seeds": 5, "batch": 128, "centre": "pixel", "learning_rate": RATES, "validation": 5_000},
}
NETS = (
    {"net": "mlp", "depth": 3, "normalisation": "none"},
    {"net": "cnn", "normalisation": "none", "width": 16},
)
SOURCE = "LeCun et al. 1998, Gradient-based learning applied to document recognition, section II-A"
STATED = "stated, no number"
# Chance alone moves a test error of 5 % on some 500 images by one point: two of these.
MARGIN = 0.02
CLAIMS = {
    "mlp": gf.Claim(
        "a shuffle leaves the perceptron where it was, to two points",
        SOURCE,
        "the topology of the input is entirely ignored",
        "final test error of the perceptron, shuffled - in order",
        "=",
        margin=MARGIN,
        steps=STEPS,
    ),
    "cnn": gf.Claim(
        "a shuffle costs the convolutional net",
        SOURCE,
        STATED,
        "final test error of the convolutional net, shuffled - in order",
        ">",
        steps=STEPS,
    ),
    "more": gf.Claim(
        "and more than the perceptron",
        SOURCE,
        STATED,
        "the difference of these two differences, convolutional net - perceptron",
        ">",
        steps=STEPS,
    ),
    "better": gf.Claim(
        "in order, the convolutional net is better",
        SOURCE,
        STATED,
        "final test error in order, convolutional net - perceptron",
        "<",
        steps=STEPS,
    ),
    "fewer": gf.Claim(
        "with fewer than half the parameters", SOURCE, STATED, "parameters, convolutional net / perceptron", "<", 0.5
    ),
}


def runs(preset, **overrides):
    """Both nets at every rate, on images in order and on shuffled ones; where there is one rate, of all seeds."""
    shuffled = [net | {"shuffle": shuffle} for net in NETS for shuffle in (False, True)]
    return gf.variants(shuffled, **gf.choosing_settings(PRESETS[preset] | overrides))


def further_runs(table, preset, **overrides):
    """The same at the best rate of each, of the seeds that are judged, on the test set."""
    seeds = (PRESETS[preset] | overrides)["seeds"]
    return gf.runs_at_best_rates(runs(preset, **overrides), table, BY, seeds=seeds, validation=0)


def verdict(table):
    """Differences of final test errors, seed by seed, each net at its best rate."""
    rates, table = gf.rates_in_words(table, BY), gf.at_best_rates(table, BY)
    error, size = gf.final_error(table, "test_error", BY), gf.run_column(table, "parameters", BY)

    def of(net, shuffle, what=error):
        return gf.per_seed(what, net=net, shuffle=shuffle)

    cost = {net: gf.difference(of(net, True), of(net, False)) for net in ("mlp", "cnn")}
    numbers = cost | {
        "more": gf.difference(cost["cnn"], cost["mlp"]),
        "better": gf.difference(of("cnn", False), of("mlp", False)),
        "fewer": {seed: one / of("mlp", False, size)[seed] for seed, one in of("cnn", False, size).items()},
    }
    findings = tuple(gf.judge(claim, numbers[name], int(table.steps.min())) for name, claim in CLAIMS.items())
    lost = {net: 100 * sum(one.values()) / len(one) for net, one in cost.items()}
    title = f"A shuffle of the pixels costs the CNN {lost['cnn']:.1f} points of test error, the MLP {lost['mlp']:.1f}"
    mean, facts = error.groupby(["net", "shuffle"]).mean(), {}
    for net in cost:
        orders = {"in order": (net, False), "shuffled": (net, True)}
        facts[f"best rate, {net}"] = {order: rates.get(of, "none") for order, of in orders.items()}
        facts[f"final test error, {net}"] = {order: float(mean[of]) for order, of in orders.items()}
    facts["parameters"] = {net: next(iter(of(net, False, size).values())) for net in cost}
    return gf.Verdict(title, findings, facts)


def figure(table, verdict):
    """The test errors of all seeds."""
    table = gf.at_best_rates(table, BY)
    error = gf.final_error(table, "test_error", BY)
    rows = {
        f"{net}, {'shuffled' if shuffle else 'in order'}": [100 * value for value in values]
        for (net, shuffle), values in error.groupby(["net", "shuffle"])
    }
    note = gf.plot.caption(table)
    return {"test_error": gf.charts.dots({"final test error (%)": rows}, title=verdict.title, note=note)}
