"""Claims on a reader's images and models: each statistic where the claim is true, false, and cannot be told."""

import itertools

import numpy as np
import pandas as pd
import pytest
from judging import judged

from ncbook import claims
from ncbook.claims import own


def of_pairs(error, n_classes=12, seed=0):
    rng = np.random.default_rng(seed)
    rows = [
        {"class_a": a, "class_b": b, "cdnv": (cdnv := rng.uniform(0.1, 2)), "error": error(cdnv, a, b, rng)}
        for a, b in itertools.combinations("abcdefghijklmnopqrstuvwxyz"[:n_classes], 2)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (lambda cdnv, a, b, rng: 0.1 * cdnv, claims.HOLDS),
        (lambda cdnv, a, b, rng: 0.1 * cdnv + rng.uniform(0, 0.1), claims.HOLDS),
        (lambda cdnv, a, b, rng: 0.3 - 0.1 * cdnv + rng.uniform(0, 0.1), claims.FAILS),
        (lambda cdnv, a, b, rng: rng.uniform(), claims.OPEN),
        (lambda cdnv, a, b, rng: 0.0, claims.OPEN),
        (lambda cdnv, a, b, rng: np.nan if (a, b) == ("a", "b") else cdnv, claims.OPEN),
    ],
)
def test_harder_pairs(error, verdict):
    assert judged("harder_pairs_err_more", of_pairs(error))["verdict"] == verdict


def test_harder_pairs_interval_is_over_classes():
    """Errors that classes bring along: the same number of pairs says less than independent ones would."""
    badness = dict(zip("abcdefghijkl", np.random.default_rng(2).normal(size=12), strict=True))
    table, rng = of_pairs(lambda *_: 0.0), np.random.default_rng(3)
    for column in ("cdnv", "error"):
        noise = 0.8 * rng.normal(size=len(table))
        table[column] = table["class_a"].map(badness) + table["class_b"].map(badness) + noise
    found = judged("harder_pairs_err_more", table)
    assert found["verdict"] == claims.HOLDS and found["n"] == 12 and 0 < found["low"] < found["statistic"] < 1
    naive = np.tanh(np.arctanh(found["statistic"]) - 1.96 / np.sqrt(len(table) - 3))
    assert found["low"] < naive


def test_harder_pairs_needs_every_pair_of_five_classes():
    table = of_pairs(lambda cdnv, *_: cdnv)
    assert judged("harder_pairs_err_more", table[1:])["verdict"] == claims.OPEN
    few = of_pairs(lambda cdnv, *_: cdnv, n_classes=4)
    assert "6 pairs of 4 classes" in judged("harder_pairs_err_more", few)["numbers"]


def test_harder_pairs_says_the_directional_one_too():
    table = of_pairs(lambda cdnv, a, b, rng: cdnv + rng.uniform(0, 1))
    table["directional_cdnv"] = table["error"]
    assert "directional CDNV +1.00" in judged("harder_pairs_err_more", table)["numbers"]


def test_rank_correlation_covers():
    """Of independent values the interval over classes leaves out 0 in about 5 % of draws."""
    outside = 0
    for seed in range(60):
        _, low, high = own.rank_correlation(of_pairs(lambda *args: args[-1].uniform(), seed=seed))
        outside += not low <= 0 <= high
    assert outside <= 8


def of_models(*differences, half=0.02):
    """First model and others with (difference of CDNV, of accuracy), each ± half."""
    rows = [{"model": "first"}] + [{"model": f"other {k}"} for k in range(len(differences))]
    table = pd.DataFrame(rows)
    for place, name in enumerate(("cdnv", "accuracy_5way_1shot_ncc", "accuracy_5way_5shot_ncc")):
        values = np.array([0.0, *(pair[min(place, 1)] for pair in differences)])
        table[name] = 0.5 + values
        table[f"{name}_difference"] = values
        for end, sign in (("low", -1), ("high", 1)):
            table[f"{name}_difference_{end}"] = [np.nan, *(values[1:] + sign * half)]
    return table


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([(-0.5, 0.1), (0.7, -0.2)], claims.HOLDS),
        ([(-0.5, 0.1), (0.7, 0.2)], claims.FAILS),
        ([(-0.5, -0.1)], claims.FAILS),
        ([(-0.5, 0.01)], claims.OPEN),
        ([(-0.01, 0.1)], claims.OPEN),
        ([(-0.01, -0.1)], claims.OPEN),  # CDNV is not told apart
        ([(-0.5, -0.021)], claims.FAILS),
        ([(-0.5, -0.021), (-0.5, 0.1)], claims.OPEN),  # not by an interval that holds for both
        ([], claims.OPEN),
    ],
)
def test_models(differences, verdict):
    assert judged("smaller_cdnv_errs_less", of_models(*differences))["verdict"] == verdict


def test_models_statistic_is_the_least_gain():
    found = judged("smaller_cdnv_errs_less", of_models((-0.5, 0.1), (0.7, -0.2)))
    assert [found["statistic"], found["low"], found["high"], found["n"]] == pytest.approx([0.1, 0.08, 0.12, 2])


def test_models_are_judged_by_most_shots_in_whatever_order_they_stand():
    table = of_models((-0.5, 0.2))
    one = [name for name in table if "1shot" in name]
    table[[f"{name}" for name in one if "difference" in name]] *= -1  # with one shot the other way round
    assert judged("smaller_cdnv_errs_less", table)["verdict"] == claims.HOLDS
    last = table[[name for name in table if name not in one] + one]
    assert judged("smaller_cdnv_errs_less", last)["verdict"] == claims.HOLDS


def test_models_of_the_report():
    import torch

    import ncbook

    generator = torch.manual_seed(0)
    centers = torch.randn(10, 1, 8, 8, generator=generator).repeat_interleave(8, 0)
    images = centers + 0.6 * torch.randn(80, 1, 8, 8, generator=generator)
    models = {"all": torch.nn.Flatten(), "a corner": torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten())}
    labels = torch.arange(10).repeat_interleave(8)
    table = ncbook.compare_models(models, (images, labels), ways=(2,), shots=(1,), episodes=300)
    assert judged("smaller_cdnv_errs_less", table)["verdict"] in (claims.HOLDS, claims.OPEN)


def test_models_without_intervals():
    table = of_models((-0.5, 0.1))
    table.loc[1, "cdnv_difference_low"] = np.nan
    assert judged("smaller_cdnv_errs_less", table)["verdict"] == claims.OPEN
