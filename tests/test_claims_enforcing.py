"""Claims on enforced collapse, each on tables where it is true, false and open."""

import numpy as np
import pandas as pd
import pytest
from judging import verdict

from ncbook import claims
from ncbook.claims.enforcing import correlations, paired, regret

KINDS = [  # kind, what it is compared with, whether it enforces collapse, strength
    ("plain", "plain", False, np.nan),
    ("longer", "plain", False, np.nan),
    ("smoothing", "plain", False, np.nan),
    ("etf", "plain", True, np.nan),
    ("none", "plain", False, 0.0),
    ("weak", "none", True, 1.0),
    ("strong", "none", True, 3.0),
]
COLUMNS = [
    f"{metric}_{split}" for metric in ("cdnv", "directional") for split in ("source_train", "source_test", "novel")
]
COLUMNS += ["error"]
ACROSS = {  # claim -> what rises with what
    "source_cdnv_carries_over": ("cdnv_source_train", "cdnv_novel"),
    "train_cdnv_foretells_transfer": ("cdnv_source_train", "error"),
    "held_out_cdnv_foretells_transfer": ("cdnv_source_test", "error"),
    "held_out_directional_foretells_transfer": ("directional_source_test", "error"),
    "error_follows_new_class_cdnv": ("cdnv_novel", "error"),
    "error_follows_new_class_directional": ("directional_novel", "error"),
}
EACH = {
    "enforcing_lowers_source_cdnv": "cdnv_source_train",
    "enforcing_lowers_new_class_cdnv": "cdnv_novel",
    "enforcing_lowers_new_class_directional": "directional_novel",
    "enforcing_always_helps_transfer": "error",
}


def networks(draws=5, spread=0.01, seed=3, **columns):
    """One row per kind and draw; a column is a function of (place of the kind, whether it enforces, strength)."""
    rng, rows = np.random.default_rng(seed), []
    for draw in range(draws):
        common = rng.normal(0, 0.3)  # of the draw's classes, the same for all kinds
        for place, (kind, against, enforces, strength) in enumerate(KINDS):
            row = {"kind": kind, "against": against, "enforces": enforces, "strength": strength, "repeat": draw}
            for column in COLUMNS:
                make = columns.get(column, lambda place, enforces, strength: 3.0)
                row[column] = (make(place, enforces, strength) + common) * (1 + spread * rng.normal())
            rows.append(row)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("name", "column"), list(EACH.items()))
@pytest.mark.parametrize(("step", "expected"), [(-1.0, claims.HOLDS), (1.0, claims.FAILS), (0.0, claims.OPEN)])
def test_every_enforcing_kind(name, column, step, expected):
    table = networks(**{column: lambda place, enforces, _: 3 + step * enforces})
    assert verdict(name, table) == expected
    assert verdict(name, table[table["repeat"] < 2]) == claims.OPEN
    assert verdict(name, table[~table["enforces"]]) == claims.OPEN


def test_one_kind_that_raises_it_makes_all_of_them_fail():
    table = networks(error=lambda place, enforces, strength: 3 - enforces + 2 * (strength == 3))
    assert verdict("enforcing_always_helps_transfer", table) == claims.FAILS
    assert verdict("enforcing_can_help_transfer", table) == claims.HOLDS


def test_what_does_not_enforce_is_not_counted():
    table = networks(error=lambda place, enforces, _: 3 + (place in (1, 2)) - enforces)
    assert verdict("enforcing_always_helps_transfer", table) == claims.HOLDS


@pytest.mark.parametrize(("step", "expected"), [(-1.0, claims.HOLDS), (1.0, claims.FAILS), (0.0, claims.OPEN)])
def test_some_enforcing_kind(step, expected):
    table = networks(error=lambda place, enforces, _: 3 + step * enforces)
    assert verdict("enforcing_can_help_transfer", table) == expected


def test_the_best_of_many_is_not_judged_as_if_it_were_the_only_one():
    table = networks(spread=0)
    # of the draws' differences mean / standard error is 3, below the 2.78 of one kind and above the 4 of three
    noise = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    shift = 3 * noise.std(ddof=1) / np.sqrt(5)
    table.loc[table["kind"] == "etf", "error"] += noise - shift
    assert verdict("enforcing_can_help_transfer", table) == claims.OPEN
    table.loc[table["kind"] == "etf", "error"] -= shift
    assert verdict("enforcing_can_help_transfer", table) == claims.HOLDS


@pytest.mark.parametrize(
    ("name", "column"),
    [("penalty_lowers_source_cdnv", "cdnv_source_train"), ("penalty_lowers_new_class_error", "error")],
)
@pytest.mark.parametrize(("slope", "expected"), [(-0.3, claims.HOLDS), (0.3, claims.FAILS), (0.0, claims.OPEN)])
def test_strengths_of_the_penalty(name, column, slope, expected):
    table = networks(**{column: lambda place, enforces, strength: 3 + slope * np.nan_to_num(strength)})
    assert verdict(name, table) == expected
    assert verdict(name, table[table["strength"] != 1]) == claims.OPEN


