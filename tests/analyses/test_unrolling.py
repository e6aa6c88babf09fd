"""The sum that a residual net is and how far an activation reaches, against whole Jacobians, unit by unit."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from naive import activations, build, digits

import gradflow as gf
from gradflow import nets
from gradflow.errors import BadInput

NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "residual": ("residual", {"depth": 8, "width": 2, "order": "pre", "normalisation": "none"}),
    "residual, batch norm, projections": (
        "residual",
        {"depth": 8, "width": 2, "order": "pre", "shortcut": "C", "activation": "tanh"},
    ),
    "plain": ("plain", {"depth": 8, "width": 2, "order": "pre"}),
    "plain, post": ("plain", {"depth": 8, "width": 2, "normalisation": "none"}),
    "residual_mlp": ("residual_mlp", {"depth": 5, "width": 6, "image": 8, "order": "pre", "normalisation": "layer"}),
}


def small(name: str) -> tuple[Any, Any]:
    net, settings = NETS[name]
    return gf.nets.build(net, classes=10, channels=1, seed=1, **settings), digits(3)[0]


def held(net: Any, images: Any) -> tuple[list[Any], Any]:
    """The units as functions of one image's activation, batch norm with the statistics of all; and the first inputs."""
    net.set_attributes(decay=0.0, raise_if_not_found=False)
    net.train()
    first = activations(*nets.split(net), images)[net.units[0]]
    x, units = first, [getattr(net, name) for name in net.units]
    for unit in units:
        unit(x, lambda name, x: x, "u")  # leaves the statistics of x
        unit.eval()
        x = unit(x, lambda name, x: x, "u")
    alone = [lambda x, unit=unit: unit(x[None], lambda name, x: x, "u")[0] for unit in units]
    return alone, first


def jacobians(functions: Any, x: Any) -> np.ndarray:
    """(image, outputs, inputs) of the functions of one image, one after another, at each image's x."""
    chain = lambda x: functools.reduce(lambda x, f: f(x), functions, x)  # noqa: E731
    found = np.asarray(jax.jit(jax.vmap(jax.jacrev(chain)))(x), np.float64)
    return found.reshape(len(x), -1, x[0].size)


def gain(jacobians: np.ndarray) -> float:
    """Frobenius norm over the root of the outputs' number, root mean square over images."""
    return float(np.sqrt(np.sum(jacobians**2) / jacobians.shape[0] / jacobians.shape[1]))


@pytest.mark.parametrize("name", NETS)
def test_exact_influence_is_that_of_whole_jacobians(name):
    net, images = small(name)
    found = gf.influence(net, images, probes=None)
    alone, x = held(net, images)
    of_units = []
    for unit in alone:
        of_units.append(jacobians([unit], x))
        x = jax.jit(jax.vmap(unit))(x)
    whole = lambda first, last: functools.reduce(lambda before, own: own @ before, of_units[first : last + 1])  # noqa: E731
    count = len(alone)
    assert found.names == net.units
    for first in range(count):
        wanted = gain(whole(first, count - 1))
        assert found.total[first] == pytest.approx(wanted, rel=1e-4)
        assert found.forward[first] == pytest.approx(wanted, rel=1e-4)
        assert np.isnan(found.reach[first, :first]).all()
    for first, last in ((0, 0), (0, count - 2), (1, count - 1)):
        wanted = gain(whole(first, last))
        assert found.reach[first, last] == pytest.approx(wanted, rel=1e-4)
    assert found.error < 1e-5


def test_identity_and_branches_by_hand():
    """Of one unit more than one: H is a product of shortcuts alone, D_i = H_i dF(x_i) J, and H + sum D_i = J."""
    net, images = small("residual")
    found = gf.influence(net, images, probes=None)
    _, x = held(net, images)
    units, inputs = [getattr(net, name) for name in net.units], [x]
    for unit in units:
        inputs.append(unit(inputs[-1], lambda name, x: x, "u"))
    shortcuts = [lambda x, unit=unit: unit.identity(x[None], lambda name, x: x, "u")[0] for unit in units]
    branches = [lambda x, unit=unit: unit.residual(x[None], lambda name, x: x, "u")[0] for unit in units]
    wholes = [lambda x, unit=unit: unit(x[None], lambda name, x: x, "u")[0] for unit in units]
    through, whole = jacobians(shortcuts, x), jacobians(wholes, x)
    assert found.identity[0] == pytest.approx(gain(through), rel=1e-5)
    assert found.branches[0] == pytest.approx(gain(whole - through), rel=1e-4)
    total = through
    for i, branch in enumerate(branches):
        before, own = jacobians(wholes[:i], x), jacobians([branch], inputs[i])
        part = jacobians(shortcuts[i + 1 :], inputs[i + 1]) @ own @ before
        assert found.terms[i] == pytest.approx(gain(part), rel=1e-4)
        total = total + part
    np.testing.assert_allclose(total, whole, atol=1e-4 * np.abs(whole).max())


