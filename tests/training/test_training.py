"""Training: the same to the last bit when it should be, complete in its readings, and honest about the test set."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from naive import DIGITS, STATISTICS, build

import gradflow as gf
from gradflow import nets
from gradflow.data.batches import indices
from gradflow.data.transforms import normalise
from gradflow.errors import BadInput
from gradflow.measuring.reading import Reading
from gradflow.nets import stack
from gradflow.training import optimiser as optim
from gradflow.training import platform as runtime
from gradflow.training.loop import Training

BATCH = 32


def sgd(steps=100):
    return optim.optimiser("sgd", optim.schedule("constant", 0.05, steps), 0.9, 1e-4)


def make(net, dataset=DIGITS, **settings):
    return Training(net, dataset, sgd(), batch=BATCH, **settings)


@pytest.fixture(scope="module")
def net():
    return build()


@pytest.fixture(scope="module")
def training(net):
    # 1,300 test images are two chunks of 512 and a part of one.
    images, labels = DIGITS.train_images[200:], DIGITS.train_labels[200:]
    return make(net, dataclasses.replace(DIGITS, test_images=images, test_labels=labels))


def table(readings):
    """Everything read, as comparable numbers."""
    return [(one.step, one.loss, one.train_error, one.test_error, one.values) for one in readings]


def trained(training, net, steps, seed=0):
    state = training.start(net, seed)
    for number in range(steps):
        state, _ = training.step(state, seed, number)
    return state


def test_test_error_is_a_naive_count_over_the_whole_test_set(training, net):
    state = trained(training, net, 30)
    graph, mean = nets.split(net)[0], (DIGITS.train_images / 255).mean()
    images = (DIGITS.train_images[200:] / 255 - mean) / (DIGITS.train_images / 255).std()
    logits, _ = nets.apply(graph, state.params, state.rest, jnp.asarray(images, jnp.float32), train=False)
    wrong = np.argmax(np.asarray(logits), axis=1) != DIGITS.train_labels[200:]
    assert float(training.evaluate(state)) == pytest.approx(wrong.mean(), abs=1e-6)
    assert 0 < wrong.sum() < 1000  # it has learned something: chance is 1,170 of 1,300


def test_the_same_seed_reads_the_same_to_the_last_bit_and_another_does_not(training, net):
    first, second, other = (table(training.readings(training.start(net, seed), seed, 4)) for seed in (0, 0, 1))
    assert first == second
    assert all(one[1] != another[1] for one, another in zip(first, other, strict=True))


@pytest.mark.parametrize(("name", "depth", "rows"), [("plain", 8, 0), ("residual", 14, 1)])
def test_a_step_that_is_not_read_is_the_same_step_and_reads_no_large_activation(name, depth, rows, monkeypatch):
    monkeypatch.setattr(stack, "LEAST_ON_SMALL", 2)  # so that a net of few units has a row of joined ones
    net = build(name, depth=depth, width=16)
    training = Training(net, DIGITS, sgd(), batch=256)  # at 8x8x16 twice the entries from which on it pays
    states, readings = {}, {}
    for read in (True, False):
        state = training.start(net, 0)
        assert len(stack.stacked_names(state.params)) == rows
        for number in range(3):
            state, arrays = training.step(state, 0, number, read or number != 1)
            readings[read, number] = Reading(number + 1, training.spec, arrays)
        states[read] = jax.device_get(state)
    jax.tree.map(np.testing.assert_array_equal, states[True], states[False])
    assert [one.values for (read, number), one in readings.items() if number != 1 and read] == [
        one.values for (read, number), one in readings.items() if number != 1 and not read
    ]
    whole, part = readings[True, 1], readings[False, 1]
    assert part.finite
    assert part.loss == whole.loss
    for quantity in ("activation_mean", "zero_fraction", "activation_gradient_norm"):
        assert np.isfinite(list(whole.values[quantity].values())).all()
        assert np.isnan(part.values[quantity]["block01"])
        assert part.values[quantity]["head"] == whole.values[quantity]["head"]
    assert part.values["gradient_norm"] == whole.values["gradient_norm"]
    for quantity in ("weight_norm", "update_norm"):
        assert np.isfinite(list(whole.values[quantity].values())).all()
        assert np.isnan(list(part.values[quantity].values())).all()


def test_readings_are_complete_in_order_and_one_step_late(training, net, monkeypatch):
    taken = 0

    def counting(*arguments):
        nonlocal taken
        taken += 1
        return step(*arguments)

    step, saved, seen = training.step, [], []
    monkeypatch.setattr(training, "step", counting)
    schedule = {"test_at": lambda step: step in (2, 7), "pause_at": lambda step: step == 4}
    for reading, state in training.steps(training.start(net, 0), 0, 7, **schedule):
        # A step ahead of the reader, but at a pause, where all readings come first, and at the end.
        assert taken == reading.step + (reading.step not in (4, 7))
        seen.append(reading.step)
        assert (reading.test_error is not None) == (reading.step in (2, 7))
        if state is not None:
            saved.append((reading.step, int(state.step), list(seen)))
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert saved == [(4, 4, [1, 2, 3, 4])]


def test_a_run_continued_from_a_saved_state_reads_the_same_to_the_last_bit(training, net):
    saved, readings = {}, []
    for reading, state in training.steps(training.start(net, 5), 5, 6, pause_at=lambda step: step == 3):
        readings.append(reading)
        if state is not None:
            saved[reading.step] = jax.device_get(state)
    whole = table(readings)
    again = make(net)  # compiled anew, as after a crash
    state = jax.tree.map(jnp.asarray, saved[3])
    assert table(again.readings(state, 5, 6)) == whole[3:]


def test_running_statistics_move_a_tenth_of_the_way_to_those_of_the_batch(training, net):
    state, _ = training.step(training.start(net, 0), 0, 0)
    chosen = indices(0, 0, BATCH, len(DIGITS.train_images))
    images, kernel = normalise(DIGITS.train_images[chosen], *STATISTICS), nets.split(net)[1]["stem"]["kernel"]
    x = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x, running = np.asarray(x, np.float64), state.rest["norm"]
    np.testing.assert_allclose(running["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(running["variance"], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_reading_is_finite_until_something_in_the_net_is_not(training, net, broken):
    state = training.start(net, 0)
    kernel = state.params["block02"]["conv1"]["kernel"].at[0, 0, 0, 0].set(broken)
    state.params["block02"]["conv1"]["kernel"] = kernel
    whole, ill = (Reading(1, training.spec, training.step(one, 0, 0)[1]) for one in (training.start(net, 0), state))
    assert whole.finite
    assert not ill.finite


@pytest.mark.parametrize("batch", [0, 1501])
def test_a_batch_that_the_data_cannot_fill_is_refused(net, batch):
    with pytest.raises(BadInput, match="legal are 1 to 1500"):
        Training(net, DIGITS, sgd(), batch=batch)


def test_bfloat16_trains_and_reads_nearly_what_float32_reads(training, net):
    half = build(dtype=jnp.bfloat16)
    (_, coarse), (_, fine) = (
        setting.step(setting.start(one, 0), 0, 0) for setting, one in ((make(half), half), (training, net))
    )
    assert coarse.pop("finite")
    assert {array.dtype for array in coarse.values()} == {np.dtype(np.float32)}
    # bfloat16 has 8 bits, so each of 8 layers rounds by up to 0.4 % forward and again backward.
    assert float(coarse["loss"]) == pytest.approx(float(fine["loss"]), rel=0.05)
    for quantity in ("activation_gradient_norm", "activation_std", "gradient_norm", "update_norm"):
        np.testing.assert_allclose(coarse[quantity], fine[quantity], rtol=0.1, err_msg=quantity)
    assert not np.array_equal(coarse["activation_std"], fine["activation_std"])
    np.testing.assert_allclose(coarse["weight_norm"], fine["weight_norm"], rtol=1e-6)


def test_augmented_training_learns_and_sees_other_images(net, training):
    augmented = make(net, transforms=("crop", "mirror"))
    readings = list(augmented.readings(augmented.start(net, 0), 0, 40))
    losses = [reading.loss for reading in readings]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    _, plain = training.step(training.start(net, 0), 0, 0)
    assert losses[0] != float(plain["loss"])
    assert table(augmented.readings(augmented.start(net, 0), 0, 3)) == table(readings[:3])
    # The same batch and weights at another step, or from another seed, are cropped and mirrored otherwise.
    later = augmented.start(net, 0)._replace(step=jnp.ones((), jnp.int32))
    crops = [losses[0], *(float(augmented.step(state, 0, 0)[1]["loss"]) for state in (later, augmented.start(net, 1)))]
    assert len(set(crops)) == 3


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_seeds_in_one_vmapped_step_are_the_seeds_one_by_one(name):
    run = gf.Run(net=name, depth=8, width=4, batch=16, steps=3, learning_rate=0.05, evaluations=0)
    together = list(gf.train_seeds(run, (3, 1)))
    assert [sorted(readings) for readings in together] == [[1, 3]] * 3
    for seed in (1, 3):
        alone = list(gf.train(dataclasses.replace(run, seed=seed)))
        for one, other in zip(alone, (readings[seed] for readings in together), strict=True):
            assert (one.step, one.spec, one.finite) == (other.step, other.spec, other.finite)
            assert one.loss == pytest.approx(other.loss, rel=1e-4)
            for quantity, values in one.values.items():
                wanted, got = (
                    [value for _, value in sorted(some.items())] for some in (values, other.values[quantity])
                )
                np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=2e-4, err_msg=quantity)


def test_the_fast_library_changes_nothing_beyond_rounding(training, net, monkeypatch):
    fast = next(training.readings(training.start(net, 0), 0, 1))
    monkeypatch.setattr(runtime, "compile_options", dict)
    plain = make(net)
    slow = next(plain.readings(plain.start(net, 0), 0, 1))
    assert fast.loss == pytest.approx(slow.loss, rel=1e-5)
    for quantity, values in fast.values.items():
        other = slow.values[quantity]
        np.testing.assert_allclose([*values.values()], [other[name] for name in values], rtol=1e-3, atol=1e-5)
