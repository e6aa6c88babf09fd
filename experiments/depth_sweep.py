"""How the gradient travels through 18, 34 and 56 layers, plain and residual, with batch norm and without.

A plain net is a product of layers, a residual net a sum with an identity in it (He et al. 2016, arXiv:1603.05027,
equation 5), so without normalisation the gradient should vanish on its way to a deep plain net's input and not in its
residual twin. With batch norm it should not vanish in either (He et al. 2015, arXiv:1512.03385, section 4.1). The
claims are about step 1; the film shows that a deep plain net with batch norm can lose its gradient later. On 8x8 images
a part of the vanishing is the border's: He's initialisation assumes full windows, and on the last stage's 2x2 maps a
3x3 window sees 4 of 9 inputs.
"""

from typing import Any

import gradflow as gf

GRID: dict[str, Any] = {
    "net": ("plain", "residual"),
    "depth": (18, 34, 56),
    "steps": (150,),
    "batch": (64,),
    "evaluations": (10,),
    "seeds": 2,
}
PRESETS = {
    "smoke": GRID | {"depth": (8, 14), "steps": (6,)},
    "default": GRID,
    "full": GRID
    | {"depth": (20, 32, 44, 56, 110), "batch": (128,), "steps": (64_000,), "augment": (True,)}
    | {"centre": ("pixel",), "evaluations": (164,), "seeds": 3},
}
# Without normalisation 0.1 is too much: plain-18 does not learn, residual-18 diverges (results/LOG.md).
RATES = {"batch": 0.1, "none": 0.01}
SLOPE = "slope of log10 gradient norm over layers, in decades a layer, at step 1; deepest net"
CLAIMS = {
    "vanishes": gf.Claim(
        text="at step 1, without normalisation, the plain net's gradient vanishes on its way to the input",
        source="He et al. 2015, section 1; Glorot and Bengio 2010",
        paper="stated, no number",
        statistic=f"{SLOPE}, plain, no normalisation",
        side=">",
    ),
    "identity": gf.Claim(
        text="and falls more steeply than its residual twin's",
        source="He et al. 2016, equation 5",
        paper="the gradient does not vanish even for arbitrarily small weights",
        statistic=f"{SLOPE}, plain - residual, no normalisation",
        side=">",
    ),
    "batch_norm": gf.Claim(
        text="at step 1, with batch norm, the plain net's gradient does not vanish",
        source="He et al. 2015, section 4.1",
        paper="healthy norms, no number",
        statistic=f"{SLOPE}, plain, batch norm",
        side="<",
    ),
}


def runs(preset, **overrides):
    """Twins of each depth, with batch norm and without, same seeds, same batches."""
    settings = PRESETS[preset] | {"normalisation": tuple(RATES)} | overrides
    rates = {norm: overrides.get("learning_rate", (RATES.get(norm, 0.1),)) for norm in settings["normalisation"]}
    by_norm = (settings | {"normalisation": (norm,), "learning_rate": rate} for norm, rate in rates.items())
    return [run for one in by_norm for run in gf.grid(**one)]


def verdict(table):
    """Slopes of the deepest nets at initialisation, seed by seed; the regime of every net beside them."""
    slope, deepest, steps = gf.gradient_slope(table, step=1), int(table.depth.max()), int(table.steps.max())

    def of(net, norm):
        return gf.per_seed(slope, net=net, normalisation=norm, depth=deepest)

    numbers = {"vanishes": of("plain", "none"), "batch_norm": of("plain", "batch")}
    numbers["identity"] = gf.difference(of("plain", "none"), of("residual", "none"))
    findings = tuple(gf.judge(claim, numbers[name], steps) for name, claim in CLAIMS.items())
    regime, factor = gf.gradient_regime(table, step=1), gf.gradient_ratio(table, step=1)
    facts = {}
    for (net, depth, norm), name in regime.items():
        seen = f"{name} ({gf.format_ratio(factor[net, depth, norm])})"
        facts.setdefault(f"regime at step 1 (gradient, input over output), {net}, normalisation {norm}", {})[
            str(depth)
        ] = seen
    plain, residual = (
        gf.format_ratio(factor.get((net, deepest, "none"), float("nan"))) for net in ("plain", "residual")
    )
    title = f"Without normalisation, {deepest} layers change the gradient by {plain} plain, {residual} residual"
    return gf.Verdict(title, findings, facts | gf.error_facts(table))


def figure(table, verdict):
    """The emblem, the film, the two paths, the errors against step, and the final ones against depth."""
    note = gf.plot.caption(table)
    drawn = {
        "gradient_norm": gf.plot.gradient_curves(table, title=verdict.title, note=note),
        "film": gf.plot.film(table, note=note),
        "errors": gf.plot.errors(table, note=note),
        "depth_errors": gf.plot.depth_errors(table, note=note),
    }
    if (table.quantity == "path_cosine").any():
        drawn["paths"] = gf.plot.paths(table, note=note)
    return drawn
