"""The best rate by a plain loop over seeds, and that choosing it decides nothing where there is nothing to decide."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

import gradflow as gf
from gradflow.errors import BadInput

RATES = (0.01, 0.03, 0.1)
NETS = ("plain", "residual")


def table(held_out: Any, training: Any, judged: Any, validation: int = 10) -> pd.DataFrame:
    """Errors of the seeds that choose, `(net, rate, seed)` on held-out images and in training, and of further seeds at
    the rate of that place, `(net, rate, seed)`, nan where a rate was not run.
    """
    errors: dict[tuple[int, int, int], tuple[float, float]] = {}
    for net, rate, seed in np.ndindex(held_out.shape):
        errors[net, rate, seed] = held_out[net, rate, seed], training[net, rate, seed]
    for net, rate, seed in np.ndindex(judged.shape):
        if not math.isnan(judged[net, rate, seed]):
            errors[net, rate, held_out.shape[2] + seed] = 0.5, judged[net, rate, seed]
    rows = []
    for place, ((net, rate, seed), (test, train)) in enumerate(errors.items()):
        run = {"run": str(place), "net": NETS[net], "depth": 8, "learning_rate": RATES[rate], "seed": seed}
        run |= {"step": 100, "status": "done", "classes": 10, "validation": validation, "layer": ""}
        rows.append(run | {"quantity": "test_error", "value": test})
        rows.append(run | {"quantity": "train_error", "value": train})
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def further(best: Any, errors: Any) -> Any:
    """Errors `(net, seed)` at each net's best rate, and nan at the others: `(net, rate, seed)`."""
    at = np.full((errors.shape[0], len(RATES), errors.shape[1]), math.nan)
    for net, rate in enumerate(best):
        at[net, rate] = errors[net]
    return at


def test_some_seeds_choose_and_the_others_are_judged():
    draw = np.random.default_rng(0)
    held_out, training, judged = draw.random((2, 3, 2)), draw.random((2, 3, 2)), draw.random((2, 4))
    best = [min(range(3), key=lambda rate, net=net: sum(held_out[net, rate])) for net in range(2)]
    frame = table(held_out, training, further(best, judged))
    assert gf.best_rates(frame, by=("net",)).to_dict() == {NETS[net]: RATES[best[net]] for net in range(2)}
    error = gf.final_error(gf.at_best_rates(frame, by=("net",)), by=("net",))
    for net, name in enumerate(NETS):
        assert gf.per_seed(error, net=name) == pytest.approx({2 + seed: judged[net, seed] for seed in range(4)})


def test_of_equal_rates_the_lowest_is_chosen():
    frame = table(np.full((2, 3, 1), 0.2), np.zeros((2, 3, 1)), np.full((2, 3, 0), 0.0))
    assert set(gf.best_rates(frame, by=("net", "depth"))) == {0.01}
    assert gf.at_best_rates(frame, by=("net", "depth")).empty  # who chose is not judged


def test_a_diverged_run_counts_as_chance_against_its_rate_and_a_failed_one_not_at_all():
    frame = table(np.array([[[0.05], [0.2], [0.1]]] * 2), np.zeros((2, 3, 1)), np.full((2, 3, 0), 0.0))
    frame.loc[(frame.learning_rate == 0.01) & (frame.net == "plain"), "status"] = "diverged"
    frame.loc[(frame.learning_rate == 0.01) & (frame.net == "residual"), "status"] = "failed"
    assert gf.best_rates(frame, by=("net",)).to_dict() == {"plain": 0.1, "residual": 0.1}


def test_a_single_rate_is_not_chosen_and_all_seeds_are_judged():
    nothing = np.zeros((2, 3, 0))
    frame = table(nothing, nothing, further([1, 1], np.full((2, 3), 0.3)), validation=0)
    assert set(gf.best_rates(frame, by=("net",))) == {0.03}
    assert len(gf.final_error(gf.at_best_rates(frame, by=("net",)), by=("net",))) == 6


def test_on_the_test_set_nothing_is_chosen():
    with pytest.raises(BadInput, match="held-out training images"):
        gf.best_rates(table(np.zeros((2, 3, 2)), np.zeros((2, 3, 2)), np.zeros((2, 3, 0)), validation=0), by=("net",))


