"""Claims about networks, each where it is true, where it is false, and where it cannot be told."""

import numpy as np
import pandas as pd
import pytest

from ncbook import claims

EPOCHS = np.arange(0, 101, 10)
HOLDS, FAILS, OPEN = claims.HOLDS, claims.FAILS, claims.OPEN


def judge(name, table):
    return claims.judge([name], table).iloc[0]


def verdict(name, table):
    return judge(name, table)["verdict"]


def networks(by, curves, repeats=3, noise=0.05, seed=0):
    """Histories: {key: {(split, metric): values over EPOCHS}}, each network's times a factor of its own near 1."""
    rng, parts = np.random.default_rng(seed), []
    for key, lines in curves.items():
        for repeat in range(repeats):
            for (split, metric), line in lines.items():
                factor = np.exp(noise * rng.normal(size=2))[[0] + [1] * (len(EPOCHS) - 1)]  # of the first, of the rest
                value = np.asarray(line) * (1 if metric == "accuracy" else factor)
                rows = pd.DataFrame({"epoch": EPOCHS, "step": EPOCHS, "split": split, "metric": metric, "value": value})
                parts.append(rows.assign(**{by: key, "repeat": repeat}))
    return pd.concat(parts, ignore_index=True)


def down(last, first=2.0):
    return np.geomspace(first, last, len(EPOCHS))


def plateau(last, first=2.0, late=1.0):
    """Falls over the first half of training, then changes by a factor ``late`` over the last third."""
    line = np.interp(EPOCHS, [0, 50, 100], np.log([first, last, last]))
    return np.exp(line + np.log(late) * np.clip((EPOCHS - 70) / 30, 0, 1))


def depths(train, test=None, accuracy=1.0, **options):
    """{layers: curve of the training CDNV}; the unseen one is ``test``, or 1.5 times that."""
    curves = {}
    for layers, line in train.items():
        unseen = 1.5 * line if test is None else test[layers]
        curves[layers] = {
            ("source_train", "cdnv"): line, ("source_train", "cdnv_debiased"): line,
            ("source_test", "cdnv"): unseen, ("source_test", "cdnv_debiased"): unseen,
            ("source_train", "accuracy"): np.linspace(0.1, accuracy, len(EPOCHS)),
        }  # fmt: skip
    return networks("layers", curves, **options)


DEEPER = {3: down(1.0), 5: down(0.6), 10: down(0.3), 20: down(0.1)}


def test_deeper_networks_collapse_more():
    found = judge("deeper_collapses_more", depths(DEEPER))
    assert found["verdict"] == HOLDS and found["n"] == 12 and found["statistic"] < -0.9
    shallower = dict(zip(DEEPER, reversed(DEEPER.values()), strict=True))
    assert verdict("deeper_collapses_more", depths(shallower)) == FAILS
    assert verdict("deeper_collapses_more", depths(dict.fromkeys(DEEPER, down(0.3)), noise=0.3)) == OPEN
    assert verdict("deeper_collapses_more", depths(DEEPER, repeats=1)) == OPEN  # 4 networks: 1 order in 24, and fewer


def test_training_cdnv_of_deep_networks_falls():
    found = judge("deep_train_cdnv_falls", depths(DEEPER))
    assert found["verdict"] == HOLDS and found["n"] == 3 and found["high"] < 0  # 6 networks of 3 draws of classes
    assert "up in 0 of 60 intervals" in found["numbers"]
    assert verdict("deep_train_cdnv_falls", depths({**DEEPER, 10: down(4.0), 20: down(5.0)})) == FAILS
    assert verdict("deep_train_cdnv_falls", depths({**DEEPER, 10: down(1.0), 20: down(4.0)})) == FAILS
    assert verdict("deep_train_cdnv_falls", depths(dict.fromkeys(DEEPER, down(2.0)), noise=0.02)) == OPEN
    assert verdict("deep_train_cdnv_falls", depths({3: down(0.1)})) == OPEN
    dips = np.r_[10.0, np.geomspace(1.0, 2.0, 10)]  # falls at once, then rises: a line through it falls
    assert verdict("deep_train_cdnv_falls", depths({**DEEPER, 10: dips, 20: dips})) == FAILS
    # Smaller at the end than at the beginning, but rising nearly all the time.
    rising = np.r_[2.0, np.geomspace(0.2, 1.9, len(EPOCHS) - 1)]
    assert verdict("deep_train_cdnv_falls", depths({10: rising, 20: rising})) == FAILS


