import os
import sys

import pytest

from ncbook import progress


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({"NCBOOK_PROGRESS": "bar"}, "bar"),
        ({"PYTEST_CURRENT_TEST": "x"}, "off"),
        ({"JPY_SESSION_NAME": "x"}, "bar"),
        ({}, "lines"),
        ({"NCBOOK_PROGRESS": "off", "JPY_SESSION_NAME": "x"}, "off"),
    ],
)
def test_progress_mode(monkeypatch, environment, mode):
    for name in ("NCBOOK_PROGRESS", "PYTEST_CURRENT_TEST", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert progress.mode() == mode


def test_progress_prints_throttled_lines(monkeypatch, capsys):
    monkeypatch.setenv("NCBOOK_PROGRESS", "lines")
    with progress.Progress(10, "train", every=0.0) as bar:
        bar.advance(4, "loss 1")
    assert "train: 4/10" in capsys.readouterr().out
    with progress.Progress(10, "train", every=100.0) as bar:
        bar.advance(4)
    assert capsys.readouterr().out == ""


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("NCBOOK_PROGRESS", "lines")
    return now


def test_no_estimate_before_enough_steps_and_then_one_at_the_latest_speed(clock, capsys):
    with progress.Progress(300, "train", every=0.0) as bar:
        clock[0] = 20.0  # measuring before the first step
        bar.advance(1)
        for _ in range(9):
            clock[0] += 1.0
            bar.advance(1)
        assert "left" not in capsys.readouterr().out
        for _ in range(110):  # faster from here on: of the slow steps nothing is left
            clock[0] += 0.1
            bar.advance(1, "loss 1")
        assert bar.time_left() == "about 18 s left"
    assert capsys.readouterr().out.splitlines()[-1] == "train: 120/300, loss 1, about 18 s left"


@pytest.mark.parametrize(
    ("pace", "words"), [(0.1, "about 62 s left"), (1, "about 10 min left"), (10, "about 2 h left")]
)
def test_the_time_left_is_said_in_units_that_do_not_frighten(clock, pace, words):
    bar = progress.Progress(650, "train", done=20)
    for _ in range(31):
        bar.advance(1)
        clock[0] += pace
    bar.advance(0)
    assert bar.time_left() == words


def test_several_networks_are_numbered_until_the_loop_ends(clock):
    assert [progress.Progress(1, "x").label for _ in progress.numbered("ab")] == [
        "network 1 of 2, x",
        "network 2 of 2, x",
    ]
    assert progress.Progress(1, "x").label == "x"
    with pytest.raises(KeyError):
        for _ in progress.numbered("ab"):
            with progress.Progress(1, "x"):
                raise KeyError
    assert progress.Progress(1, "x").label == "x"
    assert [progress.Progress(1, "x").label for _ in progress.numbered("a")] == ["x"]


def test_a_kernel_shows_lines_on_the_terminal_it_was_started_from_too(clock, capsys, monkeypatch):
    reading, writing = os.pipe()
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: writing, raising=False)
    progress._print("a sentence")
    os.close(writing)
    with open(reading) as terminal:
        assert terminal.read() == capsys.readouterr().out == "a sentence\n"


def test_a_loop_over_networks_that_is_left_early_leaves_no_number_behind():
    for _ in progress.numbered("abc"):
        assert progress.Progress(1, "x").label == "network 1 of 3, x"
        break
    assert progress.Progress(1, "x").label == "x"
