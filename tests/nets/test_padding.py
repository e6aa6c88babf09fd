"""A padded net against the net itself: the same gradients and readings, to rounding, at every depth of one program."""

import jax
import numpy as np
import optax
import pytest

import gradflow as gf
from gradflow import nets
from gradflow.nets import padding
from gradflow.runs import train
from gradflow.training import optimiser as optim
from gradflow.training.loop import Training

SETTINGS = {"net": "residual", "width": 4, "batch": 16, "steps": 3, "learning_rate": 0.01, "evaluations": 0}
RUN = gf.Run(**SETTINGS, depth=18)


def trained_alone(run):
    """The readings of a training that is compiled for this very net."""
    dataset = train.load_dataset(run)
    update = optim.optimiser(run.optimiser, 1.0, run.momentum, run.weight_decay)
    net = train.build_net(run, dataset)
    alone = Training(net, dataset, update, batch=run.batch)
    return alone.readings(alone.start(net, run.seed), run.seed, run.steps, rate_at=train.rates(run))


@pytest.mark.parametrize(
    ("net", "depth", "settings"),
    [
        ("residual", 18, {}),
        ("plain", 34, {"normalisation": "none"}),
        ("residual", 22, {"order": "pre", "shortcut_scale": 0.5}),
        ("residual", 20, {"shortcut": "C", "initialisation": "glorot"}),
    ],
)
def test_a_padded_net_reads_what_the_net_itself_does(net, depth, settings):
    run = gf.Run(**{**SETTINGS, "net": net, "depth": depth, **settings})
    assert train.prepare(run)[0].padded
    for ours, theirs in zip(gf.train(run), trained_alone(run), strict=True):
        assert ours.finite
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
        assert ours.values.keys() == theirs.values.keys()
        for quantity, values in theirs.values.items():
            assert ours.values[quantity] == pytest.approx(values, rel=5e-3, abs=1e-5, nan_ok=True), quantity


def test_twins_of_several_depths_are_compiled_once_and_a_longer_or_a_much_shallower_net_or_a_long_run_by_itself():
    first, *others = (train.prepare(RUN.replace(depth=depth)) for depth in (18, 34, 22))
    training, state = first
    training.step(state, 0, 0)
    for other, state in [*others, train.prepare(gf.Run(**{**SETTINGS, "net": "plain"}, depth=20))]:
        assert other._step is training._step
        other.step(state, 0, 0)
    assert training._step._cache_size() == 1
    assert train.prepare(RUN.replace(depth=62))[0]._step is not training._step  # ten units in the first row
    assert not train.prepare(RUN.replace(steps=padding.STEPS + 1))[0].padded
    assert not train.prepare(RUN.replace(depth=14))[0].padded  # four of 27 units


@pytest.mark.parametrize(
    ("net", "settings"),
    [("residual", {}), ("plain", {"normalisation": "none"}), ("residual", {"shortcut_scale": 0.5}), ("plain", {})],
)
def test_parameters_statistics_and_moments_translate_there_and_back(net, settings):
    net = nets.build(net, depth=18, classes=10, channels=1, width=4, **settings)
    padded = padding.pad_units(net)
    assert padded
    _, params, rest = nets.split(net)
    state = (params, rest, optax.sgd(0.1, momentum=0.9).init(params))
    whole = (padded.pad(params), padded.pad_rest(rest), padded.pad(state[2]))
    _, *shapes = nets.split(padded.net)
    assert jax.tree.map(np.shape, list(whole[:2])) == jax.tree.map(np.shape, shapes)
    back = padded.unpad(whole)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)


def test_a_padded_net_has_the_points_of_the_net_among_its_own():
    net = nets.build("residual", depth=34, classes=10, channels=1, width=4)
    padded = padding.pad_units(net)
    assert padded
    ours = {point.name: point.shape for point in nets.points_of(padded.net, (8, 8, 1))}
    for point in nets.points_of(net, (8, 8, 1)):
        assert ours[padded.name(point.name)] == point.shape


def test_a_net_whose_units_may_not_be_repeated_is_not_padded():
    assert padding.pad_units(nets.build("mlp", depth=8, classes=10, channels=1, image=8)) is None
    assert padding.pad_units(nets.build("cnn", classes=10, channels=1, image=8)) is None
