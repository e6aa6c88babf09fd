"""How to avoid vanishing: which starts, activations, normalisations and nets let a gradient through, and which train.

Before a net has learnt anything its gradient is a product of one factor a layer. Mean-field theory knows the factor
from the weights' variance and the activation alone (Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017,
arXiv:1611.01232): s E[phi'^2] on the squared norm, s the variance times the fan-in. With batch norm s is divided out
(Yang et al. 2019, arXiv:1902.08129). In a residual net the factor is that of a sum. Here each combination of net,
normalisation, activation and start is read at step 1, beside what theory says of it, and then trained for a short time
at two rates: it *trains* if at the better one its final loss is below 95 % of that of guessing.

The maps have circular padding, so that no window sees a border (see the experiment `border`). A norm below 1e-38 reads
0 in float32: decades are those of the line through the units that read more, and theory is compared at these units.
"""

import functools
from typing import Any

import numpy as np
import pandas as pd

import gradflow as gf

STARTS = ("he", "glorot", "orthogonal", "normal(0.01)")
ACTIVATIONS = ("relu", "tanh", "sigmoid")
NETS, NORMALISATIONS = ("plain", "residual"), ("none", "batch")
NAMES = {"none": "no norm", "batch": "batch norm"}
GRID: dict[str, Any] = {  # the last ones share a program, and so stand together
    "net": NETS,
    "normalisation": NORMALISATIONS,
    "activation": ACTIVATIONS,
    "padding": ("circular",),
    "steps": (80,),
    "batch": (32,),
    "evaluations": (0,),
    "record": ("1000000",),  # the first and the last step
    "initialisation": STARTS,
    "learning_rate": (0.01, 0.1),
}
SMALL = {"activation": ("relu",), "initialisation": ("he", "normal(0.01)"), "width": (4,), "steps": (6,)}
PRESETS = {
    "smoke": GRID | SMALL | {"learning_rate": (0.01,)},
    "default": GRID,
    "full": GRID | {"batch": (128,), "steps": (2000,), "learning_rate": (0.001, 0.01, 0.1)},
}
DEPTHS = {"smoke": ((8,), (8,)), "default": ((18, 34, 56), (18, 34)), "full": ((18, 34, 56, 110), (18, 34, 56))}
SEEDS = {"smoke": (2, 2), "default": (5, 3), "full": (10, 5)}  # read at step 1, and trained
BY = ("net", "depth", "normalisation", "activation", "initialisation")
LAW, SAME, LEARNS, FAR = 1.0, 0.5, 0.95, 5.0  # decades, decades, of the loss of guessing, decades
DECADES = "decades by which the gradient falls from output to input (slope times depth) at step 1, deepest nets"
OFF = f"largest distance from theory of the {DECADES}"
LOSS = "final training loss over that of guessing at the better rate (a diverged run counts as guessing)"
MEAN_FIELD = "Poole et al. 2016 (arXiv:1606.05340); Schoenholz et al. 2017 (arXiv:1611.01232)"
HE, HE_2016 = "He et al. 2015 (arXiv:1502.01852), section 2.2", "He et al. 2016 (arXiv:1603.05027), equation 5"
YANG, OURS = "Yang et al. 2019 (arXiv:1902.08129)", "mean-field theory (gradflow.gradient_course)"
STEPS = GRID["steps"][0]
CLAIMS = {
    "plain, relu": gf.Claim(
        text="in a plain net of ReLUs the gradient at step 1 is what mean-field theory says, from every start",
        source=HE,
        paper="sqrt(s / 2) a layer",
        statistic=f"{OFF}, plain, no normalisation, relu, over the starts",
        side="<",
        than=LAW,
    ),
    "plain, tanh": gf.Claim(
        text="and so it is with tanh",
        source=MEAN_FIELD,
        paper="sqrt(sigma_w^2 E[phi'^2]) a layer",
        statistic=f"{OFF}, plain, no normalisation, tanh, over the starts",
        side="<",
        than=LAW,
    ),
    "plain, sigmoid": gf.Claim(
        text="and with sigmoid",
        source=MEAN_FIELD,
        paper="sqrt(sigma_w^2 E[phi'^2]) a layer",
        statistic=f"{OFF}, plain, no normalisation, sigmoid, over the starts",
        side="<",
        than=LAW,
    ),
    "residual": gf.Claim(
        text="a residual net without normalisation keeps to the law of a sum, from every start with every activation",
        source=OURS,
        paper="no number",
        statistic=f"{OFF}, residual, no normalisation, over starts and activations",
        side="<",
        than=LAW,
    ),
    "plain, batch": gf.Claim(
        text="with batch norm the plain net explodes by its law, from every start with every activation",
        source=f"{YANG} for ReLU; {OURS} for the others",
        paper="sqrt(pi / (pi - 1)) a layer for ReLU",
        statistic=f"{OFF}, plain, batch norm, over starts and activations",
        side="<",
        than=LAW,
    ),
    "residual, batch": gf.Claim(
        text="and the residual net keeps to the law of a sum with batch norm",
        source=OURS,
        paper="no number",
        statistic=f"{OFF}, residual, batch norm, over starts and activations",
        side="<",
        than=LAW,
    ),
    "batch, start": gf.Claim(
        text="batch norm makes the start irrelevant: by at most half a decade it differs from start to start",
        source=YANG,
        paper="the scale of the weights is divided out, no number",
        statistic=f"{DECADES}, batch norm, highest - lowest of the starts, largest over nets and activations",
        side="<",
        than=SAME,
    ),
    "small, plain": gf.Claim(
        text="from normal(0.01) the plain net vanishes with every activation",
        source=HE,
        paper="sqrt(s / 2) a layer for ReLU",
        statistic=f"{DECADES}, plain, no normalisation, normal(0.01), lowest over the activations",
        side=">",
        than=1.0,
    ),
    "small, residual": gf.Claim(
        text="its residual twin does not, with ReLU and tanh: it is level",
        source=HE_2016,
        paper="does not vanish even for arbitrarily small weights, no number",
        statistic=f"size of the {DECADES}, residual, no normalisation, normal(0.01), larger of relu and tanh",
        side="<",
        than=1.0,
    ),
    "sigmoid, residual": gf.Claim(
        text="with a sigmoid after the addition it vanishes in the residual net as well, from every start: "
        "the path is no identity",
        source=HE_2016,
        paper="nothing but the identity may stand on the path, no number",
        statistic=f"{DECADES}, residual, no normalisation, sigmoid, lowest over the starts",
        side=">",
        than=1.0,
    ),
    "far": gf.Claim(
        text="where theory lets the gradient fall by more than five decades no net trains",
        source="Schoenholz et al. 2017 (arXiv:1611.01232), section 5",
        paper="trains as long as gradients neither vanish nor explode, no number of decades",
        statistic=f"{LOSS}, lowest of all nets that theory says this of",
        side=">",
        than=LEARNS,
        steps=STEPS,
    ),
    "small, plain, trained": gf.Claim(
        text="from normal(0.01) already the shallowest plain net does not train, with any activation",
        source=HE,
        paper="a 30-layer net from too small weights stalls",
        statistic=f"{LOSS}, shallowest plain net, no normalisation, normal(0.01), lowest over the activations",
        side=">",
        than=LEARNS,
        steps=STEPS,
    ),
    "small, residual, trained": gf.Claim(
        text="its residual twin does, with ReLU and with tanh",
        source=HE_2016,
        paper="stated, no number",
        statistic=f"{LOSS}, shallowest residual net, no normalisation, normal(0.01), higher of relu and tanh",
        side="<",
        than=LEARNS,
        steps=STEPS,
    ),
    "sigmoid, plain, trained": gf.Claim(
        text="with sigmoid and no normalisation the shallowest plain net does not train, from any start",
        source=MEAN_FIELD,
        paper="sigmoid nets are never critical, no number",
        statistic=f"{LOSS}, shallowest plain net, no normalisation, sigmoid, lowest over the starts",
        side=">",
        than=LEARNS,
        steps=STEPS,
    ),
    "batch, residual, trained": gf.Claim(
        text="with batch norm the shallowest residual net trains, from every start with every activation",
        source="He et al. 2015 (arXiv:1512.03385), section 4.2",
        paper="for He's start and ReLU, no number for the others",
        statistic=f"{LOSS}, shallowest residual net, batch norm, highest over starts and activations",
        side="<",
        than=LEARNS,
        steps=STEPS,
    ),
}


