"""A function that is held to its annotations: what is legal goes in as it is, what is not is named with its place."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from gradflow.errors import BadInput
from gradflow.kinds import checked


def even(value: Any) -> None:
    if value % 2:
        raise BadInput(f"{value} is odd")


@checked
def function(
    whole: int = 0,
    number: float = 0.0,
    yes: bool = True,
    text: str = "",
    path: str | Path = "",
    numbers: Sequence[float] = (),
    names: Sequence[str] | None = None,
    curves: Mapping[str, Mapping[float, Sequence[float]]] | None = None,
    pairs: Sequence[tuple[str, int]] = (),
    once: Iterable[int] = (),
    call: Callable[..., Any] = len,
    checks: Annotated[Any, even] = 0,
    **more: int,
) -> dict[str, Any]:
    """Returns what it was given, but for what is at its default."""
    return {name: value for name, value in locals().items() if value is not None}


LEGAL: list[tuple[str, Any]] = [
    *(("whole", value) for value in (3, np.int64(3), np.array(3), jnp.int32(3), -(2**62))),
    *(
        ("number", value)
        for value in (3, 2.5, np.float32(2.5), np.array(2.5), jnp.float32(1), True, Decimal(2), float("nan"))
    ),
    *(("yes", value) for value in (True, np.True_, np.array(True))),
    *(("text", value) for value in ("x", np.str_("x"))),
    *(("path", value) for value in ("x", Path("x"))),
    *(("numbers", value) for value in ([1, 2.5], (np.nan,), np.arange(3), jnp.ones(2), pd.Series([1.0]), range(3))),
    *(("names", value) for value in (None, ["a"], ("a", np.str_("b")), pd.Index(["a"]))),
    *(("curves", value) for value in (None, {}, {"a": {1: [1.0], 2.5: np.ones(2)}})),
    *(("pairs", value) for value in ([], [("a", 1)], [["a", 1]])),
    *(("once", value) for value in ("text too", iter([None]), {3})),
    *(("call", value) for value in (len, int)),
    ("checks", 2),
    ("anything", 3),
]

WRONG: list[tuple[str, Any, str]] = [
    ("whole", 2.5, "whole is 2.5; legal is an integer"),
    ("whole", True, "whole is True; legal is an integer"),
    ("whole", 2**63, "whole is 9223372036854775808; legal is an integer"),
    ("whole", 10**400, "whole is an integer of more than 20 digits; legal is an integer"),
    ("number", "1.5", "number is '1.5'; legal is a number"),
    ("number", 10**400, "number is an integer of more than 20 digits; legal is a number"),
    ("number", np.arange(2.0), "number is a ndarray; legal is a number"),
    ("yes", 1, "yes is 1; legal is True or False"),
    ("text", None, "text is None; legal is text"),
    ("text", b"x", "text is a bytes; legal is text"),
    ("path", 3, "path is 3; legal is text or Path"),
    ("numbers", "123", "numbers is '123'; legal is Sequence[float]"),
    ("numbers", [1.0, "x"], "numbers[1] is 'x'; legal is a number"),
    ("numbers", np.array([None]), "numbers[0] is None; legal is a number"),
    ("numbers", {1.0}, "numbers is a set; legal is Sequence[float]"),
    ("numbers", pd.DataFrame({"a": [1.0]}), "numbers is a DataFrame; legal is Sequence[float]"),
    ("names", "ab", "names is 'ab'; legal is Sequence[str] or None"),
    ("names", [3], "names is a list; legal is Sequence[str] or None"),
    ("pairs", [("a", 1, 2)], "pairs[0] is a tuple; legal is tuple[str, int]"),
    ("pairs", [("a", "b")], "pairs[0][1] is 'b'; legal is an integer"),
    ("once", 3, "once is 3; legal is Iterable[int]"),
    ("call", 3, "call is 3; legal is Callable[..., Any]"),
    ("checks", 3, "3 is odd"),
    ("anything", "x", "anything is 'x'; legal is an integer"),
]


@pytest.mark.parametrize(("name", "value"), LEGAL)
def test_what_is_legal_goes_in_as_it_is(name, value):
    given = function(**{name: value})
    assert {**given, **given["more"]}.get(name) is value


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_what_is_not_is_named_with_its_place(name, value, said):
    with pytest.raises(BadInput) as refused:
        function(**{name: value})
    assert str(refused.value) == (said if name == "checks" else f"function: {said}")


@pytest.mark.parametrize(
    ("curves", "said"),
    [
        ({3: {}}, "a key of curves is 3; legal is text"),
        ({"a": {"b": [1.0]}}, "a key of curves['a'] is 'b'; legal is a number"),
        ({"a": {1: ["x"]}}, "curves['a'][1][0] is 'x'; legal is a number"),
    ],
)
def test_the_place_is_as_deep_as_the_fault(curves, said):
    @checked
    def draw(curves: Mapping[str, Mapping[float, Sequence[float]]]) -> None: ...

    with pytest.raises(BadInput) as refused:
        draw(curves)
    assert str(refused.value).endswith(said)


def test_what_can_be_gone_through_once_is_not():
    numbers = iter([1, 2])
    assert list(function(once=numbers)["once"]) == [1, 2]
