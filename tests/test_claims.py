import numpy as np
import pandas as pd
import pytest

from ncbook import claims


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


@pytest.mark.parametrize(
    ("name", "holding", "failing"),
    [
        (
            "b1_pairs",
            pd.DataFrame({"error": [0.1, 0.2], "half_width": [0.0, 0.01], "b1": [0.5, 0.195]}),
            pd.DataFrame({"error": [0.1, 0.2], "half_width": [0.0, 0.001], "b1": [0.5, 0.195]}),
        ),
        (
            "multiclass",
            pd.DataFrame({"way": [5], "error": [0.3], "half_width": [0.01], "bound": [0.4]}),
            pd.DataFrame({"way": [5], "error": [0.5], "half_width": [0.01], "bound": [0.4]}),
        ),
    ],
)
def test_holds_and_does_not_hold(name, holding, failing):
    assert verdict(name, holding) == "holds"
    assert verdict(name, failing) == "does not hold"


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


def test_directional_predicts_needs_resamples_and_a_clear_gain():
    rng = np.random.default_rng(0)

    def table(gain, n=100):
        rho = 0.8 + 0.01 * rng.standard_normal(n)
        return pd.DataFrame({"shot": 5, "cdnv": rho, "directional": rho + gain + 0.01 * rng.standard_normal(n)})

    def verdict(frame):
        return claims.judge(["directional_predicts"], frame)["verdict"][0]

    assert verdict(table(0.1)) == claims.HOLDS
    assert verdict(table(-0.1)) == claims.FAILS
    assert verdict(table(0.0)) == claims.OPEN
    assert verdict(table(0.1, n=20)) == claims.OPEN
    assert verdict(pd.DataFrame({"cdnv": [1.0]})) == claims.OPEN


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
