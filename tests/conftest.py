"""Shared by all tests: where the real data is, one tiny run, quiet progress."""

import os
import signal
from pathlib import Path

import pytest

os.environ["NCBOOK_PROGRESS"] = "off"
collect_ignore = ["kill_harness.py"]  # a program of its own

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def listening():
    """A process that a shell has put into the background ignores SIGINT, and so would tests that send it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def tiny():
    """An experiment that trains in a second."""
    from ncbook import Experiment

    return Experiment(
        backbone="conv4_small", n_source=6, n_novel=8, epochs=4, batch_size=32, measurements=3, precision="float32"
    )


@pytest.fixture(scope="session")
def tiny_run(tiny, tmp_path_factory):
    import ncbook

    return ncbook.train(tiny, runs_dir=tmp_path_factory.mktemp("runs"))