def test_unseen_samples_collapse_less_at_every_depth():
    found = judge("depth_test_above_train", depths(DEEPER))
    assert found["verdict"] == HOLDS and found["n"] == 12 and 0 < found["low"] < found["statistic"] < found["high"]
    below = {layers: line * (0.5 if layers == 5 else 1.5) for layers, line in DEEPER.items()}
    assert verdict("depth_test_above_train", depths(DEEPER, below)) == FAILS
    assert verdict("depth_test_above_train", depths(DEEPER, DEEPER, noise=0.3)) == OPEN
    endless = depths(DEEPER)
    endless.loc[(endless["split"] == "source_test") & (endless["epoch"] == 100), "value"] = np.inf
    assert verdict("depth_test_above_train", endless) == OPEN


@pytest.mark.parametrize(
    ("test", "train", "noise", "expected"),
    [
        (plateau(0.5), down(0.1), 0.05, HOLDS),
        (plateau(0.5, late=0.98), down(0.1), 0.05, HOLDS),
        (plateau(0.5, late=1.5), down(0.1), 0.05, FAILS),  # rises again
        (down(0.1), down(0.05), 0.05, FAILS),  # falls on
        (plateau(3.0), down(0.1), 0.05, FAILS),  # never fell
        (plateau(0.5), plateau(0.1, late=1.05), 0.05, FAILS),  # training samples do not fall on
        (plateau(2.0), down(0.1), 0.05, OPEN),  # neither fell nor rose
    ],
)
def test_unseen_cdnv_falls_then_stays(test, train, noise, expected):
    table = depths({10: train, 20: train}, {10: test, 20: test}, noise=noise)
    assert verdict("test_cdnv_plateaus", table) == expected


def test_a_plateau_needs_a_tight_interval_every_depth_and_enough_moments():
    rng = np.random.default_rng(1)
    table = depths({10: down(0.1), 20: down(0.1)}, {10: plateau(0.5), 20: plateau(0.5)})
    unsteady = table.assign(value=table["value"] * np.exp(0.3 * rng.normal(size=len(table)) * (table["epoch"] > 70)))
    unsteady.loc[unsteady["metric"] == "accuracy", "value"] = 1.0
    assert verdict("test_cdnv_plateaus", unsteady) == OPEN
    one_rises = depths({10: down(0.1), 20: down(0.1)}, {10: plateau(2.6), 20: plateau(0.5)})
    assert verdict("test_cdnv_plateaus", one_rises) == FAILS
    assert verdict("test_cdnv_plateaus", table[table["epoch"] % 20 == 0]) == OPEN


def test_untrained_networks_are_left_out_and_named():
    table = pd.concat([depths(DEEPER), depths({18: down(5.0)}, accuracy=0.5)])
    found = judge("deeper_collapses_more", table)
    assert found["verdict"] == HOLDS and "left out below 99% train accuracy: 3 of 18 layers" in found["numbers"]
    assert claims.trained(table) == [(layers, repeat) for layers in DEEPER for repeat in range(3)]
    for name in ("deeper_collapses_more", "deep_train_cdnv_falls", "depth_test_above_train", "test_cdnv_plateaus"):
        assert verdict(name, depths(DEEPER, accuracy=0.5)) == OPEN
    assert claims.trained(table[table["metric"] != "accuracy"]) == []


def layered(bend, fall=3.0, noise=0.05, networks=((10, 3), (20, 3))):
    """Fuzziness by layer of networks, with deviations that neighboring layers share."""
    rng, parts = np.random.default_rng(0), []
    for layers, repeats in networks:
        x = np.linspace(-1, 1, layers)
        for repeat in range(repeats):
            shared = np.cumsum(noise * rng.normal(size=layers))
            values = np.exp(-fall / 2 * x + fall * bend * x**2 + shared)
            rows = pd.DataFrame({"depth": np.arange(1, layers + 1), "fuzziness": values})
            parts.append(rows.assign(layers=layers, repeat=repeat))
    return pd.concat(parts, ignore_index=True)


def test_law_of_separation():
    found = judge("law_of_separation", layered(0, noise=0.01))
    assert found["verdict"] == HOLDS and found["n"] == 3 and found["low"] < 0 < found["high"]
    for bend in (0.25, -0.25):
        curved = layered(bend)
        assert curved.groupby(["layers", "repeat"]).apply(
            lambda rows: np.corrcoef(rows["depth"], np.log(rows["fuzziness"]))[0, 1], include_groups=False
        ).max() < -0.9  # what every falling sequence has  # fmt: skip
        assert verdict("law_of_separation", curved) == FAILS
    assert verdict("law_of_separation", layered(0, fall=-3.0)) == FAILS  # straight, and rising
    assert verdict("law_of_separation", layered(0, noise=0.3)) == OPEN
    assert verdict("law_of_separation", layered(0.25, networks=((10, 2),))) == OPEN
    assert verdict("law_of_separation", layered(0.25, networks=((3, 9),))) == OPEN


