"""The command line as a person meets it: help, lists, options that stand for the fields of a run."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import typing

import pytest
from command_line import call

import gradflow as gf
from gradflow.commands import arguments as typed
from gradflow.commands import cli
from gradflow.errors import BadInput

FIELDS = [field.name for field in dataclasses.fields(gf.Run) if field.name != "seed"]


def parse(*arguments: object):
    """The verb that would be called, and with what."""
    later = typed.parse(cli.VERBS, [*map(str, arguments)])
    return later.func, later.args, later.keywords  # pyright: ignore[reportFunctionMemberAccess]


def test_help_names_every_verb():
    said = call("--help")
    assert (said.code, said.err) == (0, "")
    for verb in ("list", "run", "sweep", "plot", "describe", "doctor"):
        assert re.search(rf"\b{verb}\b", said.out)
    assert "worker" not in said.out  # that is between a sweep and its processes


@pytest.mark.parametrize("verb", ["run", "sweep", "describe"])
def test_every_field_of_a_run_is_an_option_with_its_default(verb):
    said = call(verb, "--help")
    assert said.code == 0
    text = " ".join(said.out.replace("│", " ").split())
    for name in FIELDS:
        assert f"--{name.replace('_', '-')} " in text
    assert "a run's own: 0.0001" in text


def test_options_are_settings_and_several_values_make_a_grid():
    verb, args, given = parse("sweep", "--net", "plain", "residual", "--depth", 18, 34, "--seeds", 3)
    assert verb is cli.sweep
    assert args == ()
    assert given["seeds"] == 3
    assert typed.given(given["settings"]) == {"net": ("plain", "residual"), "depth": (18, 34)}
    runs = gf.grid(given["seeds"], **typed.given(given["settings"]))
    assert len(runs) == 12


@pytest.mark.parametrize("name", FIELDS)
def test_the_option_of_every_field_takes_its_own_kind(name):
    (field,) = (field for field in dataclasses.fields(gf.Run) if field.name == name)
    kind = next(kind for kind in (bool, int, float, str) if kind in (*typing.get_args(field.type), field.type))
    value = {bool: True, int: 32, float: 0.25, str: "pixel"}[kind]
    _, _, given = parse("sweep", f"--{name.replace('_', '-')}", value)
    assert typed.given(given["settings"]) == {name: (value,)}
    assert [type(one) for one in typed.given(given["settings"])[name]] == [type(value)]


def test_what_is_not_given_is_left_to_the_experiment():
    verb, args, given = parse("run", "degradation", "--smoke")
    assert verb is cli.run
    assert "degradation" in (*args, *given.values())
    assert typed.given(given["settings"]) == {}
    assert given["smoke"]
    assert not given["full"]


def test_a_false_value_is_a_value():
    _, _, given = parse("sweep", "--augment", "False", "--weight-decay", 0, "--validation", 0)
    assert typed.given(given["settings"]) == {"augment": (False,), "weight_decay": (0.0,), "validation": (0,)}


@pytest.mark.parametrize("width", ["40", "200"])
def test_a_box_becomes_a_line(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(BadInput) as error:
        parse("sweep", "--depth", "eight")
    assert str(error.value) == (
        "Error parsing --depth: Could not find valid parse for arguments: ['eight']; --depth [INT [INT ...]] "
        "a run's own: None; see gradflow --help"
    )


def test_a_net_is_described_from_its_settings():
    said = call("describe", "residual", "--depth", 20, "--width", 16)
    assert (said.code, said.err) == (0, "")
    assert re.search(r"^total +269,722 ", said.out, re.M)  # He et al. 2015, table 6: 0.27M


@pytest.mark.parametrize("arguments", [("list",), ("--help",), ("describe", "--help"), ("describe", "mlp", "--layers")])
def test_a_reader_who_has_seen_enough_ends_it_quietly(arguments):
    read, write = os.pipe()
    os.close(read)  # as `| head` does when it has its lines
    try:
        command = [sys.executable, "-m", "gradflow", *arguments]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write)
    assert done.stderr == ""
    assert done.returncode == cli.EXIT_PIPE == 128 + signal.SIGPIPE


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full here")
@pytest.mark.parametrize("arguments", [("list",), ("describe", "mlp")])
def test_a_full_disk_under_standard_output_is_one_line(arguments):
    command = [sys.executable, "-m", "gradflow", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == "gradflow: standard output: No space left on device\n"
    assert done.returncode == cli.EXIT_BAD_INPUT == 2


def test_ctrl_c_is_one_line(monkeypatch):
    def press(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "list", press)
    said = call("list")
    assert said.code == cli.EXIT_STOPPED == 130
    assert said.err == "gradflow: stopped; the same command goes on from here\n"
