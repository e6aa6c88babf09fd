"""Degradation: a deeper plain net ends with a higher training error, a deeper residual net does not.

He et al. 2015 (arXiv:1512.03385), section 4.2 and figure 6: on CIFAR-10 the training error of plain nets grows with
depth over 20, 32, 44 and 56 layers, so it is not over-fitting; their residual twins are spared. With batch norm, they
say, gradients have healthy norms all the same, which is tried here, too. A learning rate that is too large for a depth
looks like degradation. So each net is judged at its own best rate of a grid. The first seed is run at every rate and
chooses, by the error on held-out training images; the others are run at the chosen rate and are judged. The claims are
about trainings as long as the preset's; `--full` is the paper's, on the data that `--data` names.
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
MARGIN = 0.02  # of the training error: two points
BY = ("net", "depth")
ADDED = "final training error at the net's own best rate, deepest - shallowest (a diverged run counts as chance)"


def claims(steps: int) -> dict[str, gf.Claim]:
    """What is claimed of trainings of so many steps."""
    return {
        "plain": gf.Claim(
            text="the deepest plain net trains worse than the shallowest, by more than two points",
            source=PAPER,
            paper="training error ordered 20 < 32 < 44 < 56",
            statistic=f"{ADDED}, plain",
            side=">",
            than=MARGIN,
            steps=steps,
        ),
        "residual": gf.Claim(
            text="the deepest residual net trains no worse than the shallowest, within two points",
            source=PAPER,
            paper="training error falls with depth, no number; test error 8.75 % at 20 layers, 6.97 % at 56",
            statistic=f"{ADDED}, residual",
            side="<=",
            margin=MARGIN,
            steps=steps,
        ),
        "twins": gf.Claim(
            text="depth adds less to a residual net's training error than to its plain twin's",
            source=PAPER,
            paper="plain-56 degrades, ResNet-56 does not",
            statistic="what depth adds to the training error, plain - residual",
            side=">",
            steps=steps,
        ),
        "gradient": gf.Claim(
            text="and all the same its gradient has a healthy norm: at step 1 it is level, within a decade",
            source="He et al. 2015, section 4.1",
            paper="healthy norms with batch norm, no number",
            statistic="decades by which the gradient falls from output to input at step 1, deepest plain net",
            side="=",
            margin=1.0,
        ),
    }


def runs(preset, **overrides):
    """Twins of each depth at each rate, of the seeds that choose; where there is one rate, of all seeds."""
    return warmed_up(preset, gf.choosing_settings(PRESETS[preset] | overrides))


def further_runs(table, preset, **overrides):
    """Twins of each depth at the best rate of each, of the seeds that are judged."""
    seeds = (PRESETS[preset] | overrides)["seeds"]
    return gf.runs_at_best_rates(runs(preset, **overrides), table, BY, seeds=seeds)


def warmed_up(preset, settings):
    """The grid of the settings; the full one with the paper's warm-up.

    The paper warms up at 110 layers only, until the error is below 80 %, which took about 400 steps.
    """
    if preset != "full" or "warmup" in settings:
        return gf.grid(**settings)
    by_depth = (settings | {"depth": (depth,), "warmup": (400 if depth > 100 else 0,)} for depth in settings["depth"])
    return [run for one in by_depth for run in gf.grid(**one)]


def verdict(table):
    """What depth adds to the final training error, seed by seed, each net at its best rate."""
    tuned, depths = gf.at_best_rates(table, by=BY), sorted(table.depth.unique())
    error, decades = gf.final_error(tuned, by=BY), gf.gradient_decades(tuned, step=1, by=BY)
    added = {
        net: gf.difference(*(gf.per_seed(error, net=net, depth=depth) for depth in (depths[-1], depths[0])))
        for net in ("plain", "residual")
    }
    added["twins"] = gf.difference(added["plain"], added["residual"])
    added["gradient"] = gf.per_seed(decades, net="plain", depth=depths[-1])
    steps = int(table.steps.min())
    # Longer trainings than the default preset's decide as well, and are then about that length.
    about = claims(max(steps, PRESETS["default"]["steps"][0]))
    findings = {name: gf.judge(claim, added[name], steps) for name, claim in about.items()}
    plain, residual = findings["plain"].mean, findings["residual"].mean
    title = "Not enough runs finished to say"
    if plain is not None and residual is not None:
        title = (
            f"From {depths[0]} to {depths[-1]} layers, each at its best rate, the training error changes by "
            f"{100 * plain:+.1f} points plain, {100 * residual:+.1f} residual"
        )
    return gf.Verdict(title.replace("-", "\N{MINUS SIGN}"), tuple(findings.values()), facts(table, tuned))


def facts(table, tuned):
    """The best rates, the errors there and at every rate, and the gradient of each net at the start and at the end."""
    best, seen = gf.best_rates(table, by=BY), {}
    error = gf.final_error(table, by=(*BY, "learning_rate")).groupby(["net", "depth", "learning_rate"]).mean()
    last = int(tuned[tuned.quantity == "activation_gradient_norm"].step.max())
    for net, depth in best.index:
        seen[f"{net} {depth}, best rate"] = f"{best[net, depth]:g}"
        seen[f"{net} {depth}, final training error by rate"] = {
            f"{rate:g}": float(value) for rate, value in error[net, depth].items()
        }
        for step in sorted({1, last}):
            regime, ratio = gf.gradient_regime(tuned, step, by=BY), gf.gradient_ratio(tuned, step, by=BY)
            seen[f"{net} {depth}, gradient at step {step} (input over output)"] = (
                f"{regime[net, depth]} ({gf.format_ratio(ratio[net, depth])})"
            )
    return seen


def figure(table, verdict):
    """Errors against step as in the paper's figure 6, against depth and against rate, and how the gradient fared."""
    tuned = gf.at_best_rates(table, by=BY)
    note, deepest = gf.plot.caption(table), int(table.depth.max())
    # A net's rate follows from the net: it is not what the figures compare.
    same = tuned.assign(learning_rate=float("nan"))
    last = int(tuned[tuned.quantity == "activation_gradient_norm"].step.max())
    ratio = {step: gf.gradient_ratio(tuned, step, by=BY).get(("plain", deepest), float("nan")) for step in (1, last)}
    there = [f"{gf.format_ratio(one)} at step {step}" for step, one in ratio.items()]
    gradient = f"Plain, {deepest} layers: from output to input the gradient changes by {', '.join(there)}"
    return {
        "errors": gf.plot.errors(same, title=verdict.title, note=note),
        "depth_errors": gf.plot.depth_errors(same, note=note),
        "rates": gf.plot.depth_errors(table, title="Final training error of every net at every rate", note=note),
        "gradient_norm": gf.plot.gradient_curves(same, title=gradient, note=note),
    }
