"""A residual net is a sum: what each unit adds to it, and how far an early activation reaches through it.

In a pre-activation net x_L = x_1 + sum F(x_i), and the derivative by an early x_l is 1 + d/dx_l sum F (He et al. 2016,
arXiv:1603.05027, equations 4 and 5); a plain net is a product. Where the maps get smaller the shortcut drops pixels
and pads channels (option A): there the 1 is that map, and each term is carried to the end by those that follow.

*Influence* of x_l on x_m is |d x_m / d x_l|, the Frobenius norm over sqrt(entries of x_m), for each image, root mean
square over images: an identity has 1, half of whose pixels are dropped 0.7. Plain and residual nets of one depth have
the same weights at the start, and both convolve after norm and ReLU. Batch norm uses the statistics of the images that
are looked at, held fixed, so that one image does not act on another. Padding is circular, so that no map has a border.

The laws are counted with wide layers in mind. *Small weights* (Glorot, no normalisation): a layer keeps
c_in / (c_in + c_out) of the squared influence, half where the width stays (He et al. 2015, arXiv:1502.01852, section
2.2), so a plain net loses 0.15 decades a layer; in a residual net a unit's two paths add up, 1 + 1/4 where the width
stays, 1/2 + 1/6 where it doubles. *Batch norm*: a plain layer multiplies it by pi / (pi - 1) (Yang et al. 2019,
arXiv:1902.08129), 0.083 decades a layer.
"""

import functools
import math
from typing import Any

import numpy as np
import pandas as pd

import gradflow as gf

STARTS = {
    "small weights": {"initialisation": "glorot", "normalisation": "none"},
    "batch norm": {"initialisation": "he", "normalisation": "batch"},
}
NETS = ("plain", "residual")
DEFAULT: dict[str, Any] = {
    "depth": (18, 34, 56),
    "width": 16,
    "steps": 100,
    "batch": 32,
    "learning_rate": 0.01,
    "data": "digits",
    "image_size": None,
    "seeds": 3,
    "images": 16,
    "probes": 8,
}
PRESETS = {
    "smoke": DEFAULT | {"depth": (8,), "width": 4, "steps": 2, "batch": 16, "seeds": 2, "images": 4, "probes": 2},
    "default": DEFAULT,
    "full": DEFAULT | {"depth": (18, 34, 56, 110), "steps": 1000, "batch": 128, "seeds": 10, "probes": 16},
}
GIVEN = ("depth", "width", "steps", "batch", "learning_rate", "data", "image_size", "seeds")
CHAIN = (1e-4, 1e-2) * 3  # the factors of the lecture notes, again and again
HE = "He et al. 2016 (arXiv:1603.05027)"
OFF = "of the first unit's input on the last unit's output"
CLAIMS = {
    "sum, before": gf.Claim(
        text="before training x_L is x_1 and what the units add, to rounding, at every unit of every residual net",
        source=f"{HE}, equation 4",
        paper="an identity",
        statistic="largest |x - sum of terms| over the bound for adding so many numbers one by one (Higham 2002, 4.2)",
        side="<",
        than=1.0,
    ),
    "sum, after": gf.Claim(
        text="and after training, in all that did not diverge",
        source=f"{HE}, equation 4",
        paper="an identity",
        statistic="the same after the last step",
        side="<",
        than=1.0,
    ),
    "derivative": gf.Claim(
        text="the derivative is the identity's and those of the branches, added up, before and after training",
        source=f"{HE}, equation 5",
        paper="an identity",
        statistic="largest distance of 1 + d/dx_1 sum F, applied to random vectors, from d x_L / d x_1, relative to it",
        side="<",
        than=1e-4,
    ),
    "estimators": gf.Claim(
        text="forwards and backwards the influence is the same",
        source="Hutchinson 1990: |J|_F^2 is the mean of |J v|^2 and of |J^T u|^2",
        paper="an identity, in the mean",
        statistic="log10 of the influence on the output by J v over that by J^T u, mean over all units of all nets",
        side="=",
        margin=0.05,
    ),
    "small, plain": gf.Claim(
        text="from small weights the plain net's first activation does not reach the last: it is a product",
        source="He et al. 2015 (arXiv:1502.01852), section 2.2",
        paper="2^(-1/2) a layer",
        statistic=f"log10 influence {OFF}, before training, deepest plain net, minus that of the law",
        side="=",
        margin=1.0,
    ),
    "small, residual": gf.Claim(
        text="in its residual twin it reaches: it is a sum",
        source=f"{HE}, equation 5; (1 + 1/4)^(1/2) a unit",
        paper="does not vanish even for arbitrarily small weights, no number",
        statistic=f"log10 influence {OFF}, before training, deepest residual net, minus that of the law",
        side="=",
        margin=0.5,
    ),
    "batch norm, plain": gf.Claim(
        text="with batch norm the plain net's influence explodes",
        source="Yang et al. 2019 (arXiv:1902.08129)",
        paper="sqrt(pi / (pi - 1)) a layer in large batches",
        statistic=f"log10 influence {OFF}, before training, deepest plain net, minus that of the law",
        side="=",
        margin=1.0,
    ),
    "batch norm, both": gf.Claim(
        text="and its residual twin's is smaller by more than a decade: it grows like a power of depth",
        source="De and Smith 2020 (arXiv:2002.10444): batch norm keeps the branches small beside the sum",
        paper="no number",
        statistic=f"log10 influence {OFF}, before training, deepest nets, plain - residual",
        side=">",
        than=1.0,
    ),
    "trained, identity": gf.Claim(
        text="training does not cancel the identity: each activation acts on the last at least half as the 1 alone",
        source=f"{HE}, after equation 5: the sum's derivative is not always -1",
        paper="stated, no number",
        statistic="smallest log10 of influence over that of the shortcuts alone, all units of the deepest residual net "
        "with batch norm, after training",
        side=">",
        than=math.log10(0.5),
        steps=DEFAULT["steps"],
    ),
    "trained, plain": gf.Claim(
        text="what small weights lost in the shallowest plain net, training does not bring back",
        source="He et al. 2015 (arXiv:1502.01852), section 2.2: a 30-layer net from Glorot's weights stalls",
        paper="no number",
        statistic=f"log10 influence {OFF}, after training, shallowest plain net from small weights",
        side="<",
        than=-1.0,
        steps=DEFAULT["steps"],
    ),
}


