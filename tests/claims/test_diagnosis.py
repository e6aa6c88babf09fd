"""Diagnoses: each rule against its law in closed form, the known truths of committed tables, and an answer for all."""

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import ROOT

import gradflow as gf
from gradflow.claims import diagnosis
from gradflow.claims.geometry import geometry
from gradflow.claims.symptoms import LEAST_STEPS, State, Symptoms, symptoms

COMMITTED = sorted(str(path.parent.relative_to(ROOT)) for path in (ROOT / "results").glob("**/runs.csv"))
UNREAD = ("results/overhead", "results/unrolling", "results/cifar10/unrolling")  # these have no readings of gradients
ANSWERS = {*diagnosis.CAUSES, diagnosis.HEALTHY, diagnosis.UNKNOWN}
PLAIN = {"run": "a", "net": "plain", "depth": 20, "normalisation": "none", "padding": "circular", "data": "digits"}
SAID = math.log10(math.pi / (math.pi - 1)) / 2


def seen(start: State, end: State | None = None, **more: Any) -> Symptoms:
    """Symptoms of a net of 20 layers that was read and not trained, with what is said otherwise."""
    run = PLAIN | {"learning_rate": 0.1} | more.pop("run", {})
    usual = {"since": 1, "diverged": 0, "steps": 1, "loss": math.nan, "promise": 1.0, "promised": 1.0}
    return Symptoms(run, geometry(run), 20, start, end or start, **(usual | more))


def state(decades: float, **more: Any) -> State:
    read: dict[str, Any] = {"gain": 2.0, "slope": 1.0} | more
    return State(1, (decades - 0.1, decades, decades + 0.1), **read)


def names(one: Symptoms) -> list[str]:
    return [cause.name for cause in diagnosis.causes(one)]


def test_weights_are_judged_by_the_law_of_he():
    """A gain of s instead of 2 changes the norm by sqrt(s / 2) a layer: 20 layers of 1 take 10 log10(2) decades."""
    small = seen(state(10 * math.log10(2), gain=1.0))
    (cause,) = diagnosis.causes(small)
    assert cause.name == diagnosis.SMALL
    assert cause.decades == pytest.approx(10 * math.log10(2))
    assert names(seen(state(-10 * math.log10(2), gain=4.0))) == [diagnosis.LARGE]


@pytest.mark.parametrize(("activation", "level"), [("relu", 2), ("tanh", 1), ("sigmoid", 16), ("linear", 1)])
def test_the_level_gain_is_that_of_the_activation(activation, level):
    run = {"activation": activation}
    assert names(seen(state(3.0, gain=level * 10**-0.3), run=run)) == [diagnosis.SMALL]
    assert names(seen(state(3.0, gain=level), run=run)) == [diagnosis.UNKNOWN]


def test_saturated_units_are_those_that_meet_a_flat_slope():
    run = {"activation": "sigmoid"}
    assert names(seen(state(3.0, gain=16.0, slope=10**-0.3), run=run)) == [diagnosis.SATURATED]


def test_the_border_is_judged_by_the_closed_form_and_only_of_zero_padding():
    run = {"padding": "zero", "depth": 56}
    shape = geometry(PLAIN | run)
    assert shape
    lost = shape.border()
    assert lost
    assert names(seen(state(lost), run=run)) == [diagnosis.BORDER]
    assert names(seen(state(lost), run=run | {"padding": "circular"})) == [diagnosis.UNKNOWN]


def test_batch_norm_is_judged_by_the_law_of_yang_and_what_it_does_later_is_said():
    run = {"normalisation": "batch"}
    heals = seen(state(-20 * SAID), State(80, (0.1, 0.2, 0.3)), run=run, since=32)
    (cause,) = diagnosis.causes(heals)
    assert cause.name == diagnosis.BATCH
    assert "from step 32 on it is level" in cause.evidence
    assert names(seen(state(20 * SAID), run=run)) == [diagnosis.UNKNOWN]  # it never makes one vanish


@pytest.mark.parametrize(("decades", "name"), [(-3.0, diagnosis.SUM), (3.0, diagnosis.UNKNOWN)])
def test_the_residual_sum_makes_a_gradient_explode_and_never_vanish(decades, name):
    run = {"net": "residual"}
    assert names(seen(state(decades, branches=-4.0), run=run)) == [name]
    assert names(seen(state(-3.0, branches=-4.0), run=run | {"normalisation": "batch"})) == [diagnosis.BATCH]


def test_several_causes_are_named_by_their_size_and_laws_that_do_not_add_up_name_none():
    run = {"padding": "zero", "depth": 56}
    shape = geometry(PLAIN | run)
    assert shape
    border = shape.border()
    assert border
    both = seen(state(border + 10 * math.log10(2), gain=1.0), run=run)
    assert names(both) == [diagnosis.BORDER, diagnosis.SMALL]
    assert names(seen(state(border + 20, gain=1.0), run=run)) == [diagnosis.UNKNOWN]
    assert "no law accounts" in diagnosis.causes(seen(state(20.0)))[0].evidence


