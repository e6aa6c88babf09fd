"""The gradient at a unit split in two: against the recorder, against a net without branches, and added up."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradflow as gf
from gradflow.errors import BadInput

SETTINGS: dict[str, Any] = {
    "net": "residual",
    "depth": 8,
    "width": 4,
    "order": "pre",
    "batch": 16,
    "steps": 3,
    "evaluations": 0,
}


@pytest.mark.parametrize(
    "settings", [{"normalisation": "batch"}, {"normalisation": "none", "shortcut_scale": 0.5}, {"shortcut": "C"}]
)
def test_the_two_terms_add_up_to_the_gradient_that_a_training_step_records(settings):
    run = gf.Run(**SETTINGS, **settings)
    recorded = next(iter(gf.train(run))).values["activation_gradient_norm"]
    found = gf.gradient_paths(gf.build_net(run), *gf.batch_of(run))
    assert [one.unit for one in found] == ["block01", "block02", "block03"]
    for one in found:
        assert one.gradient_norm == pytest.approx(recorded[one.unit], rel=1e-5)
        assert one.error < 1e-5
        assert min(one.identity_norm, one.branches_norm) > 0


def test_after_training_they_add_up_as_well():
    run = gf.Run(**SETTINGS)
    assert max(one.error for one in gf.gradient_paths(gf.trained(run), *gf.batch_of(run, step=4))) < 1e-5


def test_without_branches_all_comes_through_the_shortcuts_and_is_their_factors_product():
    """With all kernels of the units 0 a unit is lambda h. Within the last stage h is the identity."""
    net: Any = gf.build_net(gf.Run(**SETTINGS | {"depth": 14, "normalisation": "none", "shortcut_scale": 0.25}))
    for name in net.units:
        for layer in ("conv1", "conv2"):
            kernel = getattr(getattr(net, name), layer).kernel
            kernel.set_value(jnp.zeros_like(kernel.get_value()))
    images, labels = gf.batch_of(gf.Run(**SETTINGS))
    *_, before, last = gf.gradient_paths(net, images, labels)
    assert before.branches_norm == last.branches_norm == 0
    assert before.identity_norm == before.gradient_norm == pytest.approx(0.25 * last.gradient_norm, rel=1e-6)
    x: Any = nnx.clone(net).before_units(images)
    for name in net.units:
        x = getattr(net, name).identity(x, lambda _, x: x, "")
    loss = lambda x: gf_loss(net.after_units(x), labels)  # noqa: E731
    at_the_end = np.sqrt(len(labels)) * np.linalg.norm(jax.grad(loss)(x))
    assert last.gradient_norm == pytest.approx(0.25 * at_the_end, rel=1e-5)


def test_a_net_that_has_died_has_no_gradient_and_no_error():
    net: Any = gf.build_net(gf.Run(**{**SETTINGS, "normalisation": "none"}))
    net.head.kernel.set_value(jnp.zeros_like(net.head.kernel.get_value()))
    assert {one[1:] for one in gf.gradient_paths(net, *gf.batch_of(gf.Run(**SETTINGS)))} == {(0.0, 0.0, 0.0, 0.0)}


def gf_loss(logits, labels):
    """Mean cross-entropy, written out."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))


def test_a_batch_is_the_one_of_that_training_step():
    run = gf.Run(**SETTINGS | {"steps": 1, "record": "all"})
    reading = gf.read(gf.build_net(run), *gf.batch_of(run))
    recorded = next(iter(gf.train(run)))
    assert reading.loss == pytest.approx(recorded.loss, rel=1e-6)
    assert not np.array_equal(gf.batch_of(run, step=2)[1], gf.batch_of(run)[1])


@pytest.mark.parametrize(
    "settings", [{"net": "plain", "order": "pre"}, {"net": "residual"}, {"net": "vgg", "depth": 11, "width": 4}]
)
def test_a_net_without_such_units_is_one_line(settings: dict[str, Any]):
    run = gf.Run(**settings)
    with pytest.raises(BadInput, match="legal is a residual net of order pre"):
        gf.gradient_paths(gf.build_net(run), *gf.batch_of(run))
