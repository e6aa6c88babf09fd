"""What holds for every net, written once: readings, learning, dropout, settings, and a step at the size of its paper.

What a net computes, and the counts of its paper, stand in its own file.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from naive import abstractly, build, digits, filled, loss, signals, three_modules

from gradflow import nets
from gradflow.arrays import Heads
from gradflow.nets import stack
from gradflow.nets.layers import atoms as layers
from gradflow.nets.layers import initialisers, normalisations
from gradflow.training.step import gradients

SMALL = {"classes": 10, "channels": 1}


class Case(NamedTuple):
    """A net for the digits, how many points it has, and the rate at which it learns a batch of them."""

    name: str
    settings: dict[str, Any]
    points: int
    rate: float


CASES = {
    "cnn, response normalisation": Case("cnn", {"width": 4, "image": 8, "lrn": True}, 4, 0.25),
    "cnn, batch, tanh": Case("cnn", {"width": 4, "image": 8, "normalisation": "batch", "activation": "tanh"}, 4, 0.1),
    "alexnet": Case("alexnet", {"width": 6, "image": 8}, 8, 0.05),
    "alexnet, one tower, batch": Case(
        "alexnet", {"width": 6, "image": 8, "variant": "one_tower", "normalisation": "batch"}, 8, 0.1
    ),
    "nin": Case("nin", {"width": 8, "image": 8, "dropout": 0.0, "normalisation": "batch"}, 10, 0.1),
    "vgg": Case("vgg", {"depth": 11, "width": 4, "image": 8, "dropout": 0.0}, 11, 0.15),
    "mlp": Case("mlp", {"depth": 5, "width": 6, "image": 8, "normalisation": "batch"}, 5 + 3, 0.05),
    "residual_mlp": Case("residual_mlp", {"depth": 5, "width": 6, "image": 8, "normalisation": "none"}, 5 + 9, 0.05),
    "residual_mlp, pre-activation": Case(
        "residual_mlp", {"depth": 5, "width": 6, "image": 8, "order": "pre"}, 5 + 9, 0.05
    ),
    # The twins that break a rule of He 2015, section 3.3.
    "residual that pools": Case("residual", {"depth": 8, "width": 4, "pooling": "max"}, 8 + 9, 0.1),
    "residual with hidden layers": Case("residual", {"depth": 8, "width": 4, "head": "fc"}, 10 + 9, 0.1),
    "residual that does not widen": Case("residual", {"depth": 8, "width": 4, "widen": False}, 8 + 9, 0.1),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_without_weights_it_has_the_structure_and_the_shapes_that_it_has_with_them(case):
    def form(net):
        graph, *trees = nets.split(stack.stack_units(net, 64))
        return graph, jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), trees)

    shapes = nets.abstract(case.name, **SMALL, **case.settings)
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(nets.split(shapes)[1:]))
    assert form(shapes) == abstractly(lambda: form(nets.build(case.name, **SMALL, **case.settings)))


@pytest.mark.parametrize("case", [Case("googlenet", {}, 0, 0), *CASES.values()], ids=["googlenet", *CASES])
def test_the_first_weights_are_no_part_of_its_structure(case):
    """Runs that differ in them share a program, and are not asked whether they may (`runs/train.py`)."""
    one, other = (nets.abstract(case.name, **SMALL, **case.settings, initialisation=name) for name in ("he", "lecun"))
    assert nets.structure(one) == nets.structure(other)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_its_arrays_drawn_without_its_modules_are_the_same_to_the_bit(case):
    given = SMALL | case.settings
    nets.first_arrays(case.name, seed=2, **given)  # another seed of what is made once
    ours = nets.first_arrays(case.name, seed=3, **given)
    theirs = nets.split(nets.build(case.name, seed=3, **given))[1:]
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module", params=CASES)
def compiled(request):
    """A case, its net, and the compiled training pass: compiled once for the tests of that case."""
    case = CASES[request.param]
    images, labels = digits(16)
    graph, params, rest = filled(case.name, **SMALL, **case.settings)
    points = nets.points_of(nnx.merge(graph, params, rest), images.shape[1:])
    run = jax.jit(lambda params: gradients(graph, points, params, rest, images, labels))
    return case, (graph, params, rest), (images, labels), run


def test_every_reading_is_the_norm_of_the_gradient_cut_at_its_point(compiled):
    case, split, batch, run = compiled
    readings, theirs = run(split[1])[1], signals(*split, *batch)
    assert readings.keys() == theirs.keys()
    assert len(theirs) == case.points
    for name, gradient in theirs.items():
        np.testing.assert_allclose(readings[name], np.linalg.norm(gradient), rtol=1e-4, err_msg=name)


def test_gradient_descent_learns_a_batch_of_digits(compiled):
    case, (_, params, _), _, run = compiled
    losses = []
    for _ in range(30):
        gradient, *_, value, _ = run(params)
        params = jax.tree.map(lambda leaf, slope: leaf - case.rate * slope, params, gradient)
        losses.append(float(value))
    assert np.mean(losses[-5:]) < 0.75 * losses[0]


# Settings that change what is done in training change nothing else


# GoogLeNet's depth is that with three modules.
TWINS = {
    "cnn": ({"width": 4, "image": 8}, [{"dropout": 0.5}, {"lrn": True}, {"pooling": "plain"}, {"activation": "tanh"}]),
    "alexnet": (
        {"width": 6, "image": 8},
        [{"dropout": 0.0}, {"lrn": False}, {"pooling": "plain"}, {"activation": "tanh"}],
    ),
    "nin": ({"width": 8}, [{"dropout": 0.0}]),
    "vgg": ({"width": 4, "depth": 11}, [{"dropout": 0.0}]),
    "googlenet": ({"width": 1, "image": 8, "depth": 10, "initialisation": "normal(0.1)"}, [{"dropout": 0.0}]),
}


@pytest.mark.parametrize("name", TWINS)
def test_nets_that_differ_in_regularisation_start_with_the_same_weights(name):
    settings, others = TWINS[name]
    weights = lambda **more: nets.split(nets.build(name, **SMALL, **settings, **more))[1]  # noqa: E731
    with three_modules():
        usual = weights()
        for other in others:
            jax.tree.map(np.testing.assert_array_equal, usual, weights(**other))


# What a hook sees of fc6 is its response: dropout comes after the activation.
FORGETFUL = [
    ("cnn", {"width": 4, "image": 8, "dropout": 0.5}, {"head"}),
    (
        "nin",
        {"width": 8, "image": 8},
        {f"mlpconv{block}/{part}" for block in (2, 3) for part in ("conv", "mlp1", "mlp2")} | {"head"},
    ),
    ("vgg", {"width": 4, "image": 8, "depth": 11}, {"fc7", "head"}),
    (
        "googlenet",
        {"width": 1, "image": 8, "depth": 10, "dropout": 0.5},
        {"auxiliary1/head", "auxiliary2/head", "head"},
    ),
    ("residual", {"width": 4, "depth": 8, "head": "fc", "dropout": 0.5, "normalisation": "none"}, {"fc2", "head"}),
]


@functools.partial(jax.jit, static_argnames=("graph", "train"))
def passed(graph, params, rest, images, train=True):
    """The activation at every point by name, and the net's state after the pass."""
    values = {}

    def capture(name, x):
        values[name] = x
        return x

    _, after = nets.apply(graph, params, rest, images, capture, train)
    return values, after