def test_random_vectors_give_the_exact_numbers_in_the_mean():
    net, images = small("residual")
    exact, random = gf.influence(net, images, probes=None), gf.influence(net, images, probes=400, seed=3)
    for name in ("total", "forward", "identity", "branches", "terms"):
        np.testing.assert_allclose(getattr(random, name), getattr(exact, name), rtol=0.06, err_msg=name)
    again = gf.influence(net, images, probes=400, seed=3)
    np.testing.assert_array_equal(again.total, random.total)


@pytest.mark.parametrize("name", ["residual", "residual, batch norm, projections", "residual_mlp"])
def test_the_last_activation_is_the_sum_of_its_terms(name):
    """The activation as the net itself computes it; the terms by the units' own paths."""
    net, images = small(name)
    found = gf.unroll(net, images)
    _, x = held(net, images)
    terms, silent = [np.asarray(x)], lambda name, x: x
    for unit in (getattr(net, name) for name in net.units):
        h = (lambda t, unit=unit: unit.identity(t, silent, "u")) if hasattr(unit, "identity") else lambda t: t
        terms = [np.asarray(h(jnp.asarray(term))) for term in terms] + [np.asarray(unit.residual(x, silent, "u"))]
        x = unit(x, silent, "u")
    np.testing.assert_allclose(found.output, x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.terms, terms, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.sum(terms, axis=0), x, rtol=1e-4, atol=1e-5)
    assert (found.errors < 1).all()
    x = np.asarray(x, np.float64)
    np.testing.assert_allclose(found.shares, [np.sum(term * x) / np.sum(x * x) for term in terms], atol=1e-5)
    assert found.shares.sum() == pytest.approx(1, abs=1e-5)


def test_an_error_that_is_no_rounding_is_larger_than_the_bound():
    from gradflow.analyses.unrolling import _rounding

    terms = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 30)), jnp.float32)
    whole = terms.sum(0)
    assert _rounding(whole, terms, 4) < 1
    assert _rounding(whole + 1e-5, terms, 4) > 1


def test_the_net_after_training_is_that_of_its_readings():
    """Its units lie one by one again; its test error is the last that was read, and its weights have moved."""
    run = gf.Run(net="residual", depth=20, width=2, steps=4, batch=32, learning_rate=0.05, evaluations=1)
    readings: list[Any] = []
    net: Any = gf.trained(run, watch=readings.append)
    assert [one.step for one in readings] == [1, 2, 3, 4]
    data = gf.load_data("digits")
    pixels = data.train_images / 255
    images = (data.test_images / 255 - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))
    net.eval()
    wrong = np.argmax(net(jnp.asarray(images, jnp.float32)), axis=1) != data.test_labels
    assert readings[-1].test_error == pytest.approx(float(wrong.mean()), abs=2.5 / len(wrong))
    assert [reading.loss for reading in gf.train(run)] == [reading.loss for reading in readings]
    assert not np.array_equal(net.stem.kernel[...], build("residual", 20, 2).stem.kernel[...])


# Bad input


def test_a_net_without_units_is_refused_in_one_line():
    net = gf.nets.build("cnn", classes=10, channels=1, width=4, image=8)
    with pytest.raises(BadInput, match=r"no units.*legal are .*'residual'") as raised:
        gf.influence(net, digits(2)[0])
    assert "\n" not in str(raised.value)


def test_units_that_do_something_after_the_addition_are_refused():
    net = gf.nets.build("residual", depth=8, width=2, classes=10, channels=1)
    for analyse in (gf.unroll, gf.influence):
        with pytest.raises(BadInput, match=r"'block01' does something after its addition.*order 'pre'"):
            analyse(net, digits(2)[0])


def test_a_jacobian_that_would_not_fit_says_its_size_and_the_bound(monkeypatch):
    monkeypatch.setenv("GRADFLOW_MAX_DATA_BYTES", "100000")
    net, images = small("residual")
    with pytest.raises(BadInput, match=r"Jacobian by 128 vectors an image would take .* MiB.*legal are 100000 bytes"):
        gf.influence(net, images, probes=None)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((2, 8, 8)), r"\(2, 8, 8\) are not legal"),
        (np.zeros((2, 2, 2, 1)), "fit"),
        (np.zeros((2, 8, 8, 3)), "fit"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_one_line(images, said):
    with pytest.raises(BadInput, match=said) as raised:
        gf.unroll(small("residual")[0], images)
    assert "\n" not in str(raised.value)


def test_fewer_probes_than_one_are_refused():
    with pytest.raises(BadInput, match="probes 0 is not legal"):
        gf.influence(*small("residual"), probes=0)
