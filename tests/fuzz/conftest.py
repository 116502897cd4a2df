"""Tests that go on looking: inputs drawn by hypothesis, each run other ones; how many were tried is said at the end.

`make test` tries 100 inputs per test, of a seed that the commit gives; `make fuzz` 1,000, again and again with new
seeds for as long as it is told to. ``pytest tests/fuzz --hypothesis-seed=SEED`` tries the same inputs again.
"""

import os
import re

import pytest
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get("NCBOOK_FUZZ_EXAMPLES", "100")),
    deadline=None,  # a slow machine finds nothing wrong
    database=None,  # the seed alone decides
    phases=[Phase.explicit, Phase.generate, Phase.target, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    print_blob=True,
)
settings.load_profile("fuzz")

_tried = {}  # test -> inputs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    statistics = getattr(item, "hypothesis_statistics", None)
    if call.when == "call" and statistics:  # in a worker, if there are several processes: its report goes to the first
        report.inputs_tried = sum(map(int, re.findall(r"(\d+) (?:passing|failing)\b", statistics)))
    return report


def pytest_runtest_logreport(report):
    if hasattr(report, "inputs_tried"):
        _tried[report.nodeid] = report.inputs_tried


def pytest_terminal_summary(terminalreporter, config):
    if _tried:
        seed = config.getoption("--hypothesis-seed", None)
        seeds = "seeds of their own" if seed is None else f"--hypothesis-seed={seed}"
        terminalreporter.write_line(f"fuzz: {sum(_tried.values()):,} inputs tried in {len(_tried)} tests, {seeds}")
