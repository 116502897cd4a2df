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


@pytest.mark.parametrize("name", list(claims.CLAIMS))
def test_cannot_be_judged_without_numbers(name):
    empty = pd.DataFrame(columns=["epoch", "step", "split", "metric", "value"])
    assert verdict(name, empty) == "cannot be judged"


def test_every_claim_says_where_it_is_made():
    kinds = {claims.THEOREM, claims.TABLE, claims.FINDING}
    for claim in claims.CLAIMS.values():
        assert claim.statement and claim.source and claim.kind in kinds


def test_every_claim_says_what_would_make_it_fail():
    assert not [name for name, claim in claims.CLAIMS.items() if not claim.fails_if]


def test_unknown_claim():
    with pytest.raises(ValueError, match="did you mean 'new_classes'"):
        claims.judge(["new_clases"], pd.DataFrame())


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
    assert (found["kind"] == claims.FINDING).all() and found["fails_if"].str.len().gt(0).all()
    assert found[["notebook", "data", "claim"]].values.tolist() == [["03", "omniglot", "new_classes"],
                                                                    ["03", "strokes", "new_classes"]]  # fmt: skip


def test_a_claim_is_counted_once_per_data_set(tmp_path, monkeypatch):
    """Of two notebooks that judge the same claim on the same data, the one with more networks stays."""
    monkeypatch.setenv("NCBOOK_FIGURES", str(tmp_path))
    line = [1.0, 0.5, 0.3, 0.2]
    several = pd.concat([history({("source_train", "cdnv"): line}).assign(repeat=r) for r in range(5)])
    for notebook, table in (("01", several[several["repeat"] < 3]), ("03", several)):
        claims.record(claims.judge(["train_cdnv_falls"], table), notebook, "strokes")
    found = claims.ledger(tmp_path)[["claim", "notebook", "n"]]
    assert found[found["claim"] == "train_cdnv_falls"].values.tolist() == [["train_cdnv_falls", "03", 5]]