@pytest.mark.parametrize(("name", "pair"), list(ACROSS.items()))
@pytest.mark.parametrize(("slope", "expected"), [(0.5, claims.HOLDS), (-0.3, claims.FAILS), (0.0, claims.OPEN)])
def test_across_kinds(name, pair, slope, expected):
    x, y = pair
    table = networks(**{x: lambda place, *_: 3 + slope * place, y: lambda place, *_: 3 + 0.4 * place})
    assert verdict(name, table) == expected
    assert verdict(name, table[table["kind"].isin(["plain", "etf"])]) == claims.OPEN


def test_harder_classes_are_no_trend_across_kinds():
    table = networks(spread=0.05, cdnv_novel=lambda *_: 3.0)
    table["error"] = table["repeat"] + np.random.default_rng(2).normal(size=len(table)) / 100
    table["cdnv_novel"] = table["repeat"] + np.random.default_rng(1).normal(size=len(table)) / 100
    assert verdict("error_follows_new_class_cdnv", table) == claims.OPEN


def test_few_kinds_do_not_become_many_by_repeating_draws():
    """The same four orders in each of five draws are one order of kinds, which chance gives one time in four."""
    table = networks(spread=0, cdnv_novel=lambda place, *_: place, error=lambda place, *_: place * (place != 6))
    table = table[table["kind"].isin(["plain", "longer", "smoothing", "strong"])]
    assert (correlations(table, "cdnv_novel") > 0).all()
    assert verdict("error_follows_new_class_cdnv", table) == claims.OPEN


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("directional_orders_kinds_better", "directional_novel", "cdnv_novel"),
        ("held_out_orders_kinds_better", "cdnv_source_test", "cdnv_source_train"),
    ],
)
def test_which_orders_better(name, better, worse):
    rng = np.random.default_rng(0)
    noisy = {worse: lambda *_: 3 + rng.random(), better: lambda place, *_: 3 + 0.4 * place}
    table = networks(error=lambda place, *_: 3 + 0.4 * place, **noisy)
    assert verdict(name, table) == claims.HOLDS
    swapped = table.rename(columns={better: worse, worse: better})
    assert verdict(name, swapped) == claims.FAILS
    assert verdict(name, table.assign(**{worse: table[better]})) == claims.OPEN


@pytest.mark.parametrize(("step", "expected"), [(-1.0, claims.HOLDS), (1.0, claims.FAILS), (0.0, claims.OPEN)])
def test_selecting_by_held_out_cdnv(step, expected):
    table = networks(
        cdnv_source_test=lambda place, *_: 3 - (place == 3), error=lambda place, *_: 3 + step * (place == 3)
    )
    assert verdict("least_held_out_cdnv_beats_plain", table) == expected
    assert verdict("least_held_out_cdnv_beats_plain", table[::-1]) == expected  # in whatever order the rows are


def test_pairs_correlations_and_regret_by_hand():
    table = networks(draws=2, spread=0)
    table["error"] = [1, 2, 3, 4, 5, 6, 7, 10, 20, 30, 40, 50, 60, 80]
    table["cdnv_novel"] = [7, 6, 5, 4, 3, 2, 1, 1, 2, 3, 4, 5, 6, 7]
    found = paired(table, "error")
    assert found["etf"].tolist() == [3, 30] and found["strong"].tolist() == [2, 30] and "plain" not in found
    assert correlations(table, "cdnv_novel").tolist() == pytest.approx([-1, 1])
    assert regret(table, "cdnv_novel").tolist() == [6, 0]


def test_missing_numbers_are_not_judged():
    table = networks(error=lambda place, enforces, _: 3 - enforces)
    table.loc[3, COLUMNS] = np.nan
    for name in (*EACH, *ACROSS, "enforcing_can_help_transfer", "directional_orders_kinds_better"):
        assert verdict(name, table) == claims.OPEN


@pytest.mark.parametrize(("step", "expected"), [(1.0, claims.HOLDS), (-1.0, claims.FAILS), (0.0, claims.OPEN)])
def test_longer_training_and_projector(step, expected):
    table = networks(error=lambda place, enforces, strength: 3 + step * (place == 1))
    assert verdict("longer_training_hurts_new_classes", table) == expected
    assert verdict("longer_training_hurts_new_classes", table[table["kind"] != "longer"]) == claims.OPEN
    assert verdict("projector_keeps_harm_off_features", table) == claims.OPEN
    rows = table["kind"] == "etf"
    table.loc[rows, "projected_error"] = table.loc[rows, "error"] + step + np.resize([0.1, -0.1], rows.sum())
    assert verdict("projector_keeps_harm_off_features", table) == expected
