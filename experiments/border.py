"""How much of a vanishing gradient is the border's: zeros around small maps take from it what depth does not.

He's initialisation counts on full windows. Where a 3x3 window reaches over the edge of a map, zeros stand for what is
not there, so along one axis a pixel at the edge hands on two thirds of its squared gradient, not all of it. On a map of
2x2 every pixel is at the edge, and each layer loses a third of the norm. What a whole net loses follows from the sides
of its maps alone (`gradflow.border_decades`). Circular padding joins the edges, so that every window is full: what is
left then is depth's. Both are read in the same plain nets of 56 layers without normalisation, at step 1, on images of
three sizes (smaller ones are enlarged by repeating pixels).
"""

from typing import Any

import numpy as np

import gradflow as gf

GRID: dict[str, Any] = {
    "net": ("plain",),
    "depth": (56,),
    "normalisation": ("none",),
    "image_size": (8, 16, 32),
    "padding": ("zero", "circular"),
    "width": (16, 32),
    "steps": (1,),
    "batch": (64,),
    "evaluations": (0,),
    "seeds": 5,
}
PRESETS = {
    "smoke": GRID | {"depth": (8,), "image_size": (8, 16), "width": (8,), "seeds": 2},
    "default": GRID,
    "full": GRID | {"seeds": 10, "batch": (128,)},
}
BY = ("image_size", "width", "padding")
MARGIN = 0.5  # decades over the whole net: half of what is called level
LOST = "decades by which the norm is smaller at the first unit than at the last, step 1"
CLAIMS = {
    "small": gf.Claim(
        text="on the smallest images zero padding makes the gradient vanish",
        source="this suite; He et al. 2015 (arXiv:1502.01852), equation 14, counts on full windows",
        paper="none",
        statistic=f"{LOST}, smallest images, zero padding, narrowest net",
        side=">",
        than=1.0,
    ),
    "depth": gf.Claim(
        text="without a border it stays level: depth does nothing to it",
        source="He et al. 2015 (arXiv:1502.01852), section 2.2",
        paper="factor 1 a layer",
        statistic=f"{LOST}, smallest images, circular padding, narrowest net",
        side="=",
        margin=MARGIN,
    ),
    "predicted": gf.Claim(
        text="the border's part is what the true fan of each window predicts",
        source="gradflow.border_decades",
        paper="none; a closed form",
        statistic=f"{LOST}, zero - circular padding, minus the prediction, smallest images, narrowest net",
        side="=",
        margin=MARGIN,
    ),
    "size": gf.Claim(
        text="and so on the largest images, where it is small",
        source="gradflow.border_decades",
        paper="none; a closed form",
        statistic=f"{LOST}, zero - circular padding, minus the prediction, largest images, narrowest net",
        side="=",
        margin=MARGIN,
    ),
    "width": gf.Claim(
        text="it does not depend on the width",
        source="gradflow.border_decades",
        paper="none; a closed form",
        statistic=f"{LOST}, zero - circular padding, widest - narrowest net, smallest images",
        side="=",
        margin=MARGIN,
    ),
}


def runs(preset, **overrides):
    """All combinations: the same weights with either padding, one step each."""
    return gf.grid(**(PRESETS[preset] | overrides))


def lost(table):
    """Decades by run: of the norm at the last unit over that at the first; positive where the gradient vanishes."""
    ends = gf.spine(table, 1).groupby([*BY, "seed"]).value.agg(["first", "last"])
    return np.log10(ends["last"] / ends["first"])


def predicted(table, size):
    """What the border takes between the last unit and the first, in decades, by the sides of the maps between."""
    net = gf.nets.build("plain", depth=int(table.depth.max()), width=1, classes=10, channels=1, seed=0)
    points = gf.nets.points_of(net, (int(size), int(size), 1))
    units = [point for point in points if point.name.startswith("block") and "/" not in point.name]
    between = [point for point in points if "/conv" in point.name and point.position <= units[-1].position]
    return gf.border_decades([point.shape[1] for point in (units[0], *between)])


def verdict(table):
    """The border's part by size and width, seed by seed, beside the prediction."""
    decades, sizes, widths = lost(table), sorted(table.image_size.unique()), sorted(table.width.unique())

    def at(size, width, padding):
        return gf.per_seed(decades, image_size=size, width=width, padding=padding)

    def border(size, width):
        return gf.difference(at(size, width, "zero"), at(size, width, "circular"))

    def off(size):
        return {seed: value - predicted(table, size) for seed, value in border(size, widths[0]).items()}

    small, narrow = sizes[0], widths[0]
    numbers = {
        "small": at(small, narrow, "zero"),
        "depth": at(small, narrow, "circular"),
        "predicted": off(small),
        "size": off(sizes[-1]),
        "width": gf.difference(border(small, widths[-1]), border(small, narrow)),
    }
    findings = {name: gf.judge(claim, numbers[name], 1) for name, claim in CLAIMS.items()}
    mean = decades.groupby(list(BY)).mean()
    facts: dict[str, Any] = {
        f"decades lost, {padding} padding, width {width}": {
            f"{size:g}x{size:g}": float(mean[size, width, padding]) for size in sizes
        }
        for padding in ("zero", "circular")
        for width in widths
        if all((size, width, padding) in mean for size in sizes)
    }
    facts["decades that the border takes, predicted"] = {f"{size:g}x{size:g}": predicted(table, size) for size in sizes}
    zero, circular = (findings[name].mean for name in ("small", "depth"))
    title = "Not enough runs finished to say"
    if zero is not None and circular is not None:
        title = (
            f"On images of {small:g}x{small:g} pixels {int(table.depth.max())} layers change the gradient by "
            f"{gf.format_ratio(10**-zero)} with zeros around the maps, by {gf.format_ratio(10**-circular)} without"
        )
    return gf.Verdict(title, tuple(findings.values()), facts)


def figure(table, verdict):
    """Gradient norms by size and padding, and the border's part against the size, measured and predicted."""
    narrow = table[table.width == table.width.min()]
    decades = lost(narrow)
    lines = {
        padding: {
            size: [float(value) for value in decades.xs((size, padding), level=("image_size", "padding"))]
            for size in sorted(narrow.image_size.unique())
        }
        for padding in ("zero", "circular")
    }
    lines = {f"{padding} padding": numbers for padding, numbers in lines.items()}
    lines["predicted for zero padding"] = {
        size: [predicted(table, size)] for size in sorted(narrow.image_size.unique())
    }
    return {
        "gradient_norm": gf.plot.gradient_curves(
            narrow.assign(net=narrow.padding + " padding"), title=verdict.title, note=gf.plot.caption(narrow)
        ),
        "border": gf.charts.lines(
            {f"plain, {int(table.depth.max())} layers, step 1": lines},
            across="side of the images (pixels)",
            up="decades that the gradient loses",
            note=gf.plot.caption(narrow),
            log_x=True,
        ),
    }
