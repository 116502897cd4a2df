"""Controls of F3: each statistic where the claim is true, where it is false, and where it cannot be told."""

import itertools

import numpy as np
import pandas as pd
import pytest
from judging import judged

from ncbook import claims
from ncbook.claims import controls

SIZES, REPEATS = (8, 15, 30, 60), 2
WORDS = {+1: claims.HOLDS, -1: claims.FAILS}


def over_classes(value, control="equal accuracy", split="novel", metric="cdnv_debiased", fitted=True):
    """Two moments of networks with final values value(l, repeat); at the beginning the order is the opposite one."""
    rows = [
        {"control": control, "n_source": size, "repeat": r, "epoch": epoch, "split": split, "metric": metric,
         "value": value(size, r) if epoch else -value(size, r), "fitted": fitted}
        for size, r, epoch in itertools.product(SIZES, range(REPEATS), (0, 5))
    ]  # fmt: skip
    return pd.DataFrame(rows).sort_values("epoch", ascending=False, kind="stable", ignore_index=True)


@pytest.mark.parametrize("control", controls.CONTROLS)
@pytest.mark.parametrize("panel", controls.F3)
def test_a_panel_under_a_control(panel, control):
    split, metric, sign = controls.F3[panel]
    name = f"{panel}_at_{control.replace(' ', '_')}"
    up, down = (
        judged(name, over_classes(lambda size, r, s=s: 1 + s * np.log(size) / 9 + r / 50, control, split, metric))
        for s in (1, -1)
    )
    assert (up["verdict"], down["verdict"]) == (WORDS[sign], WORDS[-sign]) and up["n"] == 8
    assert up["statistic"] > 0.9 and down["statistic"] < -0.9
    table = over_classes(lambda *_: 0.0, control, split, metric)
    table.loc[table["epoch"] == 5, "value"] = [4.0, 1.0, 3.0, 2.0, 2.5, 3.5, 1.5, 3.2]
    assert judged(name, table)["verdict"] == claims.OPEN


def test_networks_of_another_control_do_not_count():
    falling = over_classes(lambda size, r: 1 / size + r / 1000)
    rising = over_classes(lambda size, r: size + r, control="equal steps")
    assert judged("novel_cdnv_falls_at_equal_accuracy", pd.concat([falling, rising]))["verdict"] == claims.HOLDS
    assert judged("novel_cdnv_falls_at_equal_budget", pd.concat([falling, rising]))["verdict"] == claims.OPEN


def test_networks_that_did_not_reach_the_accuracy_are_not_judged():
    table = over_classes(lambda size, r: 1 / size + r / 1000)
    table.loc[table["n_source"] == 60, "fitted"] = False
    found = judged("novel_cdnv_falls_at_equal_accuracy", table)
    assert found["verdict"] == claims.OPEN and found["numbers"] == "not every network reached the accuracy"


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_values_that_are_not_finite_are_not_judged(bad):
    table = over_classes(lambda size, r: bad if size == 8 else 1 / size + r / 1000)
    assert judged("novel_cdnv_falls_at_equal_accuracy", table)["verdict"] == claims.OPEN
    for name in ("gap_falls_with_m", "gap_remains", "gap_falls_as_root_m"):
        assert judged(name, over_samples(lambda m, r: bad if m == 8 else 1 / m))["verdict"] == claims.OPEN


