"""What makes a gradient vanish in 18, 34 and 56 layers, and what the identity path does about it.

A plain net is a product of layers, a residual net a sum with an identity in it (He et al. 2016, arXiv:1603.05027,
equation 5). So it depends on the start what depth does to the gradient. From *small weights* (Glorot, before 2015) a
plain net's gradient falls by 2^(-1/2) a layer (He et al. 2015, arXiv:1502.01852, section 2.2), and the identity path
stops it. From *He's* larger weights it stays level in a plain net, and the residual net's sum grows. With *batch norm*
it explodes in a plain net (Yang et al. 2019, arXiv:1902.08129), and hardly in a residual one.

The maps have circular padding, so that no window sees a border: on small images zeros around the maps make a gradient
vanish as well, and that is not depth (see the experiment `border`). Ten seeds are read at step 1; three are trained.
"""

from typing import Any

import gradflow as gf

STARTS = {
    "small weights": {"initialisation": "glorot", "normalisation": "none"},
    "He's weights": {"initialisation": "he", "normalisation": "none"},
    "batch norm": {"initialisation": "he", "normalisation": "batch"},
}
GRID: dict[str, Any] = {
    "net": ("plain", "residual"),
    "depth": (18, 34, 56),
    "padding": "circular",
    "steps": 80,
    "learning_rate": 0.01,
    "batch": 32,
    "evaluations": 0,
}
PRESETS = {
    "smoke": GRID | {"depth": (8, 14), "steps": 6},
    "default": GRID,
    "full": GRID
    | {"depth": (20, 32, 44, 56, 110), "batch": 128, "steps": 64_000, "evaluations": 164}
    | {"augment": True, "centre": "pixel"},
}
SEEDS = {"smoke": (2, 2), "default": (10, 3), "full": (10, 3)}  # read at step 1, and trained
BY = ("net", "depth", "initialisation", "normalisation")
DECADES = "decades by which the gradient falls from output to input (slope times depth) at step 1, deepest net"
TRAINED = "final training loss over that of guessing, shallowest net (a diverged run counts as guessing)"
LAW, LEARNS = 1.0, 0.95  # margins: one decade over the whole net; 95 % of the loss of guessing
CLAIMS = {
    "small, plain": gf.Claim(
        text="from small weights the plain net's gradient vanishes, by the law of 2^(-1/2) a layer",
        source="He et al. 2015 (arXiv:1502.01852), section 2.2",
        paper="sqrt(1/2) a layer for Glorot's weights",
        statistic=f"{DECADES}, plain, minus those of the law",
        side="=",
        margin=LAW,
    ),
    "small, residual": gf.Claim(
        text="its residual twin's does not: it keeps to its own law, which is nearly level",
        source="He et al. 2016, equation 5; mean-field theory",
        paper="does not vanish even for arbitrarily small weights, no number",
        statistic=f"{DECADES}, residual, minus those of the law",
        side="=",
        margin=LAW,
    ),
    "small, both": gf.Claim(
        text="the identity path stops it: of what the law takes from the plain net the twin keeps more than half",
        source="He et al. 2016, equation 5",
        paper="stated, no number",
        statistic=f"{DECADES}, plain - residual, over those of the plain net's law",
        side=">",
        than=0.5,
    ),
    "He, plain": gf.Claim(
        text="from He's weights the plain net's gradient is level",
        source="He et al. 2015 (arXiv:1502.01852), section 2.2",
        paper="factor 1 a layer",
        statistic=f"{DECADES}, plain",
        side="=",
        margin=LAW,
    ),
    "He, residual": gf.Claim(
        text="and its residual twin's explodes, by the law of a sum",
        source="mean-field theory (gradflow.gradient_law)",
        paper="no number",
        statistic=f"{DECADES}, residual, minus those of the law",
        side="=",
        margin=LAW,
    ),
    "batch norm, plain": gf.Claim(
        text="with batch norm the plain net's gradient explodes",
        source="Yang et al. 2019 (arXiv:1902.08129)",
        paper="by sqrt(pi / (pi - 1)) a layer in large batches",
        statistic=f"{DECADES}, plain",
        side="<",
        than=-LAW,
    ),
    "batch norm, both": gf.Claim(
        text="and its residual twin's less, by more than a decade",
        source="He et al. 2016, equation 5",
        paper="no number",
        statistic=f"{DECADES}, residual - plain",
        side=">",
        than=LAW,
    ),
    "small, plain, trained": gf.Claim(
        text="trained from small weights at rate 0.01 already the shallowest plain net learns nothing",
        source="He et al. 2015 (arXiv:1502.01852), section 2.2",
        paper="a 30-layer net from Glorot's weights stalls",
        statistic=f"{TRAINED}, plain",
        side=">",
        than=LEARNS,
        steps=GRID["steps"],
    ),
    "small, residual, trained": gf.Claim(
        text="and its residual twin learns",
        source="He et al. 2016, equation 5",
        paper="stated, no number",
        statistic=f"{TRAINED}, residual",
        side="<",
        than=LEARNS,
        steps=GRID["steps"],
    ),
}


