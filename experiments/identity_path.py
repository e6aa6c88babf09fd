"""The two paths of a residual unit: what comes back through the identity, what through the branch, and what stops it.

A unit is `x_{l+1} = h(x_l) + F(x_l)`, so the gradient at x_l is that at the last unit, handed down by the shortcuts
alone, plus what the branches bring (He et al. 2016, arXiv:1603.05027, equation 5). Both paths are read at every unit,
from the three starts of `depth_sweep`, while the nets train. In order *pre* nothing stands on the identity; in order
*post* (He et al. 2015) a ReLU after the addition masks it. A shortcut that is scaled, `lambda h(x)`, hands down
lambda^L of the gradient (equation 8): 0.5^54 = 5.6e-17 in a net of 110 layers. That stops the training of a net whose
*weights are as small*, and trains, where lambda is 1.

The maps have circular padding, so that no window sees a border (see the experiment `border`).
"""

import math
import re
from typing import Any

import numpy as np
import pandas as pd

import gradflow as gf

STARTS = {
    "small weights": {"initialisation": "glorot", "normalisation": "none"},
    "He's weights": {"initialisation": "he", "normalisation": "none"},
    "batch norm": {"initialisation": "he", "normalisation": "batch"},
}
GAINS = (0.5, 0.1)  # of He's weights: small, and so small that what the branches bring does not count
SMALL = [{"initialisation": f"he({gain})", "normalisation": "none"} for gain in GAINS]
COMMON: dict[str, Any] = {"net": "residual", "padding": "circular", "batch": 32, "evaluations": 0}
PATHS = COMMON | {"order": ("pre", "post"), "learning_rate": 0.01}
SCALED = COMMON | {"order": "pre", "learning_rate": 0.03}
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"paths": (8,), "scaled": (8, 14), "scales": (1.0, 0.5), "steps": 4, "seeds": (2, 2)},
    "default": {"paths": (18, 56), "scaled": (18, 56, 110), "scales": (1.0, 0.8, 0.5), "steps": 80, "seeds": (5, 3)},
    "full": {
        "paths": (20, 56, 110),
        "scaled": (20, 56, 110),
        "scales": (1.0, 0.8, 0.5),
        "steps": 800,
        "seeds": (10, 5),
    },
}
LAW, LEARNS, ROUNDING = 1.0, 0.95, 1e-4
HALF = 0.5  # the lambda that is judged
DECADES = "decades by which the gradient falls from the last unit to the first at step 1"
TRAINED = "final training loss over that of guessing (a diverged run counts as guessing)"
CLAIMS = {
    "equation 5": gf.Claim(
        text="at every unit the gradient is what the shortcuts hand down plus what the branches bring",
        source="He et al. 2016, equation 5",
        paper="an identity",
        statistic="norm of the difference over the gradient's, largest over units, starts, before and after training",
        side="<",
        than=ROUNDING,
    ),
    "equation 8": gf.Claim(
        text="and with shortcuts scaled by 0.5 as well",
        source="He et al. 2016, equation 8",
        paper="an identity",
        statistic="the same, lambda 0.5",
        side="<",
        than=ROUNDING,
    ),
    "pre": gf.Claim(
        text="in order pre nothing on the identity changes the gradient",
        source="He et al. 2016, section 3 and equation 5",
        paper="an identity",
        statistic="|norm through the identity over that after the unit - 1|, largest over units that keep their shape, "
        "deepest net from He's weights, step 1",
        side="<",
        than=ROUNDING,
    ),
    "post": gf.Claim(
        text="in order post the ReLU after the addition passes as much of the squared gradient as of the outputs",
        source="He et al. 2016, section 3 (f is an identity); mean-field theory",
        paper="no number",
        statistic="share of the squared gradient that the ReLU passes, minus the share of outputs that are not 0, "
        "mean over units that keep their shape, deepest net from He's weights, step 1",
        side="=",
        margin=0.05,
    ),
    "power": gf.Claim(
        text="shortcuts scaled by 0.5 hand down 0.5^L of the gradient",
        source="He et al. 2016, equation 8; 0.5^54 = 5.6e-17 in 110 layers",
        paper="the product of all lambda",
        statistic=f"{DECADES}, lambda 0.5 - lambda 1, minus those of 0.5 a unit, deepest net, smallest weights",
        side="=",
        margin=LAW,
    ),
    "law": gf.Claim(
        text="from larger weights the branches bring more than that, by their own law",
        source="He et al. 2016, equation 8; He et al. 2015 (arXiv:1502.01852), section 2.2",
        paper="no number",
        statistic=f"{DECADES}, lambda 0.5, minus those of the law, deepest net, He's weights times 0.5",
        side="=",
        margin=LAW,
    ),
    "small": gf.Claim(
        text="the same small weights leave it level where lambda is 1",
        source="He et al. 2016, equation 5: not even arbitrarily small weights make it vanish",
        paper="stated, no number",
        statistic=f"{DECADES}, lambda 1, deepest net, He's weights times 0.5",
        side="=",
        margin=LAW,
    ),
    "stops": gf.Claim(
        text="with lambda 0.5 training stops",
        source="He et al. 2016, table 1: constant scaling by 0.5 fails in 110 layers",
        paper="fails (error above 20 %)",
        statistic=f"{TRAINED}, lambda 0.5, deepest net that is trained, He's weights times 0.5",
        side=">",
        than=LEARNS,
        steps=80,
    ),
    "trains": gf.Claim(
        text="with lambda 1 the same weights train",
        source="He et al. 2016, equation 5",
        paper="stated, no number",
        statistic=f"{TRAINED}, lambda 1, deepest net that is trained, He's weights times 0.5",
        side="<",
        than=LEARNS,
        steps=80,
    ),
}


