"""Degradation: a deeper plain net ends with a higher training error, a deeper residual net does not.

He et al. 2015 (arXiv:1512.03385), section 4.2 and figure 6: on CIFAR-10 the training error of plain nets grows with
depth over 20, 32, 44 and 56 layers, so it is not over-fitting, and with batch norm, they say, it is not vanishing
gradients either; their residual twins are spared. `--full` is the paper's training; the other presets are short, so the
claim about the end of it stays open there.
"""

from typing import Any

import gradflow as gf

PAPER = "He et al. 2015, section 4.2, figure 6"
RATES = (0.01, 0.03, 0.1)  # the paper's is 0.1
SMALL: dict[str, Any] = {
    "net": ("plain", "residual"),
    "depth": (20, 56),
    "batch": (64,),
    "steps": (200,),
    "validation": (200,),
    "learning_rate": RATES,
    "seeds": 5,
}
PRESETS = {
    "smoke": SMALL | {"depth": (8, 14), "steps": (12,), "learning_rate": RATES[:2], "seeds": 2},
    "default": SMALL,
    "full": SMALL
    | {"depth": (20, 32, 44, 56, 110), "batch": (128,), "steps": (64_000,), "validation": (5_000,), "seeds": 3}
    | {"augment": (True,), "centre": ("pixel",), "record": ("1000",), "evaluations": (164,)},
}
CLAIMS = {
    "plain": gf.Claim(
        text="the deepest plain net trains worse than the shallowest",
        source=PAPER,
        paper="training error ordered 20 < 32 < 44 < 56",
        statistic="final training error, plain deepest - plain shallowest",
        side=">",
    ),
    "twins": gf.Claim(
        text="depth adds less to a residual net's training error than to its plain twin's",
        source=PAPER,
        paper="plain-56 degrades, ResNet-56 does not",
        statistic="what depth adds to the training error, plain - residual",
        side=">",
    ),
    "residual": gf.Claim(
        text="the deepest residual net trains no worse than the shallowest",
        source=PAPER,
        paper="training error falls with depth, no number; test error 8.75 % at 20 layers, 6.97 % at 56",
        statistic="final training error, residual deepest - residual shallowest",
        side="<",
        steps=64_000,
    ),
}


def runs(preset, **overrides):
    """Twins of each depth at each rate, same seeds, same batches."""
    settings = PRESETS[preset] | overrides
    if preset != "full" or "warmup" in settings:
        return gf.grid(**settings)
    # The paper warms up at 110 layers only.
    by_depth = (settings | {"depth": (depth,), "warmup": (400 if depth > 100 else 0,)} for depth in settings["depth"])
    return [run for one in by_depth for run in gf.grid(**one)]


def verdict(table):
    """What depth adds to the final training error, seed by seed."""
    error, depths, steps = gf.final_error(table), sorted(table.depth.unique()), int(table.steps.max())
    added = {
        net: gf.difference(*(gf.per_seed(error, net=net, depth=depth) for depth in (depths[-1], depths[0])))
        for net in ("plain", "residual")
    }
    added["twins"] = gf.difference(added["plain"], added["residual"])
    findings = {name: gf.judge(claim, added[name], steps) for name, claim in CLAIMS.items()}
    plain, residual = findings["plain"].mean, findings["residual"].mean
    title = "Not enough runs finished to say"
    if plain is not None and residual is not None:
        title = (
            f"From {depths[0]} to {depths[-1]} layers the training error changes by "
            f"{100 * plain:+.1f} points plain, {100 * residual:+.1f} residual"
        )
    return gf.Verdict(title.replace("-", "\N{MINUS SIGN}"), tuple(findings.values()), gf.error_facts(table))


def figure(table, verdict):
    """Errors against step as in the paper's figure 6, the final ones against depth, and how the gradient fared."""
    note, deepest = gf.plot.caption(table), int(table.depth.max())
    last = int(table[table.quantity == "activation_gradient_norm"].step.max())
    ratios = {step: gf.gradient_ratio(table, step).get(("plain", deepest, "batch"), float("nan")) for step in (1, last)}
    there = [f"{gf.format_ratio(ratio)} at step {step}" for step, ratio in ratios.items()]
    gradient = f"Plain, {deepest} layers, batch norm: from output to input the gradient changes by {', '.join(there)}"
    return {
        "errors": gf.plot.errors(table, title=verdict.title, note=note),
        "depth_errors": gf.plot.depth_errors(table, note=note),
        "gradient_norm": gf.plot.gradient_curves(table, title=gradient, note=note),
    }
