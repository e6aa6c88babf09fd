"""VGG without normalisation at 11 to 19 layers: where depth stops helping, and which initialisation lets it start.

Simonyan and Zisserman (2014, arXiv:1409.1556) gain from depth up to 16 and 19 layers. They could not train the deeper
nets from small random weights, filled them with parts of the trained 11-layer net, and found afterwards that Glorot's
initialisation makes that unnecessary (section 3.1). The gradient at step 1 says why. Each net is judged at its own best
learning rate of a grid: the first seed is run at every rate and chooses, by the error on held-out training images; the
others are run at the chosen rate and are judged.
"""

import gradflow as gf

STEPS = 400  # what shorter trainings end with decides nothing
BY = ("depth", "initialisation")
INITIALISATIONS = ("normal(0.01)", "normal(0.1)", "glorot", "he")
RATES = (0.006, 0.02, 0.06)
PRESETS = {
    "smoke": {"steps": 10, "seeds": 2, "batch": 16, "width": 4, "evaluations": 1, "learning_rate": (0.02,)}
    | {"depth": (11, 19), "initialisation": ("normal(0.01)", "glorot")},
    "default": {"steps": STEPS, "seeds": 3, "batch": 64, "width": 16, "learning_rate": RATES},
    "full": {"steps": 60_000, "seeds": 3, "batch": 128, "augment": True, "learning_rate": RATES, "validation": 5_000},
}
NET = {"net": "vgg", "normalisation": "none", "dropout": 0.0}
DEPTHS = (11, 13, 16, 19)
PAPER = "Simonyan and Zisserman 2014"
CLAIMS = {
    "stalls": gf.Claim(
        "19 layers do not start from N(0, 0.01^2)",
        f"{PAPER}, section 3.1: bad initialisation can stall learning",
        "stated, no number",
        "final training error, 19 layers, normal(0.01)",
        ">",
        0.75,  # five sixths of chance
        steps=STEPS,
    ),
    "glorot": gf.Claim(
        "from Glorot's initialisation 19 layers start",
        f"{PAPER}, section 3.1",
        "stated, no number",
        "final training error, 19 layers, glorot",
        "<",
        0.75,
        steps=STEPS,
    ),
    "why": gf.Claim(
        "because from N(0, 0.01^2) the gradient vanishes, more steeply than from Glorot's",
        f"{PAPER}, section 3.1; Glorot and Bengio 2010",
        "instability of the gradient; no number",
        "slope of log10 gradient norm over layers, in decades a layer, at step 1, 19 layers, normal(0.01) - glorot",
        ">",
    ),
    "helps": gf.Claim(
        "16 layers have a lower training error than 11",
        f"{PAPER}, table 3",
        "top-5 validation error 10.4 % at 11 layers, 8.8 % at 16 (test scale 256)",
        "final training error, 16 - 11 layers, he",
        "<",
        steps=STEPS,
    ),
}  # fmt: skip


def runs(preset, **overrides):
    """Every depth from every initialisation at every rate; where there is one rate, of all seeds."""
    several = [NET | {"depth": depth, "initialisation": name} for depth in DEPTHS for name in INITIALISATIONS]
    return gf.variants(several, **gf.choosing_settings(PRESETS[preset] | overrides))


def further_runs(table, preset, **overrides):
    """The same at the best rate of each, of the seeds that are judged, on the test set."""
    seeds = (PRESETS[preset] | overrides)["seeds"]
    return gf.runs_at_best_rates(runs(preset, **overrides), table, BY, seeds=seeds, validation=0)


def verdict(table):
    """Final training errors, and the slope of the gradient at the start, seed by seed, each net at its best rate."""
    rates, table = gf.rates_in_words(table, BY), gf.at_best_rates(table, BY)
    train, test = (gf.final_error(table, f"{kind}_error", BY) for kind in ("train", "test"))
    slope, deepest, steps = gf.gradient_slope(table, 1, BY), int(table.depth.max()), int(table.steps.min())

    def of(series, depth, initialisation):
        return gf.per_seed(series, depth=depth, initialisation=initialisation)

    numbers = {
        "stalls": of(train, deepest, "normal(0.01)"),
        "glorot": of(train, deepest, "glorot"),
        "why": gf.difference(of(slope, deepest, "normal(0.01)"), of(slope, deepest, "glorot")),
        "helps": gf.difference(of(train, 16, "he"), of(train, 11, "he")),
    }
    findings = tuple(gf.judge(claim, numbers[name], steps) for name, claim in CLAIMS.items())
    facts = {
        f"best rate, {initialisation}": {str(depth): rate for depth, rate in some.droplevel("initialisation").items()}
        for initialisation, some in rates.groupby("initialisation")
    }
    for name, series in (("final training error", train), ("final test error", test), ("slope at step 1", slope)):
        mean = series.groupby(["initialisation", "depth"]).mean()
        for initialisation in mean.index.unique(0):
            facts[f"{name}, {initialisation}"] = {str(depth): float(v) for depth, v in mean[initialisation].items()}
    ends = {name: facts.get(f"final training error, {name}", {}).get(str(deepest), 1.0) for name in INITIALISATIONS}
    started = [name for name, error in ends.items() if error < 0.75]
    title = (
        f"{deepest} layers without normalisation start from {' and '.join(started) or 'none of the initialisations'}"
    )
    return gf.Verdict(title, findings, facts)


def figure(table, verdict):
    """Error against depth, and the gradient at step 1, by initialisation."""
    table = gf.at_best_rates(table, BY)
    note = gf.plot.caption(table)
    panels = {}
    for kind in ("train", "test"):
        error = gf.final_error(table, f"{kind}_error", BY)
        panels[f"{kind} error"] = {
            name: {depth: [100 * value for value in values] for depth, values in series.groupby("depth")}
            for name, series in error.groupby("initialisation")
        }
    errors = gf.charts.lines(panels, "depth", "final error (%)", title=verdict.title, note=note)
    drawn = {"errors": errors}
    first = gf.spine(table, 1)
    deepest = first[(first.depth == first.depth.max()) & (first.value > 0)]
    curves = {
        name: {position: list(values) for position, values in rows.groupby("position").value}
        for name, rows in deepest.groupby("initialisation")
    }
    panel = {f"vgg {first.depth.max()}, step 1": curves}
    words = {"title": verdict.title, "note": note, "log_y": True}
    drawn["gradient_norm"] = gf.charts.lines(panel, "layer position (input to output)", "gradient norm", **words)
    return drawn