def _choices(preset, seeds, overrides):
    """What the groups of runs are made of, and the settings of the user for all of them."""
    chosen = dict(PRESETS[preset])
    depths = overrides.pop("depth", None)
    chosen |= {"paths": depths, "scaled": depths} if depths else {}
    chosen["steps"] = overrides.pop("steps", (chosen["steps"],))
    chosen["seeds"] = chosen["seeds"] if seeds is None else (seeds, seeds)
    return chosen


def runs(preset, seeds=None, **overrides):
    """Both orders from three starts, and scaled shortcuts from small weights: read at step 1, and some trained."""
    chosen = _choices(preset, seeds, overrides)
    many, few = chosen["seeds"]
    first = {"steps": (1,)}
    trained = {"steps": chosen["steps"], "evaluations": 1}
    paths = PATHS | overrides | {"depth": chosen["paths"]}
    scaled = SCALED | overrides | {"depth": chosen["scaled"], "shortcut_scale": chosen["scales"]}
    kept = {"depth": tuple(depth for depth in chosen["scaled"] if depth in chosen["paths"]) or chosen["scaled"]}
    kept |= {"shortcut_scale": tuple(scale for scale in chosen["scales"] if scale in (1.0, HALF))}
    several = [
        *gf.variants(list(STARTS.values()), many, **paths | first),
        *gf.variants(list(STARTS.values()), few, **paths | trained),
        *gf.variants(SMALL, many, **scaled | first),
        *gf.variants(SMALL[:1], few, **scaled | kept | trained),
    ]
    return list(dict.fromkeys(several))


def measure(preset, folder, seeds=None, **overrides):
    """The gradient at every unit, split in two by `gf.gradient_paths`, of the shallowest nets before and after a short
    training, and of the deepest before.
    """
    del folder
    chosen = _choices(preset, seeds, overrides)
    common = COMMON | {"order": "pre", "learning_rate": 0.01} | overrides
    starts = [start | {"shortcut_scale": 1.0} for start in STARTS.values()] + [SMALL[0] | {"shortcut_scale": HALF}]
    depths = sorted(set(chosen["paths"]))
    rows, readings = [], []
    for depth in dict.fromkeys((depths[0], depths[-1])):
        for run in gf.variants(
            starts, chosen["seeds"][1], **common | {"depth": (depth,), "steps": (min(20, *chosen["steps"]),)}
        ):
            name = (
                f"paths-{run.depth}-{run.initialisation}-{run.normalisation}-scale={run.shortcut_scale}-seed{run.seed}"
            )
            rows.append({"run": name, **run.settings, "status": "done", "last_step": run.steps})
            nets = {1: gf.build_net(run)}
            if depth == depths[0]:
                nets[run.steps + 1] = gf.trained(run)
            for step, net in nets.items():
                for unit in gf.gradient_paths(net, *gf.batch_of(run, step)):
                    place = int(unit.unit.removeprefix("block"))
                    for quantity in ("identity_norm", "branches_norm", "error"):
                        value = getattr(unit, quantity)
                        readings.append((name, step, unit.unit, place, f"whole_{quantity}", value))
    columns = ["run", "step", "layer", "position", "quantity", "value"]
    return pd.DataFrame(rows), pd.DataFrame(readings, columns=columns)


def parts(table):
    """The readings of the two orders and those of scaled shortcuts, at step 1 and trained; and the split gradients."""
    split = table.quantity.str.startswith("whole_")
    paths, scaled = table[~split & table.shortcut_scale.isna()], table[~split & table.shortcut_scale.notna()]
    return paths, scaled, table[split]


def at_start(table):
    """The runs of one step."""
    return table[table.steps == 1]


def trained(table):
    """The runs of more."""
    return table[table.steps > 1]


