"""What a person types, as Python values: the options of each verb, and one line for what is not legal."""

import contextlib
import dataclasses
import functools
import inspect
import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import NoneType
from typing import Annotated, Any, Union

import tyro

from gradflow.errors import BadInput, nearest
from gradflow.settings.signature import Setting


@dataclasses.dataclass(frozen=True)
class Choices:
    """The settings that the user gave, each with its tuple of values; several values of one make a grid.

    A verb with a parameter of this type has an option for each setting of every run and of the nets that are named.
    """

    given: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)


class NetChoices(Choices):
    """The same, of the settings of a net alone."""


def parse(verbs: Mapping[str, Callable[..., int]], arguments: list[str]) -> Callable[[], int]:
    """The verb with its arguments, still to be called. Raises `BadInput` for arguments that are not legal."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    # Only the verb that was typed: the settings of nets need JAX, and `gradflow --help` does not wait for it.
    kind = _kind_of_settings(verbs[name]) if name in verbs else None
    options = _settings(rest, kind) if kind else None
    bound = {key: _later(verb, options if key == name else None) for key, verb in verbs.items()}
    if name in verbs:
        _check_options(verbs[name], options, rest)
    read = tyro.extras.subcommand_cli_from_dict  # one subparser a verb, from its signature
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            description = "Watch gradients vanish, explode and survive. With --no-cache no compiled program is kept."
            return read(bound, args=arguments, prog="gradflow", description=description)
    except SystemExit:
        if printed.getvalue():
            raise BadInput(_one_line(printed.getvalue())) from None
        raise


def _kind_of_settings(verb: Callable[..., int]) -> type[Choices] | None:
    annotations = [parameter.annotation for parameter in inspect.signature(verb).parameters.values()]
    return next((kind for kind in annotations if kind in (Choices, NetChoices)), None)


def _later(verb: Callable[..., int], options: type | None) -> Callable[..., Callable[[], int]]:
    """A function with the arguments of `verb` that returns the call of it; its `Choices` are typed as `options`."""

    def bind(*args: Any, **kwargs: Any) -> Callable[[], int]:
        kwargs = {key: _given(value) if type(value) is options else value for key, value in kwargs.items()}
        return functools.partial(verb, *args, **kwargs)

    parameters = []
    for parameter in inspect.signature(verb).parameters.values():
        if parameter.annotation in (Choices, NetChoices):
            if options is None:
                continue
            annotation = Annotated[options, tyro.conf.arg(name="")]
            parameter = parameter.replace(annotation=annotation, default=options())
        parameters.append(parameter)
    bind.__name__, bind.__doc__ = verb.__name__, verb.__doc__
    bind.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    bind.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return bind


def _given(values: Any) -> Choices:
    return Choices({name: value for name, value in dataclasses.asdict(values).items() if value})


def _settings(arguments: Sequence[str], wanted: type[Choices]) -> type:
    """A dataclass with an option for each setting of every run (unless only those of nets are wanted), of the nets that
    the arguments name, and of all that come with gradflow, which a help about others leaves out.
    """
    from gradflow.nets import NETS
    from gradflow.runs.settings import own_settings, settings_of

    named = [net for net in _nets(arguments) if net]
    own, by_name = own_settings(), {}
    shown = named or list(NETS)
    everything = [] if {"-h", "--help"} & {*arguments} else NETS
    for net in dict.fromkeys([*shown, *everything]):
        for name, setting in settings_of(net).items():
            by_name.setdefault(name, {})[net] = setting
    fields = []
    # The net and its own settings first; the seed is counted, not chosen.
    order = ["net", *(name for name in by_name if name not in own), *(name for name in own if name != "net")]
    for name in (name for name in order if name != "seed" and not (wanted is NetChoices and name in own)):
        one = next(iter(by_name[name].values()))
        help_ = _help({"": one}, 1) if name in own else _help(by_name[name], len(shown))
        kinds = dict.fromkeys(kind for one in by_name[name].values() for kind in one.types if kind is not NoneType)
        values: Any = tuple[Union[tuple(kinds)], ...]  # noqa: UP007
        fields.append((name, Annotated[values, tyro.conf.arg(help=help_, help_behavior_hint="")], ()))
    options = dataclasses.make_dataclass("Settings", fields)
    options.__doc__ = "Settings of a run and of its net; several values of one make a grid."
    return options


def _nets(arguments: Sequence[str]) -> list[str]:
    """What stands behind `--net`, or as the net that is to be described."""
    found, reading = [], False
    for argument in arguments:
        reading = argument == "--net" or (reading and not argument.startswith("-"))
        found += [argument] * (reading and argument != "--net") + [argument[6:]] * argument.startswith("--net=")
    from gradflow.nets import NETS

    if not found and arguments and (arguments[0] in NETS or ".py:" in arguments[0]):
        found = [arguments[0]]
    return found


def _help(settings: Mapping[str, Setting], count: int) -> str:
    """What a setting means, which values are legal and what it is by default, for the nets that have it, of `count`."""
    by_meaning: dict[str, dict[str, Setting]] = {}
    for net, setting in settings.items():
        by_meaning.setdefault(_meaning(setting), {})[net] = setting
    if len(by_meaning) == 1 and len(settings) == count:
        return " ".join(filter(None, [*by_meaning, _defaults(settings)]))
    texts = ((", ".join(nets), meaning, _defaults(nets)) for meaning, nets in by_meaning.items())
    return "\n".join(" ".join(filter(None, [f"{nets}:", *text])) for nets, *text in texts)


def _meaning(setting: Setting) -> str:
    legal = [*map(str, setting.choices)] or (["True", "False"] if bool in setting.types else [])
    return " ".join(filter(None, [setting.meaning, f"One of {', '.join(legal)}." if legal else ""]))


def _defaults(settings: Mapping[str, Setting]) -> str:
    """The default of each net; where it is None the meaning says in words what that is."""
    nets: dict[Any, list[str]] = {}
    for net, setting in settings.items():
        nets.setdefault(setting.default, []).append(net)
    nets.pop(None, None)
    if len(nets) < 2:
        return "".join(f"Default: {value}." for value in nets)
    return f"Default: {'; '.join(str(value) + ' in ' + ', '.join(some) for value, some in nets.items())}."


def _check_options(verb: Callable[..., int], options: type | None, arguments: Sequence[str]) -> None:
    """Raises `BadInput` for an option that the verb does not have, with the nearest that it has; or without a value."""
    settings = {f.name for f in dataclasses.fields(options)} if options else set()
    others = {one.name for one in inspect.signature(verb).parameters.values() if one.kind is one.KEYWORD_ONLY}
    legal = {name.replace("_", "-") for name in settings | others - {"settings"}}
    for option, value in pairwise([*arguments, "--"]):
        name = option.removeprefix("--").partition("=")[0].replace("_", "-")
        if not option.startswith("--") or option == "--" or name == "help":
            continue
        if name.removeprefix("no-") not in legal and name not in legal:
            near = nearest(name.replace("-", "_"), [one.replace("-", "_") for one in sorted(legal)])
            guess = f"did you mean --{near.replace('_', '-')}?" if near else "see --help for those that there are"
            raise BadInput(f"unknown option --{name}: {guess}")
        if name.replace("-", "_") in settings and "=" not in option and value.startswith("--"):
            raise BadInput(f"--{name} has no value: give one, or several to make a grid")


def _one_line(box: str) -> str:
    """What tyro prints in a box of several lines, without the box, its heading, the types it tried, and what the help
    says of an option beyond the kind of its value.
    """
    lines = [line.strip("│ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:-1]]
    kept, in_help = [], False
    for line in lines:
        rule = set(line) == {"─"}
        if in_help and not rule:
            continue
        in_help = line.startswith("--") and kept[-1:] == ["Argument helptext:"]
        kept.append("; " if rule else line)
    text = " ".join(" ".join(kept).split())
    text = re.sub(r"Got errors:.*?(?=;)|Argument helptext: ", "", text)
    return re.sub(r"For full helptext, (run:?|see)", "see", re.sub(r"[. ]+;", ";", text))
