"""What Inception's 1x1 reductions save, and what auxiliary classifiers do to the gradient of the early layers.

GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842) puts 1x1 convolutions before the larger filters of a module, since the
naive module grows without bounds (section 4, figure 2), and two classifiers on the way, to bring gradient to the lower
layers (section 5). The later text of the paper says that these do little. The net with them and the one without are
judged each at its own best learning rate of a grid: the first seed is run at every rate and chooses, by the error on
held-out training images; the others are run at the chosen rate and are judged. The naive net is counted, not trained.
"""

import gradflow as gf

BY = ("variant", "auxiliary")
RATES = (0.01, 0.03, 0.1)
PRESETS = {
    "smoke": {"steps": 6, "seeds": 2, "batch": 16, "width": 4, "evaluations": 1, "learning_rate": (0.03,)},
    "default": {"steps": 200, "seeds": 3, "batch": 64, "width": 16, "learning_rate": RATES},
    "full": {"steps": 60_000, "seeds": 3, "batch": 128, "augment": True, "learning_rate": RATES, "validation": 5_000},
}
NET = {"net": "googlenet", "normalisation": "none", "initialisation": "he"}
TRAINED = tuple(NET | {"variant": "paper", "depth": 22, "auxiliary": auxiliary} for auxiliary in (True, False))
NAIVE = NET | {"variant": "naive", "depth": 13, "auxiliary": False}
PAPER = "Szegedy et al. 2014"
CLAIMS = {
    "multiply_adds": gf.Claim(
        "without 1x1 reductions the net costs more than four times the multiply-adds",
        f"{PAPER}, section 4",
        "the cost would blow up within a few stages; no number",
        "multiply-adds, naive / reduced",
        ">",
        4.0,
    ),
    "parameters": gf.Claim(
        "and more than four times the parameters",
        f"{PAPER}, section 4",
        "stated, no number",
        "parameters, naive / reduced, no auxiliary classifiers",
        ">",
        4.0,
    ),
    "gradient": gf.Claim(
        "at step 1 more gradient reaches the first layer with auxiliary classifiers",
        f"{PAPER}, section 5",
        "increase the gradient signal that gets propagated back; no number",
        "gradient norm at the first layer, step 1, with / without, of the loss that is trained on",
        ">",
        1.0,
    ),
    "error": gf.Claim(
        "and the training error ends lower",
        f"{PAPER}, section 5",
        "an effect expected; the later text calls it minor, about 0.5 %",
        "final training error, with - without",
        "<",
        steps=200,
    ),
}  # fmt: skip


def runs(preset, **overrides):
    """The paper's net with auxiliary classifiers and without, at every rate; and one step of the naive one."""
    settings = gf.choosing_settings(PRESETS[preset] | overrides)
    counted = settings | {"steps": 1, "warmup": 0, "learning_rate": settings["learning_rate"][0]}
    return gf.variants(TRAINED, **settings) + gf.variants([NAIVE], **counted)


def further_runs(table, preset, **overrides):
    """The same at the best rate of each, of the seeds that are judged, on the test set."""
    seeds = (PRESETS[preset] | overrides)["seeds"]
    return gf.runs_at_best_rates(runs(preset, **overrides), table, BY, seeds=seeds, validation=0)


def verdict(table):
    """Ratios of counts, and of gradients at the first layer, seed by seed, each net at its best rate."""
    rates, table = gf.rates_in_words(_trained(table), BY), gf.at_best_rates(table, BY)
    trained = _trained(table)
    train, first = gf.final_error(trained, by=BY), gf.reading_at(table, "activation_gradient_norm", "conv1", 1, BY)

    def of(series, variant="paper", auxiliary=False):
        return gf.per_seed(series, variant=variant, auxiliary=auxiliary)

    def ratio(above, below):
        return {seed: above[seed] / below[seed] for seed in above if seed in below}

    numbers = {
        name: ratio(of(gf.run_column(table, name, BY), "naive"), of(gf.run_column(table, name, BY)))
        for name in ("multiply_adds", "parameters")
    }
    numbers |= {
        "gradient": ratio(of(first, auxiliary=True), of(first)),
        "error": gf.difference(of(train, auxiliary=True), of(train)),
    }
    findings = tuple(gf.judge(claim, numbers[name], int(trained.steps.min())) for name, claim in CLAIMS.items())
    facts = {"best rate": {_name(*key): rate for key, rate in rates.items()}}
    for name, series in (("final training error", train),
                         ("final test error", gf.final_error(trained, "test_error", BY)),
                         ("gradient at the first layer, step 1", first),
                         ("parameters", gf.run_column(table, "parameters", BY)),
                         ("multiply-adds", gf.run_column(table, "multiply_adds", BY))):  # fmt: skip
        facts[name] = {_name(*key): float(value) for key, value in series.groupby(list(BY)).mean().items()}
    saved = sum(numbers["multiply_adds"].values()) / len(numbers["multiply_adds"])
    more = sum(numbers["gradient"].values()) / len(numbers["gradient"])
    title = (
        f"1x1 reductions save {saved:.1f} times the multiply-adds; "
        f"auxiliary classifiers change the first layer's gradient {more:.2g} times"
    )
    return gf.Verdict(title, findings, facts)


def _trained(table):
    return table[table.variant == "paper"]


def _name(variant, auxiliary):
    return f"{variant}, {'with' if auxiliary else 'no'} auxiliary classifiers"


def figure(table, verdict):
    """The gradient over the layers at the first and the last step, with auxiliary classifiers and without."""
    table = _trained(gf.at_best_rates(table, BY))
    panels = {
        f"step {step}": {
            "auxiliary on" if auxiliary else "off": {
                position: list(values) for position, values in some.groupby("position").value
            }
            for auxiliary, some in rows[rows.value > 0].groupby("auxiliary")
        }
        for step, rows in ((step, gf.spine(table, step)) for step in (1, int(table.steps.min())))
    }
    words = {"title": verdict.title, "note": gf.plot.caption(table), "log_y": True}
    return {"gradient_norm": gf.charts.lines(panels, "layer position (input to output)", "gradient norm", **words)}
