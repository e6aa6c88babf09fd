"""What `gf.read` makes of a net that somebody wrote: where it has no reading, one line says why."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from naive import digits

import gradflow as gf
from gradflow.errors import BadInput
from gradflow.training.loop import Training
from gradflow.training.optimiser import optimiser

IMAGES, LABELS = digits(4)
Forward = Callable[[Any, jax.Array, Callable], Any]


class Net(nnx.Module):
    """One layer, and whatever else a test says."""

    def __init__(self, forward: Forward, name: str = "head"):
        self.forward, self.name = forward, name
        setattr(self, name, nnx.Linear(64, 10, rngs=nnx.Rngs(0)))

    def __call__(self, images, hook):
        return self.forward(getattr(self, self.name), images.reshape(len(images), -1), hook)


class Weightless(nnx.Module):
    def __call__(self, images, hook):
        return hook("pixels", images.reshape(len(images), -1))


def named(name: Any) -> Net:
    return Net(lambda layer, x, hook: hook("head", layer(hook(name, x))))


NETS: dict[str, tuple[Any, str]] = {
    "a layer without a point": (Net(lambda layer, x, hook: layer(x)), r"must call hook\('head', response\)"),
    "+ in a point": (named("a+b"), "the hook name 'a.b' is not legal: .* without +"),
    "+ in a part of a point": (named("a/b+c"), "the hook name 'a/b.c' is not legal"),
    "+ in a layer": (Net(lambda layer, x, hook: hook("a+b", layer(x)), "a+b"), "a part of this net is called 'a.b'"),
    "+ in a layer without a point": (Net(lambda layer, x, hook: layer(x), "a+b"), "is called 'a.b': legal are names"),
    "no name": (named(""), "the hook name '' is not legal"),
    "two lines": (named("a\nb"), r"the hook name 'a\\nb' is not legal"),
    "a name twice": (named("head"), "the hook name 'head' is used twice"),
    "integers": (Net(lambda layer, x, hook: 1.0 * hook("head", layer(x).astype(int))), "the point 'head' is of int32"),
    "no weights": (Weightless(), "this net has no (layer with a kernel|parameters)"),
    "no answer": (Net(lambda layer, x, hook: None), "the net returns NoneType .* legal are logits"),
    "one number": (Net(lambda layer, x, hook: hook("head", layer(x)).sum()), r"the net returns an array \(\)"),
    "a branch on a value": (Net(lambda layer, x, hook: layer(x) if x.sum() > 0 else x), "cannot be read .* Tracer"),
    "an error of its own": (Net(lambda layer, x, hook: 1 / 0), "cannot be read on images .* ZeroDivisionError"),
    "a point in a scan": (
        Net(
            lambda layer, x, hook: hook("head", layer(jax.lax.scan(lambda c, _: (hook("in", c), None), x, None, 3)[0]))
        ),
        "cannot be read .* UnexpectedTracerError",
    ),
}


@pytest.mark.parametrize("case", NETS)
def test_a_net_that_cannot_be_read_is_one_line(case):
    net, why = NETS[case]
    with pytest.raises(BadInput, match=why) as error:
        gf.read(net, IMAGES, LABELS)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("case", ["+ in a point", "+ in a layer", "a name twice", "no weights", "integers"])
def test_nor_is_it_trained(case):
    net, why = NETS[case]
    data = gf.data.from_arrays(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4))
    with pytest.raises(BadInput, match=why):
        Training(net, data, optimiser("sgd", 0.1, 0.9, 0.0), batch=2)


def test_the_nets_of_these_tests_are_read_where_nothing_is_wrong():
    reading = gf.read(named("pixels"), IMAGES, LABELS)
    assert [*reading.values["activation_gradient_norm"]] == ["pixels", "head"]
    assert [*reading.values["gradient_norm"]] == ["head"]
    assert jnp.isfinite(reading.loss)