@pytest.mark.parametrize(("name", "settings", "changed"), FORGETFUL)
def test_dropout_acts_while_training_alone_and_on_these_layers(name, settings, changed):
    images, _ = digits(4)
    with three_modules():
        graph, params, rest = filled(name, **SMALL, **settings)
        without, _, calm = filled(name, **SMALL, **settings | {"dropout": 0.0})
    differ = lambda some, others: {at for at in some if not np.array_equal(some[at], others[at])}  # noqa: E731
    once, after = passed(graph, params, rest, images)
    again, _ = passed(graph, params, after, images)
    plain, _ = passed(without, params, calm, images)
    assert differ(once, plain) == differ(once, again) == changed
    # In test there is no dropout, as there is none in training with a rate of 0.
    tested, _ = passed(graph, params, rest, images, train=False)
    np.testing.assert_allclose(tested["head"], plain["head"], rtol=1e-5, atol=1e-6)


# A table of settings, each of which is one of a list in a layer that nets share


EVERY_SETTING = [
    *({"activation": name} for name in layers.ACTIVATIONS),
    *({"normalisation": name} for name in normalisations.NORMALISATIONS),
    *({"initialisation": "normal(0.1)" if name == "normal" else name} for name in initialisers.INITIALISATIONS),
    {"order": "pre"},
]
SMALLEST = {"residual": {"depth": 8}, "residual_mlp": {"depth": 3, "width": 8, "image": 8}}
EVERY = [(name, one) for name in SMALLEST for one in EVERY_SETTING]
EVERY += [("residual", {"order": "pre", "normalisation": "none", "shortcut": "C"})]


@pytest.mark.parametrize(
    ("name", "setting"), EVERY, ids=lambda one: one if isinstance(one, str) else " ".join(one.values())
)
def test_every_setting_gives_finite_logits_that_tell_images_apart(name, setting):
    logits = np.asarray(build(name, **SMALLEST[name], **setting)(digits(3)[0]))
    assert logits.shape == (3, 10)
    assert np.isfinite(logits).all()
    assert np.abs(logits[0] - logits[1:]).max(axis=1).min() > 1e-6


# The sizes of the papers, with weights that numpy draws


PAPERS = {
    "nin": ({"channels": 3, "classes": 10}, (2, 32, 32, 3), 18),
    "vgg": ({"family": "imagenet", "depth": 16, "channels": 3, "classes": 1000}, (1, 224, 224, 3), 32),
    "googlenet": ({"family": "imagenet", "depth": 10, "channels": 3, "classes": 1000}, (1, 224, 224, 3), 56),
}


@pytest.mark.slow  # 138 million weights, and most of the rest
@pytest.mark.parametrize("name", PAPERS)
def test_one_step_at_the_size_of_the_paper_has_finite_gradients_everywhere(name):
    settings, shape, arrays = PAPERS[name]
    with three_modules():
        graph, params, rest = filled(name, **settings)
    images, labels = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32)), jnp.arange(shape[0]) + 7

    @jax.jit
    def norms(params, rest):
        def total(params):
            answer, _ = nets.apply(graph, params, rest, images)
            if isinstance(answer, Heads):
                return loss(answer.logits, labels) + 0.3 * sum(loss(other, labels) for other in answer.auxiliary)
            return loss(answer, labels)

        value, gradient = jax.value_and_grad(total)(params)
        return value, jax.tree.map(lambda leaf: jnp.sqrt(jnp.sum(jnp.square(leaf))), gradient)

    value, found = norms(params, rest)
    assert float(value) < 100
    assert len(jax.tree.leaves(found)) == arrays
    assert all(0 < float(norm) < 1e6 for norm in jax.tree.leaves(found))
