"""A run that trains in this process shows how far it is where it is asked to, and its readings are the same."""

import sys
import time

import pytest

import gradflow as gf
from gradflow.reports import progress as shown

RUN = gf.Run(net="mlp", depth=3, width=4, batch=16, steps=6)


def read(**how) -> list[float]:
    return [reading.loss for reading in gf.train(RUN, **how)]


def test_progress_changes_no_number_and_without_it_nothing_is_printed(capsys):
    losses = read()
    assert capsys.readouterr() == ("", "")
    assert read(progress=True) == losses
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(" ")[0] for line in err.splitlines()] == ["━" * 20, "loss"]  # no terminal: once, at the end
    assert "step 6 of 6" in err


def test_on_a_terminal_the_bar_and_the_curves_move_in_place(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(shown, "_SECONDS", 0.0)
    for reading in gf.train(RUN, progress=True):
        print(reading.step)
    out, err = capsys.readouterr()
    assert out.split() == [*"123456"]  # which is no terminal: a file gets what is printed
    frames = err.split("step ")
    assert [frame.split(" of ")[0] for frame in dict.fromkeys(frames[1:])][:7] == [*"0123456"]
    curves = [frame.split("loss ")[1].split(";")[0].split(" ")[1] for frame in frames[2:]]
    assert [*map(len, dict.fromkeys(curves))][:6] == [1, 2, 3, 4, 5, 6]


def test_it_ends_where_the_reader_stops(capsys):
    readings = gf.train(RUN, progress=True)
    assert [next(readings).step, next(readings).step] == [1, 2]
    del readings
    assert "step 2 of 6" in capsys.readouterr().err


def test_standard_error_that_is_gone_costs_no_reading(monkeypatch, tmp_path):
    with (tmp_path / "gone").open("w") as gone:
        pass
    monkeypatch.setattr(sys, "stderr", gone)
    assert len(read(progress=True)) == RUN.steps


def test_a_run_that_diverges_is_shown_to_its_end(capsys):
    run = RUN.replace(learning_rate=1e30)
    assert not [*gf.train(run, progress=True)][-1].finite
    assert "step 6 of 6" in capsys.readouterr().err


def test_bad_input_is_bad_input(capsys):
    with pytest.raises(gf.BadInput, match="validation 1000000 is impossible"):
        next(gf.train(RUN.replace(validation=10**6), progress=True))


def test_the_time_left_is_by_the_pace_after_the_first_step(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = shown.Progress(RUN.steps, begun=now)
    assert "step 0 of 6, compiling" in repr(progress)
    left = []
    for reading in gf.train(RUN):
        now += 60.0 if reading.step == 1 else 2.0  # the first step is compiled
        progress.look(reading)
        left.append(progress.left)
    assert left == ["time left unknown yet", *(f"about {rest} s left" for rest in (8, 6, 4, 2)), "70.0 s"]
    assert 'value="6" max="6"' in progress._repr_html_()