def started(table, start):
    """The runs from one of `STARTS`."""
    chosen = STARTS[start]
    return table[(table.initialisation == chosen["initialisation"]) & (table.normalisation == chosen["normalisation"])]


def keeping_shape(depth):
    """The numbers of the units, from 1, whose output has the shape of their input, the last one apart."""
    net = gf.nets.build("residual", depth=int(depth), width=1, classes=10, channels=1, seed=0)
    shapes = [point.shape for point in gf.nets.points_of(net, (32, 32, 1)) if re.fullmatch(r"block\d+", point.name)]
    return [unit for unit in range(1, len(shapes)) if shapes[unit - 1] == shapes[unit]]


def passed(table, depth):
    """What of the squared gradient comes through the identity of each unit that keeps its shape, and which share of the
    unit's outputs is not 0: two tables, a row a seed, a column a unit; at step 1.
    """
    rows = table[(table.depth == depth) & (table.step == 1)]

    def by_unit(quantity, path=""):
        chosen = rows[(rows.quantity == quantity) & rows.layer.str.fullmatch(r"block\d+" + path)]
        number = chosen.layer.str.extract(r"block(\d+)", expand=False).astype(int)
        return chosen.assign(unit=number).pivot_table(index="seed", columns="unit", values="value")

    through, at = by_unit("identity_gradient_norm"), by_unit("activation_gradient_norm")
    zero, units = by_unit("zero_fraction"), keeping_shape(depth)
    after = [unit + 1 for unit in units]
    squared = (through[units] / at[after].to_numpy()) ** 2
    return squared, (1 - zero[after]).set_axis(units, axis=1)


def lost(table):
    """Decades by run of scaled shortcuts at step 1: of the norm at the last unit over that at the first."""
    ends = gf.spine(table, 1).groupby([*BY, "seed"]).value.agg(["first", "last"])
    return np.log10(ends["last"] / ends["first"])


BY = ("depth", "initialisation", "shortcut_scale")


def law(scale, gain, depth):
    """The decades that the gradient loses from the last unit of `depth` layers to the first, by mean-field theory.

    A unit multiplies the squared gradient by lambda^2 + gain^4: two layers of He's weights times `gain` by gain^2 each
    (He et al. 2015, arXiv:1502.01852, equation 14). Where maps shrink the shortcut hands down half of the channels.
    """
    units, fewer = (depth - 2) // 2 - 1, 2
    kept = (units - fewer) * math.log10(scale**2 + gain**4)
    return -(kept + fewer * math.log10(scale**2 / 2 + gain**4)) / 2


def verdict(table):
    """The split gradients, what the identity passes in either order, and scaled shortcuts beside their law."""
    paths, scaled, split = parts(table)
    first, numbers = at_start(paths), {}
    for name, scale in (("equation 5", 1.0), ("equation 8", HALF)):
        errors = split[(split.quantity == "whole_error") & (split.shortcut_scale == scale)]
        numbers[name] = errors.groupby("seed").value.max().to_dict()
    depth, he = first.depth.max(), started(first, "He's weights")
    pre, _ = passed(he[he.order == "pre"], depth)
    post, outputs = passed(he[he.order == "post"], depth)
    numbers["pre"] = (pre**0.5 - 1).abs().max(axis=1).to_dict()
    numbers["post"] = (post - outputs).mean(axis=1).to_dict()

    decades, loss = lost(at_start(scaled)), gf.final_loss(trained(scaled), by=BY)
    deepest, deep = int(at_start(scaled).depth.max()), int(trained(scaled).depth.max())
    large, small = (f"he({gain})" for gain in GAINS)

    def at(scale, initialisation, series=decades, depth=deepest):
        return gf.per_seed(series, depth=depth, initialisation=initialisation, shortcut_scale=scale)

    def minus(some, number):
        return {seed: value - number for seed, value in some.items()}

    units = (deepest - 2) // 2 - 1
    numbers["power"] = minus(gf.difference(at(HALF, small), at(1.0, small)), -units * math.log10(HALF))
    numbers["law"] = minus(at(HALF, large), law(HALF, GAINS[0], deepest))
    numbers["small"] = at(1.0, large)
    numbers["stops"], numbers["trains"] = (at(scale, large, loss, deep) for scale in (HALF, 1.0))
    steps = int(trained(scaled).steps.min())
    findings = tuple(gf.judge(claim, numbers[name], steps) for name, claim in CLAIMS.items())
    mean = decades.groupby(list(BY)).mean()
    ratio = {scale: gf.format_ratio(10 ** -mean[deepest, large, scale]) for scale in (HALF, 1.0)}
    title = (
        f"From small weights {deepest} layers change the gradient by {ratio[HALF]} where shortcuts are scaled by "
        f"{HALF:g}, by {ratio[1.0]} where they are not"
    )
    return gf.Verdict(title, findings, facts(first, split, mean))


