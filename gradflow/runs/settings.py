"""One run: the settings that decide a result, its name and hash, and the way from them to a finished record.

JAX, pandas and the like are imported only where a run is checked or made, so that the command line can read the names
of the settings without them.
"""

import dataclasses
import hashlib
import json
import math
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradflow.errors import BadInput, at_least, choose

if TYPE_CHECKING:
    from flax import nnx


PRECISIONS = ("float32", "bfloat16")
CENTRES = ("channel", "pixel")
_NET_SETTINGS = ("depth", "family", "width", "shortcut", "order", "normalisation", "activation", "initialisation",
                 "variant", "lrn", "dropout", "pooling", "head", "auxiliary", "widen")  # fmt: skip
# Settings that came later are no part of a run's name while they are at their default: what was run stays found.
_LATER = ("variant", "lrn", "dropout", "pooling", "head", "auxiliary", "widen", "shuffle", "transforms")
_LEAST = {"steps": 1, "batch": 1, "image_size": 1, "evaluations": 0, "validation": 0, "seed": 0, "warmup": 0}


def _exact(field: dataclasses.Field, value: Any) -> Any:
    """`value` in the very type of its field, so that equal runs have equal names: 1 as 1.0, numpy's 8 as 8."""
    kinds = typing.get_args(field.type) or (field.type,)
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if type(value) is int and float in kinds:
        value = float(value)
    if type(value) not in kinds:
        legal = " or ".join("None" if kind is type(None) else getattr(kind, "__name__", "") for kind in kinds)
        raise BadInput(f"{field.name} {value!r} is not legal: it must be {legal}")
    return value


@dataclass(frozen=True)
class Run:
    """All that decides a result. Raises `BadInput` for a value that is not legal, and says what is."""

    net: str = "residual"
    depth: int | None = None  # weighted layers; None: the net's own (18 for plain and residual)
    family: str = "cifar"
    width: int | None = None  # channels of the first stage; None: the family's own (16, or 64 for imagenet)
    shortcut: str = "A"  # of residual nets: A, B or C (He 2015, section 4.1)
    order: str = "post"  # or pre: full pre-activation (He 2016)
    normalisation: str = "batch"
    activation: str = "relu"
    initialisation: str = "he"
    variant: str = "paper"  # or another build of the same net: see the net's docstring
    lrn: bool | None = None  # local response normalisation (Krizhevsky 2012); this and the next: None as in the paper
    dropout: float | None = None  # the share that the fully connected layers lose
    pooling: str | None = None  # how maps get smaller
    head: str | None = None  # pool (global average) or fc (fully connected layers)
    auxiliary: bool | None = None  # classifiers on the way (Szegedy 2014)
    widen: bool = True  # twice the channels where maps get half as wide
    data: str = "digits"  # or a path, or a name on the Hub
    image_size: int | None = None  # larger images are averaged down to it
    validation: int = 0  # training images held out to test on instead of the test set
    centre: str = "channel"  # or pixel: what is subtracted from the images
    shuffle: bool = False  # the pixels of all images, in one fixed order
    augment: bool = False  # transform the images anew at each step, as `transforms` says
    transforms: str = "crop+mirror"  # any of crop (of the image padded by 4), mirror, colour (Krizhevsky 2012)
    steps: int = 200
    batch: int = 64
    optimiser: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "step"
    warmup: int = 0  # steps at a tenth of the rate
    precision: str = "float32"
    record: str = "log"  # the steps whose layers are kept: log, all, or a number k for every k-th
    evaluations: int = 5  # how often the whole test set is tried, evenly spread, the last time at the end
    seed: int = 0

    def __post_init__(self):
        from gradflow import nets
        from gradflow.data import transforms
        from gradflow.training import optimiser as optim

        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _exact(field, getattr(self, field.name)))
        choose("net", self.net, nets.NETS)
        if self.depth is None:
            object.__setattr__(self, "depth", nets.NETS[self.net].depth)
        for name, least in _LEAST.items():
            at_least(name, getattr(self, name), least)
        if self.seed >= 2**31:
            raise BadInput(f"seed {self.seed} is not legal: it must be below {2**31}, or jax would take it for another")
        for name in ("learning_rate", "momentum", "weight_decay"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise BadInput(f"{name} {value} is not legal: it must be a finite number, 0 or more")
        choose("precision", self.precision, PRECISIONS)
        choose("centre", self.centre, CENTRES)
        for transform in self.transforms.split("+"):
            choose("transform", transform, transforms.TRANSFORMS)
        choose("optimiser", self.optimiser, optim.OPTIMISERS)
        optim.schedule(self.schedule, self.learning_rate, self.steps, self.warmup)
        if self.record not in ("log", "all") and not (self.record.isdecimal() and int(self.record) > 0):
            raise BadInput(f"record {self.record!r} is not legal: choose log, all, or a number k for every k-th step")
        nets.check(self.net, **self.net_settings)

    @property
    def net_settings(self) -> dict[str, Any]:
        """What `nets.build` gets. A setting that the net does not have must be left at its default."""
        from gradflow import nets

        legal = nets.settings(self.net)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        defaults["depth"] = nets.NETS[self.net].depth
        given = {name: getattr(self, name) for name in _NET_SETTINGS}
        return {name: value for name, value in given.items() if name in legal or value != defaults[name]}

    def build(self) -> "nnx.Module":
        """The net of this run for its data, with the weights of its seed."""
        from gradflow import nets
        from gradflow.runs.execute import _dataset
        from gradflow.training import platform

        dataset = _dataset(self)
        height, width, channels = dataset.image_shape
        if height != width and "image" in nets.settings(self.net):
            raise BadInput(f"net {self.net!r} is made for square images: these are {height}x{width}")
        dtype = platform.dtype(self.precision)
        return nets.build(
            self.net,
            classes=len(dataset.classes),
            channels=channels,
            image=height,
            seed=self.seed,
            dtype=dtype,
            **self.net_settings,
        )

    @property
    def name(self) -> str:
        """For people: `plain-56-batch-seed0`. Not unique; `folder_name` is."""
        return f"{self.net}-{self.depth}-{self.normalisation}-seed{self.seed}"

    def folder_name(self, digest: str) -> str:
        """The name and a hash of all that decides the result, the data by their digest instead of their path."""
        settings = {**dataclasses.asdict(self), "data": digest}
        for field in dataclasses.fields(self):
            if field.name in _LATER and settings[field.name] == field.default:
                del settings[field.name]
        content = json.dumps(settings, sort_keys=True)
        return f"{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"

    def keeps(self, step: int) -> bool:
        """Whether the layers' readings of `step` (from 1) are kept: `log` is ten a decade; first and last always."""
        if self.record == "all" or step in (1, self.steps):
            return True
        if self.record == "log":
            return math.floor(10 * math.log10(step)) > math.floor(10 * math.log10(step - 1))
        return step % int(self.record) == 0

    def tests(self, step: int) -> bool:
        """Whether the whole test set is tried after `step` (from 1)."""
        return (
            self.evaluations > 0 and step * self.evaluations // self.steps > (step - 1) * self.evaluations // self.steps
        )