@pytest.mark.parametrize("off", [0.99, 0.994])
def test_a_layer_is_dead_where_it_takes_a_decade_alone(off):
    """With a share of 0.005 on, sqrt(0.005 / 0.5) of the norm is left, a tenth."""
    assert names(seen(state(0.0, off=off))) == [diagnosis.HEALTHY]
    assert names(seen(state(0.0, off=0.996))) == [diagnosis.DEAD_UNITS]
    assert names(seen(State(1, (math.nan,), off=1.0))) == [diagnosis.DEAD_UNITS]


def test_of_a_level_net_that_does_not_learn_the_rate_is_judged_by_what_a_step_promises():
    stays = seen(state(0.0), steps=LEAST_STEPS, loss=1.0)
    assert names(replace(stays, promise=2.1)) == [diagnosis.FAST]
    assert names(replace(stays, promise=1.9)) == [diagnosis.UNKNOWN]
    assert names(replace(stays, promise=0.1, promised=0.04)) == [diagnosis.SLOW]
    assert names(replace(stays, promise=0.1, promised=0.0)) == [diagnosis.UNKNOWN]  # nothing to divide by
    assert names(replace(stays, diverged=1)) == [diagnosis.FAST]
    assert names(replace(stays, loss=0.9, promise=100.0)) == [diagnosis.HEALTHY]
    killed = replace(stays, end=State(50, (math.nan,), off=1.0), promise=0.1)
    assert names(killed) == [diagnosis.DEAD_UNITS]


def test_what_is_wrong_before_the_first_step_comes_first():
    exploded = seen(state(-3.0, gain=2 * 10**0.3), steps=3, diverged=3, promise=1e6)
    assert names(exploded) == [diagnosis.LARGE]
    assert "3 of 3 seeds diverged" in diagnosis.causes(exploded)[0].evidence


def test_what_is_open_is_not_known_unless_it_learns():
    wide = State(1, (0.5, 1.0, 1.5), gain=2.0)
    assert names(seen(wide)) == [diagnosis.UNKNOWN]
    assert names(seen(wide, steps=LEAST_STEPS, loss=0.1)) == [diagnosis.HEALTHY]


def test_a_single_seed_has_a_regime_of_its_own_and_no_interval():
    one = State(1, (3.0,))
    assert (one.regime, one.interval) == ("vanishing", None)
    assert [State(1, (decades,)).regime for decades in (1.0, -1.0, -1.1)] == ["level", "level", "exploding"]
    assert State(1, (math.nan,)).regime == "undecided"


# Of tables


def table(**settings: Any) -> pd.DataFrame:
    """A net of 13 points whose gradient falls by 0.3 decades a layer, and its activations likewise; two seeds."""
    rows = []
    for seed in (0, 1):
        for position in range(1, 14):
            at = {"run": f"r{seed}", "seed": seed, "step": 1, "layer": f"layers/{position}", "position": position}
            for quantity, value in {
                "activation_gradient_norm": 10 ** (0.3 * position),
                "activation_std": 10 ** (-0.3 * position),
                "activation_mean": 0.0,
                "zero_fraction": 0.0,
            }.items():
                rows.append(at | {"quantity": quantity, "value": value})
    return pd.DataFrame(rows).assign(status="done", last_step=1, **settings)


def test_of_a_users_net_the_activations_tell():
    (row,) = gf.diagnose(table(net="my_nets.py:build")).to_dict("records")
    assert row["cause"] == diagnosis.SMALL
    assert row["start_decades"] == pytest.approx(3.9)
    assert "activations change likewise" in row["evidence"]
    level = table(net="my_nets.py:build")
    level.loc[level.quantity == "activation_std", "value"] = 1.0
    assert list(gf.diagnose(level).cause) == [diagnosis.UNKNOWN]


def test_the_frame_is_not_changed_and_the_order_of_its_rows_says_nothing():
    frame = table(net="my_nets.py:build")
    mixed: Any = frame.sample(frac=1, random_state=0)
    before = mixed.copy()
    pd.testing.assert_frame_equal(gf.diagnose(mixed), gf.diagnose(frame))
    assert mixed.equals(before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.drop(columns="layer"), "lacks the column layer"),
        (lambda frame: frame.assign(quantity="loss"), "no activation_gradient_norm, but loss"),
        (lambda frame: frame.iloc[:0], "no readings at all"),
    ],
)
def test_a_table_that_cannot_be_diagnosed_is_refused(change, words):
    with pytest.raises(gf.BadInput, match=words):
        gf.diagnose(change(table(net="plain")))


