"""Claims about networks trained by episodes, each where it is true, where it is false, and where it cannot be told."""

import numpy as np
import pandas as pd
import pytest

from ncbook import claims

HOLDS, FAILS, OPEN = claims.HOLDS, claims.FAILS, claims.OPEN
EPOCHS = np.arange(0, 45, 5)
FALLS = np.array([4, 1, 0.43, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4])
FLAT = np.ones(len(EPOCHS))


def judge(name, table):
    return claims.judge([f"episodes_{name}"], table).iloc[0]


def verdict(name, table):
    return judge(name, table)["verdict"]


def measured(lines, setting="report", split="source_train", repeats=3, noise=0.02, spread=0.1, seed=0):
    """{backbone: {(set, metric): values over EPOCHS}}, each network's times a factor of its own near 1."""
    rng, parts = np.random.default_rng(seed), []
    for backbone, curves in lines.items():
        width = spread[backbone] if isinstance(spread, dict) else spread
        for repeat in range(repeats):
            for (part, metric), line in curves.items():
                factor = np.exp(noise * rng.normal(size=2))
                value = np.asarray(line) * factor[[0] + [1] * (len(EPOCHS) - 1)]
                rows = {"epoch": EPOCHS, "split": split, "set": part, "metric": metric, "value": value, "n": 20}
                rows["ci95"] = width * value * np.exp(noise * rng.normal())
                parts.append(pd.DataFrame(rows).assign(backbone=backbone, repeat=repeat, setting=setting))
    return pd.concat(parts, ignore_index=True)


def both(line, metric="nc1"):
    return {(part, metric): line for part in ("support", "query")}


def collapsing(line=FALLS):
    return both(line) | both(line, "nc2_normalized")


def two(small, large, metric="nc1", **options):
    return measured({"narrow": both(small * FALLS, metric), "wide": both(large * FALLS, metric)}, **options)


def test_nc_of_episodes_falls_and_stays():
    plain = measured({"narrow": collapsing(), "wide": collapsing(0.5 * FALLS)})
    found = judge("nc_plateaus", plain)
    assert found["verdict"] == HOLDS and found["n"] == 3 and abs(found["statistic"]) < 0.1
    falling = np.linspace(4, 1, len(EPOCHS))
    to_zero = np.array([4, 0.1, 0.01, *[0.004] * 6])
    for line in (FALLS[::-1], falling, to_zero):
        assert verdict("nc_plateaus", measured({"narrow": collapsing(), "wide": collapsing(line)})) == FAILS
    assert verdict("nc_plateaus", measured({"narrow": collapsing()}, noise=3.0)) == OPEN
    assert verdict("nc_plateaus", measured({"narrow": collapsing()}, repeats=2)) == OPEN
    plain.loc[3, "value"] = np.nan
    assert verdict("nc_plateaus", plain) == OPEN
    assert verdict("nc_plateaus", plain[plain["epoch"] % 20 == 0]) == OPEN  # three moments


def test_support_and_query_sets_alike():
    assert verdict("support_like_query", measured({"narrow": collapsing(), "wide": collapsing()})) == HOLDS
    assert verdict("support_like_query", measured({"narrow": collapsing()}, noise=0.3)) == OPEN
    for factor in (0.5, 2):
        curves = {key: (factor if key[0] == "query" else 1) * line for key, line in collapsing().items()}
        found = judge("support_like_query", measured({"narrow": collapsing(), "wide": curves}))
        assert found["verdict"] == FAILS and abs(found["statistic"]) > 0.6


@pytest.mark.parametrize(
    ("name", "metric", "setting"),
    [
        ("larger_collapses_more", "nc1", "report"),
        ("larger_collapses_more_at_equal_dim", "nc1", "equal_dim"),
        ("larger_has_smaller_cdnv", "cdnv", "report"),
        ("larger_has_smaller_nc2", "nc2_normalized", "report"),
    ],
)
def test_the_larger_network(name, metric, setting):
    found = judge(name, two(2, 1, metric, setting=setting))
    assert found["verdict"] == HOLDS and found["statistic"] == pytest.approx(0.5, rel=0.1)
    assert found["low"] < found["statistic"] < found["high"] < 1
    assert verdict(name, two(1, 2, metric, setting=setting)) == FAILS
    assert verdict(name, two(1, 1, metric, setting=setting, noise=0.3)) == OPEN
    assert verdict(name, two(2, 1, metric, setting=setting, repeats=2)) == OPEN
    assert verdict(name, two(2, 1, metric, setting="another")) == OPEN
    assert verdict(name, measured({"narrow": both(FALLS, metric)}, setting=setting)) == OPEN


def test_in_multiples_of_the_noise_floor():
    name, table = "larger_collapses_more_above_noise", two(2, 1)
    assert verdict(name, table) == OPEN  # no floor
    floors = [measured({"narrow": both(5 * FLAT, "nc1_floor"), "wide": both(wide * FLAT, "nc1_floor")})
              for wide in (4, 0.5)]  # fmt: skip
    assert [verdict(name, pd.concat([table, floor])) for floor in floors] == [HOLDS, FAILS]


@pytest.mark.parametrize(("name", "setting"), [("", "report"), ("_at_equal_dim", "equal_dim")])
def test_the_smaller_network_is_noisier(name, setting):
    name, options = f"smaller_is_noisier{name}", {"setting": setting}
    found = judge(name, two(9, 1, spread={"narrow": 0.2, "wide": 0.1}, **options))
    assert found["verdict"] == HOLDS and found["statistic"] == pytest.approx(0.5, rel=0.1)
    assert verdict(name, two(1, 9, spread={"narrow": 0.1, "wide": 0.2}, **options)) == FAILS
    assert verdict(name, two(1, 1, noise=0.3, **options)) == OPEN


@pytest.mark.parametrize(("name", "setting"), [("", "report"), ("_at_equal_way", "equal")])
def test_validation_episodes(name, setting):
    def splits(level, spread, error, noise=0.02):
        lines = {part: {"narrow": collapsing(factor * FALLS), "wide": collapsing(factor * FALLS)}
                 for part, factor in (("source_train", 1), ("validation", level))}  # fmt: skip
        for part, value in (("source_train", 0.2), ("validation", error)):
            lines[part]["narrow"] |= {("query", "error"): value * FLAT}
        options = {"setting": setting, "noise": noise}
        train = measured(lines["source_train"], **options, spread=0.1)
        return pd.concat([train, measured(lines["validation"], **options, spread=spread, split="validation", seed=1)])

    nc1, error = f"validation_noisier_and_smaller{name}", f"validation_error_smaller{name}"
    below = splits(0.5, 0.2, 0.1)
    assert [verdict(claim, below) for claim in (nc1, error)] == [HOLDS, HOLDS]
    assert verdict(nc1, splits(2, 0.2, 0.1)) == FAILS  # larger
    assert verdict(nc1, splits(0.5, 0.05, 0.1)) == FAILS  # calmer
    assert verdict(error, splits(0.5, 0.2, 0.4)) == FAILS
    assert [verdict(claim, splits(1, 0.1, 0.2, noise=0.3)) for claim in (nc1, error)] == [OPEN, OPEN]
    assert [verdict(claim, below[below["split"] == "validation"]) for claim in (nc1, error)] == [OPEN, OPEN]


def test_a_missing_value_leaves_it_open():
    table = two(2, 1)
    table.loc[table["epoch"] == 40, "value"] = np.nan
    assert verdict("larger_collapses_more", table) == OPEN
