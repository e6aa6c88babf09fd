"""How often `gradflow diagnose` names the fault of a net that was built to have that one and no other.

Each net has one planted fault, or none, at a random strength: weights that make its gradient vanish or explode by so
many decades, sigmoids that saturate, zeros around small maps, batch norm in a deep plain net, a residual sum without
normalisation, layers so narrow that a ReLU net is born dead (Lu et al. 2019, arXiv:1903.06733), a rate that is far too
large or far too small. A seed draws the strengths, the weights and the batches of its own set of nets. The rules were
written before these nets were drawn, and none of their thresholds was fitted to them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

import gradflow as gf

STEPS, COUNT, SEEDS = 60, 4, 5
COMMON = {"data": "digits", "batch": 32, "steps": STEPS, "evaluations": 0, "schedule": "constant"}
PRESETS = {
    "smoke": {"steps": (2,), "batch": (8,)},
    "default": {},
    "full": {"batch": (128,)},
}
SIZES = {"smoke": (2, 1), "default": (SEEDS, COUNT), "full": (10, 10)}  # seeds, nets of each kind a seed
MOST = max(count for _, count in SIZES.values())
CONVOLUTIONS = {"net": "plain", "normalisation": "none", "padding": "circular", "width": 8}
PERCEPTRON = {"net": "mlp", "normalisation": "none", "width": 64}


def sound(draw: Any) -> dict[str, Any]:
    """A net without a fault: level at the start, of few layers, at a usual rate."""
    nets = [
        CONVOLUTIONS | {"depth": 8, "width": 16},
        CONVOLUTIONS | {"depth": 8, "normalisation": "batch"},
        CONVOLUTIONS | {"depth": 10, "net": "residual", "normalisation": "batch"},
        PERCEPTRON | {"depth": int(draw.integers(4, 9))},
        PERCEPTRON | {"depth": int(draw.integers(4, 9)), "activation": "tanh", "initialisation": "lecun"},
    ]
    return nets[draw.integers(len(nets))] | {"learning_rate": _number(10 ** draw.uniform(-2.3, -1.7))}


def scaled(sign: int, most: float) -> Callable[[Any], dict[str, Any]]:
    """A net whose weights change the gradient by 1.5 to `most` decades: 10^(-decades / depth) times those of He."""

    def draw_one(draw):
        depth, decades = 2 * int(draw.integers(6, 16)), sign * draw.uniform(1.5, most)
        gain = _number(10 ** (-decades / depth))
        if sign > 0 and draw.random() < 1 / 3:
            own = PERCEPTRON | {"activation": "tanh", "initialisation": f"lecun({gain})"}
        else:
            own = (PERCEPTRON if draw.random() < 1 / 2 else CONVOLUTIONS) | {"initialisation": f"he({gain})"}
        return own | {"depth": depth, "learning_rate": _usual(draw)}

    return draw_one


def saturated(draw: Any) -> dict[str, Any]:
    """Sigmoids whose weights would be large enough for the flattest of them, were their responses near 0."""
    gain = _number(draw.uniform(4, 6))
    own = {"activation": "sigmoid", "initialisation": f"lecun({gain})", "depth": int(draw.integers(14, 25))}
    return PERCEPTRON | own | {"learning_rate": _usual(draw)}


def bordered(draw: Any) -> dict[str, Any]:
    """He's weights in so many layers that the border of 8x8 maps alone takes 1.5 decades or more."""
    return CONVOLUTIONS | {"padding": "zero", "depth": 2 * int(draw.integers(13, 21)), "learning_rate": _usual(draw)}


def normalised(draw: Any) -> dict[str, Any]:
    """Batch norm in a plain net that is deep enough for its law to make 1.5 decades or more."""
    own = {"normalisation": "batch", "depth": 2 * int(draw.integers(9, 19)), "learning_rate": _usual(draw)}
    return CONVOLUTIONS | own


def summed(draw: Any) -> dict[str, Any]:
    """A residual net without normalisation, deep enough for its law to make 1.5 decades or more."""
    return CONVOLUTIONS | {"net": "residual", "depth": 2 * int(draw.integers(11, 21)), "learning_rate": _usual(draw)}


def dead(draw: Any) -> dict[str, Any]:
    """A deep ReLU net of one or two units a layer, of which hardly one is not born dead."""
    own = {"width": int(draw.integers(1, 3)), "depth": int(draw.integers(30, 41)), "learning_rate": _usual(draw)}
    return PERCEPTRON | own


def fast(draw: Any) -> dict[str, Any]:
    """A sound perceptron at 100 to 10,000 times a usual rate."""
    return PERCEPTRON | {"depth": int(draw.integers(4, 9)), "learning_rate": _number(10 ** draw.uniform(0, 2))}


def slow(draw: Any) -> dict[str, Any]:
    """A sound net at a thousandth to a hundred-thousandth of a usual rate."""
    own = PERCEPTRON if draw.random() < 1 / 2 else CONVOLUTIONS
    return own | {"depth": 8, "learning_rate": _number(10 ** draw.uniform(-7, -5))}


