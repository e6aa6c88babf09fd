"""Global average pooling in the place of fully connected layers: no parameters, and less to over-fit with.

Network in Network (Lin et al. 2013, arXiv:1312.4400, section 3.2 and table 5) makes one map a class and takes its mean
as the class's logit. The claim is that this regularises: the gap between training and test error should be smaller than
under a fully connected layer. Each head, with dropout and without, is judged at its own best learning rate of a grid:
the first seed is run at every rate and chooses, by the error on held-out training images; the others are judged.
"""

import gradflow as gf

BY = ("head", "dropout")
STEPS = 400  # what shorter trainings end with decides nothing
RATES = (0.015, 0.05, 0.15)
PRESETS = {
    "smoke": {"steps": 10, "seeds": 2, "batch": 16, "width": 8, "evaluations": 1, "learning_rate": (0.05,)},
    "default": {"steps": STEPS, "seeds": 4, "batch": 64, "width": 48, "learning_rate": RATES},
    "full": {"steps": 120_000, "seeds": 3, "batch": 128, "learning_rate": RATES, "validation": 5_000},
}
NET = {"net": "nin", "normalisation": "batch", "initialisation": "he"}
# The rows of table 5, and pooling without dropout, which it lacks.
HEADS = (("pool", 0.5), ("fc", 0.5), ("fc", 0.0), ("pool", 0.0))
SOURCE = "Lin et al. 2013, section 4.6"
CLAIMS = {
    "better": gf.Claim(
        "global average pooling has the lower test error",
        f"{SOURCE}, table 5",
        "10.41 % with pooling and dropout",
        "final test error, pool - fc, both with dropout",
        "<",
        steps=STEPS,
    ),
    "gap": gf.Claim(
        "global average pooling over-fits less",
        SOURCE,
        "a structural regulariser; no number",
        "final test error - training error, pool - fc, both without dropout",
        "<",
        steps=STEPS,
    ),
    "parameters": gf.Claim(
        "and has no parameters of its own",
        "Lin et al. 2013, section 3.2",
        "none to optimise",
        "parameters, pool / fc",
        "<",
        1.0,
    ),
}


def runs(preset, **overrides):
    """Both heads, with the paper's dropout and without, at every rate; where there is one rate, of all seeds."""
    several = [NET | {"head": head, "dropout": dropout} for head, dropout in HEADS]
    return gf.variants(several, **gf.choosing_settings(PRESETS[preset] | overrides))


def further_runs(table, preset, **overrides):
    """The same at the best rate of each, of the seeds that are judged, on the test set."""
    seeds = (PRESETS[preset] | overrides)["seeds"]
    return gf.runs_at_best_rates(runs(preset, **overrides), table, BY, seeds=seeds, validation=0)


def verdict(table):
    """Errors and gaps, seed by seed, each net at its best rate."""
    rates, table = gf.rates_in_words(table, BY), gf.at_best_rates(table, BY)
    test, train = (gf.final_error(table, f"{kind}_error", BY) for kind in ("test", "train"))
    size = gf.run_column(table, "parameters", BY)

    def of(series, head, dropout):
        return gf.per_seed(series, head=head, dropout=dropout)

    gap = {head: gf.difference(of(test, head, 0.0), of(train, head, 0.0)) for head in ("pool", "fc")}
    sizes = of(size, "fc", 0.0)
    numbers = {
        "better": gf.difference(of(test, "pool", 0.5), of(test, "fc", 0.5)),
        "gap": gf.difference(gap["pool"], gap["fc"]),
        "parameters": {seed: one / sizes[seed] for seed, one in of(size, "pool", 0.0).items()},
    }
    findings = tuple(gf.judge(claim, numbers[name], int(table.steps.min())) for name, claim in CLAIMS.items())
    pool, fc = (100 * float(test.groupby(["head", "dropout"]).mean()[head, 0.5]) for head in ("pool", "fc"))
    title = f"Global average pooling ends at {pool:.1f} % test error, a fully connected head at {fc:.1f} %"
    facts = {"best rate": {_name(*key): rate for key, rate in rates.items()}}
    for kind, error in (("training", train), ("test", test)):
        mean = error.groupby(["head", "dropout"]).mean()
        facts[f"final {kind} error"] = {_name(*key): float(value) for key, value in mean.items()}
    return gf.Verdict(title, findings, facts)


def _name(head, dropout):
    return f"{head}, {'dropout' if dropout else 'no dropout'}"


def figure(table, verdict):
    """Training and test error of each head."""
    table, panels = gf.at_best_rates(table, BY), {}
    for kind in ("train", "test"):
        error = gf.final_error(table, f"{kind}_error", BY)
        panels[f"final {kind} error (%)"] = {
            _name(head, dropout): [100 * value for value in values]
            for (head, dropout), values in error.groupby(["head", "dropout"])
        }
    return {"errors": gf.charts.dots(panels, title=verdict.title, note=gf.plot.caption(table))}