def measure(preset, folder, **given):
    """Each net before and after training, taken apart: a row a run, and a row a number."""
    del folder  # nothing is kept but the tables
    settings = PRESETS[preset] | {name: _one(name, value) for name, value in given.items()}
    if settings["seeds"] < 1 or not settings["depth"]:
        raise gf.BadInput(f"seeds {settings['seeds']} is not legal: it must be at least 1")
    images = _images(settings)
    runs, readings = [], []
    for start, how in STARTS.items():
        for net in NETS:
            for depth in settings["depth"]:  # seeds innermost: a net is compiled once for all of them
                for seed in range(settings["seeds"]):
                    names = ("width", "steps", "batch", "learning_rate", "data", "image_size")
                    more: dict[str, Any] = {name: settings[name] for name in names} | how
                    run = gf.Run(
                        net=net, depth=depth, seed=seed, order="pre", padding="circular", evaluations=1, **more
                    )
                    name = f"{start.replace(' ', '-')}-{net}-{depth}-seed{seed}"
                    rows, status = _take_apart(run, images, settings)
                    runs.append({"run": name, **run.settings, "start": start, "status": status, "last_step": run.steps})
                    readings += [(name, *row) for row in rows]
    columns = ["run", "step", "layer", "position", "quantity", "value"]
    return pd.DataFrame(runs), pd.DataFrame(readings, columns=columns)


def _one(name, value):
    """A setting as the user gave it; all but depth are one value."""
    if name not in GIVEN:
        raise gf.BadInput(f"unrolling has no setting {name!r}: it takes {', '.join(GIVEN)}")
    if name in ("depth", "seeds") or not isinstance(value, (tuple, list)):
        return value
    if len(value) != 1:
        raise gf.BadInput(f"unrolling takes one {name} at a time, not {', '.join(map(str, value))}")
    return value[0]


def _images(settings):
    """Training images as a run normalises them, each channel to mean 0 and deviation 1."""
    data = gf.load_data(settings["data"], settings["image_size"])
    pixels = data.train_images / np.float64(255)
    images = (pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))
    return images[: settings["images"]].astype(np.float32), len(data.classes)


def _take_apart(run, images, settings):
    """The rows of one run, before and after training, and how it ended."""
    images, classes = images
    made = dict(run.net_settings)
    net = gf.nets.build(run.net, classes=classes, channels=images.shape[-1], seed=run.seed, **made)
    readings: list[gf.Reading] = []
    trained = gf.trained(run, watch=readings.append)
    rows = [(one.step, "", -1, name, getattr(one, name)) for one in readings for name in ("loss", "train_error")]
    rows += [(run.steps, "", -1, "test_error", readings[-1].test_error)]
    finite = all(one.finite for one in readings)
    for step, some in ((0, net), (run.steps, trained)):
        if step == 0 or finite:
            rows += [(step, *row) for row in _numbers(some, images, settings["probes"])]
    return rows, "done" if finite else "diverged"


