"""Claims about curves over training, each on tables where it is true, where it is false and where it cannot be told."""

import numpy as np
import pandas as pd
import pytest

from ncbook import claims

SIZES = (8, 16, 32, 64)


def judge(name: str, table: pd.DataFrame) -> pd.Series:
    return claims.judge([name], table).iloc[0]


def verdict(name: str, table: pd.DataFrame) -> str:
    return judge(name, table)["verdict"]


def networks(values, *, sizes=SIZES, repeats=3, noise=0.0, seed=0) -> pd.DataFrame:
    """Histories: {(split, metric): function of l giving the values over epochs}, times e^noise, for each network."""
    rng = np.random.default_rng(seed)
    rows = [
        (epoch, split, metric, value * np.exp(noise * rng.standard_normal()), n_source, repeat)
        for n_source in sizes
        for repeat in range(repeats)
        for (split, metric), line in values.items()
        for epoch, value in enumerate(line(n_source))
    ]
    return pd.DataFrame(rows, columns=["epoch", "split", "metric", "value", "n_source", "repeat"])


def constant(*line):
    return lambda n_source: line


def at_end(value):
    """1 before training, then a function of l."""
    return lambda n_source: (1.0, 0.8, 0.6, value(n_source))


FALLING, RISING = constant(1.0, 0.5, 0.3, 0.2), constant(0.2, 0.3, 0.5, 1.0)
TRAIN, TEST, NOVEL = ("source_train", "cdnv"), ("source_test", "cdnv"), ("novel", "cdnv")
ACCURACY = ("novel", "accuracy_5shot")


def debiased(split):
    return split, "cdnv_debiased_mean"


def three(name, true, false, unclear):
    """Verdict on each of three tables."""
    assert verdict(name, true) == claims.HOLDS
    assert verdict(name, false) == claims.FAILS
    assert verdict(name, unclear) == claims.OPEN


def test_train_cdnv_falls():
    three(
        "train_cdnv_falls",
        networks({TRAIN: FALLING}, noise=0.05),
        networks({TRAIN: RISING}),
        networks({TRAIN: constant(1.0, 1.0, 1.0, 1.0)}, noise=0.02),
    )
    dips = networks({TRAIN: constant(1.0, 0.1, 0.2, 0.3)})  # falls, but is not at its lowest in the end
    assert verdict("train_cdnv_falls", dips) == claims.FAILS
    bump = networks({TRAIN: constant(1.0, 0.5, 0.6, 0.3)})
    found = judge("train_cdnv_falls", bump)
    assert found["verdict"] == claims.HOLDS and "rises in 12 of 36 steps" in found["numbers"]
    assert verdict("train_cdnv_falls", networks({TRAIN: FALLING}, repeats=2)) == claims.OPEN  # 8 networks, 2 draws
    assert verdict("train_cdnv_falls", networks({TRAIN: constant(1.0, 0.5)})) == claims.OPEN  # two epochs
    assert verdict("train_cdnv_falls", networks({TRAIN: constant(1.0, np.nan, 0.3, 0.2)})) == claims.OPEN


def test_one_bad_network_is_enough_to_fail():
    good, bad = networks({TRAIN: FALLING}, sizes=(8, 16)), networks({TRAIN: RISING}, sizes=(32,))
    assert verdict("train_cdnv_falls", pd.concat([good, bad])) == claims.FAILS


def test_train_nc_falls():
    lines = {("source_train", metric): FALLING for metric in ("nc1", "nc2", "nc3", "nc4")}
    flat = constant(1.0, 1.0, 1.0, 1.0)
    three(
        "train_nc_falls",
        networks(lines, noise=0.05),
        networks({**lines, ("source_train", "nc2"): RISING}),
        networks({**lines, ("source_train", "nc2"): flat}, noise=0.05),
    )


