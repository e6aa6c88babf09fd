"""From the perceptron to ResNet: all of them at equal data and steps, each as its paper built it, in its small form.

Each is judged at its own best learning rate of a grid: the first seed is run at every rate and chooses, by the error on
held-out training images; the others are run at the chosen rate, and their error is that on the test set.
Error, parameters, multiply-adds, and the gradient over relative depth. Nets before 2015 have no batch norm; their
initialisation is He's, so that all of them start. No paper makes a claim about this very comparison: what is claimed
here is the direction of each paper's step.
"""

import gradflow as gf

STEPS = 400  # what shorter trainings end with decides nothing
BY = ("net", "depth", "normalisation")
RATES = (0.003, 0.01, 0.03, 0.1)
SMALL = {"steps": STEPS, "seeds": 3, "batch": 64, "learning_rate": RATES}
PRESETS = {
    "smoke": SMALL | {"steps": 8, "seeds": 2, "batch": 16, "evaluations": 1, "learning_rate": (0.03,)},
    "default": SMALL,
    "full": SMALL | {"steps": 60_000, "batch": 128, "augment": True, "validation": 5_000},
}
HE = {"normalisation": "none", "initialisation": "he"}
NETS = (
    {"net": "mlp", "depth": 3, "normalisation": "none"},
    {"net": "cnn", "normalisation": "none"},
    {"net": "alexnet", **HE},
    {"net": "nin", **HE, "width": 48},
    {"net": "vgg", "depth": 16, **HE, "width": 16},
    {"net": "googlenet", **HE, "width": 16},
    {"net": "plain", "depth": 20},
    {"net": "residual", "depth": 20},
)
ORDER = tuple(one["net"] for one in NETS)
CLAIMS = {
    "convolutions": gf.Claim(
        "convolutions beat the perceptron",
        "LeCun et al. 1998, section II",
        "another data set",
        "final test error, cnn - mlp",
        "<",
        steps=STEPS,
    ),
    "residual": gf.Claim(
        "the residual net beats the perceptron",
        "the lineage as a whole",
        "another data set",
        "final test error, residual - mlp",
        "<",
        steps=STEPS,
    ),
    "shortcut": gf.Claim(
        "the residual net beats its plain twin",
        "He et al. 2015, table 6 and figure 6",
        "20 layers: 8.75 % residual, plain not printed (CIFAR-10)",
        "final test error, residual - plain, 20 layers",
        "<",
        steps=STEPS,
    ),
    "flat": gf.Claim(
        "over its depth the residual net's gradient changes less at step 1 than VGG's",
        "He et al. 2016, equation 5",
        "stated, no number",
        "|slope of log10 gradient norm| times depth, residual - vgg, in decades",
        "<",
    ),
}


def runs(preset, **overrides):
    """All nets at every rate, of the seed that chooses; where there is one rate, of all seeds."""
    return gf.variants(NETS, **gf.choosing_settings(PRESETS[preset] | overrides))


def further_runs(table, preset, **overrides):
    """All nets at the best rate of each, of the seeds that are judged, on the test set."""
    seeds = (PRESETS[preset] | overrides)["seeds"]
    return gf.runs_at_best_rates(runs(preset, **overrides), table, BY, seeds=seeds, validation=0)


def verdict(table):
    """Differences of final test errors and ratios of counts, seed by seed, each net at its best rate."""
    rates, table = gf.best_rates(table, BY), gf.at_best_rates(table, BY)
    error, size = gf.final_error(table, "test_error", BY), gf.run_column(table, "parameters", BY)
    slope = gf.gradient_slope(table, 1, BY)

    def of(series, net):
        return gf.per_seed(series, net=net)

    decades = {net: {seed: abs(one) * _depth(table, net) for seed, one in of(slope, net).items()} for net in ORDER}
    numbers = {
        "convolutions": gf.difference(of(error, "cnn"), of(error, "mlp")),
        "residual": gf.difference(of(error, "residual"), of(error, "mlp")),
        "shortcut": gf.difference(of(error, "residual"), of(error, "plain")),
        "flat": gf.difference(decades["residual"], decades["vgg"]),
    }
    findings = tuple(gf.judge(claim, numbers[name], int(table.steps.min())) for name, claim in CLAIMS.items())
    facts = {"best rate": {net: float(rates.xs(net, level="net").iloc[0]) for net in ORDER}}
    for name, series in (("final test error", error), ("final training error", gf.final_error(table, by=BY)),
                         ("parameters", size),
                         ("multiply-adds", gf.run_column(table, "multiply_adds", BY))):  # fmt: skip
        mean = series.groupby("net").mean()
        facts[name] = {net: float(mean[net]) for net in ORDER}
    errors = facts["final test error"]
    best, worst = min(errors, key=lambda net: errors[net]), max(errors, key=lambda net: errors[net])
    title = (
        f"At equal steps {best} ends lowest ({100 * errors[best]:.1f} %), {worst} highest ({100 * errors[worst]:.1f} %)"
    )
    return gf.Verdict(title, findings, facts)


def _depth(table, net):
    return int(table[table.net == net].depth.max())


def figure(table, verdict):
    """Error, parameters and multiply-adds of each net; and its gradient over relative depth."""
    table = gf.at_best_rates(table, BY)
    note = gf.plot.caption(table)
    panels = {}
    for name, series, scale in (
        ("final test error (%)", gf.final_error(table, "test_error", BY), 100),
        ("final training error (%)", gf.final_error(table, by=BY), 100),
        ("parameters (thousands)", gf.run_column(table, "parameters", BY), 1e-3),
        ("multiply-adds an image (millions)", gf.run_column(table, "multiply_adds", BY), 1e-6),
    ):
        panels[name] = {net: [scale * value for value in gf.per_seed(series, net=net).values()] for net in ORDER}
    curves = {}
    for step in (1, int(table.steps.min())):
        rows = gf.spine(table, step)
        rows = rows[rows.value > 0]
        curves[f"step {step}"] = {
            net: {position / _depth(table, net): list(some.value) for position, some in group.groupby("position")}
            for net, group in rows.groupby("net")
        }
    words = {"title": verdict.title, "note": note}
    across = "relative depth (input to output)"
    return {
        "lineage": gf.charts.dots(panels, **words),
        "gradient_norm": gf.charts.lines(curves, across, "gradient norm (rms over examples)", log_y=True, **words),
    }
