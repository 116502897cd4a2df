"""Claims across objectives, each on tables where it is true, false and open."""

import numpy as np
import pandas as pd
import pytest
from judging import verdict

from ncbook import claims

PLAIN = ("cross_entropy", "distillation")
EPISODIC = ("prototypical", "matching", "relation", "ridge", "maml", "anil")


def networks(draws=5, spread=0.01, **columns):
    """One row per objective and draw; a column is a function of (place of the objective, whether it is episodic)."""
    rng, rows = np.random.default_rng(5), []
    for draw in range(draws):
        common = rng.normal(0, 0.05)  # of the draw's classes, the same for all objectives
        for place, name in enumerate((*PLAIN, *EPISODIC)):
            episodic = name in EPISODIC
            row = {"objective": name, "episodic": episodic, "repeat": draw}
            for column in ("cdnv", "directional", "b3", "error"):
                make = columns.get(column, lambda place, episodic: 1.0 + 0.1 * place)
                row[column] = (make(place, episodic) + common) * (1 + spread * rng.normal())
            rows.append(row)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("step", "expected"), [(1.0, claims.HOLDS), (-0.3, claims.FAILS), (0.0, claims.OPEN)])
def test_classifiers_collapse_more(step, expected):
    table = networks(cdnv=lambda place, episodic: 1 + step * episodic, spread=0.05)
    assert verdict("classifiers_collapse_more", table) == expected
    assert verdict("classifiers_collapse_more", table[table["repeat"] < 2]) == claims.OPEN
    assert verdict("classifiers_collapse_more", table[table["episodic"]]) == claims.OPEN


@pytest.mark.parametrize("name", ["cdnv", "directional", "b3"])
@pytest.mark.parametrize(("slope", "expected"), [(0.1, claims.HOLDS), (-0.1, claims.FAILS), (0.0, claims.OPEN)])
def test_predictors_across_objectives(name, slope, expected):
    table = networks(**{name: lambda place, _: 1 + slope * place})
    assert verdict(f"{name}_predicts_across_objectives", table) == expected
    assert verdict(f"{name}_predicts_across_objectives", table[table["objective"].isin(PLAIN)]) == claims.OPEN


def test_a_trend_between_draws_is_none_across_objectives():
    """Harder classes have a larger CDNV and a larger error; that says nothing of objectives."""
    table = networks(spread=0)
    rng = np.random.default_rng(1)
    table["cdnv"] = table["repeat"] + rng.normal(size=len(table)) / 100
    table["error"] = table["repeat"] + rng.normal(size=len(table)) / 100
    assert verdict("cdnv_predicts_across_objectives", table) == claims.OPEN
    assert verdict("cdnv_predicts_within_objectives", table) == claims.HOLDS
    assert verdict("cdnv_predicts_within_objectives", table.assign(error=-table["error"])) == claims.FAILS


def test_units_that_share_their_draws_or_were_chosen_are_not_taken_for_independent_ones():
    """Where CDNV and error depend on draw and objective, but not on each other, hardly any table is said to show it."""
    rng, within, across = np.random.default_rng(0), [], []
    for _ in range(100):
        table = networks(spread=0)
        for column in ("cdnv", "error"):
            effects = rng.normal(size=5)[table["repeat"]] + rng.normal(size=8)[np.arange(len(table)) % 8]
            table[column] = 10 + effects + rng.normal(size=len(table)) / 10
        within.append(verdict("cdnv_predicts_within_objectives", table))
        across.append(verdict("cdnv_predicts_across_objectives", table))
    assert sum(found != claims.OPEN for found in within) <= 10  # 2.5 on either side are expected: 3 of 5! orders
    assert across.count(claims.HOLDS) <= 7  # 2.5; that these very objectives are ordered the other way is a finding


def test_four_draws_cannot_show_a_trend_over_draws():
    table = networks()
    table["cdnv"] = table["error"] = 1.0 + table["repeat"]
    assert verdict("cdnv_predicts_within_objectives", table) == claims.HOLDS
    assert verdict("cdnv_predicts_within_objectives", table[table["repeat"] < 4]) == claims.OPEN
    assert verdict("cdnv_predicts_within_objectives", table.assign(error=0.5)) == claims.OPEN
    assert verdict("cdnv_predicts_within_objectives", table[1:]) == claims.OPEN  # a network is missing
    assert verdict("cdnv_predicts_across_objectives", table.assign(error=0.5)) == claims.OPEN


def test_directional_against_plain_cdnv():
    rng = np.random.default_rng(0)
    noisy = {"cdnv": lambda place, _: 1 + rng.random(), "directional": lambda place, _: 1 + 0.1 * place}
    table = networks(**noisy)
    assert verdict("directional_predicts_better_across_objectives", table) == claims.HOLDS
    swapped = table.rename(columns={"cdnv": "directional", "directional": "cdnv"})
    assert verdict("directional_predicts_better_across_objectives", swapped) == claims.FAILS
    assert verdict("directional_predicts_better_across_objectives", table.assign(cdnv=table["directional"])) != (
        claims.HOLDS
    )


def test_missing_numbers_are_not_judged():
    table = networks()
    table.loc[0, ["cdnv", "directional"]] = np.nan
    for name in ("classifiers_collapse_more", "cdnv_predicts_across_objectives"):
        assert verdict(name, table) == claims.OPEN
    for name in ("classifiers_collapse_more", "directional_predicts_better_across_objectives"):
        assert verdict(name, pd.DataFrame(columns=["epoch", "split", "metric", "value"])) == claims.OPEN