def runs(preset, seeds=None, depth=None, **overrides):
    """Every combination from many seeds for one step, and the shallower ones trained at each rate from a few."""
    settings, (many, few) = PRESETS[preset] | overrides, SEEDS[preset]
    gf.check_law(**settings)
    read, trained = DEPTHS[preset] if depth is None else (depth, depth)
    rates = settings["learning_rate"]
    once = settings | {"steps": (1,), "evaluations": (0,), "learning_rate": rates[:1]}
    at_start = gf.grid(many if seeds is None else seeds, **{"depth": read, **once})
    return list(dict.fromkeys(at_start + gf.grid(few if seeds is None else seeds, **{"depth": trained, **settings})))


def parts(table):
    """The runs of one step, and those that were trained."""
    return table[table.steps == table.steps.min()], table[table.steps == table.steps.max()]


@functools.cache
def kernels(depth, width, parameters):
    """The shapes of a net's kernels from stem to classifier; grey images or coloured, by the number of parameters."""
    for channels in (1, 3):
        net = gf.nets.abstract("plain", depth=depth, width=width, normalisation="none", classes=10, channels=channels)
        layers = gf.nets.weighted_layers(gf.nets.split(net)[1])
        side = 2**5  # any will do
        shapes = [
            layers[point.name]["kernel"].shape
            for point in gf.nets.points_of(net, (side, side, channels))
            if point.name in layers
        ]
        if parameters is None or gf.count_parameters(net) == parameters:
            break
    return shapes


