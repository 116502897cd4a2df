import numpy as np
import pandas as pd
import pytest

from ncbook import claims, published


def history(values: dict[tuple[str, str], list[float]], n_source=None) -> pd.DataFrame:
    rows = [
        {"epoch": epoch, "step": epoch, "split": split, "metric": metric, "value": value}
        for (split, metric), line in values.items()
        for epoch, value in enumerate(line)
    ]
    table = pd.DataFrame(rows)
    return table if n_source is None else table.assign(n_source=n_source)


def verdict(name: str, table: pd.DataFrame) -> str:
    return claims.judge([name], table)["verdict"].item()


FALLING, RISING = [1.0, 0.5, 0.3, 0.2], [0.2, 0.3, 0.5, 1.0]


def runs(novel, accuracy=None, test=(0.1, 0.1, 0.1, 0.1)):
    parts = []
    for i, n_source in enumerate((8, 16, 32, 64)[: len(novel)]):
        values = {("novel", "cdnv"): [1.0, novel[i]], ("source_test", "cdnv"): [1.0, test[i]]}
        if accuracy is not None:
            values["novel", "accuracy_5shot"] = [0.5, accuracy[i]]
        parts.append(history(values, n_source))
    return pd.concat(parts)


@pytest.mark.parametrize(
    ("name", "holding", "failing"),
    [
        (
            "train_cdnv_falls",
            history({("source_train", "cdnv"): FALLING}),
            history({("source_train", "cdnv"): RISING}),
        ),
        (
            "train_nc_falls",
            history({("source_train", m): FALLING for m in ("nc1", "nc2", "nc3", "nc4")}),
            history({("source_train", m): FALLING if m != "nc2" else RISING for m in ("nc1", "nc2", "nc3", "nc4")}),
        ),
        (
            "new_samples",
            history({("source_train", "cdnv_debiased"): [1, 0.1], ("source_test", "cdnv_debiased"): [np.inf, 0.2],
                     ("source_test", "cdnv"): [1, 0.1]}),
            history({("source_train", "cdnv_debiased"): [1, 0.3], ("source_test", "cdnv_debiased"): [1, 0.2],
                     ("source_test", "cdnv"): [1, 0.1]}),
        ),
        (
            "new_classes",
            history({("source_test", "cdnv"): [1, 0.1], ("novel", "cdnv"): [1, 0.2]}),
            history({("source_test", "cdnv"): [1, 0.1], ("novel", "cdnv"): [1, 1.2]}),
        ),
        ("novel_cdnv_falls_with_l", runs([0.4, 0.3, 0.25, 0.2]), runs([0.2, 0.25, 0.3, 0.4])),
        ("gap_shrinks_with_l", runs([0.4, 0.3, 0.25, 0.2]), runs([0.2, 0.25, 0.3, 0.4])),
        (
            "accuracy_rises_with_l",
            runs([0.4, 0.3, 0.25, 0.2], [0.8, 0.9, 0.95, 0.97]),
            runs([0.4, 0.3, 0.25, 0.2], [0.97, 0.9, 0.95, 0.8]),
        ),
        (
            "accuracy_follows_cdnv",
            runs([0.4, 0.3, 0.25, 0.2], [0.8, 0.9, 0.95, 0.97]),
            runs([0.4, 0.3, 0.25, 0.2], [0.4, 0.3, 0.2, 0.1]),
        ),
    ],
)  # fmt: skip
def test_holds_and_does_not_hold(name, holding, failing):
    assert verdict(name, holding) == "holds"
    assert verdict(name, failing) == "does not hold"


@pytest.mark.parametrize("name", list(claims.CLAIMS))
def test_cannot_be_judged_without_numbers(name):
    empty = pd.DataFrame(columns=["epoch", "step", "split", "metric", "value"])
    assert verdict(name, empty) == "cannot be judged"


def test_too_few_points_are_not_judged():
    assert verdict("novel_cdnv_falls_with_l", runs([0.4, 0.3])) == "cannot be judged"
    assert verdict("train_cdnv_falls", history({("source_train", "cdnv"): [1.0, 0.5]})) == "cannot be judged"


def test_nan_and_constants_are_not_judged():
    broken = history({("source_train", "cdnv"): [1.0, np.nan, 0.3, 0.2]})
    assert verdict("train_cdnv_falls", broken) == "cannot be judged"
    assert verdict("novel_cdnv_falls_with_l", runs([0.3] * 4)) == "cannot be judged"