def facts(first, split, mean):
    """The shares that a ReLU passes, the decades of scaled nets beside their law, and the two terms of equation 5."""
    depth, seen = first.depth.max(), {}
    for start in STARTS:
        post = started(first, start)
        squared, outputs = passed(post[post.order == "post"], depth)
        seen[f"passed by the ReLU after the addition, {start}, {depth} layers"] = {
            "of the squared gradient": float(squared.mean().mean()),
            "of the outputs": float(outputs.mean().mean()),
        }
    for gain in GAINS:
        for scale in sorted(mean.index.unique("shortcut_scale"), reverse=True):
            seen[f"decades lost, He's weights times {gain:g}, lambda {scale:g}"] = {
                f"{depth} layers": f"{mean[depth, f'he({gain})', scale]:.3g} (law: {law(scale, gain, depth):.3g})"
                for depth in mean.index.unique("depth")
            }
    before = split[(split.step == 1) & (split.position == 1) & (split.depth == split.depth.max())]
    for start in STARTS:
        rows = started(before[before.shortcut_scale == 1], start).groupby("quantity").value.mean()
        seen[f"gradient at the first of {before.depth.max()} layers, {start}, before training"] = {
            "through the shortcuts alone": float(rows["whole_identity_norm"]),
            "through the branches": float(rows["whole_branches_norm"]),
        }
    return seen


def figure(table, verdict):
    """Scaled shortcuts and their training; the two paths; what a ReLU masks; the two terms of equation 5."""
    paths, scaled, split = parts(table)
    first = at_start(scaled)
    named = first.assign(net=[f"lambda {scale:g}" for scale in first.shortcut_scale]).drop(columns="shortcut_scale")
    slopes = {
        run.run: -math.log10(run.shortcut_scale**2 + float(run.initialisation[3:-1]) ** 4) / 4
        for run in first.drop_duplicates("run").itertuples()
    }
    pre, post = (trained(paths[paths.order == order]) for order in ("pre", "post"))
    return {
        "scaled": gf.plot.gradient_curves(
            named, title=verdict.title, note=gf.plot.caption(first), steps=[1], laws=slopes
        ),
        "training": gf.charts.lines(
            losses(trained(scaled)),
            across="step",
            up="training loss (nats)",
            title="From the same small weights, scaled shortcuts stop the training",
            note=gf.plot.caption(trained(scaled)),
        ),
        "paths": gf.plot.paths(pre, title="What comes back through either path, order pre", note=gf.plot.caption(pre)),
        "paths_post": gf.plot.paths(post, title="The same in order post", note=gf.plot.caption(post)),
        "mask": gf.charts.lines(
            masks(at_start(paths)),
            across="unit (from the input)",
            up="share passed",
            title="In order post the ReLU after the addition masks the identity path",
            note=gf.plot.caption(at_start(paths)),
        ),
        "equation": gf.charts.lines(
            terms(split),
            across="unit (from the input)",
            up="gradient norm",
            title="The gradient at every unit is what the shortcuts alone hand down, plus what the branches bring",
            note=gf.plot.caption(split),
            log_y=True,
        ),
    }


def losses(table):
    """The training loss over the steps, a panel a depth, a line a lambda."""
    rows = table[table.quantity == "loss"]
    return {
        f"{depth} layers": {
            f"lambda {scale:g}": {step: list(some.value) for step, some in lines.groupby("step")}
            for scale, lines in panel.groupby("shortcut_scale")
        }
        for depth, panel in rows.groupby("depth")
    }


def masks(table):
    """What the identity passes of the squared gradient by unit, a panel a start, beside the outputs that are not 0."""
    depth, panels = table.depth.max(), {}
    for start in STARTS:
        rows = started(table, start)
        pre, _ = passed(rows[rows.order == "pre"], depth)
        post, outputs = passed(rows[rows.order == "post"], depth)
        curves = {"gradient, pre": pre, "gradient, post": post, "outputs, post": outputs}
        panels[start] = {name: {unit: list(some[unit]) for unit in some} for name, some in curves.items()}
    return panels


def terms(split):
    """The two terms of equation 5 by unit before training, a panel a start, of the deepest net."""
    rows = split[(split.step == 1) & (split.depth == split.depth.max()) & (split.shortcut_scale == 1)]
    names = {"whole_identity_norm": "shortcuts", "whole_branches_norm": "branches"}
    return {
        start: {
            names[quantity]: {unit: list(some.value) for unit, some in lines.groupby("position")}
            for quantity, lines in started(rows, start).groupby("quantity")
            if quantity in names
        }
        for start in STARTS
    }
