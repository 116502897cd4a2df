import tomllib
from importlib.resources import files

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


@pytest.mark.parametrize("name", list(claims.CLAIMS))
def test_cannot_be_judged_without_numbers(name):
    empty = pd.DataFrame(columns=["epoch", "step", "split", "metric", "value"])
    assert verdict(name, empty) == "cannot be judged"


def test_every_claim_of_the_table_has_a_check():
    texts = (files("ncbook.claims") / "claims.toml").read_text(encoding="utf-8")
    assert set(tomllib.loads(texts)) == set(claims.CLAIMS)


def test_every_claim_says_where_it_is_made():
    kinds = {claims.THEOREM, claims.TABLE, claims.FINDING}
    for claim in claims.CLAIMS.values():
        assert claim.statement and claim.source and claim.kind in kinds


def test_every_claim_says_what_would_make_it_fail():
    assert not [name for name, claim in claims.CLAIMS.items() if not claim.fails_if]


def test_unknown_claim():
    with pytest.raises(ValueError, match="did you mean 'new_classes'"):
        claims.judge(["new_clases"], pd.DataFrame())


def test_spearman_with_ties():
    from scipy.stats import spearmanr

    from ncbook.claims._statistics import spearman

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
