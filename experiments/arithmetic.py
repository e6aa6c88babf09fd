"""What convolution, padding, stride, pooling and 1x1 do to shape and cost; two 3x3 layers against one 5x5.

Two 3x3 layers see as far as one 5x5 layer, with 28 % fewer weights at equal channels and one non-linearity more
(Simonyan and Zisserman 2014, arXiv:1409.1556, section 2.3). Counted here, and trained: VGG of 13 layers against the
same net with one 5x5 layer in the place of each pair, which the paper found 7 points worse. Each is judged at its own
best learning rate of a grid: the first seed is run at every rate and chooses, by the error on held-out training images;
the others are run at the chosen rate and are judged.
"""

from typing import Any, NamedTuple

import gradflow as gf

BY = ("variant", "depth")
STEPS = 400  # what shorter trainings end with decides nothing
RATES = (0.015, 0.05, 0.15)
PRESETS = {
    "smoke": {"steps": 10, "seeds": 2, "batch": 16, "width": 4, "evaluations": 1, "learning_rate": (0.05,)},
    "default": {"steps": STEPS, "seeds": 5, "batch": 64, "width": 16, "learning_rate": RATES},
    "full": {"steps": 60_000, "seeds": 3, "batch": 128, "augment": True, "learning_rate": RATES, "validation": 5_000},
}
NET = {"net": "vgg", "normalisation": "batch", "initialisation": "he", "dropout": 0.0}
PAIRS, SINGLES = {"variant": "paper", "depth": 13}, {"variant": "5x5", "depth": 8}
PAPER = "Simonyan and Zisserman 2014, section 2.3"
CLAIMS = {
    "weights": gf.Claim(
        "two 3x3 layers have 28 % fewer weights than one 5x5, at equal channels",
        PAPER,
        "18 C^2 and 25 C^2 weights",
        "weights, two 3x3 / one 5x5",
        "<",
        0.7201,
    ),
    "field": gf.Claim(
        "and see as far",
        PAPER,
        "an effective receptive field of 5x5",
        "pixels a side seen, two 3x3 / one 5x5",
        ">",
        0.99,
    ),
    "error": gf.Claim(
        "trained, the pairs have the lower test error",
        PAPER,
        "7 points of top-1 error (ImageNet, centre crop)",
        "final test error, pairs of 3x3 - single 5x5",
        "<",
        steps=STEPS,
    ),
}  # fmt: skip


class Layer(NamedTuple):
    """A layer by its arithmetic: what it makes of `(side, side, channels)`."""

    kernel: int
    maps: int
    stride: int = 1
    padding: int = 0
    weighted: bool = True

    def output(self, side: int) -> int:
        """Pixels a side."""
        return (side + 2 * self.padding - self.kernel) // self.stride + 1

    def weights(self, channels: int) -> int:
        """Without biases."""
        return self.kernel**2 * channels * self.maps if self.weighted else 0

    def multiply_adds(self, side: int, channels: int) -> int:
        """Each weight is used once for every output pixel."""
        return self.weights(channels) * self.output(side) ** 2


def field(layers):
    """The pixels a side that one output pixel sees."""
    seen, apart = 1, 1
    for layer in layers:
        seen, apart = seen + (layer.kernel - 1) * apart, apart * layer.stride
    return seen


# On 32x32 maps of 16 channels.
SIDE, CHANNELS = 32, 16
LAYERS = {
    "3x3": Layer(3, 16),
    "3x3, padding 1": Layer(3, 16, padding=1),
    "3x3, padding 1, stride 2": Layer(3, 16, 2, 1),
    "3x3, padding 1, 32 maps": Layer(3, 32, padding=1),
    "5x5, padding 2": Layer(5, 16, padding=2),
    "1x1": Layer(1, 16),
    "1x1, 4 maps": Layer(1, 4),
    "2x2 pool, stride 2": Layer(2, 16, 2, weighted=False),
}


