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