def courses(first):
    """What theory says of each net, by the settings `BY`: log10 gradient norm by position, or None."""
    first = first.drop_duplicates("run")  # settings alone are asked for
    plain = first[first.normalisation == "none"]
    width = None if first.width.isna().any() else int(first.width.iloc[0])
    found = {}
    for key in first[list(BY)].drop_duplicates().itertuples(index=False):
        counts = plain[plain.depth == key.depth].parameters
        shapes = kernels(int(key.depth), width, int(counts.iloc[0]) if len(counts) else None)
        found[tuple(key)] = gf.gradient_course(key.net, shapes, key.initialisation, key.normalisation, key.activation)
    return found


def decades_of(course, positions, depth):
    """The statistic of `gf.gradient_decades`, of a course at these positions; nan for fewer than two."""
    if course is None or len(positions) < 2:
        return np.nan
    return float(depth * np.polyfit(positions, [course[int(position)] for position in positions], 1)[0])


def theory(first):
    """Decades of whole nets by theory, by the settings `BY`; nan where there is no law."""
    found = {}
    for key, course in courses(first).items():
        units = [position for position in course or () if position % 2 and position < key[1] - 1]
        found[key] = decades_of(course, units, key[1])
    return found


def off(first):
    """By run how far the decades at step 1 lie from those of theory at the units that read a norm."""
    known, rows = courses(first), gf.spine(first, 1)
    rows = rows[(rows.value > 0) & np.isfinite(rows.value)]
    told = rows.groupby([*BY, "seed"]).position.apply(lambda at: tuple(sorted(at)))
    said = {key: decades_of(known[key[:-1]], positions, key[1]) for key, positions in told.items()}
    measured = gf.gradient_decades(first, step=1, by=BY)
    return (measured - np.array([said.get(key, np.nan) for key in measured.index])).abs()


def losses(trained):
    """The final loss over that of guessing by settings and seed, at the better rate; nan where a run gave none."""
    at_rates = gf.final_loss(trained, by=(*BY, "learning_rate"))
    return at_rates.groupby([*BY, "seed"]).agg(lambda values: values.min(skipna=False))


