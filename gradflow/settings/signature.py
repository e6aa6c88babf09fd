"""A setting: a named value of a plain type, its default and its meaning, read from where it is written once.

That is the signature and the docstring of a net's constructor, or the fields and the docstring of `Run`.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import docstring_parser

from gradflow.errors import BadInput, choose
from gradflow.settings import ranges

PLAIN = (bool, int, float, str)
_LEGAL_TYPES = "bool, int, float, str or a Literal of these, alone or with None"


@dataclass(frozen=True)
class Setting:
    """One setting of a run or of a net."""

    name: str
    types: tuple[type, ...]  # that a value may have: plain ones, and that of None
    choices: tuple[Any, ...]  # the only legal values, where they are few
    default: Any
    meaning: str  # a sentence

    def exact(self, value: Any) -> Any:
        """`value` in the very type of the setting, so that equal runs have equal names: 1 as 1.0, NumPy's 8 as 8.

        Raises `BadInput` for a value that is not legal, and says which are.
        """
        if getattr(value, "ndim", None) == 0:
            value = value.item()
        if type(value) is int and float in self.types and int not in self.types:
            value = float(value)
        if type(value) not in self.types:
            legal = " or ".join("None" if kind is types.NoneType else kind.__name__ for kind in self.types)
            raise BadInput(f"{self.name} {value!r} is not legal: it must be {legal}")
        if self.choices and value is not None:
            choose(self.name, value, self.choices)
        ranges.check(self.name, value)
        return value


def of_function(function: Callable[..., Any], provided: Iterable[str] = ()) -> dict[str, Setting]:
    """The keyword arguments of `function` by name, but for those that a `partial` has fixed or the caller `provided`.

    Raises `BadInput` for one without a default, or whose type is not plain.
    """
    inner = function.func if isinstance(function, functools.partial) else function
    fixed = {*provided, *getattr(function, "keywords", {})}
    hints = typing.get_type_hints(inner, include_extras=True)
    meanings, found = _meanings(inner), {}
    for parameter in inspect.signature(inner).parameters.values():
        if parameter.name in fixed:
            continue
        if parameter.kind not in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise BadInput(f"argument {parameter} is not legal: settings are keyword arguments, each with its name")
        if parameter.default is parameter.empty:
            raise BadInput(f"setting {parameter.name!r} has no default: it needs one")
        hint = hints.get(parameter.name, type(parameter.default))
        found[parameter.name] = _setting(parameter.name, hint, parameter.default, meanings)
    return found


def of_dataclass(cls: type, without: Iterable[str] = ()) -> dict[str, Setting]:
    """The fields of a dataclass by name."""
    hints, meanings = typing.get_type_hints(cls, include_extras=True), _meanings(cls)
    fields = (field for field in dataclasses.fields(cls) if field.name not in without)
    return {field.name: _setting(field.name, hints[field.name], field.default, meanings) for field in fields}


def _setting(name: str, hint: Any, default: Any, meanings: Mapping[str, str]) -> Setting:
    kinds, choices = [], []
    for part in _parts(hint):
        if typing.get_origin(part) is typing.Literal:
            choices += typing.get_args(part)
            kinds += map(type, typing.get_args(part))
        else:
            kinds.append(part)
    for kind in kinds:
        if kind not in (*PLAIN, types.NoneType):
            words = getattr(hint, "__name__", hint) if hint is not types.NoneType else "None"
            raise BadInput(f"setting {name!r} has the type {words}, which is not plain: legal are {_LEGAL_TYPES}")
    if set(kinds) == {types.NoneType}:
        raise BadInput(f"setting {name!r} is None and has no type: legal are {_LEGAL_TYPES}")
    return Setting(name, tuple(dict.fromkeys(kinds)), tuple(choices), default, meanings.get(name, ""))


def _parts(hint: Any) -> list[Any]:
    """The alternatives of a union, or the one type that there is."""
    if typing.get_origin(hint) is typing.Annotated:
        return _parts(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [part for one in typing.get_args(hint) for part in _parts(one)]
    return [hint]


def _meanings(documented: Any) -> dict[str, str]:
    """What the docstring says of each argument, on one line."""
    described = docstring_parser.parse(inspect.getdoc(documented) or "").params
    return {one.arg_name: " ".join((one.description or "").split()) for one in described}
