"""What a person types, as Python values: the options of each verb, and one line for what is not legal."""

import contextlib
import dataclasses
import functools
import io
import re
import typing
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Annotated, Any

import tyro

from gradflow.errors import BadInput
from gradflow.runs.settings import Run


# Every setting of a run as an option that takes one value or several: several make a grid.
def _values(field: dataclasses.Field) -> Any:
    kind = next((kind for kind in typing.get_args(field.type) if kind is not type(None)), field.type)
    return Annotated[tuple[kind, ...], tyro.conf.arg(help=f"a run's own: {field.default}", help_behavior_hint="")]


Settings: Any = dataclasses.make_dataclass(
    "Settings", [(field.name, _values(field), ()) for field in dataclasses.fields(Run) if field.name != "seed"]
)
Settings.__doc__ = "Any setting of a run; several values of one make a grid."
NONE = Settings()
Choices = Annotated[Settings, tyro.conf.arg(name="")]


def given(settings: Any) -> dict[str, Any]:
    """The settings that the user gave, each with its tuple of values."""
    return {name: value for name, value in dataclasses.asdict(settings).items() if value}


def parse(verbs: Mapping[str, Callable[..., int]], arguments: list[str]) -> Callable[[], int]:
    """The verb with its arguments, still to be called. Raises `BadInput` for arguments that are not legal."""
    options = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Settings)}
    for option, value in pairwise([*arguments, "--"]):
        if option in options and value.startswith("--"):
            raise BadInput(f"{option} has no value: give one, or several to make a grid")
    description = "Watch gradients vanish, explode and survive."
    read = tyro.extras.subcommand_cli_from_dict  # one subparser a verb, from its signature
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            later = {name: _later(verb) for name, verb in verbs.items()}
            return read(later, args=arguments, prog="gradflow", description=description)
    except SystemExit:
        if said.getvalue():
            raise BadInput(_one_line(said.getvalue())) from None
        raise


def _later(verb: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    @functools.wraps(verb)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], int]:
        return functools.partial(verb, *args, **kwargs)

    return bind


def _one_line(box: str) -> str:
    """What tyro says in a box of several lines, without the box, its heading and the types it tried."""
    lines = [line.strip("│ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:-1]]
    said = " ".join(" ".join("; " if set(line) == {"─"} else line for line in lines).split())
    said = re.sub(r"Got errors:.*?(?=;)|Argument helptext: ", "", said)
    return re.sub(r"For full helptext, (run:?|see)", "see", re.sub(r"[. ]+;", ";", said))
