"""The command line as a person meets it: help, lists, options that stand for the fields of a run."""

import os
import re
import signal
import subprocess
import sys
from importlib import metadata

import pytest
from command_line import Result, call

import gradflow as gf
from gradflow import nets
from gradflow.commands import arguments as typed
from gradflow.commands import cli, verbs
from gradflow.errors import BadInput
from gradflow.runs.settings import own_settings

OF_NETS = {name: one for net in nets.NETS for name, one in nets.settings(net).items()}
SETTINGS = {name: one for name, one in {**own_settings(), **OF_NETS}.items() if name != "seed"}


def parse(*arguments: object):
    """The verb that would be called, and with what."""
    later = typed.parse(cli.VERBS, [*map(str, arguments)])
    return later.func, later.args, later.keywords  # pyright: ignore[reportFunctionMemberAccess]


def test_help_names_every_verb():
    result = call("--help")
    assert (result.code, result.err) == (0, "")
    for verb in ("list", "run", "sweep", "plot", "judge", "describe", "doctor"):
        assert re.search(rf"\b{verb}\b", result.out)
    assert "worker" not in result.out  # that is between a sweep and its processes


@pytest.mark.parametrize("verb", ["run", "sweep", "describe"])
def test_every_setting_is_an_option_with_its_meaning_what_is_legal_and_its_default(verb):
    printed = call(verb, "--help")
    assert printed.code == 0
    text = " ".join(printed.out.replace("│", " ").split())
    for name, one in SETTINGS.items():
        of_net = name in OF_NETS
        assert (f"--{name.replace('_', '-')} " in text) == (of_net or verb != "describe")
        if of_net or verb != "describe":
            assert " ".join(one.meaning.split()) in text
            assert ", ".join(map(str, one.choices)) in text
    assert "None" not in text  # a default is result in words
    if verb != "describe":
        assert "At the start of the schedule. Default: 0.1." in text
    assert (
        "Default: he in plain, residual, mlp, residual_mlp, cnn; normal(0.01) in alexnet; normal(0.05) in nin" in text
    )


def test_the_help_of_a_named_net_is_about_that_net_alone():
    text = call("sweep", "--net", "mlp", "--help").out
    assert "Of all hidden layers. Default: 256." in " ".join(text.replace("│", " ").split())
    assert "--shortcut" not in text
    assert "vgg" not in text


def test_nothing_typed_is_help_and_a_version_is_a_line():
    assert call() == call("--help")
    assert (call().code, call().err) == (0, "")
    assert call("--version") == (0, f"gradflow {metadata.version('gradflow')}\n", "")


def test_options_are_settings_and_several_values_make_a_grid():
    verb, args, given = parse("sweep", "--net", "plain", "residual", "--depth", 18, 34, "--seeds", 3)
    assert verb is verbs.sweep
    assert args == ()
    assert given["seeds"] == 3
    assert given["settings"].given == {"net": ("plain", "residual"), "depth": (18, 34)}
    runs = gf.grid(given["seeds"], **given["settings"].given)
    assert len(runs) == 12


@pytest.mark.parametrize("name", SETTINGS)
def test_the_option_of_every_setting_takes_its_own_kind(name):
    kind = next(kind for kind in (bool, int, float, str) if kind in SETTINGS[name].types)
    value = {bool: True, int: 32, float: 0.25, str: "plain"}[kind]
    _, _, given = parse("sweep", f"--{name.replace('_', '-')}", value)
    assert given["settings"].given[name] == (value,)
    assert [type(one) for one in given["settings"].given[name]] == [type(value)]


def test_what_is_not_given_is_left_to_the_experiment():
    verb, args, given = parse("run", "degradation", "--smoke")
    assert verb is verbs.run
    assert "degradation" in (*args, *given.values())
    assert given["settings"].given == {}
    assert given["smoke"]
    assert not given["full"]


def test_a_false_value_is_a_value():
    _, _, given = parse("sweep", "--augment", "False", "--weight-decay", 0, "--validation", 0)
    assert given["settings"].given == {"augment": (False,), "weight_decay": (0.0,), "validation": (0,)}


@pytest.mark.parametrize("width", ["40", "200"])
def test_a_box_becomes_a_line(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(BadInput) as error:
        parse("sweep", "--depth", "eight")
    assert str(error.value) == (
        "Error parsing --depth: Could not find valid parse for arguments: ['eight']; --depth [INT [INT ...]]; "
        "see gradflow --help"
    )


def test_a_net_is_described_from_its_settings():
    result = call("describe", "residual", "--depth", 20, "--width", 16)
    assert (result.code, result.err) == (0, "")
    assert re.search(r"^total +269,722 ", result.out, re.M)  # He et al. 2015, table 6: 0.27M


def process(arguments, out):
    """A command in a process of its own, where also what Python itself writes at its end must not fail."""
    command = [sys.executable, "-m", "gradflow", *arguments]
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    return Result(done.returncode, "", done.stderr)


def within(arguments, out):
    """The same command in this process."""
    return call(*arguments, out=out)


@pytest.mark.parametrize(
    ("give", "arguments"),
    [
        (within, ("list",)),
        (within, ("--help",)),
        (within, ("describe", "--help")),
        (within, ("describe", "mlp", "--layers")),
        (process, ("describe", "mlp", "--layers")),
    ],
)
def test_a_reader_who_has_seen_enough_ends_it_quietly(give, arguments):
    read, write = os.pipe()
    os.close(read)  # as `| head` does when it has its lines
    with open(write, "w") as out:
        done = give(arguments, out)
    assert done.err == ""
    assert done.code == cli.EXIT_PIPE == 128 + signal.SIGPIPE


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full here")
@pytest.mark.parametrize(("give", "arguments"), [(within, ("list",)), (process, ("describe", "mlp"))])
def test_a_full_disk_under_standard_output_is_one_line(give, arguments):
    with open("/dev/full", "w") as full:
        done = give(arguments, full)
    assert done.err == "gradflow: standard output: No space left on device\n"
    assert done.code == cli.EXIT_BAD_INPUT == 2


def test_ctrl_c_is_one_line(monkeypatch):
    def press(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "list", press)
    result = call("list")
    assert result.code == cli.EXIT_STOPPED == 130
    assert result.err == "gradflow: stopped; the same command goes on from here\n"