def test_one_bad_run_is_enough_to_fail():
    good, bad = (
        history({("source_train", "cdnv"): FALLING}, 8),
        history({("source_train", "cdnv"): RISING}, 16),
    )
    assert verdict("train_cdnv_falls", pd.concat([good, bad])) == "does not hold"


def test_every_claim_says_where_it_is_made():
    assert all(claim.statement and claim.source for claim in claims.CLAIMS.values())


def test_unknown_claim():
    with pytest.raises(ValueError, match="did you mean 'new_classes'"):
        claims.judge(["new_clases"], pd.DataFrame())


def networks(by, values):
    """Histories of networks: {key of the network: {(split, metric): values over epochs}}."""
    return pd.concat([history(lines).assign(**{by: key}) for key, lines in values.items()])


def depth_table(train, test, accuracy=1.0):
    lines = {}
    for layers, last in train.items():
        down = np.geomspace(2.0, last, 5)
        there = test[layers] if isinstance(test, dict) else test
        up = np.r_[np.geomspace(2.0, there, 3), there, there]
        lines[layers] = {
            ("source_train", "cdnv"): down, ("source_train", "cdnv_debiased"): down,
            ("source_test", "cdnv"): up, ("source_test", "cdnv_debiased"): up,
            ("source_train", "accuracy"): [0.1, 0.5, 0.9, 0.99, accuracy],
        }  # fmt: skip
    return networks("layers", lines)


DEEPER = {3: 1.0, 5: 0.6, 10: 0.3, 20: 0.1}


def test_claims_about_depth():
    good = depth_table(DEEPER, 0.9 / 1)
    assert verdict("deeper_collapses_more", good) == "holds"
    assert verdict("deep_train_cdnv_falls", good) == "holds"
    assert verdict("test_cdnv_plateaus", good) == "holds"
    assert verdict("depth_test_above_train", good) == "does not hold"  # 3 layers: 1.0 > 0.9
    assert verdict("depth_test_above_train", depth_table(DEEPER, 1.1)) == "holds"
    shallow = depth_table({3: 0.1, 5: 0.3, 10: 0.6, 20: 1.0}, 1.1)
    assert verdict("deeper_collapses_more", shallow) == "does not hold"
    rising = depth_table({**DEEPER, 20: 4.0}, 1.1)  # from 2 up to 4
    assert verdict("deep_train_cdnv_falls", rising) == "does not hold"
    assert verdict("test_cdnv_plateaus", rising) == "does not hold"


def test_untrained_networks_are_left_out_and_named():
    table = depth_table({**DEEPER, 18: 5.0}, 1.1)
    untrained = (table["layers"] == 18) & (table["metric"] == "accuracy")
    table.loc[untrained, "value"] = 0.5
    found = claims.judge(["deeper_collapses_more"], table)
    assert found["verdict"][0] == "holds" and "left out below 99% train accuracy: 18 layers" in found["numbers"][0]
    assert claims.trained(table) == [3, 5, 10, 20]
    table.loc[table["metric"] == "accuracy", "value"] = 0.5
    assert verdict("deeper_collapses_more", table) == "cannot be judged"


def test_law_of_separation():
    depth = np.arange(1, 9)
    rng = np.random.default_rng(0)
    exact = pd.DataFrame({"layers": 8, "depth": depth, "fuzziness": 0.7**depth * np.exp(0.01 * rng.normal(size=8))})
    assert verdict("law_of_separation", exact) == "holds"
    assert verdict("law_of_separation", exact.assign(fuzziness=[5, 1, 6, 2, 5, 1, 6, 2])) == "does not hold"
    assert verdict("law_of_separation", exact.head(3)) == "cannot be judged"


def test_class_means_stay_apart():
    def rate(distance, cdnv=(1.0, 0.5, 0.3, 0.1)):
        lines = {("source_train", m): distance for m in ("min_distance", "min_distance_normalized")}
        return {**lines, ("source_train", "cdnv"): cdnv}

    good = networks("learning_rate", {0.1: rate([1, 2, 3, 3]), 0.05: rate([1, 2, 2, 2])})
    bad = networks("learning_rate", {0.1: rate([1, 2, 3, 1]), 0.05: rate([1, 2, 2, 2])})
    assert verdict("means_stay_apart", good) == "holds"
    assert verdict("means_stay_apart", bad) == "does not hold"


