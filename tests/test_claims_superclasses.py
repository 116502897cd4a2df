"""Claims on superclasses, each on tables where it is true, false and open."""

import numpy as np
import pandas as pd
import pytest
from judging import verdict

from ncbook import claims
from ncbook.claims.superclasses import at

KINDS = [(augmentation, grouping, size) for augmentation in ("affine", "none") for grouping in ("random", "alike")
         for size in (2, 8)]  # fmt: skip
EPOCHS = (0, 10, 20)
COLUMNS = ("fine", "error_inside", "error_new")
EACH = ("merging_raises_the_error_inside", "merging_raises_the_error_on_new_classes", "inside_is_worse_than_new")


def networks(draws=5, spread=0.01, seed=3, **columns):
    """A row per kind, network, epoch and draw; a column is a function of (kind, merged, epoch)."""
    rng, rows = np.random.default_rng(seed), []
    for draw in range(draws):
        common = rng.normal(0, 0.3)  # of the draw's characters, the same for all networks
        for kind in KINDS:
            for merged in (True, False):
                for epoch in EPOCHS:
                    row = dict(zip(("augmentation", "grouping", "size"), kind, strict=True))
                    row |= {"merged": merged, "repeat": draw, "epoch": epoch}
                    for column in COLUMNS:
                        value = columns.get(column, lambda *_: 1.0)(kind, merged, epoch)
                        row[column] = value + common + spread * rng.normal()
                    rows.append(row)
    return pd.DataFrame(rows)


STEPS = [(1, claims.HOLDS), (-1, claims.FAILS), (0, claims.OPEN)]


@pytest.mark.parametrize(("name", "column"), [(EACH[0], "error_inside"), (EACH[1], "error_new")])
@pytest.mark.parametrize(("step", "expected"), STEPS)
def test_merged_against_plain_at_the_end(name, column, step, expected):
    table = networks(**{column: lambda kind, merged, epoch: step * merged * (epoch == 20)})
    assert verdict(name, table) == expected
    assert verdict(name, table[table["repeat"] < 2]) == claims.OPEN


@pytest.mark.parametrize(("step", "expected"), STEPS)
def test_inside_against_new(step, expected):
    # of the networks that were merged, whatever the plain ones do
    table = networks(error_inside=lambda kind, merged, epoch: 1 + step * merged - (not merged))
    assert verdict("inside_is_worse_than_new", table) == expected


@pytest.mark.parametrize("name", EACH)
def test_one_kind_on_the_other_side_makes_all_of_them_fail(name):
    def inside(kind, merged, epoch):
        return merged * (-1 if kind == ("none", "alike", 8) else 1) + 1

    def new(kind, merged, epoch):
        return inside(kind, merged, epoch) if "new_classes" in name else 1.0

    assert verdict(name, networks(error_inside=inside, error_new=new)) == claims.FAILS


@pytest.mark.parametrize(("name", "augmentation"), [("augmented", "affine"), ("not_augmented", "none")])
@pytest.mark.parametrize(("step", "expected"), STEPS)
def test_fine_structure_over_training(name, augmentation, step, expected):
    def fine(kind, merged, epoch):  # the other augmentation, and the plain networks, do the opposite
        return (step if merged and kind[0] == augmentation else -step) * epoch / 20

    table = networks(fine=fine)
    assert verdict(f"fine_structure_is_left_{name}", table) == expected
    opposite = {claims.HOLDS: claims.FAILS, claims.FAILS: claims.HOLDS, claims.OPEN: claims.OPEN}
    assert verdict(f"fine_structure_falls_late_{name}", table) == opposite[expected]
    alone = table[table["augmentation"] != augmentation]
    assert verdict(f"fine_structure_is_left_{name}", alone) == claims.OPEN


def test_what_rises_first_and_falls_then():
    table = networks(fine=lambda kind, merged, epoch: {0: 0.0, 10: 1.0, 20: 0.5}[epoch])
    assert verdict("fine_structure_is_left_augmented", table) == claims.HOLDS
    assert verdict("fine_structure_falls_late_augmented", table) == claims.HOLDS


@pytest.mark.parametrize(("step", "expected"), STEPS)
def test_groups_that_are_alike(step, expected):
    # alike groups lie closer in the plain network, too: what counts is what merging takes away
    table = networks(fine=lambda kind, merged, epoch: -(kind[1] == "alike") * (0.5 + step * merged))
    assert verdict("groups_alike_lose_more", table) == expected
    assert verdict("groups_alike_lose_more", table[table["grouping"] == "random"]) == claims.OPEN


def test_missing_numbers_are_not_judged():
    table = networks(error_inside=lambda kind, merged, epoch: 1.0 + merged)
    table.loc[(table["epoch"] == 20) & (table["repeat"] == 3), list(COLUMNS)] = np.nan
    for name in (*EACH, "fine_structure_is_left_augmented", "fine_structure_falls_late_not_augmented"):
        assert verdict(name, table) == claims.OPEN


def test_moments_of_training_by_hand():
    table = networks(draws=2, spread=0, fine=lambda kind, merged, epoch: epoch + 100 * merged)
    drawn = at(table, "fine", moment=0.0)
    assert drawn.shape == (2, len(KINDS)) and set(drawn.columns) == set(KINDS)
    assert (at(table, "fine") - drawn).to_numpy() == pytest.approx(20)
    assert (at(table, "fine", moment=0.6) - drawn).to_numpy() == pytest.approx(10)  # the nearest that was measured
    assert (drawn - at(table, "fine", merged=False, moment=0.0)).to_numpy() == pytest.approx(100)
