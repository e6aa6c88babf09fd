"""One run: the settings that decide a result, its name and its hash."""

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gradflow import html_table, nets
from gradflow.data.transforms import TRANSFORMS, Centre
from gradflow.errors import BadInput, choose, nearest
from gradflow.settings import signature as settings
from gradflow.settings.signature import Setting
from gradflow.training.optimiser import Optimiser, Schedule
from gradflow.training.optimiser import schedule as make_schedule
from gradflow.training.platform import Precision

# What the compiled training step does not depend on: the rest of a run is its program.
NOT_COMPILED = (
    "seed",
    "steps",
    "learning_rate",
    "schedule",
    "warmup",
    "momentum",
    "weight_decay",
    "record",
    "evaluations",
)
_LONGEST_NAME = 120  # characters; file systems allow 255


@dataclass(frozen=True, init=False, repr=False)
class Run:
    """All that decides a result: what every run has, given by name, and the settings of its net, by theirs.

    `Run(net="plain", depth=56, steps=100)`: what is not a setting of every run is one of the net's (see `nets.build`),
    and can be read as `run.depth`. Raises `BadInput` for a name that neither has, or a value that is not legal.

    Attributes:
        net: A name from `gradflow list`, or a function of your own as FILE.py:FUNCTION.
        data: digits, a local path (parquet, IDX or image folder), or a name on the Hub.
        label: The column of labels, in parquet files and on the Hub; by default the one called label.
        image_size: Pixels a side: larger images are averaged down, smaller ones enlarged by repeating pixels; by
            default none are.
        validation: Training images that are held out to test on, in the place of the test set.
        centre: What is subtracted from the images: the mean of each channel, or of each pixel (He 2015, section 4.2).
            Then they are divided by their deviation, which the paper does not do.
        shuffle: Put the pixels of all images into one fixed random order.
        augment: Transform the images at random at each step.
        transforms: By which transforms, joined by +: crop (of the image padded by 4), mirror, colour (Krizhevsky 2012).
        steps: Of training.
        batch: Images a step.
        optimiser: Of the weights; adamw decouples the weight decay from the gradient.
        learning_rate: At the start of the schedule.
        momentum: Of sgd and nesterov; beta 1 of adam and adamw.
        weight_decay: Of all parameters.
        schedule: The rate over the steps: divided by 10 after one half and three quarters, cosine to zero, or constant.
        warmup: Steps at a tenth of the rate at the start (He 2015, section 4.2: until the error is below 80 %).
        precision: Of the computation; parameters are float32.
        record: The steps whose layers are kept: log (ten a decade), all, or a number k for every k-th.
        evaluations: How often the whole test set is tried: evenly spread, the last time at the end.
        seed: Of weights, batches and transforms.
        net_settings: Those of the net, all of them, in the order of its constructor.
    """

    net: str = "residual"
    data: str = "digits"
    label: str | None = None
    image_size: int | None = None
    validation: int = 0
    centre: Centre = "channel"
    shuffle: bool = False
    augment: bool = False
    transforms: str = "crop+mirror"
    steps: int = 200
    batch: int = 64
    optimiser: Optimiser = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "step"
    warmup: int = 0
    precision: Precision = "float32"
    record: str = "log"
    evaluations: int = 5
    seed: int = 0
    net_settings: tuple[tuple[str, Any], ...] = ()

    def __init__(self, net_settings: Iterable[tuple[str, Any]] = (), **given: Any):
        own = {name: one.exact(given.pop(name, one.default)) for name, one in own_settings().items()}
        try:
            of_net = {**dict(net_settings), **given}
        except (TypeError, ValueError) as error:
            raise BadInput(f"net_settings {net_settings!r} are not legal: they must be pairs of name, value") from error
        legal = settings_of(own["net"])
        for name in of_net:
            if name not in legal:
                near = nearest(name, legal)
                guess = f" did you mean {near!r}?" if near else ""
                has = ", ".join(nets.settings(own["net"])) or "none of its own"
                every = f", and every run has {', '.join(own)}" if near is None else ""
                raise BadInput(f"net {own['net']!r} has no setting {name!r}:{guess} it has {has}{every}")
        for name, value in own.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "net_settings", tuple(nets.complete(self.net, of_net).items()))
        self._check()

    def _check(self) -> None:
        for transform in self.transforms.split("+"):
            choose("transform", transform, TRANSFORMS)
        make_schedule(self.schedule, self.learning_rate, self.steps, self.warmup)
        if self.record not in ("log", "all") and not (re.fullmatch("0*[1-9][0-9]{0,9}", self.record)):
            raise BadInput(
                f"record {self.record[:20]!r} is not legal: choose log, all, or a number k for every k-th step"
            )

    def __getattr__(self, name: str) -> Any:
        """A setting of the net: `run.depth`."""
        for key, value in self.__dict__.get("net_settings", ()):
            if key == name:
                return value
        raise AttributeError(f"this run has no setting {name!r}")

    def __repr__(self) -> str:
        changed = {"net": self.net, **self._changed(self._known()), "seed": self.seed}
        return f"Run({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def _repr_html_(self) -> str:
        """A row a setting that is not at its default, as a notebook shows it."""
        known = self._known()
        rows = [
            (name, value, known[name].default if name in known else "") for name, value in self._changed(known).items()
        ]
        return html_table.table(("setting", "value", "default"), rows, f"Run of {self.net}, seed {self.seed}")

    @property
    def settings(self) -> dict[str, Any]:
        """All of them, those of the net behind the net's name: `Run(**run.settings) == run`."""
        own = {name: getattr(self, name) for name in own_settings()}
        return {"net": own.pop("net"), **dict(self.net_settings), **own}

    def replace(self, **changes: Any) -> "Run":
        """The same run but for `changes`."""
        return Run(**{**self.settings, **changes})

    @property
    def program(self) -> tuple[Any, ...]:
        """What the compiled step depends on besides net and data: runs that share the three are compiled once."""
        compiled = (getattr(self, name) for name in own_settings() if name not in ("net", *NOT_COMPILED))
        return *compiled, self.momentum > 0, self.weight_decay > 0  # without them there is less to do

    def _changed(self, known: Mapping[str, Setting]) -> dict[str, Any]:
        """The settings that are not at their default, or not known; net and seed apart."""
        every = {name: value for name, value in self.settings.items() if name not in ("net", "seed")}
        return {name: value for name, value in every.items() if name not in known or value != known[name].default}

    def _known(self) -> Mapping[str, Setting]:
        """The settings of this net as its file has them now: those of every run, where it cannot be read any more."""
        try:
            return settings_of(self.net)
        except BadInput:
            return own_settings()

    @property
    def name(self) -> str:
        """For people: net, depth, what is not at its default, seed. Not unique; `folder_name` is."""
        net, depth = self.net.rpartition(":")[2], dict(self.net_settings).get("depth")
        words, changed = [net] if depth is None else [net, str(depth)], self._changed(settings_of(self.net))
        # Where data and net lie decides nothing, so it is no part of the name: what they are is part of the hash.
        words += [f"{name}={value}" for name, value in changed.items() if name not in ("depth", "data")]
        legible = re.sub(r"[^\w.=+-]", "_", "-".join(words), flags=re.ASCII)
        return f"{legible[:_LONGEST_NAME]}-seed{self.seed}"

    def folder_name(self, digest: str) -> str:
        """The name and a hash of all that decides the result: settings at their default are left out, so that a later
        one changes no hash; the data are their digest, a user's own net the content of its file.
        """
        decides = {
            **self._changed(settings_of(self.net)),
            "net": nets.identity(self.net),
            "data": digest,
            "seed": self.seed,
        }
        content = json.dumps(decides, sort_keys=True)
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


@functools.cache
def own_settings() -> Mapping[str, settings.Setting]:
    """The settings that every run has, by name."""
    return settings.of_dataclass(Run, without=["net_settings"])


def settings_of(net: str) -> dict[str, settings.Setting]:
    """The settings of a run of this net: those of every run, and the net's. Raises `BadInput` for two of one name."""
    own, of_net = own_settings(), nets.settings(net)
    for name in of_net:
        if name in own or name == "net_settings":
            raise BadInput(f"net {net!r} has a setting {name!r}, and so has every run: give the net's another name")
        if net not in nets.NETS and name in _columns():
            raise BadInput(f"net {net!r} has a setting {name!r}, and so has every table: give the net's another name")
    return {**own, **of_net}


def _columns() -> tuple[str, ...]:
    """Of the tables, beside the settings. Imported here: the command line does not wait for pandas."""
    from gradflow.runs.variation import NOT_SETTINGS

    return NOT_SETTINGS