def test_new_samples_and_new_classes():
    for name, above, below in (("new_samples", "source_test", "source_train"), ("new_classes", "novel", "source_test")):
        end = {(above, "cdnv"): FALLING, debiased(below): at_end(lambda _: 0.2)}
        three(
            name,
            networks({**end, debiased(above): at_end(lambda _: 0.3)}, noise=0.1),
            networks({**end, debiased(above): at_end(lambda _: 0.1)}, noise=0.1),
            networks({**end, debiased(above): at_end(lambda _: 0.2)}, noise=0.1),
        )
        rises = {**end, (above, "cdnv"): RISING, debiased(above): at_end(lambda _: 0.3)}
        assert verdict(name, networks(rises)) == claims.FAILS
        lost = networks({**end, debiased(above): at_end(lambda _: np.inf)})
        assert verdict(name, lost) == claims.OPEN and "cannot be told apart" in judge(name, lost)["numbers"]


def test_trends_over_source_classes():
    falling, rising = at_end(lambda n: n**-0.2), at_end(lambda n: n**0.2)
    flat = at_end(lambda n: 0.5)
    for name, of, true, false in (
        ("novel_cdnv_falls_with_l", NOVEL, falling, rising),
        ("accuracy_rises_with_l", ACCURACY, rising, falling),
    ):
        three(name, networks({of: true}), networks({of: false}), networks({of: flat}, noise=0.1))
    one_each = networks({NOVEL: falling}, repeats=1)  # 4 points in order: one time in 24 by chance, not enough
    assert verdict("novel_cdnv_falls_with_l", one_each) == claims.OPEN
    same = networks({NOVEL: flat})
    assert "constant" in judge("novel_cdnv_falls_with_l", same)["numbers"]
    found = judge(
        "novel_cdnv_falls_with_l",
        networks({NOVEL: falling, ("source_train", "accuracy"): at_end(lambda n: 1 - n / 640)}),
    )
    assert found["n"] == 12 and found["statistic"] < -0.95 and "12 networks of 3 draws" in found["numbers"]
    assert "training accuracy 0.988 at l = 8, 0.900 at l = 64" in found["numbers"]


def test_gap_shrinks_and_says_which_side_closes_it():
    def table(novel, test):
        return networks({debiased("novel"): at_end(novel), debiased("source_test"): at_end(test)}, noise=0.001)

    three(
        "gap_shrinks_with_l",
        table(lambda n: 0.4 - n / 640, lambda n: 0.1 + n / 640),
        table(lambda n: 0.4 + n / 640, lambda n: 0.1),
        networks({debiased("novel"): at_end(lambda _: 0.4), debiased("source_test"): at_end(lambda _: 0.2)}, noise=0.1),
    )
    found = judge("gap_shrinks_with_l", table(lambda n: 0.4 - n / 640, lambda n: 0.1 + n / 640))
    assert "50% of the closing is source-test rising" in found["numbers"]


def test_accuracy_follows_cdnv_over_final_networks_only():
    cdnv = at_end(lambda n: n**-0.2)
    better, worse = (at_end(lambda n, s=s: 0.9 + s * n / 1000) for s in (1, -1))
    three(
        "accuracy_follows_cdnv",
        networks({NOVEL: cdnv, ACCURACY: better}),
        networks({NOVEL: cdnv, ACCURACY: worse}),
        networks({NOVEL: cdnv, ACCURACY: at_end(lambda _: 0.9)}, noise=0.01, seed=2),
    )
    # However well it follows over the epochs of a run, the final networks decide.
    low = (1.0, 0.9, 0.8, 0.7, 0.68, 0.66)
    within = {NOVEL: lambda n: (*low, n**-0.2), ACCURACY: lambda n: (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9 - n / 1000)}
    assert verdict("accuracy_follows_cdnv", networks(within)) == claims.FAILS
    assert verdict("accuracy_follows_cdnv_within_a_run", networks(within)) == claims.HOLDS


def test_within_a_run_it_need_not_hold():
    down = constant(*np.geomspace(1, 0.1, 8))
    apart = {NOVEL: down, ACCURACY: down}
    assert verdict("accuracy_follows_cdnv_within_a_run", networks(apart)) == claims.FAILS
    noise = networks({NOVEL: constant(*np.ones(8)), ACCURACY: constant(*np.ones(8))}, noise=0.1)
    assert verdict("accuracy_follows_cdnv_within_a_run", noise) == claims.OPEN