def over_samples(gap, sizes=(2, 4, 8, 16, 32), repeats=3):
    rows = [
        {"samples_per_class": m, "repeat": r, "epoch": epoch, "split": split, "metric": "cdnv_debiased", "value": value}
        for m, r in itertools.product(sizes, range(repeats))
        for epoch, split, value in ((0, "source_test", 9.0), (0, "source_train", 1.0),
                                    (3, "source_test", 0.1 + gap(m, r)), (3, "source_train", 0.1))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_gap_of_each_network():
    gap = controls.gaps(over_samples(lambda m, r: m + r / 10))
    assert gap.loc[(4, 2)] == pytest.approx(4.2) and len(gap) == 15


@pytest.mark.parametrize(
    ("gap", "falls", "rate", "remains"),
    [
        (lambda m, r: (1 + r / 50) * m**-0.9, claims.HOLDS, claims.HOLDS, claims.HOLDS),
        (lambda m, r: (1 + r / 50) * m ** -(0.2 + r / 100), claims.HOLDS, claims.FAILS, claims.HOLDS),
        (lambda m, r: (1 + r / 50) * m ** -(0.2 + r / 3), claims.HOLDS, claims.OPEN, claims.OPEN),
        (lambda m, r: 0.1 + 0.01 * m + r / 1000, claims.FAILS, claims.FAILS, claims.HOLDS),
        (lambda m, r: 1 / m - 1 / 32 + (r - 1) / 1000, claims.HOLDS, claims.OPEN, claims.OPEN),
        (lambda m, r: 1 / m - 1 / 16 + (r - 1) / 1000, claims.HOLDS, claims.OPEN, claims.FAILS),
        (lambda m, r: 1 + (m * 7 + r * 5) % 11 / 10, claims.OPEN, claims.FAILS, claims.HOLDS),
    ],
)
def test_gap_against_samples_per_class(gap, falls, rate, remains):
    found = {
        name: judged(name, over_samples(gap))["verdict"]
        for name in ("gap_falls_with_m", "gap_falls_as_root_m", "gap_remains")
    }
    assert [*found.values()] == [falls, rate, remains]


def test_exponent_and_its_interval():
    found = judged("gap_falls_as_root_m", over_samples(lambda m, r: m ** -(0.7 + 0.1 * r)))
    half = 4.3027 * 0.1 / np.sqrt(3)
    assert [found["statistic"], found["low"], found["high"]] == pytest.approx([0.8, 0.8 - half, 0.8 + half], abs=1e-4)
    assert judged("gap_falls_as_root_m", over_samples(lambda m, r: 1 / m, repeats=2))["verdict"] == claims.OPEN


def matrix(error):
    rows = [
        {"trained": a, "tested": b, "repeat": r, "error": error(a, b, r), "cdnv": 5 * error(a, b, r),
         "untrained": 0.25}
        for a, b, r in itertools.product("AB", "AB", range(5))
    ]  # fmt: skip
    return pd.DataFrame(rows)


NOISE = (0.002, -0.001, 0.0, 0.001, -0.002)


@pytest.mark.parametrize(
    ("error", "other", "elsewhere"),
    [
        (lambda a, b, r: 0.1 + 0.1 * (a != b) + NOISE[r], claims.HOLDS, claims.HOLDS),
        # B is harder for everybody: training elsewhere costs in both directions, but B's network does better on A
        (lambda a, b, r: 0.1 + 0.1 * (a != b) * (1 + NOISE[r]) + 0.3 * (b == "B"), claims.FAILS, claims.HOLDS),
        # A's networks are better at everything
        (lambda a, b, r: 0.3 - 0.1 * (a == "A") + 0.01 * (a != b) * (1 + NOISE[r]), claims.HOLDS, claims.FAILS),
        (lambda a, b, r: 0.1 + (a != b) * NOISE[r], claims.OPEN, claims.OPEN),
    ],
)
def test_other_distributions(error, other, elsewhere):
    assert judged("other_distribution_costs", matrix(error))["verdict"] == other
    assert judged("training_elsewhere_costs", matrix(error))["verdict"] == elsewhere
    assert judged("training_elsewhere_costs_cdnv", matrix(error))["verdict"] == elsewhere


def test_directions_are_told_and_the_least_one_counts():
    table = matrix(lambda a, b, r: 0.1 + (0.2 if a == "A" else 0.1) * (a != b) + (a != b) * NOISE[r])
    found = judged("training_elsewhere_costs", table)
    assert found["statistic"] == pytest.approx(0.1) and found["n"] == 5
    assert "A → B" in found["numbers"] and "B → A" in found["numbers"]
    assert judged("training_elsewhere_costs", table[table["repeat"] < 2])["verdict"] == claims.OPEN
    assert judged("training_elsewhere_costs", table[table["trained"] == table["tested"]])["verdict"] == claims.OPEN
    one_way = table[table["trained"] == "A"]  # nobody was trained on B
    assert judged("training_elsewhere_costs", one_way)["verdict"] == claims.OPEN
    assert judged("other_distribution_costs", one_way)["verdict"] == claims.HOLDS


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (lambda a, b, r: 0.2 + NOISE[r], claims.HOLDS),
        (lambda a, b, r: (0.2 if a == "A" else 0.3) + NOISE[r], claims.FAILS),
        (lambda a, b, r: 0.25 + NOISE[r], claims.OPEN),
    ],
)
def test_training_elsewhere_against_no_training(error, helps):
    assert judged("training_elsewhere_helps", matrix(error))["verdict"] == helps