def over(series, fold, **chosen):
    """The numbers of several cells folded into one a seed: nothing where a cell is missing, nan where one has none."""
    chosen = {name: value if isinstance(value, tuple) else (value,) for name, value in chosen.items()}
    here = [series.index.get_level_values(name).isin(values) for name, values in chosen.items()]
    cells = series[np.logical_and.reduce(here)].unstack("seed")
    if len(cells) < np.prod([len(values) for values in chosen.values()]):
        return {}
    return {int(seed): float(fold(cells[seed].to_numpy())) for seed in cells}


def lowest(series):
    """The lowest number of each seed; nan where a run gave none."""
    return {int(seed): float(values.min(skipna=False)) for seed, values in series.groupby("seed")}


def verdict(table):
    """Each claim's worst cell, seed by seed."""
    first, trained = parts(table)
    decades, away, loss = gf.gradient_decades(first, step=1, by=BY), off(first), losses(trained)
    everywhere = {"activation": ACTIVATIONS, "initialisation": STARTS}
    deep = {"depth": int(first.depth.max()), "normalisation": "none", **everywhere}
    shallow = {"depth": int(trained.depth.min()), "normalisation": "none", **everywhere}
    small, gentle = {"initialisation": "normal(0.01)"}, {"activation": ("relu", "tanh")}
    batch = {"normalisation": "batch"}
    same = [
        over(decades, np.ptp, **deep | batch | {"net": net, "activation": activation})
        for net in NETS
        for activation in ACTIVATIONS
    ]
    told = theory(first)
    far = [key for key in told if told[key] > FAR]
    numbers = {
        **{
            f"plain, {activation}": over(away, np.max, **deep | {"net": "plain", "activation": activation})
            for activation in ACTIVATIONS
        },
        "residual": over(away, np.max, **deep | {"net": "residual"}),
        "plain, batch": over(away, np.max, **deep | {"net": "plain"} | batch),
        "residual, batch": over(away, np.max, **deep | {"net": "residual"} | batch),
        "batch, start": {seed: max(one[seed] for one in same) for seed in same[0]} if all(same) else {},
        "small, plain": over(decades, np.min, **deep | {"net": "plain"} | small),
        "small, residual": over(decades.abs(), np.max, **deep | {"net": "residual"} | small | gentle),
        "sigmoid, residual": over(decades, np.min, **deep | {"net": "residual", "activation": "sigmoid"}),
        "far": lowest(loss[[key[:-1] in far for key in loss.index]]),
        "small, plain, trained": over(loss, np.min, **shallow | {"net": "plain"} | small),
        "small, residual, trained": over(loss, np.max, **shallow | {"net": "residual"} | small | gentle),
        "sigmoid, plain, trained": over(loss, np.min, **shallow | {"net": "plain", "activation": "sigmoid"}),
        "batch, residual, trained": over(loss, np.max, **shallow | {"net": "residual"} | batch),
    }
    findings = tuple(gf.judge(claim, numbers[name], int(trained.steps.min())) for name, claim in CLAIMS.items())
    return gf.Verdict(title(told, loss), findings, facts(told, decades, loss))


def trains(loss):
    """By the settings `BY` whether a net trains from every seed."""
    return loss.groupby(list(BY)).agg(lambda values: bool((values < LEARNS).all()))


def title(told, loss):
    """How many nets of the deepest that were trained do, by what theory says of their gradient."""
    learnt = {key: good for key, good in trains(loss).items() if key[1] == loss.index.get_level_values("depth").max()}
    level = [good for key, good in learnt.items() if abs(told.get(key, np.nan)) <= 1]
    far = [good for key, good in learnt.items() if told.get(key, np.nan) > FAR]
    depth = max(key[1] for key in learnt)
    return (
        f"Of {len(learnt)} nets of {depth} layers {sum(learnt.values())} train: {sum(level)} of the {len(level)} whose "
        f"gradient theory calls level, {sum(far)} of the {len(far)} where it lets it fall by more than {FAR:g} decades"
    )


