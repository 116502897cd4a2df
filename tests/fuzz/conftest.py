"""Tests that go on looking: inputs drawn by hypothesis, each run other ones; how many were tried is said at the end.

`make test` tries 100 inputs per test, `make fuzz` as many as fit into the time that it is given. Both print the seed:
``pytest tests/fuzz --hypothesis-seed=SEED`` tries the same inputs again.
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

_tried = {"inputs": 0, "tests": 0}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    statistics = getattr(item, "hypothesis_statistics", None)
    if call.when == "call" and statistics and item.path.parent.name == "fuzz":
        _tried["inputs"] += sum(map(int, re.findall(r"(\d+) (?:passing|failing)\b", statistics)))
        _tried["tests"] += 1
    return report


def pytest_terminal_summary(terminalreporter, config):
    if _tried["tests"]:
        seed = config.getoption("--hypothesis-seed", None)
        terminalreporter.write_line(
            f"fuzz: {_tried['inputs']:,} inputs tried in {_tried['tests']} tests, "
            + (f"--hypothesis-seed={seed}" if seed is not None else "seeds of their own")
        )