def runs(preset, **overrides):
    """The net of pairs and the net of single layers at every rate; where there is one rate, of all seeds."""
    return gf.variants([NET | PAIRS, NET | SINGLES], **gf.choosing_settings(PRESETS[preset] | overrides))


def further_runs(table, preset, **overrides):
    """The same at the best rate of each, of the seeds that are judged, on the test set."""
    seeds = (PRESETS[preset] | overrides)["seeds"]
    return gf.runs_at_best_rates(runs(preset, **overrides), table, BY, seeds=seeds, validation=0)


def verdict(table):
    """The counts by arithmetic, the errors seed by seed, each net at its best rate."""
    rates, table = gf.rates_in_words(table, BY), gf.at_best_rates(table, BY)
    test, train = (gf.final_error(table, f"{kind}_error", BY) for kind in ("test", "train"))
    error = {name: gf.per_seed(test, **levels) for name, levels in (("pairs", PAIRS), ("single", SINGLES))}
    three, five = Layer(3, CHANNELS, padding=1), Layer(5, CHANNELS, padding=2)
    counted = {
        "weights": 2 * three.weights(CHANNELS) / five.weights(CHANNELS),
        "field": field([three, three]) / field([five]),
    }
    numbers = {name: dict.fromkeys(error["pairs"], value) for name, value in counted.items()}
    numbers["error"] = gf.difference(error["pairs"], error["single"])
    findings = tuple(gf.judge(claim, numbers[name], int(table.steps.min())) for name, claim in CLAIMS.items())
    nets = {"pairs of 3x3": tuple(PAIRS.values()), "single 5x5": tuple(SINGLES.values())}
    facts: dict[str, Any] = {"best rate": {name: rates.get(net, "none") for name, net in nets.items()}}
    for name, layer in LAYERS.items():
        side = layer.output(SIDE)
        facts[f"{name}, of {SIDE}x{SIDE}x{CHANNELS}"] = (
            f"{side}x{side}x{layer.maps}, {layer.weights(CHANNELS):,} weights, "
            f"{layer.multiply_adds(SIDE, CHANNELS):,} multiply-adds"
        )
    for name, series in (("final training error", train), ("final test error", test),
                         ("parameters", gf.run_column(table, "parameters", BY)),
                         ("multiply-adds", gf.run_column(table, "multiply_adds", BY))):  # fmt: skip
        mean = series.groupby(list(BY)).mean()
        facts[name] = {name: float(mean[net]) for name, net in nets.items()}
    errors = facts["final test error"].values()
    title = "Two 3x3 layers have 28 % fewer weights than one 5x5; trained, {:.1f} against {:.1f} % test error".format(
        *(100 * value for value in errors)
    )
    return gf.Verdict(title, findings, facts)


def figure(table, verdict):
    """Errors of both nets, and the arithmetic of the layers."""
    table, panels = gf.at_best_rates(table, BY), {}
    note = gf.plot.caption(table)
    for kind in ("train", "test"):
        error = gf.final_error(table, f"{kind}_error", BY)
        of = {"pairs of 3x3": gf.per_seed(error, **PAIRS), "single 5x5": gf.per_seed(error, **SINGLES)}
        panels[f"final {kind} error (%)"] = {name: [100 * v for v in numbers.values()] for name, numbers in of.items()}
    weights = {name: [layer.weights(CHANNELS)] for name, layer in LAYERS.items() if layer.weighted}
    adds = {name: [layer.multiply_adds(SIDE, CHANNELS)] for name, layer in LAYERS.items() if layer.weighted}
    counts = {"weights": weights, f"multiply-adds on {SIDE}x{SIDE}x{CHANNELS}": adds}
    return {
        "errors": gf.charts.dots(panels, title=verdict.title, note=note),
        "arithmetic": gf.charts.dots(counts, title="What a layer costs", note="by arithmetic", log=True, columns=1),
    }
