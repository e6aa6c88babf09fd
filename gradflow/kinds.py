"""Whether what a public function is given is of the kinds that its annotations say; in one line where it is not."""

import functools
import inspect
import operator
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from gradflow.errors import WrongKind

T = TypeVar("T", bound=Callable[..., Any])
_OF_MANY = (Sequence, Collection, list, tuple)
_WORDS = {bool: "True or False", int: "an integer", float: "a number", str: "text", types.NoneType: "None"}


def checked(function: T) -> T:
    """The function, or the class, as one that raises `BadInput` for arguments that its signature does not have, or
    that are of another kind than it is annotated with.

    The annotation is all there is to write. Where it is `Annotated[X, check]`, `check(value)` is called, which raises
    for itself. A number may be Python's or NumPy's, a sequence an array as well, but no text; what may be there to be
    gone through only once (`Iterable`) is not gone through.
    """
    if isinstance(function, type):
        function.__init__ = checked(function.__init__)
        return typing.cast(T, function)
    signature, called = inspect.signature(function), function.__qualname__.removesuffix(".__init__")
    hints = functools.cache(lambda: typing.get_type_hints(function, include_extras=True))

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            given = signature.bind(*arguments, **keywords)
        except TypeError as error:
            raise WrongKind(f"{called}: {error}") from error
        for name, value in given.arguments.items():
            several = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            for own, one in value.items() if several else ((name, value),):
                if wrong := _wrong(own, one, hints().get(name, Any)):
                    raise WrongKind(f"{called}: {wrong}")
        return function(*arguments, **keywords)

    return typing.cast(T, call)


def _wrong(where: str, value: Any, hint: Any) -> str:
    """What of the value is not as the hint says, in words; empty where nothing is."""
    inner = typing.get_args(hint)
    kind = typing.get_origin(hint) or hint
    if kind is Any:
        return ""
    if kind is typing.Annotated:
        for check in inner[1:]:
            check(value)
        return _wrong(where, value, inner[0])
    if kind in (typing.Union, types.UnionType):
        fits = any(not _wrong(where, value, one) for one in inner)
    else:
        fits = _is(value, kind) and not (_fixed(kind, inner) and len(value) != len(inner))
    if not fits:
        return f"{where} is {_told(value)}; legal is {_words(hint)}"
    return next(filter(None, _wrong_parts(where, value, kind, inner)), "")


def _wrong_parts(where: str, value: Any, kind: Any, inner: tuple[Any, ...]) -> Iterator[str]:
    """The same of what is in the value, one after another."""
    if kind in (Mapping, dict) and inner:
        for key, one in value.items():
            yield _wrong(f"a key of {where}", key, inner[0]) or _wrong(f"{where}[{_told(key)}]", one, inner[1])
    elif kind in _OF_MANY and inner:
        hints = inner if _fixed(kind, inner) else [inner[0]] * len(value)
        for place, (one, hint) in enumerate(zip(value, hints, strict=True)):
            yield _wrong(f"{where}[{place}]", one, hint)


def _fixed(kind: Any, inner: tuple[Any, ...]) -> bool:
    """Whether it is a tuple of so many."""
    return kind is tuple and bool(inner) and inner[-1] is not ...


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind, whatever is in it."""
    dimensions = getattr(value, "ndim", 0)
    if kind is bool:
        return isinstance(value, bool) or (dimensions == 0 and getattr(value, "dtype", "") == "bool")
    if kind is int:
        whole = hasattr(value, "__index__") and dimensions == 0 and not isinstance(value, bool)
        return whole and abs(operator.index(value)) < 2**63
    if kind is float:
        return not isinstance(value, (str, bytes)) and dimensions == 0 and _has_float(value)
    if kind in _OF_MANY:
        many = isinstance(value, Collection if kind is Collection else Sequence)
        is_array = isinstance(dimensions, int) and dimensions > 0
        return (many or is_array) and not isinstance(value, (str, bytes)) and not hasattr(value, "columns")
    return callable(value) if kind is Callable else isinstance(value, Mapping if kind is dict else kind)


def _has_float(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):  # an integer may be too large
        return False
    return True


def _told(value: Any) -> str:
    """A value in a word: text and small numbers as they are, of others the kind."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return "an integer of more than 20 digits"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"


def _words(hint: Any) -> str:
    """A hint in words, or where there are none as it is written."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(map(_words, typing.get_args(hint)))
    if isinstance(hint, type) and not typing.get_args(hint):
        return _WORDS.get(hint, hint.__name__)
    return re.sub(r"\b\w+\.", "", str(hint))