def test_repeats_are_averaged_and_counted_one_by_one():
    tables = [runs([0.4, 0.3, 0.25, 0.2], [0.8, 0.9, 0.95, 0.97]).assign(repeat=0),
              runs([0.2, 0.25, 0.3, 0.4], [0.97, 0.9, 0.95, 0.8]).assign(repeat=1)]  # fmt: skip
    both = pd.concat(tables)
    assert claims.final(both, "novel", "cdnv").round(6).tolist() == [0.3, 0.275, 0.275, 0.3]
    assert "n = 16" in claims.judge(["accuracy_follows_cdnv"], both)["numbers"][0]


def cells(values):
    rows = [(method, dataset, shot, accuracy, 0.01) for (method, dataset, shot), accuracy in values.items()]
    return pd.DataFrame(rows, columns=["method", "dataset", "shot", "accuracy", "half_width"])


def test_claims_about_the_table():
    here = {("simple", "omniglot", 1): 0.8, ("simple", "omniglot", 5): 0.9}
    best = "lr scheduling + model selection"
    better = cells({**here, (best, "omniglot", 1): 0.85, (best, "omniglot", 5): 0.95})
    alike = cells({**here, (best, "omniglot", 1): 0.799, (best, "omniglot", 5): 0.95})
    worse = cells({**here, (best, "omniglot", 1): 0.7, (best, "omniglot", 5): 0.95})
    assert [verdict("selection_helps_here", t) for t in (better, alike, worse)] == [
        "holds", "cannot be judged", "does not hold"]  # fmt: skip
    assert verdict("more_shots_are_better", better) == "holds"
    assert verdict("more_shots_are_better", cells({**here, ("simple", "omniglot", 5): 0.7})) == "does not hold"
    assert verdict("order_of_data_sets", better) == "cannot be judged"


def test_the_published_table_is_what_its_claims_say():
    names = ["more_shots_are_better", "order_of_data_sets", "selection_helps", "scheduling_alone_hurts_fc100"]
    cells = published.table()
    assert claims.judge(names, cells)["verdict"].tolist() == ["holds"] * 4
    swapped = cells.replace({"dataset": {"cifar_fs": "fc100", "fc100": "cifar_fs"}})
    assert verdict("order_of_data_sets", swapped) == "does not hold"
    assert verdict("scheduling_alone_hurts_fc100", swapped) == "does not hold"
    assert verdict("selection_helps", swapped) == "does not hold"  # with 5 shots on FC-100 it does not help
    turned = cells.assign(accuracy=1 - cells["accuracy"])
    assert verdict("selection_helps", turned) == "does not hold"


def test_the_published_table():
    cells = published.table()
    assert len(cells) == 96 and not cells.duplicated(["method", "dataset", "shot"]).any()
    assert cells["accuracy"].between(0.35, 0.9).all() and set(cells["mark"]) == set(published.MARKS)
    assert cells["half_width"].max() < 0.02  # the one printed as 10.89 is not among them
    assert cells.query("half_width.isna()")["method"].nunique() == 4


def test_near_published():
    printed = published.table()
    row = printed[printed["method"] == "Galanti et al., simple"].query("dataset == 'cifar_fs'")
    mine = row.assign(method="simple", backbone="wrn_28_4", mark="measured here")
    for shift, expected in ((0.02, "holds"), (-0.04, "does not hold")):
        both = pd.concat([printed, mine.assign(accuracy=row["accuracy"] + shift)])
        assert verdict("near_published", both) == expected
    assert verdict("near_published", pd.concat([printed, mine.assign(backbone="conv4")])) == "cannot be judged"


def episodes(small, large, split="source_train", way=60):
    parts = [history({(split, m): line for m, line in lines.items()}).assign(backbone=name, way=way)
             for name, lines in {"conv4": small, "resnet18": large}.items()]  # fmt: skip
    return pd.concat(parts)