def test_a_step_that_was_not_recorded_is_refused():
    with pytest.raises(gf.BadInput, match="step 7 was not recorded: choose one of 1"):
        gf.diagnose(table(net="plain"), step=7)


def test_what_a_step_promises_and_what_a_unit_meets_are_those_of_the_readings():
    """Read off a tiny run: the sums by hand, the slope of tanh by a million normal numbers."""
    run = gf.Run(net="mlp", depth=4, width=8, activation="tanh", normalisation="none", data="digits", steps=1, batch=16)
    (reading,) = gf.train(run)
    rows = [
        {"layer": layer, "position": reading.spec.position[layer], "quantity": quantity, "value": value}
        for quantity, values in reading.values.items()
        for layer, value in values.items()
    ]
    rows.append({"layer": "", "position": -1, "quantity": "loss", "value": reading.loss})
    frame = pd.DataFrame(rows).assign(run="a", step=1, last_step=1, status="done", classes=10, **run.settings)
    (one,) = symptoms(frame)
    values = reading.values
    promise = sum(values["gradient_norm"][layer] * norm for layer, norm in values["update_norm"].items())
    assert one.promise == pytest.approx(promise / reading.loss / (1 - run.momentum), rel=1e-5)
    hidden = ("block01/fc", "block02/fc")
    gains = [values["weight_norm"][layer] ** 2 / 8 for layer in hidden]
    assert one.start.gain == pytest.approx(math.sqrt(math.prod(gains)), rel=1e-5)
    normal, slopes = np.random.default_rng(0).normal(size=1_000_000), []
    for layer in ("stem", *hidden):
        z = values["activation_mean"][layer] + values["activation_std"][layer] * normal
        slopes.append(np.mean((1 - np.tanh(z) ** 2) ** 2))
    assert one.start.slope == pytest.approx(np.exp(np.mean(np.log(slopes))), rel=5e-3)


# Of what is committed


@pytest.mark.parametrize("folder", COMMITTED)
def test_every_committed_table_is_answered(folder):
    """The first two seeds of each setting; those without readings of gradients in one line."""
    frame: Any = gf.load(ROOT / folder)
    if folder in UNREAD:
        with pytest.raises(gf.BadInput, match="no activation_gradient_norm"):
            gf.diagnose(frame)
        return
    found = gf.diagnose(frame[frame.seed < 2])
    assert len(found) >= 1
    assert {*found.cause} <= ANSWERS
    assert found.evidence.str.len().min() > 10
    assert {*found.start_regime, *found.end_regime} <= {"vanishing", "exploding", "level", "undecided"}


@functools.cache
def committed(folder: str) -> Any:
    """A committed table, read once. Nobody writes into it."""
    return gf.load(ROOT / folder)


def told(folder: str, **settings: Any) -> set[str]:
    frame = committed(folder)
    chosen = np.logical_and.reduce([frame[name] == value for name, value in settings.items()])
    return set(gf.diagnose(frame[chosen]).cause)


@pytest.mark.parametrize(
    ("folder", "settings", "cause"),
    [
        ("depth_sweep", {"net": "plain", "depth": 56, "initialisation": "glorot"}, diagnosis.SMALL),
        ("depth_sweep", {"net": "plain", "depth": 18, "initialisation": "glorot"}, diagnosis.SMALL),
        ("depth_sweep", {"net": "plain", "depth": 56, "normalisation": "batch"}, diagnosis.BATCH),
        ("depth_sweep", {"net": "plain", "depth": 18, "initialisation": "he", "normalisation": "none"}, "healthy"),
        (
            "depth_sweep",
            {"net": "residual", "depth": 56, "initialisation": "he", "normalisation": "none"},
            diagnosis.SUM,
        ),
        ("cifar10/depth_sweep", {"net": "plain", "depth": 34, "initialisation": "glorot"}, diagnosis.SMALL),
        ("border", {"padding": "zero", "image_size": 8}, diagnosis.BORDER),
        ("border", {"padding": "circular"}, diagnosis.HEALTHY),
        ("vgg_depth", {"initialisation": "normal(0.01)", "depth": 19}, diagnosis.SMALL),
        ("vgg_depth", {"initialisation": "he", "depth": 19}, diagnosis.BORDER),
    ],
)
def test_known_truths_of_committed_tables(folder, settings, cause):
    assert told(f"results/{folder}", **settings) == {cause}


@pytest.mark.parametrize(
    "change",
    [{"value": math.nan}, {"value": math.inf}, {"layer": "x"}, {"position": 0}, {"layer": ""}],
    ids=str,
)
def test_readings_that_say_nothing_have_no_cause_that_is_known(change):
    table: Any = gf.load(COMMITTED[0] if COMMITTED[0] not in UNREAD else COMMITTED[1])
    table = table[table["run"] == table["run"].iloc[0]]
    assert {*gf.diagnose(table.assign(**change))["cause"]} == {diagnosis.UNKNOWN}