def _numbers(net, images, probes):
    """What `unroll` and `influence` say, as (layer, position, quantity, value)."""
    place = {point.name: point.position for point in gf.nets.points_of(net, images.shape[1:])}
    found, total = gf.influence(net, images, probes), gf.unroll(net, images)
    names = found.names
    last = max(position for name, position in place.items() if name.startswith(names[-1]))
    after = dict(zip(names, [*(place[name] for name in names[1:]), last], strict=True))
    columns = {"influence": found.total, "influence_forward": found.forward}
    if hasattr(net, names[0]) and getattr(net, names[0]).shortcut:
        columns |= {"identity_influence": found.identity, "branch_influence": found.branches}
        columns |= {"term_influence": found.terms, "share": total.shares[1:]}
        yield "", -1, "derivative_error", found.error
        yield "stem", place[names[0]], "share", total.shares[0]
        yield from ((name, after[name], "sum_error", error) for name, error in zip(names, total.errors, strict=True))
    for quantity, values in columns.items():
        yield from ((name, place[name], quantity, value) for name, value in zip(names, values, strict=True))
    for source, row in zip(names, found.reach, strict=True):  # the output of a unit is the next one's input
        for unit, value in zip(names, row, strict=True):
            if np.isfinite(value):
                yield unit, after[unit], f"influence_of_{source}", value


@functools.cache
def law(start, net, depth) -> Any:
    """log10 of the influence of each unit's input on the last one's output before training, by the laws above.

    None for a residual net with batch norm, which has none here. The width does not matter, only where it doubles.
    """
    if (start, net) == ("batch norm", "residual"):
        return None
    built: Any = gf.nets.build(net, depth=int(depth), width=1, classes=2, channels=1, order="pre", seed=0)
    kept = []
    for small, large in (getattr(built, name).conv1.kernel.shape[2:] for name in built.units):
        branch = small / (small + large) / 2 if start == "small weights" else (math.pi / (math.pi - 1)) ** 2
        kept.append(branch if net == "plain" else branch + small / large)
    return list(np.log10(np.cumprod(kept[::-1])[::-1]) / 2)


def at(table, quantity, after):
    """The rows of a quantity before or after training. Raises `BadInput` where these were not recorded."""
    found = table[(table.quantity == quantity) & ((table.step > 0) == after)]
    if found.empty:
        raise gf.BadInput(f"{quantity} was not recorded {'after' if after else 'before'} training: run unrolling again")
    return found


def ends(table, quantity, after):
    """log10 of a quantity at the first unit, by start, net, depth and seed."""
    rows = at(table, quantity, after).sort_values("position", kind="stable")
    return np.log10(rows.groupby(["start", "net", "depth", "seed"]).value.first())


def verdict(table):
    """The sum, its derivative, and the influence of the first activation on the last, beside the laws."""
    deepest, shallowest = int(table.depth.max()), int(table.depth.min())
    before, after = ends(table, "influence", False), ends(table, "influence", True)
    small, batch = STARTS

    def first(start, net, numbers=before, depth=deepest):
        return gf.per_seed(numbers, start=start, net=net, depth=depth)

    def off(start, net):
        return {seed: value - law(start, net, deepest)[0] for seed, value in first(start, net).items()}

    def largest(quantity, after=None):
        rows = table[table.quantity == quantity]
        rows = rows if after is None else at(rows, quantity, after)
        return rows.groupby("seed").value.max().to_dict()

    forward, backward = (table[table.quantity == name] for name in ("influence_forward", "influence"))
    keys = ["run", "step", "layer"]
    apart = np.log10(forward.set_index(keys).value / backward.set_index(keys).value)
    seeds = table.drop_duplicates("run").set_index("run").seed
    of_seed = apart.groupby(apart.index.get_level_values("run").map(seeds)).mean()
    kept = table[(table.step > 0) & (table.start == batch) & (table.net == "residual") & (table.depth == deepest)]
    kept = kept.pivot_table(index=["seed", "layer"], columns="quantity", values="value")
    over = np.log10(kept.influence / kept.identity_influence).groupby("seed").min()
    numbers = {
        "sum, before": largest("sum_error", False),
        "sum, after": largest("sum_error", True),
        "derivative": largest("derivative_error"),
        "estimators": of_seed.to_dict(),
        "small, plain": off(small, "plain"),
        "small, residual": off(small, "residual"),
        "batch norm, plain": off(batch, "plain"),
        "batch norm, both": gf.difference(first(batch, "plain"), first(batch, "residual")),
        "trained, identity": over.to_dict(),
        "trained, plain": first(small, "plain", after, shallowest),
    }
    steps = int(table.steps.min())
    findings = tuple(gf.judge(claim, numbers[name], steps) for name, claim in CLAIMS.items())
    return gf.Verdict(title(before, deepest), findings, facts(table, before, after))