def runs(preset, seeds=None, **overrides):
    """Twins of each depth from each start, same seeds, same batches: many seeds for one step, a few trained."""
    settings, (many, few) = PRESETS[preset] | overrides, SEEDS[preset]
    gf.check_law(**settings)
    first = settings | {"steps": (1,), "evaluations": (0,)}
    at_start = gf.variants(list(STARTS.values()), many if seeds is None else seeds, **first)
    trained = gf.variants(list(STARTS.values()), few if seeds is None else seeds, **settings)
    return list(dict.fromkeys(at_start + trained))


def parts(table):
    """The runs of one step, and those that were trained."""
    return table[table.steps == table.steps.min()], table[table.steps == table.steps.max()]


def verdict(table):
    """The deepest nets at initialisation and at the end, seed by seed; the regime of every net beside them."""
    first, trained = parts(table)
    decades, deepest = gf.gradient_decades(first, step=1, by=BY), int(table.depth.max())
    shallowest, activation = int(table.depth.min()), first.activation.iloc[0]
    loss = gf.final_loss(trained, by=BY)

    def at(start, net, numbers=decades, depth=deepest):
        chosen = {name: STARTS[start][name] for name in BY[2:]}
        return gf.per_seed(numbers, net=net, depth=depth, **chosen)

    def law(start, net):
        settings = {"activation": activation, "depth": deepest, **STARTS[start]}
        slope = gf.gradient_law(net, **settings)
        assert slope is not None  # None is only of a residual net with batch norm
        return deepest * slope

    def off(start, net):
        return {seed: value - law(start, net) for seed, value in at(start, net).items()}

    small, he, batch = STARTS
    apart = gf.difference(at(small, "plain"), at(small, "residual"))
    numbers = {
        "small, plain": off(small, "plain"),
        "small, residual": off(small, "residual"),
        "small, both": {seed: value / law(small, "plain") for seed, value in apart.items()},
        "He, plain": at(he, "plain"),
        "He, residual": off(he, "residual"),
        "batch norm, plain": at(batch, "plain"),
        "batch norm, both": gf.difference(at(batch, "residual"), at(batch, "plain")),
        "small, plain, trained": at(small, "plain", loss, shallowest),
        "small, residual, trained": at(small, "residual", loss, shallowest),
    }
    findings = tuple(gf.judge(claim, numbers[name], int(trained.steps.min())) for name, claim in CLAIMS.items())
    return gf.Verdict(title(first, deepest), findings, facts(first, trained))


def title(first, deepest):
    """The ratios of the deepest nets in one line."""
    ratio = gf.gradient_ratio(first, step=1, by=BY)
    words = []
    for start, settings in STARTS.items():
        keys = [(net, deepest, settings["initialisation"], settings["normalisation"]) for net in ("plain", "residual")]
        if all(key in ratio for key in keys):
            words.append(f"{start} " + " and ".join(gf.format_ratio(ratio[key]) for key in keys))
    return f"{deepest} layers change the gradient at step 1, plain and residual, by: " + "; ".join(words)


def facts(first, trained):
    """What every net's gradient does at step 1, and how its training ends."""
    regime, ratio = gf.gradient_regime(first, step=1, by=BY), gf.gradient_ratio(first, step=1, by=BY)
    error, seen = gf.final_error(trained, by=BY).groupby(list(BY)).mean(), {}
    for start, settings in STARTS.items():
        for net in ("plain", "residual"):
            at = [(key, key[1]) for key in regime.index if key[::3] == (net, settings["normalisation"])]
            at = [(key, depth) for key, depth in at if key[2] == settings["initialisation"]]
            seen[f"at step 1 (gradient, input over output), {start}, {net}"] = {
                str(depth): f"{regime[key]} ({gf.format_ratio(ratio[key])})" for key, depth in at
            }
            seen[f"final training error, {start}, {net}"] = {str(depth): float(error[key]) for key, depth in at}
    return seen


def figure(table, verdict):
    """The emblem: gradient norms by start, first at step 1, with the law as a thin line, then after training."""
    first, trained = parts(table)
    note, steps = gf.plot.caption(trained), int(trained.steps.max())
    laws = {
        run.run: gf.gradient_law(run.net, run.initialisation, run.normalisation, run.activation, run.depth)
        for run in first.drop_duplicates("run").itertuples()
    }
    drawn = {
        "gradient_norm": gf.plot.gradient_curves(
            first, title=verdict.title, note=gf.plot.caption(first), steps=[1], laws=laws
        ),
        "trained": gf.plot.gradient_curves(
            trained, title=f"The same nets after {steps} steps of training", note=note, steps=[steps]
        ),
        "film": gf.plot.film(trained, note=note),
        "errors": gf.plot.errors(trained, note=note),
        "depth_errors": gf.plot.depth_errors(trained, note=note),
    }
    if (trained.quantity == "path_cosine").any():
        drawn["paths"] = gf.plot.paths(trained, note=note)
    return drawn
