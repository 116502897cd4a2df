"""Claims about inequalities: each statistic where the claim is true, where it is false, where it cannot be told."""

import numpy as np
import pandas as pd
import pytest
from judging import judged

from ncbook import claims

HOLDS, FAILS, OPEN = claims.HOLDS, claims.FAILS, claims.OPEN
COLUMNS = {"b1_pairs": "b1", "b2_pairs": "b2", "b3_pairs": "b3", "b5_pairs": "b5", "best_pairs": "best",
           "printed_form_holds": "printed", "multiclass": "bound"}  # fmt: skip


def pairs(column, errors, bounds, half_width):
    return pd.DataFrame({"error": errors, column: bounds, "half_width": half_width})


@pytest.mark.parametrize(("name", "column"), COLUMNS.items())
def test_errors_below_above_and_at_their_bounds(name, column):
    found = [judged(name, pairs(column, [0.1, last], [0.5, 0.2], 0.01)) for last in (0.17, 0.23, 0.2)]
    assert [f["verdict"] for f in found] == [HOLDS, FAILS, OPEN]
    assert [f["statistic"] for f in found] == pytest.approx([0.85, 1.15, 1.0])
    assert all(f["low"] < f["statistic"] < f["high"] and f["n"] == 2 for f in found)
    assert found[0]["kind"] == (claims.FINDING if name == "printed_form_holds" else claims.THEOREM)
    assert found[0]["fails_if"]


def test_the_largest_ratio_decides_not_the_largest_error():
    found = judged("b1_pairs", pairs("b1", [0.4, 0.02], [0.9, 0.01], 0.001))
    assert found["verdict"] == FAILS and found["statistic"] == pytest.approx(2)


def test_many_pairs_at_their_bound_do_not_fail_by_chance():
    """Of 4,950 means at their bounds, some 120 lie above by more than their own 95 % half width."""
    rng = np.random.default_rng(0)
    failed = []
    for _ in range(60):
        errors = 0.3 + 0.01 * rng.standard_normal(4_950)
        table = pairs("best", errors, 0.3, 1.96 * 0.01)
        assert (table["error"] > table["best"] + table["half_width"]).sum() > 50
        failed.append(judged("best_pairs", table)["verdict"] == FAILS)
    assert np.mean(failed) < 0.1
    errors[7] = 0.3 + 0.06  # six standard errors: seen among all of them
    assert judged("best_pairs", pairs("best", errors, 0.3, 1.96 * 0.01))["verdict"] == FAILS


def test_vacuous_bounds_test_nothing():
    table = pairs("b1", [0.3, 0.4], [1.2, 1.0], 0.01)
    assert judged("b1_pairs", table)["verdict"] == OPEN
    found = judged("b1_pairs", pd.concat([table, pairs("b1", [0.1], [0.5], 0.01)]))
    assert found["verdict"] == HOLDS and found["n"] == 1 and "2 more vacuous" in found["numbers"]


def test_collapsed_pairs_of_error_and_bound_zero_hold():
    found = judged("b3_pairs", pairs("b3", [0.0, 0.1], [0.0, 0.4], [0.0, 0.01]))
    assert found["verdict"] == HOLDS and found["statistic"] == pytest.approx(0.25)
    assert judged("b3_pairs", pairs("b3", [0.01], [0.0], [0.001]))["verdict"] == FAILS


def correlations(gains, networks=6, noise=0.01, b3=0.05):
    rng = np.random.default_rng(1)
    rows = []
    for shot, gain in gains.items():
        cdnv = 0.8 + 0.03 * rng.standard_normal(networks)
        directional = cdnv + gain + noise * rng.standard_normal(networks)
        best = np.maximum(cdnv, directional) + b3 + noise * rng.standard_normal(networks)
        rows.append(pd.DataFrame({"shot": shot, "cdnv": cdnv, "directional": directional, "b3": best}))
    return pd.concat(rows)


@pytest.mark.parametrize(
    ("gains", "all_shots", "one_shot"),
    [
        ({1: 0.1, 5: 0.1}, HOLDS, FAILS),
        ({1: -0.1, 5: 0.1}, FAILS, HOLDS),  # five shots alone do not make it hold
        ({1: 0.0, 5: 0.1}, OPEN, OPEN),
        ({5: 0.1}, OPEN, OPEN),
    ],
)
def test_directional_predicts_at_every_number_of_shots(gains, all_shots, one_shot):
    table = correlations(gains)
    assert judged("directional_predicts", table)["verdict"] == all_shots
    assert judged("cdnv_serves_at_one_shot", table)["verdict"] == one_shot


def test_the_statistic_is_the_smallest_gain_with_its_interval_over_networks():
    found = judged("directional_predicts", correlations({1: -0.1, 2: 0.05, 5: 0.2}))
    assert found["statistic"] == pytest.approx(-0.1, abs=0.02) and found["n"] == 6
    assert found["low"] < found["statistic"] < found["high"] < 0
    assert all(f"n = {shot}:" in found["numbers"] for shot in (1, 2, 5))


@pytest.mark.parametrize(("gain", "expected"), [(0.05, HOLDS), (-0.05, FAILS), (-0.01, OPEN)])
def test_b3_against_the_better_of_the_two(gain, expected):
    assert judged("b3_orders_best", correlations({1: -0.1, 5: 0.1}, b3=gain))["verdict"] == expected


def test_one_network_however_many_pairs_cannot_tell():
    table = correlations({1: -0.1, 5: 0.1}, networks=2)
    for name in ("directional_predicts", "cdnv_serves_at_one_shot", "b3_orders_best"):
        assert judged(name, table)["verdict"] == OPEN


def test_pair_error_follows_cdnv_over_networks():
    cdnv = np.array([0.2, 0.3, 0.4, 0.6, 0.9, 1.2])
    for errors, expected in ((cdnv / 4, HOLDS), (0.5 - cdnv / 4, FAILS), ([0.2, 0.1, 0.3, 0.1, 0.2, 0.15], OPEN)):
        table = pd.DataFrame({"mean_cdnv": cdnv, "mean_error": errors})
        assert judged("pair_error_follows_cdnv", table)["verdict"] == expected


@pytest.mark.parametrize("name", [*COLUMNS, "directional_predicts", "cdnv_serves_at_one_shot", "b3_orders_best",
                                  "pair_error_follows_cdnv"])  # fmt: skip
def test_cannot_be_judged_without_numbers(name):
    assert judged(name, pd.DataFrame(columns=["epoch", "value"]))["verdict"] == OPEN