def test_the_law_where_neighboring_layers_share_their_deviations_is_seldom_rejected():
    """Student's t over networks: 5 % of straight lines; over layers it would be most of them."""
    rng, x, rejected = np.random.default_rng(3), np.linspace(-1, 1, 20), 0
    for _ in range(100):
        lines = [-2 * x + np.cumsum(0.3 * rng.normal(size=20)) for _ in range(5)]
        rows = [pd.DataFrame({"depth": np.arange(1, 21), "fuzziness": np.exp(line)}) for line in lines]
        table = pd.concat(part.assign(layers=20, repeat=repeat) for repeat, part in enumerate(rows))
        rejected += verdict("law_of_separation", table) == FAILS
    assert rejected <= 12


MEASURED = {  # fuzziness by layer of one network per depth, of 64 channels
    "cifar10": [
        "38.6 21.9 15.9 13.2 11.7 10.4 9.15 7.45 6.79 6.06 5.43 4.89 4.02 3.71",
        "36.6 20.3 14.2 12.7 11.6 10.1 8.2 6.74 6.01 5.4 5.04 4.44 4.12 3.88 3.67 3.41 3.06 2.92",
        "39.3 21.8 15.5 13.2 11 10.1 8.38 6.34 5.2 4.82 4.35 4.07 3.89 3.57 3.35 3.25 3.15 3.07 2.83 2.68",
    ],
    "strokes": [
        "17.4 14.4 11.9 8.71 7.18 5.29 3.74 2.5 1.48 0.956",
        "17.2 15.6 15.6 14.1 13 11.5 9.51 7.83 6.11 4.6 3.37 2.28 1.52 1.07",
        "17.9 22.8 27.8 26.8 26.5 26 24.7 20.8 18.9 15.1 13.4 11.5 10.1 8.92 7.48 6.58 5.71 4.89 4.28 3.41",
    ],
}


@pytest.mark.parametrize(("data", "side"), [("cifar10", 1), ("strokes", -1)])
def test_the_law_bends_to_opposite_sides_on_two_data_sets(data, side):
    lines = [np.array(line.split(), float) for line in MEASURED[data]]
    parts = [
        pd.DataFrame({"layers": len(line), "depth": np.arange(1, len(line) + 1), "fuzziness": line}) for line in lines
    ]
    found = judge("law_of_separation", pd.concat(parts).assign(repeat=0))
    assert found["verdict"] == OPEN  # one draw of classes
    line, wiggled = pd.concat(parts), []
    for repeat in range(3):
        wiggled.append(line.assign(repeat=repeat, fuzziness=line["fuzziness"] ** (1 + 0.01 * repeat)))
    found = judge("law_of_separation", pd.concat(wiggled))
    assert found["verdict"] == FAILS and side * found["statistic"] > 0.1 and found["n"] == 3


def test_a_network_that_was_not_measured_to_the_end_is_not_judged_by_an_earlier_moment():
    table = depths(DEEPER)
    last = (table["epoch"] == table["epoch"].max()) & (table["layers"] == 10) & (table["repeat"] == 1)
    for name in ("deep_train_cdnv_falls", "test_cdnv_plateaus"):
        assert verdict(name, table[~(last & table["metric"].str.startswith("cdnv"))]) == OPEN


def rates(**lines):
    """{name: (normalized distance, CDNV)} at two rates."""
    curves = {}
    for rate, (distance, cdnv) in zip((0.05, 0.1), lines.values(), strict=True):
        lines = {("source_train", name): distance for name in ("min_distance_normalized", "min_distance")}
        curves[rate] = {**lines, ("source_train", "cdnv"): cdnv}
    return curves


def test_class_means_stay_apart():
    dips = np.interp(EPOCHS, [0, 10, 100], [0.5, 0.3, 1.0])
    near = np.interp(EPOCHS, [0, 50, 100], [0.5, 1.0, 0.2])
    half = np.interp(EPOCHS, [0, 50, 100], [0.5, 1.0, 0.5])
    fine, level = (dips, down(0.1)), np.full(len(EPOCHS), 2.0)
    found = judge("means_stay_apart", networks("learning_rate", rates(a=fine, b=fine), noise=0.01))
    assert found["verdict"] == HOLDS and found["n"] == 6 and found["low"] > 0.5
    assert "0.05: 0.50 → lowest 0.30 → 1.0" in found["numbers"]
    for other, expected in (((near, down(0.1)), FAILS), ((half, down(0.1)), OPEN), ((dips, down(3.0)), FAILS),
                            ((dips, level), OPEN)):  # fmt: skip
        table = networks("learning_rate", rates(a=fine, b=other), noise=0.05)
        assert verdict("means_stay_apart", table) == expected
    assert verdict("means_stay_apart", networks("learning_rate", rates(a=fine, b=fine), repeats=1)) == OPEN


@pytest.mark.parametrize("name", ["deeper_collapses_more", "law_of_separation", "means_stay_apart"])
def test_each_says_what_would_make_it_fail(name):
    assert claims.CLAIMS[name].fails_if and claims.CLAIMS[name].kind == claims.FINDING
