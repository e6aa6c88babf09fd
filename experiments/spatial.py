"""A fixed shuffle of the pixels leaves a perceptron where it was and costs a convolutional net its advantage.

A fully connected layer does not know which pixels are neighbours: its net is the same after any fixed permutation of
the inputs, up to the order of its weights. A convolution is made of neighbourhoods. So its advantage, if it comes from
them, must go when they do.
"""

import gradflow as gf

BY = ("net", "shuffle")
STEPS = 400  # what shorter trainings end with decides nothing
PRESETS = {
    "smoke": {"steps": 20, "seeds": 2, "batch": 32, "evaluations": 1},
    "default": {"steps": STEPS, "seeds": 4, "batch": 64},
    "full": {"steps": 20_000, "seeds": 5, "batch": 128, "centre": "pixel"},
}
NETS = (
    {"net": "mlp", "depth": 3, "normalisation": "none", "learning_rate": 0.03},
    {"net": "cnn", "normalisation": "none", "learning_rate": 0.03, "width": 16},
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
    """Both nets, on images in order and on shuffled ones."""
    shuffled = [net | {"shuffle": shuffle} for net in NETS for shuffle in (False, True)]
    return gf.variants(shuffled, **(PRESETS[preset] | overrides))


def verdict(table):
    """Differences of final test errors, seed by seed."""
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
    facts = {f"final test error, {net}": _by_order(error, net) for net in ("mlp", "cnn")}
    return gf.Verdict(title, findings, facts | {"parameters": {net: of(net, False, size)[0] for net in cost}})


def _by_order(error, net):
    mean = error.groupby(["net", "shuffle"]).mean()
    return {"shuffled" if shuffle else "in order": float(mean[net, shuffle]) for shuffle in (False, True)}


def figure(table, verdict):
    """The test errors of all seeds."""
    error = gf.final_error(table, "test_error", BY)
    rows = {
        f"{net}, {'shuffled' if shuffle else 'in order'}": [100 * value for value in values]
        for (net, shuffle), values in error.groupby(["net", "shuffle"])
    }
    note = gf.plot.caption(table)
    return {"test_error": gf.charts.dots({"final test error (%)": rows}, title=verdict.title, note=note)}
