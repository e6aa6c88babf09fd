"""The atoms: normalisation against Flax and NumPy, initialisers against the papers' formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradflow.errors import BadInput
from gradflow.nets.layers import atoms as layers
from gradflow.nets.layers import initialisers, normalisations


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_batch_norm_is_that_of_flax_while_training_and_after():
    ours: Any = normalisations.BatchNorm(5)
    theirs: Any = nnx.BatchNorm(5, momentum=0.9, epsilon=1e-5, rngs=nnx.Rngs(0))
    scale, bias = random(5, seed=1), random(5, seed=2)
    for norm in (ours, theirs):
        norm.scale.set_value(jnp.asarray(scale))
        norm.bias.set_value(jnp.asarray(bias))
        norm.train()
    batches = [jnp.asarray(3 * random(4, 6, 6, 5, seed=seed) + 2) for seed in range(4)]
    running = np.ones(5)
    for x in batches[:3]:
        np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ours.mean[...], theirs.mean[...], rtol=1e-6)
        # Unlike Flax's the running variance is the unbiased one, as Ioffe and Szegedy 2015, algorithm 2, and PyTorch's.
        running = 0.9 * running + 0.1 * np.asarray(x, np.float64).var((0, 1, 2), ddof=1)
        np.testing.assert_allclose(ours.variance[...], running, rtol=1e-5)
    theirs.var.set_value(ours.variance[...])
    for norm in (ours, theirs):
        norm.eval()
    before = np.array(ours.mean[...])
    np.testing.assert_allclose(ours(batches[3]), theirs(batches[3]), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours.mean[...], before)


def test_batch_norm_in_bfloat16_keeps_its_statistics_in_float32():
    x = jnp.asarray(1000 + random(64, 8, 8, 3), jnp.bfloat16)
    norm = normalisations.BatchNorm(3, dtype=jnp.bfloat16)
    assert norm(x).dtype == jnp.bfloat16
    wide = np.asarray(x, np.float64)
    assert norm.mean[...].dtype == jnp.float32
    np.testing.assert_allclose(norm.mean[...], 0.1 * wide.mean((0, 1, 2)), rtol=1e-6)


@pytest.mark.parametrize("ratio", [0, 1, 1e3, 1e4])
def test_batch_norm_is_right_where_the_mean_is_large_against_the_deviation(ratio):
    """Against float64; E[x^2] - E[x]^2 in float32 is 6 % off at a ratio of 1,000 and without a digit at 10,000."""
    x = (ratio + random(64, 8, 8, 3)).astype(np.float32)
    norm, wide = normalisations.BatchNorm(3), x.astype(np.float64)
    y = norm(jnp.asarray(x))
    mean, variance = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    count = wide.size / 3
    np.testing.assert_allclose(norm.variance[...], 0.9 + 0.1 * variance * count / (count - 1), rtol=1e-5)
    # What is left is the rounding of the mean itself, to ratio * 6e-8 deviations.
    np.testing.assert_allclose(y, (wide - mean) / np.sqrt(variance + 1e-5), rtol=1e-4, atol=1e-5 + 1e-6 * ratio)


def test_the_running_variance_of_a_single_value_is_that_of_the_batch():
    norm = normalisations.BatchNorm(3)
    norm(jnp.ones((1, 3)))
    np.testing.assert_allclose(norm.variance[...], 0.9)


@pytest.mark.parametrize(("kernel", "stride", "side"), [(3, 1, 5), (3, 2, 6), (5, 1, 4), (3, 1, 2), (5, 1, 1)])
def test_circular_padding_takes_the_opposite_edge(kernel, stride, side):
    """Against a loop over output pixels; and every input pixel then has the same part in the whole."""
    convolution = layers.Atoms(padding="circular").convolution(2, 3, kernel, stride, rngs=nnx.Rngs(0))
    x = random(1, side, side, 2)
    weights, half = np.asarray(convolution.kernel[...], np.float64), kernel // 2
    wanted = np.zeros((len(range(0, side, stride)), len(range(0, side, stride)), 3))
    for i, row in enumerate(range(0, side, stride)):
        for j, column in enumerate(range(0, side, stride)):
            for u in range(kernel):
                for v in range(kernel):
                    pixel = x[0, (row + u - half) % side, (column + v - half) % side]
                    wanted[i, j] += pixel @ weights[u, v]
    np.testing.assert_allclose(convolution(jnp.asarray(x))[0], wanted, rtol=1e-4, atol=1e-5)
    if stride == 1:
        total = jax.grad(lambda x: convolution(x)[..., 0].sum())(jnp.asarray(x))[0]
        np.testing.assert_allclose(total, np.broadcast_to(total[0, 0], total.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "groups"), [("group", 3), ("layer", 1)])
def test_group_and_layer_norm_are_their_formula(name, groups):
    x = 3 * random(2, 4, 4, 12) + 1
    norm = normalisations.normalisation(name, 12, rngs=nnx.Rngs(0))
    apart = x.astype(np.float64).reshape(2, 16, groups, 12 // groups)
    mean, variance = apart.mean((1, 3), keepdims=True), apart.var((1, 3), keepdims=True)
    theirs = ((apart - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    np.testing.assert_allclose(norm(jnp.asarray(x)), theirs, atol=1e-5)


def test_no_norm_is_the_identity():
    x = jnp.asarray(random(2, 3))
    assert normalisations.normalisation("none", 3, rngs=nnx.Rngs(0))(x) is x


@pytest.mark.parametrize("channels", [1, 3, 4, 6, 12, 16, 20, 64, 129, 256, 2048])
def test_groups_are_at_most_32_and_of_at_least_4_channels(channels):
    norm = normalisations.normalisation("group", channels, rngs=nnx.Rngs(0))
    assert isinstance(norm, nnx.GroupNorm)
    assert channels % norm.num_groups == 0
    assert norm.num_groups <= 32
    assert norm.num_groups == 1 or channels // norm.num_groups >= 4
    if channels % 16 == 0:  # every width of He's nets
        assert norm.num_groups == min(32, channels // 4)


KERNEL = (3, 3, 32, 64)
FAN_IN, FAN_OUT = 9 * 32, 9 * 64


@pytest.mark.parametrize(
    ("name", "variance", "kurtosis"),
    [
        ("he", 2 / FAN_IN, 3),
        ("he(0.5)", 0.25 * 2 / FAN_IN, 3),
        ("lecun", 1 / FAN_IN, 3),
        ("glorot", 2 / (FAN_IN + FAN_OUT), 1.8),
        ("normal(0.01)", 1e-4, 3),
    ],
)
def test_initialiser_has_the_moments_of_its_paper(name, variance, kurtosis):
    weights = np.asarray(initialisers.initialiser(name)(jax.random.key(0), KERNEL), np.float64)
    # 18,432 draws: the variance of a normal sample is known to sqrt(2 / n) = 1 %, its kurtosis to sqrt(24 / n) = 0.04.
    assert abs(weights.mean()) < 4 * np.sqrt(variance / weights.size)
    assert weights.var() == pytest.approx(variance, rel=0.04)
    assert np.mean(weights**4) / weights.var() ** 2 == pytest.approx(kurtosis, abs=0.16)


@pytest.mark.parametrize("gain", [1, 1.414])
def test_orthogonal_columns_are_orthogonal_and_as_long_as_the_gain(gain):
    weights = initialisers.initialiser(f"orthogonal({gain})")(jax.random.key(0), (3, 3, 4, 8)).reshape(36, 8)
    np.testing.assert_allclose(weights.T @ weights, gain**2 * np.eye(8), atol=1e-5)


@pytest.mark.parametrize("gain", [1, 0.5])
def test_delta_orthogonal_convolution_scales_the_norm_by_its_gain_and_looks_at_the_centre_only(gain):
    convolution = layers.Atoms(initialisation=f"delta_orthogonal({gain})").convolution(6, 6, 3, rngs=nnx.Rngs(0))
    kernel = np.array(convolution.kernel[...])
    x = random(2, 5, 5, 6)
    np.testing.assert_allclose(convolution(jnp.asarray(x)), x @ kernel[1, 1], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(convolution(jnp.asarray(x))), gain * np.linalg.norm(x), rtol=1e-6)
    kernel[1, 1] = 0
    assert not kernel.any()


@pytest.mark.parametrize("name", ["he", "glorot", "lecun", "orthogonal", "delta_orthogonal"])
def test_gain_multiplies_the_weights(name):
    one, other = (initialisers.initialiser(f"{name}{gain}")(jax.random.key(0), (3, 3, 4, 4)) for gain in ("", "(0.25)"))
    assert np.any(one)
    np.testing.assert_allclose(other, 0.25 * one, rtol=1e-6)


@pytest.mark.parametrize("name", ["he(", "he()", "he(x)", "he(0)", "he(-1)", "he(nan)", "he(inf)", "normal(0)"])
def test_a_bad_number_for_an_initialiser_is_refused(name):
    with pytest.raises(BadInput, match=r"unknown initialisation|must be positive and finite"):
        initialisers.initialiser(name)


@pytest.mark.parametrize("name", ["", "He", "kaiming", "kaiming(2)", "he(1)(2)x"])
def test_an_unknown_initialiser_is_refused_with_the_legal_ones(name):
    with pytest.raises(BadInput, match="he, glorot, lecun, orthogonal, delta_orthogonal, normal"):
        initialisers.initialiser(name)


def test_normal_without_a_deviation_is_refused():
    with pytest.raises(BadInput, match=r"write normal\(0\.01\)"):
        initialisers.initialiser("normal")


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (1, 2), (3, 2), (7, 2)])
@pytest.mark.parametrize("size", [7, 8])
def test_convolution_is_a_sum_over_a_window_centred_on_every_stride_th_pixel(kernel, stride, size):
    convolution = layers.Atoms().convolution(2, 3, kernel, stride, rngs=nnx.Rngs(0))
    x, half = random(2, size, size, 2), kernel // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    weights = np.asarray(convolution.kernel[...])
    theirs = np.array(
        [
            [
                np.einsum("bijc,ijco->bo", padded[:, row : row + kernel, column : column + kernel], weights)
                for column in range(0, size, stride)
            ]
            for row in range(0, size, stride)
        ]
    ).transpose(2, 0, 1, 3)
    np.testing.assert_allclose(convolution(jnp.asarray(x)), theirs, atol=1e-5)


def test_classifier_answers_in_float32_whatever_it_is_given():
    head = layers.Linear(4, 3, initialisation="he", rngs=nnx.Rngs(0))
    assert head(jnp.ones((2, 4), jnp.bfloat16)).dtype == jnp.float32
    assert not np.any(head(jnp.zeros((2, 4))))


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer 2017, equation 14
FORMULAS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": lambda x: (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "gelu": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "selu": lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * (np.exp(x) - 1)),
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "linear": lambda x: x,
}


@pytest.mark.parametrize("name", layers.ACTIVATIONS)
def test_activation_is_its_formula(name):
    x = np.linspace(-4, 4, 33)
    np.testing.assert_allclose(layers.ACTIVATIONS[name](jnp.asarray(x, jnp.float32)), FORMULAS[name](x), atol=1e-6)


# Convolutions with bias, groups and a padding of their own


def grouped(x, kernel, stride, padding, groups):
    """What XLA has for it."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "groups"),
    [(31, 11, 4, 0, 1), (32, 11, 4, 2, 1), (9, 5, 1, 2, 2), (8, 3, 1, 1, 2), (10, 3, 2, 0, 3), (7, 1, 1, 0, 2)],
)
def test_convolution_and_its_gradients_are_those_of_xla(size, kernel, stride, padding, groups):
    convolution = layers.Atoms().convolution(
        6, 12, kernel, stride, padding=padding, bias=1.5, groups=groups, rngs=nnx.Rngs(0)
    )
    graph, params = nnx.split(convolution)
    x = jnp.asarray(random(2, size, size, 6))
    ours, back = jax.vjp(lambda params, x: nnx.merge(graph, params)(x), params, x)
    weights = convolution.kernel[...]
    theirs, their_back = jax.vjp(
        lambda w, b, x: grouped(x, w, stride, padding, groups) + b, weights, jnp.full(12, 1.5), x
    )
    assert weights.shape == (kernel, kernel, 6 // groups, 12)
    assert ours.shape[1] == (size + 2 * padding - kernel) // stride + 1
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    direction = jnp.asarray(random(*ours.shape, seed=1))
    gradient, to_x = back(direction)
    to_weights, to_bias, their_x = their_back(direction)
    np.testing.assert_allclose(gradient["kernel"][...], to_weights, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient["bias"][...], to_bias, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(to_x, their_x, rtol=1e-4, atol=1e-4)


def test_groups_do_not_see_each_other():
    convolution = layers.Atoms().convolution(4, 6, 3, groups=2, rngs=nnx.Rngs(0))
    x = random(1, 5, 5, 4)
    before = np.asarray(convolution(jnp.asarray(x)))
    x[..., 2:] += 1
    after = np.asarray(convolution(jnp.asarray(x)))
    np.testing.assert_array_equal(after[..., :3], before[..., :3])
    assert (after[..., 3:] != before[..., 3:]).all()


def test_biases_start_where_they_are_told_and_are_float32():
    for bias in (0.0, 1.0):
        convolution = layers.Atoms().convolution(2, 3, 3, bias=bias, rngs=nnx.Rngs(0))
        linear = layers.Atoms().linear(2, 3, bias=bias, rngs=nnx.Rngs(0))
        layer: Any
        for layer in (convolution, linear):
            assert layer.bias[...].dtype == jnp.float32
            np.testing.assert_array_equal(layer.bias[...], [bias] * 3)
    assert not hasattr(layers.Atoms().convolution(2, 3, 3, rngs=nnx.Rngs(0)), "bias")


# Local response normalisation


@pytest.mark.parametrize(("channels", "neighbours"), [(7, 5), (3, 5), (1, 5), (6, 3), (8, 1)])
def test_local_response_normalisation_is_the_formula_of_the_paper(channels, neighbours):
    x = 100 * random(2, 3, 3, channels)  # large, so that the sum counts beside k
    theirs, last = np.zeros(x.shape), channels - 1
    for i in range(channels):
        total = 0
        for j in range(max(0, i - neighbours // 2), min(last, i + neighbours // 2) + 1):
            total = total + x[..., j].astype(np.float64) ** 2
        theirs[..., i] = x[..., i] / (2 + 1e-4 * total) ** 0.75
    ours = normalisations.local_response_normalisation(jnp.asarray(x), neighbours)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert np.abs(theirs / x).min() < 0.9 * 2**-0.75


def test_local_response_normalisation_has_the_constants_of_the_paper():
    np.testing.assert_allclose(
        normalisations.local_response_normalisation(jnp.asarray([[100.0]])), 100 / 3**0.75, rtol=1e-6
    )


# Dropout


def thinned(rate=0.25, seed=0):
    return layers.Dropout(rate, rngs=nnx.Rngs(seed))


def test_dropout_drops_its_share_and_scales_the_rest():
    x = jnp.ones((200, 200))
    for rate in (0.1, 0.5):
        y = np.asarray(thinned(rate)(x))
        np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=1e-6)
        # 40,000 draws: the share is known to sqrt(0.25 / n) = 0.0025.
        assert (y == 0).mean() == pytest.approx(rate, abs=0.0125)


def test_dropout_draws_anew_at_each_pass_and_the_same_from_the_same_key():
    x, one, same, other = jnp.ones((8, 64)), thinned(), thinned(), thinned(seed=1)
    first = one(x)
    np.testing.assert_array_equal(first, same(x))
    assert (first != one(x)).any()
    assert (first != other(x)).any()
    kept = jnp.array(one.key[...])
    third = one(x)
    one.key.set_value(kept)  # as a resumed run does
    np.testing.assert_array_equal(third, one(x))


def test_dropout_is_off_when_the_net_is_tried_or_the_rate_is_0():
    x, dropout = jnp.ones((8, 64)), thinned()
    before = np.array(dropout.key[...])
    dropout.eval()
    assert dropout(x) is x
    np.testing.assert_array_equal(dropout.key[...], before)
    dropout.train()
    assert (dropout(x) == 0).any()
    assert thinned(0.0)(x) is x


def test_the_gradient_of_dropout_passes_where_it_let_pass():
    graph, state = nnx.split(thinned(0.5))
    y, back = jax.vjp(lambda x: nnx.merge(graph, state, copy=True)(x), jnp.ones((4, 32)))
    np.testing.assert_array_equal(back(jnp.ones_like(y))[0], y)
    assert 0 < (y == 0).mean() < 1


def test_images_of_another_size_than_the_net_was_made_for_are_refused():
    layers.check_image_size(8, jnp.zeros((1, 8, 8, 3)))
    for shape in ((1, 8, 9, 3), (1, 9, 8, 3), (1, 4, 4, 3)):
        with pytest.raises(BadInput, match=r"it is made for 8x8 pixels"):
            layers.check_image_size(8, jnp.zeros(shape))