def test_where_no_net_and_no_rate_is_better_choosing_decides_at_most_in_five_percent():
    """Two nets of equal error and unequal spread, whose held-out error goes with the training error.

    Each seed judged at the rate that the others choose, as in cross-validation, decides more often: they are dependent.
    """
    draw, claim = np.random.default_rng(2), gf.Claim("a", "b", "c", "d", side=">")
    spread, wrong, crossed, trials = np.array([0.01, 0.05])[:, None, None], 0, 0, 200
    tables = []
    for trial in range(trials):
        training = 0.3 + spread * draw.normal(size=(2, 3, 5))
        held_out = training + 0.01 * draw.normal(size=training.shape)
        best = held_out.mean(2).argmin(1)
        frame = table(held_out, training, further(best, 0.3 + spread[..., 0] * draw.normal(size=(2, 5))))
        tables.append(frame.assign(trial=trial, run=f"{trial} " + frame["run"]))
        of_others = (held_out.sum(2, keepdims=True) - held_out).argmin(1)  # (net, seed)
        one, other = np.take_along_axis(training, of_others[:, None], 1)[:, 0]
        crossed += gf.judge(claim, dict(enumerate(one - other)), 100).outcome != "INCONCLUSIVE"
    by = ("net", "trial")  # each trial is a setting of its own, judged by itself
    error = gf.final_error(gf.at_best_rates(pd.concat(tables), by=by), by=by)
    for trial in range(trials):
        nets = (gf.per_seed(error, net=net, trial=trial) for net in NETS)
        wrong += gf.judge(claim, gf.difference(*nets), 100).outcome != "INCONCLUSIVE"
    assert wrong / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert crossed / trials > 0.08


def test_a_score_of_ones_own_chooses():
    held_out = np.array([[[0.3], [0.1], [0.2]], [[0.1], [0.3], [0.2]]])
    frame = table(held_out, 1 - held_out, further([0, 1], np.full((2, 2), 0.5)))
    score = gf.final_error(frame, by=("net", "learning_rate"))  # the training error
    assert gf.best_rates(frame, ("net",), score).to_dict() == {"plain": 0.01, "residual": 0.03}
    assert set(gf.at_best_rates(frame, ("net",), score).learning_rate) == {0.01, 0.03}
    choosing = gf.grid(seeds=1, net=NETS, depth=(8,), learning_rate=RATES, validation=(10,))
    found = gf.runs_at_best_rates(choosing, frame, ("net",), score, seeds=1)
    assert [(run.net, run.learning_rate, run.seed) for run in found] == [("plain", 0.01, 1), ("residual", 0.03, 1)]


@pytest.mark.parametrize(
    ("best", "words"), [(0, "0.01 (the lowest tried)"), (1, "0.03"), (2, "0.1 (the highest tried)")], ids=str
)
def test_a_best_rate_at_an_end_of_its_grid_says_so(best, words):
    held_out = np.full((2, 3, 1), 0.2)
    held_out[:, best] = 0.1
    frame = table(held_out, held_out, further([best] * 2, np.full((2, 2), 0.5)))
    assert set(gf.rates_in_words(frame, ("net", "depth"))) == {words}
    single = frame[frame.learning_rate == RATES[best]]
    assert set(gf.rates_in_words(single, ("net",))) == {f"{RATES[best]:g}"}


def test_where_all_rates_are_alike_the_words_say_so():
    frame = table(np.full((2, 3, 1), 0.9), np.full((2, 3, 1), 0.9), further([0] * 2, np.full((2, 2), 0.9)))
    assert set(gf.rates_in_words(frame, ("net",))) == {"0.01 (all tried are alike)"}


def test_those_that_choose_are_one_seed_at_every_rate_on_held_out_images():
    settings = {"net": "plain", "learning_rate": RATES, "seeds": 4, "steps": 10}
    assert gf.choosing_settings(settings) == settings | {"seeds": 1, "validation": 200}
    assert gf.choosing_settings(settings, validation=50)["validation"] == 50
    assert gf.choosing_settings(settings | {"validation": 7})["validation"] == 7  # the user's own number
    single = settings | {"learning_rate": (0.1,)}
    assert gf.choosing_settings(single) == single


def test_the_runs_that_are_judged_are_those_at_the_best_rate_from_the_next_seeds():
    held_out = np.array([[[0.3], [0.1], [0.2]], [[0.1], [0.3], [0.2]]])
    frame = table(held_out, held_out, np.full((2, 3, 0), 0.0))
    choosing = gf.grid(seeds=1, net=NETS, depth=(8,), learning_rate=RATES, validation=(10,))
    found = gf.runs_at_best_rates(choosing, frame, ("net", "depth"), seeds=2, validation=0)
    expected = [("plain", 0.03, 1, 0), ("plain", 0.03, 2, 0), ("residual", 0.01, 1, 0), ("residual", 0.01, 2, 0)]
    assert [(run.net, run.learning_rate, run.seed, run.validation) for run in found] == expected
    # The judged runs need no images held out; those that choose do.
    both = table(held_out, held_out, further([1, 0], np.full((2, 2), 0.5)))
    both.loc[both.seed > 0, "validation"] = 0
    assert set(gf.at_best_rates(both, ("net", "depth")).seed) == {1, 2}
    both.loc[both.seed == 0, "validation"] = 0
    with pytest.raises(BadInput, match="held-out"):
        gf.best_rates(both, ("net", "depth"))
    assert not gf.runs_at_best_rates(choosing[:1], frame, ("net", "depth"), seeds=2)  # nothing to choose