def facts(told, decades, loss):
    """The maps as numbers: decades at step 1 with those of theory, and final losses."""
    seen = {}
    for net, depth, normalisation in dict.fromkeys(key[:3] for key in told):
        words = f"{net}, {depth} layers, {NAMES[normalisation]}"
        means = cells(decades, net, depth, normalisation)
        seen[f"decades that the gradient falls by at step 1 (theory), {words}"] = {
            f"{activation} from {start}": f"{value:.2f} ({told[net, depth, normalisation, activation, start]:.2f})"
            for start, row in means.items()
            for activation, value in row.items()
        }
        if losses := cells(loss, net, depth, normalisation):
            seen[f"final loss over that of guessing, {words}"] = {
                f"{activation} from {start}": round(value, 3)
                for start, row in losses.items()
                for activation, value in row.items()
            }
    return seen


def cells(series, net, depth, normalisation):
    """Means over seeds by start and activation, of one net; nan where a seed gave no number."""
    found = {}
    for (a, b, c, activation, start), values in series.groupby(list(BY), sort=False):
        if (a, b, c) == (net, depth, normalisation):
            found.setdefault(start, {})[activation] = float(values.mean(skipna=False))
    starts, columns = in_order(STARTS, found), in_order(ACTIVATIONS, {name for row in found.values() for name in row})
    return {start: {name: found[start][name] for name in columns if name in found[start]} for start in starts}


def in_order(known, names):
    """These names, the known ones first and as they stand above."""
    return [*(name for name in known if name in names), *sorted(set(names) - {*known})]


def figure(table, verdict):
    """Maps: decades at step 1 measured and by theory, at every depth, and the final losses."""
    first, trained = parts(table)
    decades, loss = gf.gradient_decades(first, step=1, by=BY), losses(trained)
    told = pd.Series(theory(first)).rename_axis(list(BY))
    kinds = [
        (net, one)
        for net in NETS
        for one in NORMALISATIONS
        if ((table.net == net) & (table.normalisation == one)).any()
    ]
    starts, activations = (
        in_order(known, first[name].unique())
        for known, name in ((STARTS, "initialisation"), (ACTIVATIONS, "activation"))
    )
    deepest, depths = int(first.depth.max()), sorted(int(depth) for depth in trained.depth.unique())
    regimes = {
        f"{net}, {NAMES[one]}, {how}": cells(series, net, deepest, one)
        for how, series in (("seen", decades), ("theory", told))
        for net, one in kinds
    }
    maps = {
        (net, one, depth): cells(decades, net, depth, one)
        for net, one in kinds
        for depth in sorted(first.depth.unique())
    }
    by_depth = {
        f"{net}, {NAMES[one]}, {activation}": {
            start: {
                f"{depth}": rows.get(start, {}).get(activation, np.nan)
                for (*kind, depth), rows in maps.items()
                if kind == [net, one]
            }
            for start in starts
        }
        for net, one in kinds
        for activation in activations
    }
    trained_maps = {
        f"{net}-{depth}, {NAMES[one]}": cells(loss, net, depth, one) for depth in depths for net, one in kinds
    }
    layers = " or ".join(str(depth) for depth in sorted(first.depth.unique()))
    falls = "Decades by which the gradient falls on its way to the input (brown; below 0, green: it grows). "
    ends = f"Final loss over that of guessing, at the better rate (green: below {LEARNS:g} in the mean, it trains). "
    note = gf.plot.caption(first)
    return {
        "trains": gf.charts.heat(
            trained_maps, len(kinds), title=verdict.title, note=ends + "\n" + gf.plot.caption(trained),
            form="{:.2f}", centre=LEARNS, span=LEARNS,
        ),
        "regimes": gf.charts.heat(
            regimes, len(kinds), f"What {deepest} layers do to the gradient before training", falls + "\n" + note
        ),
        "depths": gf.charts.heat(
            by_depth, len(activations), f"What {layers} layers do to the gradient before training",
            falls + "\n" + note,
        ),
    }  # fmt: skip