def test_claims_about_episodes():
    falls, stays = [10, 4, 2.1, 2, 2.1, 2, 2.1, 2], [4, 1, 0.41, 0.4, 0.4, 0.4, 0.4, 0.4]
    nc = ("support_nc1", "query_nc1", "support_nc2", "query_nc2")
    table = episodes(dict.fromkeys(nc, falls), dict.fromkeys(nc, stays))
    for name in ("plateaus", "support_like_query", "larger_collapses_more", "smaller_is_noisier"):
        name = f"episodes_{name}" if name != "plateaus" else "episodes_nc_plateaus"
        assert verdict(name, table) == "holds", name
    rising = episodes(dict.fromkeys(nc, stays[::-1]), dict.fromkeys(nc, falls))
    assert verdict("episodes_nc_plateaus", rising) == "does not hold"
    falling = [10, 8, 6, 5, 4, 3, 2, 1]
    assert verdict("episodes_nc_plateaus", episodes({nc[0]: falling}, {nc[0]: stays})) == "does not hold"
    assert verdict("episodes_nc_plateaus", episodes({nc[0]: [*stays[:-1], np.nan]}, {})) == "cannot be judged"
    to_zero = [10, 1, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01]
    assert verdict("episodes_nc_plateaus", episodes({nc[0]: to_zero}, {nc[0]: stays})) == "does not hold"
    apart = episodes({nc[0]: falls, nc[1]: [2 * v for v in falls]}, {})
    assert verdict("episodes_support_like_query", apart) == "does not hold"
    swapped = table.assign(backbone=table["backbone"].map({"conv4": "resnet18", "resnet18": "conv4"}))
    assert verdict("episodes_larger_collapses_more", swapped) == "does not hold"
    assert verdict("episodes_smaller_is_noisier", swapped) == "does not hold"
    above = "episodes_larger_collapses_more_above_noise"
    assert verdict(above, table) == "cannot be judged"  # no floor
    floors = [episodes({"nc1_floor": [small] * 8}, {"nc1_floor": [large] * 8}) for small, large in ((5, 4), (5, 0.5))]
    assert [verdict(above, pd.concat([table, f])) for f in floors] == ["holds", "does not hold"]


def test_claims_about_validation_episodes():
    level, wobbly = [5, 3, 2, 2, 2, 2, 2, 2], [2, 1, 0.9, 1.1, 0.8, 1.2, 0.9, 1.1]
    train = episodes({"support_nc1": level, "error": [0.5] * 8}, {"support_nc1": level})
    below = episodes({"support_nc1": wobbly, "error": [0.1] * 8}, {"support_nc1": wobbly}, "validation", way=5)
    table = pd.concat([train, below])
    names = [f"episodes_validation_{n}" for n in ("noisier_and_smaller", "error_smaller", "error_smaller_at_equal_way")]
    found = claims.judge(names, table)
    assert found["verdict"].tolist() == ["holds", "holds", "cannot be judged"]
    assert found["numbers"].str.contains("60- against 5-way").tolist() == [True, True, False]
    equal = table.assign(way=5)
    assert claims.judge(names, equal)["verdict"].tolist() == ["holds"] * 3
    other = {"source_train": "validation", "validation": "source_train"}
    swapped = equal.assign(split=equal["split"].map(other))
    assert claims.judge(names, swapped)["verdict"].tolist() == ["does not hold"] * 3


def test_spearman_with_ties():
    from scipy.stats import spearmanr

    from ncbook.claims._registry import spearman

    x, y = pd.Series([1, 2, 2, 4, 5.0]), pd.Series([3, 1, 4, 4, 9.0], index=list("abcde"))
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_ledger(tmp_path, monkeypatch):
    assert claims.ledger(tmp_path).empty
    table = claims.judge(["new_classes"], history({("novel", "cdnv"): [1.0, 0.5]}))
    monkeypatch.delenv("NCBOOK_FIGURES", raising=False)
    claims.record(table, "03", "strokes")
    assert not any(tmp_path.iterdir())
    monkeypatch.setenv("NCBOOK_FIGURES", str(tmp_path))
    claims.record(table, "03", "strokes")
    claims.record(table, "03", "omniglot")
    claims.record(table, "03", "omniglot")  # again: in place of the first
    everything = claims.ledger(tmp_path)
    assert set(everything["claim"]) == set(claims.CLAIMS)  # those of nobody are there, not judged
    assert set(everything["verdict"][2:]) == {"cannot be judged"} and set(everything["data"][2:]) == {"none yet"}
    found = everything[:2]
    assert found[["notebook", "data", "claim"]].values.tolist() == [["03", "omniglot", "new_classes"],
                                                                    ["03", "strokes", "new_classes"]]  # fmt: skip
