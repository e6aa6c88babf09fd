"""What varies between runs, found in tables written by hand, and the names that follow from it."""

import itertools
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from gradflow.runs import variation


def table(*runs: dict[str, Any], **shared: Any) -> Any:
    """A row a run; settings that a run lacks are missing."""
    return pd.DataFrame([shared | {"run": f"run{place}"} | run for place, run in enumerate(runs)])


def grid(**choices: Any) -> Any:
    return table(*(dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())))


def names(runs: Any) -> list[str]:
    found = variation.keys(runs)
    return list(dict.fromkeys(variation.label(row, found) for row in runs.to_dict("records")))


def test_what_has_one_value_does_not_vary_nor_does_the_seed_or_how_a_run_ended():
    runs = grid(net=["plain"], depth=[8], learning_rate=[0.001, 1.0], seed=[0, 1])
    runs["status"], runs["last_step"], runs["parameters"] = ["done", "diverged"] * 2, [1, 2, 3, 4], [5, 6, 7, 8]
    assert variation.varying(runs) == variation.keys(runs) == ["learning_rate"]
    assert names(runs) == ["learning rate 0.001", "learning rate 1"]


def test_net_and_depth_come_first_and_missing_is_a_value():
    runs = table({"width": 4, "gate": "soft"}, {"width": 8, "depth": 8}, {"width": 8}, net="plain")
    assert variation.varying(runs) == ["depth", "width", "gate"]
    assert variation.values(runs, "gate") == [None, "soft"]
    assert variation.values(runs, "depth") == [None, 8]


def test_nothing_varies():
    runs = grid(net=["plain"], depth=[8], seed=[0, 1, 2])
    assert variation.varying(runs) == variation.keys(runs) == []
    assert names(runs) == ["plain 8"]


def test_what_follows_from_the_others_is_no_key():
    runs = grid(net=["plain", "residual"], depth=[18, 56], normalisation=["batch", "none"], seed=[0, 1])
    runs["learning_rate"] = np.where(runs["normalisation"] == "batch", 0.1, 0.01)
    runs.insert(0, "family", runs["net"].map({"plain": "a", "residual": "b"}))
    assert variation.varying(runs) == ["net", "depth", "normalisation", "family", "learning_rate"]
    assert variation.keys(runs) == ["net", "depth", "normalisation"]
    assert names(runs)[:2] == ["plain 18, batch norm", "plain 18, no normalisation"]


def test_of_two_that_say_the_same_the_first_is_kept_and_one_with_more_values_is_enough():
    runs = table(*({"a": n % 2, "b": n // 2, "all": n, "same": -n} for n in range(4)), net="plain")
    assert variation.keys(runs) == ["all"]


def test_the_net_is_a_key_even_if_depth_would_do():
    runs = table({"net": "plain", "depth": 8}, {"net": "plain", "depth": 14}, {"net": "residual", "depth": 20})
    assert variation.keys(runs) == ["net", "depth"]
    assert names(runs) == ["plain 8", "plain 14", "residual 20"]


VALUES = st.sampled_from([None, 0, 0.5, "a", True])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(VALUES, st.integers(0, 2), st.sampled_from("xy"), st.booleans()), min_size=1, max_size=8))
def test_keys_tell_all_groups_apart_and_none_can_be_spared(rows):
    runs = pd.DataFrame(rows, columns=["gate", "depth", "net", "fast"])
    found = variation.keys(runs)

    def groups(kept: list[str]) -> set[Any]:
        return {tuple(str(row[name]) for name in kept) for row in runs.to_dict("records")}

    everything = len(groups(list(runs.columns)))
    assert len(groups(found)) == everything
    for name in set(found) - {"net"}:
        assert len(groups([other for other in found if other != name])) < everything


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("net", "plain", "plain"),
        ("net", "folder/my_nets.py:build", "my_nets.build"),
        ("depth", 56, "depth 56"),
        ("depth", 56.0, "depth 56"),
        ("normalisation", "none", "no normalisation"),
        ("normalisation", "batch", "batch norm"),
        ("shuffle", True, "shuffle"),
        ("shuffle", np.False_, "no shuffle"),
        ("learning_rate", 0.001, "learning rate 0.001"),
        ("learning_rate", np.float64(1), "learning rate 1"),
        ("learning_rate", 0.12345678, "learning rate 0.12345678"),
        ("data", "../shared/data/cifar10", "data cifar10"),
        ("my_own_gate", "soft", "my own gate soft"),
        ("dropout", float("nan"), "dropout not set"),
    ],
)
def test_a_setting_and_its_value_in_words(setting, value, words):
    assert variation.phrase(setting, value) == words


def test_a_label_is_of_any_settings_also_two_and_leaves_out_what_a_net_has_not():
    runs = table(
        {"net": "my_nets.py:build", "gate": "soft", "temperature": 0.5},
        {"net": "my_nets.py:build", "gate": "hard", "temperature": 2.0},
        {"net": "my_nets.py:build", "gate": "hard", "temperature": 0.5},
        {"net": "plain", "depth": 8},
    )
    assert variation.keys(runs) == ["net", "gate", "temperature"]
    assert names(runs) == [
        "my_nets.build, gate soft, temperature 0.5",
        "my_nets.build, gate hard, temperature 2",
        "my_nets.build, gate hard, temperature 0.5",
        "plain",
    ]
    assert variation.label({"gate": None}, ["gate"]) == "gate not set"


def test_runs_are_named_by_what_tells_them_apart():
    rates = [
        {"net": "plain", "depth": 8, "learning_rate": rate, "seed": seed} for rate in (0.001, 1.0) for seed in (0, 1)
    ]
    assert variation.labels(rates) == [
        *("learning rate 0.001, seed 0", "learning rate 0.001, seed 1"),
        *("learning rate 1, seed 0", "learning rate 1, seed 1"),
    ]
    assert variation.labels(rates[::2]) == ["learning rate 0.001", "learning rate 1"]
    assert variation.labels(rates[:2]) == ["plain 8, seed 0", "plain 8, seed 1"]
    assert variation.labels(rates[:1]) == ["plain 8"]
    assert variation.labels([{"net": "mine.py:build", "sizes": (1, 2)}, {"net": "mine.py:build", "sizes": (3,)}]) == [
        "sizes (1, 2)",
        "sizes (3,)",
    ]


def test_two_files_of_one_name_keep_their_folders():
    assert variation.labels([{"data": "a/images"}, {"data": "b/images"}]) == ["data a/images", "data b/images"]


def test_missing_is_a_choice_only_where_the_net_has_the_setting():
    runs = table({"net": "nin"}, {"net": "nin", "dropout": 0.5}, {"net": "mlp"}, {"net": "vgg", "lrn": True})
    assert variation.chosen(runs, "dropout") == [None, 0.5]
    assert variation.chosen(runs, "lrn") == [True]
    assert variation.chosen(runs, "net") == ["mlp", "nin", "vgg"]