def test_a_network_without_an_accuracy_is_not_passed_over():
    table = networks(
        {NOVEL: at_end(lambda n: n**-0.2), TRAIN: at_end(lambda n: n**0.2), ACCURACY: at_end(lambda n: 0.9)}
    )
    lost = table[~((table["metric"] == "accuracy_5shot") & (table["n_source"] == 8) & (table["repeat"] == 1))]
    for name in ("accuracy_follows_cdnv", "source_collapse_is_not_transfer"):
        assert verdict(name, lost) == claims.OPEN and "missing" in judge(name, lost)["numbers"]


def test_a_trend_between_draws_is_not_one_within_them():
    """Draws of harder new classes have more CDNV and less accuracy, at every number of source classes."""
    harder = pd.concat(
        [networks({NOVEL: at_end(lambda n, r=r: 0.3 + 0.1 * r), ACCURACY: at_end(lambda n, r=r: 0.9 - 0.1 * r)},
                  repeats=1, noise=0.001, seed=r).assign(repeat=r) for r in range(3)]
    )  # fmt: skip
    assert verdict("accuracy_follows_cdnv", harder) != claims.HOLDS


def test_source_collapse_is_not_transfer():
    cdnv = at_end(lambda n: n**0.3)
    three(
        "source_collapse_is_not_transfer",
        networks({TRAIN: cdnv, ACCURACY: at_end(lambda n: 0.9 + n / 1000)}),
        networks({TRAIN: cdnv, ACCURACY: at_end(lambda n: 0.9 - n / 1000)}),
        networks({TRAIN: cdnv, ACCURACY: at_end(lambda _: 0.9)}, noise=0.01, seed=2),
    )


def test_a_number_that_is_missing_in_the_end_is_not_replaced_by_an_earlier_one():
    table = networks({NOVEL: at_end(lambda n: np.nan if n == 64 else 1 / n)})
    assert claims.final(table, "novel", "cdnv").isna().sum() == 3
    assert verdict("novel_cdnv_falls_with_l", table) == claims.OPEN


def test_first_and_final_are_per_network():
    table = networks({NOVEL: at_end(lambda n: 1 / n)})
    assert claims.final(table, "novel", "cdnv")[8, 1] == 1 / 8 and claims.first(table, "novel", "cdnv")[64, 0] == 1.0
    plain = table.query("n_source == 8 and repeat == 0").drop(columns=["n_source", "repeat"])
    assert claims.final(plain, "novel", "cdnv").to_dict() == {(0, 0): 1 / 8}


def test_drawn_orders_are_never_called_exact():
    """Of 8 blocks of 3 points all in order 1 / 6^8 = 6e-7 is exact, and too many orders to count."""
    from ncbook.claims._statistics import permutation_p

    block = [k for k in range(8) for _ in range(3)]
    assert 1 / 20_001 <= permutation_p([0, 1, 2] * 8, [0, 1, 2] * 8, block)[1] <= 3 / 20_001
    points = [*range(3), *range(10)]
    assert permutation_p(points, points, [0] * 3 + [1] * 10)[1] == 1 / 20_001


@pytest.mark.parametrize("n", [5, 6, 8])
def test_permutation_p_is_that_of_scipy(n):
    from scipy.stats import permutation_test

    from ncbook.claims._statistics import permutation_p, spearman

    rng = np.random.default_rng(n)
    x, y = rng.standard_normal((2, n)).round(1)
    down, up = permutation_p(x, y)
    for p, alternative in ((down, "less"), (up, "greater")):
        resamples = np.inf if n < 8 else 4_000
        exact = permutation_test(
            (y,), lambda v: spearman(x, v), permutation_type="pairings", n_resamples=resamples, alternative=alternative,
            vectorized=False,
        ).pvalue  # fmt: skip
        assert abs(p - exact) < (1e-12 if n < 8 else 0.03)


def test_chance_gives_a_verdict_one_time_in_twenty():
    """Two-sided level of a trend: under no effect at all a verdict other than "cannot be judged" is rare."""
    rng = np.random.default_rng(0)
    given = [claims._statistics.trend(np.arange(8) // 2, rng.standard_normal(8), 1, "").verdict for _ in range(100)]
    assert sum(v != claims.OPEN for v in given) <= 12