def title(before, depth):
    """What reaches the end of the deepest nets, in one line."""
    words = []
    for start in STARTS:
        means = [before.get((start, net, depth)) for net in NETS]
        if all(mean is not None for mean in means):
            words.append(f"{start} " + " and ".join(gf.format_ratio(10 ** mean.mean()) for mean in means))
    return (
        f"What the first of {depth} layers still does to the last, plain (a product) and residual (a sum): "
        + "; ".join(words)
    )


def facts(table, before, after):
    """Influence before and after training with the law, shares, and how training ended."""
    seen: dict[str, Any] = {}
    for start in STARTS:
        for net in NETS:
            for when, numbers in (("before", before), ("after", after)):
                means = numbers.groupby(["start", "net", "depth"]).mean()
                seen[f"log10 influence of the first on the last, {when} training, {start}, {net}"] = {
                    str(depth): float(means[start, net, depth])
                    for depth in sorted(table.depth.unique())
                    if (start, net, depth) in means
                }
            if law(start, net, int(table.depth.min())) is not None:
                seen[f"the same by the law, {start}, {net}"] = {
                    str(depth): law(start, net, int(depth))[0] for depth in sorted(table.depth.unique())
                }
    shares = table[table.quantity == "share"]
    for (start, step), rows in shares.groupby(["start", "step"]):
        first = rows[rows.layer == "stem"].groupby("depth").value.mean()
        most = rows[rows.layer != "stem"].groupby(["depth", "run"]).value.max().groupby("depth").mean()
        when = "after" if step else "before"
        seen[f"share of x_1 in x_L, {when} training, {start}"] = {str(d): float(v) for d, v in first.items()}
        seen[f"largest share of a unit, {when} training, {start}"] = {str(d): float(v) for d, v in most.items()}
    loss = gf.final_error(table, by=["start", "net", "depth"]).groupby(["start", "net", "depth"]).mean()
    for start in STARTS:
        for net in NETS:
            known = {str(key[2]): float(value) for key, value in loss.items() if key[:2] == (start, net)}
            seen[f"final training error, {start}, {net}"] = known
    return seen


def figure(table, verdict):
    """Influence along depth, the chain of activations as a map, the shares of the sum, and the scalar chain."""
    note = gf.plot.caption(table)
    what = "Influence: |d x_m / d x_l|, Frobenius norm over sqrt(entries of x_m), rms over images; 1 is an identity's."
    guides = "Dotted: plain, the law; residual, what the shortcuts alone hand on. At each line: depth."
    through = (
        "Those of one depth add up, as vectors, with what the shortcuts hand on, to the whole. At each line: depth."
    )
    share = "A term's share is <term, x_L> / |x_L|^2. That of x_1 is leftmost; with the units' they add up to 1."
    position = "layer position of x_l (input \N{RIGHTWARDS ARROW} output)"
    panels = [
        [_panel(table, "influence", start, net, after) for net in NETS] for start in STARTS for after in (False, True)
    ]
    shallowest, deepest = int(table.depth.min()), int(table.depth.max())
    return {
        "influence": gf.charts.depth_curves(
            panels,
            across=position,
            up="influence on the last activation",
            title=verdict.title,
            note=f"{what} {guides}\n{note}",
        ),
        "chain": gf.charts.reach(
            _maps(table, shallowest), title=_chain_title(table, shallowest), note=f"{what}\n{note}"
        ),
        "reach": gf.charts.reach(_maps(table, deepest), title=f"The same in {deepest} layers", note=f"{what}\n{note}"),
        "shares": gf.charts.depth_curves(
            _residual(table, "share"),
            across="layer position at which the term enters",
            up="share of the last activation",
            title="What each unit's branch adds to the last activation of a residual net",
            note=f"{share} At each line: depth.\n{note}",
            log=False,
        ),
        "terms": gf.charts.depth_curves(
            _residual(table, "term_influence"),
            across="layer position of the unit's input",
            up="influence of x_1 on x_L by that branch",
            title="Through which branches a change of the first activation comes to the last",
            note=f"{through}\n{note}",
        ),
        "scalar_chain": _scalar_chain(),
    }