def _usual(draw):
    return _number(10 ** draw.uniform(-3, -2))


def _number(value):
    """Three digits, so that a table gives back what was drawn."""
    return float(f"{value:.3g}")


HEALTHY, UNKNOWN = "healthy", "not known"
FAULTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    HEALTHY: sound,
    "weights too small for their fan-in": scaled(1, 8),
    "weights too large for their fan-in": scaled(-1, 5),
    "saturated units": saturated,
    "the border of small maps": bordered,
    "batch norm at the start": normalised,
    "the sum of the residual branches": summed,
    "dead units": dead,
    "the rate is too large": fast,
    "the rate is too small": slow,
}
CLAIMS = {
    "right": gf.Claim(
        text="of the nets more than 80 % are told right: their one fault, or that they are healthy",
        source="this suite; laws of He 2015, Yang 2019, gradflow.border_decades, and Polyak's step",
        paper="none",
        statistic="share of a seed's nets whose first likely cause is the planted one",
        side=">",
        than=0.8,
        steps=STEPS,
    ),
    "wrong": gf.Claim(
        text="a cause that is not there is named for fewer than 10 %: where it does not know it says so",
        source="this suite",
        paper="none",
        statistic="share of a seed's nets for which another cause than the planted one is named first",
        side="<",
        than=0.1,
        steps=STEPS,
    ),
}


def drawn(seed, count):
    """The nets of a seed: which fault, and the settings."""
    for place, (fault, draw_one) in enumerate(FAULTS.items()):
        for number in range(count):
            yield fault, COMMON | draw_one(np.random.default_rng([seed, place, number]))


def runs(preset, seeds=None, **overrides):
    """Every fault at several strengths, drawn anew for each seed."""
    several, count = SIZES[preset]
    found = []
    for seed in range(several if seeds is None else seeds):
        for _, own in drawn(seed, count):
            choices = {name: (value,) for name, value in own.items()} | PRESETS[preset] | overrides
            found += [run.replace(seed=seed) for run in gf.grid(1, **choices)]
    return list(dict.fromkeys(found))


def planted(table):
    """The fault of each run that was planted in it, by its settings as they were drawn."""
    known = {
        _key(settings | {"seed": seed}): fault
        for seed in sorted(table.seed.unique())
        for fault, settings in drawn(int(seed), MOST)
    }
    found = {row["run"]: known.get(_key(row)) for row in table.drop_duplicates("run").to_dict("records")}
    return {run: fault for run, fault in found.items() if fault}


def _key(row):
    """What tells the nets of a seed apart."""
    rate = f"{row['learning_rate']:.3g}"
    return int(row["seed"]), row["net"], int(row["depth"]), str(row.get("initialisation", "he")), rate


def told(table):
    """`(seed, planted, told)` of each net."""
    seeds = table.drop_duplicates("run").set_index("run").seed
    causes = gf.diagnose(table).set_index("run").cause
    return [(int(seeds[run]), fault, causes[run]) for run, fault in planted(table).items() if run in causes.index]


def verdict(table):
    """Shares of right and wrong answers by seed; the confusion table, and the exact interval over all nets."""
    from scipy.stats import binomtest

    answers = told(table)
    right, wrong = {}, {}
    for seed in sorted({seed for seed, _, _ in answers}):
        of = [(fault, said) for one, fault, said in answers if one == seed]
        right[seed] = sum(fault == said for fault, said in of) / len(of)
        wrong[seed] = sum(said not in (fault, UNKNOWN, HEALTHY) for fault, said in of) / len(of)
    steps = int(table.steps.min())
    findings = tuple(gf.judge(CLAIMS[name], by, steps) for name, by in (("right", right), ("wrong", wrong)))
    facts: dict[str, Any] = {
        f"told of nets with: {fault}": _counts([said for _, one, said in answers if one == fault]) for fault in FAULTS
    }
    hits = sum(fault == said for _, fault, said in answers)
    title = "Not enough runs finished to say"
    if answers:
        low, high = binomtest(hits, len(answers)).proportion_ci(method="exact")
        facts["nets, told right, share, exact 95 % interval (Clopper and Pearson)"] = {
            "nets": len(answers),
            "right": hits,
            "share": hits / len(answers),
            "low": low,
            "high": high,
        }
        title = f"Of {len(answers)} nets with one planted fault or none {hits} are told right"
    return gf.Verdict(title, findings, facts)


def _counts(said):
    return {cause: said.count(cause) for cause in sorted({*said}, key=lambda one: (-said.count(one), one))}


def figure(table, verdict):
    """The share that is told right, by fault, a dot a seed."""
    answers = told(table)
    seeds = sorted({seed for seed, _, _ in answers})
    shares = {}
    for fault in FAULTS:
        of = [[said for one, name, said in answers if (one, name) == (seed, fault)] for seed in seeds]
        shares[fault] = [100 * said.count(fault) / len(said) for said in of if said]
    panel = "told right (%), a dot a seed"
    return {"faults": gf.charts.dots({panel: shares}, title=verdict.title, note=gf.plot.caption(table), columns=1)}