def _panel(table, quantity, start, net, after):
    """A panel of `gf.charts.depth_curves`: a line a depth, and beside the deepest net what it is compared with."""
    steps, deepest = int(table.steps.max()), int(table.depth.max())
    rows = table[(table.quantity == quantity) & (table.start == start) & (table.net == net)]
    rows = rows[(rows.step > 0) == after]
    if quantity == "share":  # a unit's term enters at its output, two layers on
        rows = rows.assign(position=rows.position + 2 * (rows.layer != "stem"))
    curves = {
        f"{depth:g}": {x: list(values) for x, values in some.groupby("position").value}
        for depth, some in rows.groupby("depth")
    }
    guides = {}
    if quantity == "influence" and net == "plain" and not after:
        places = sorted(rows[rows.depth == deepest].position.unique())
        heights = law(start, net, deepest)
        guides["law"] = {x: [10**y] for x, y in zip(places, heights, strict=False)}
    elif quantity == "influence" and net == "residual":
        alone = table[(table.quantity == "identity_influence") & (table.start == start) & (table.depth == deepest)]
        alone = alone[(alone.step > 0) == after]
        guides["identity"] = {x: list(values) for x, values in alone.groupby("position").value}
    when = f"after {steps} step{'s' * (steps != 1)}" if after else "before training"
    return f"{net}, {start}, {when}", net, curves, guides


def _residual(table, quantity):
    """Panels of the residual nets: a row a start, before and after training."""
    return [[_panel(table, quantity, start, "residual", after) for after in (False, True)] for start in STARTS]


def _reach(table, start, net, depth, after):
    """The influence of x_l on x_m at [l - 1, m - 2], geometric mean over seeds; nan where m <= l."""
    rows = table[(table.start == start) & (table.net == net) & (table.depth == depth) & ((table.step > 0) == after)]
    rows = rows[rows.quantity.str.startswith("influence_of_") & (rows.value > 0)].sort_values(
        ["run", "quantity", "step"]
    )
    rows = rows.assign(value=np.log(rows.value), source=rows.quantity.str.removeprefix("influence_of_"))
    return np.exp(rows.pivot_table(index="source", columns="position", values="value")).to_numpy()


def _maps(table, depth):
    """Panels of `gf.charts.reach`, plain beside residual: small weights before training, batch norm after it."""
    chosen = (("small weights", False, "before training"), ("batch norm", True, "after training"))
    rows = [
        [(f"{net}, {depth} layers, {start}, {when}", net, _reach(table, start, net, depth, after)) for net in NETS]
        for start, after, when in chosen
    ]
    return [row for row in rows if all(values.size for *_, values in row)]


def _chain_title(table, depth):
    """How far the first activation reaches, in words."""
    plain, residual = (_reach(table, "small weights", net, depth, False) for net in NETS)
    if not (plain.size and residual.size):
        return "Not enough runs finished to say"
    words = [gf.format_ratio(values[0, -1]) for values in (plain, residual)]
    return (
        f"From small weights the first of {len(plain)} units acts on the last by {words[0]} in a product, "
        f"by {words[1]} in a sum"
    )


def _scalar_chain():
    """Units of one number each: what is left of a change of the input, and of a change of the first factor."""
    counts = range(1, len(CHAIN) + 1)
    chains = {count: gf.scalar_chain(CHAIN[:count]) for count in counts}
    product, total = "plain: product", "residual: sum"
    panels: Any = {
        "d output / d input": {
            product: {count: [chain.product] for count, chain in chains.items()},
            total: {count: [chain.total] for count, chain in chains.items()},
        },
        "d output / d first factor": {
            product: {count: [chain.product_gradient[0]] for count, chain in chains.items()},
            total: {count: [chain.total_gradient[0]] for count, chain in chains.items()},
        },
    }
    factors = ", ".join(f"{factor:g}" for factor in CHAIN)
    return gf.charts.lines(
        panels,
        across="units in the chain",
        up="gradient",
        title=f"A product of {len(CHAIN)} small numbers is gone, a sum that begins with 1 is not",
        note=f"Units F(x) = a x with a = {factors}; plain x <- F(x), residual x <- x + F(x). In closed form "
        "(gf.scalar_chain).",
        log_y=True,
    )
