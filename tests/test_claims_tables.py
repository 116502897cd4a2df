"""Claims about the table, published and measured, and about networks trained by episodes."""

import numpy as np
import pandas as pd
import pytest
from judging import judged

from ncbook import claims, published
from ncbook.claims.tables import OURS, SELECTED, SIMPLE, standing

PRINTED = ["more_shots_are_better", "order_of_data_sets", "selection_helps", "scheduling_alone_hurts_fc100"]
COMPETITIVE = ["transfer_is_competitive", "transfer_is_competitive_among_residual"]
HERE = ["more_shots_are_better_here", "selection_helps_here"]


def verdict(name: str, table: pd.DataFrame) -> str:
    return judged(name, table)["verdict"]


def column(others: list[float], own: float = 0.6, backbone: str = "ResNet-12", shot: int = 1) -> pd.DataFrame:
    """One column of a table: methods made for few shots, and the slides' last row."""
    rows = [(f"m{i}", backbone, accuracy) for i, accuracy in enumerate(others)] + [(OURS + SELECTED, "WRN-28-4", own)]
    cells = pd.DataFrame(rows, columns=["method", "backbone", "accuracy"])
    return cells.assign(dataset="fc100", shot=shot, half_width=0.01, mark="confirmed", remark="")


def measured(gain, n: int = 5, spread: float = 0.1, dataset: str = "omniglot", shot: int = 5, **more) -> pd.DataFrame:
    """Both recipes of n networks whose classes differ much in difficulty, and a gain of each network."""
    base = 0.5 + spread * np.arange(n) / n
    gains = np.broadcast_to(np.asarray(gain, float), n)
    rows = [(method, i, accuracy) for method, values in ((SIMPLE, base), (SELECTED, base + gains))
            for i, accuracy in enumerate(values)]  # fmt: skip
    return pd.DataFrame(rows, columns=["method", "network", "accuracy"]).assign(dataset=dataset, shot=shot, **more)


def test_the_published_table():
    cells = published.table()
    assert len(cells) == 96 and not cells.duplicated(["method", "dataset", "shot"]).any()
    assert cells["accuracy"].between(0.35, 0.9).all() and set(cells["mark"]) == set(published.MARKS)
    assert cells["half_width"].max() < 0.02  # the one printed as 10.89 is not among them
    assert cells.query("half_width.isna()")["method"].nunique() == 4


def test_claims_about_the_table_as_printed():
    found = claims.judge([*PRINTED, *COMPETITIVE], published.table()).set_index("claim")
    assert found.loc[PRINTED, "verdict"].tolist() == ["holds", "holds", *["cannot be judged"] * 2]
    assert found.loc[COMPETITIVE, "verdict"].tolist() == ["cannot be judged", "does not hold"]
    assert set(found["kind"]) == {claims.TABLE} and found["fails_if"].str.len().min() > 20
    assert found["n"].tolist() == [42, 11, 5, 2, 40, 22]  # pairs of cells, and methods in six columns
    least = found.loc["selection_helps"]  # FC-100, one shot; 2.576 / 1.960: of five differences at once
    width = 2 * np.hypot(0.0127, 0.0114) * 2.575829 / 1.959964
    assert (least["statistic"], least["high"] - least["low"]) == pytest.approx((0.0085, width), rel=1e-5)


def test_claims_about_printed_numbers_can_hold_fail_and_stay_open():
    cells = published.table()
    swapped = cells.replace({"dataset": {"cifar_fs": "fc100", "fc100": "cifar_fs"}})
    turned = cells.assign(accuracy=1 - cells["accuracy"])
    much = turned.assign(half_width=turned["half_width"] / 10)
    assert verdict("order_of_data_sets", swapped) == "does not hold"
    assert verdict("more_shots_are_better", turned) == verdict("selection_helps", much) == "does not hold"
    assert verdict("scheduling_alone_hurts_fc100", much) == "does not hold"
    exact, vague = (cells.assign(half_width=half) for half in (1e-6, 0.2))
    assert claims.judge(PRINTED, exact)["verdict"].tolist() == ["holds"] * 4
    assert claims.judge(PRINTED, vague)["verdict"].tolist() == ["cannot be judged"] * 4
    assert verdict("more_shots_are_better", cells.assign(half_width=np.nan)) == "cannot be judged"


@pytest.mark.parametrize(
    ("others", "own", "expected"),
    [
        ([0.5, 0.52, 0.7], 0.6, "holds"),
        ([0.5, 0.7, 0.72], 0.6, "does not hold"),
        ([0.5, 0.605, 0.7], 0.6, "cannot be judged"),
        ([0.5, 0.7], 0.6, "holds"),  # half of them
        ([0.6, 0.6, 0.6], 0.6, "cannot be judged"),
    ],
)
def test_upper_half(others, own, expected):
    found = judged(COMPETITIVE[0], column(others, own))
    assert found["verdict"] == expected and found["n"] == len(others)
    assert found["low"] <= found["statistic"] <= found["high"]
    one_bad_column = pd.concat([column(others, own), column([0.8, 0.8], shot=5)])
    assert verdict(COMPETITIVE[0], one_bad_column) == "does not hold"


def test_rows_that_cannot_be_compared_are_not_ranked():
    cells = column([0.5, 0.52, 0.7, 0.7, 0.7])
    for place, change in ((2, {"remark": "transductive"}), (3, {"half_width": np.nan}),
                          (4, {"remark": "trained on source and validation classes"})):  # fmt: skip
        cells.loc[place, list(change)] = list(change.values())
    cells.loc[1, "method"] = "RFS-simple"  # transfer, by others: ranked, but not made for few shots
    assert standing(cells).iloc[0].tolist() == ["fc100", 1, 2, 0, 0, 2, 1, 1]
    assert judged(COMPETITIVE[0], cells)["n"] == 1
    assert standing(cells, SIMPLE).empty


def test_the_control_looks_at_residual_networks_alone():
    cells = pd.concat([column([0.5, 0.5, 0.5, 0.5], backbone="conv 64x4"), column([0.7])[:1]])
    assert [verdict(name, cells) for name in COMPETITIVE] == ["holds", "does not hold"]


def test_recipes_are_compared_network_by_network():
    expected = {"holds": 0.01 + 0.001 * np.arange(5), "does not hold": -0.01 - 0.001 * np.arange(5),
                "cannot be judged": [0.01, -0.01, 0.02, -0.02, 0.0]}  # fmt: skip
    for verdict_, gain in expected.items():  # far less than the networks differ among themselves
        assert verdict("selection_helps_here", measured(gain)) == verdict_
    found = judged("selection_helps_here", measured([0.01, 0.02, 0.03], n=3))
    assert found["n"] == 3 and found["statistic"] == pytest.approx(0.02)
    assert found["high"] - found["statistic"] == pytest.approx(4.302653 * 0.01 / 3**0.5)  # Student's t
    assert verdict("selection_helps_here", measured([0.01], n=1)) == "cannot be judged"
    two = pd.concat([measured(expected["holds"]), measured(expected["does not hold"], dataset="strokes")])
    assert verdict("selection_helps_here", two) == "does not hold"  # not on every data set
    unordered = measured(expected["holds"]).sample(frac=1, random_state=0)
    assert verdict("selection_helps_here", unordered) == "holds"


def test_more_shots_here():
    better, worse = (pd.concat([measured(0.0), measured(0.0, shot=1).assign(
        accuracy=lambda f, s=shift: f["accuracy"] + s + 0.001 * f["network"])]) for shift in (-0.1, 0.1))  # fmt: skip
    noise = [0.1, -0.1, 0.1, -0.1, 0.01]
    unclear = pd.concat([measured(0.0), measured(0.0, shot=1).assign(
        accuracy=lambda f: f["accuracy"] + f["network"].map(dict(enumerate(noise))))])  # fmt: skip
    assert [verdict("more_shots_are_better_here", t) for t in (better, worse, unclear)] == [
        "holds", "does not hold", "cannot be judged"]  # fmt: skip
    assert set(claims.judge(HERE, better)["kind"]) == {claims.FINDING}


METHODS = ("prototypical", "matching", "relation", "ridge", "maml", "anil")


def beside_methods(better, worse, networks=5, plain="cross_entropy"):
    """Plain training, and methods of which so many are better and worse by 0.1; networks differ more than that."""
    rng, rows = np.random.default_rng(0), []
    leads = [0.1] * better + [0.0] * (len(METHODS) - better - worse) + [-0.1] * worse
    for network in range(networks):
        common = rng.normal(0, 0.2)
        for method, lead in zip((plain, *METHODS), (0, *leads), strict=True):
            for shot in (1, 5):
                rows.append((method, "strokes", shot, network, 0.8 + lead + common + rng.normal(0, 0.003)))
    return pd.DataFrame(rows, columns=["method", "dataset", "shot", "network", "accuracy"])


@pytest.mark.parametrize("plain", ["cross_entropy", "lr scheduling + model selection"])
@pytest.mark.parametrize(
    ("better", "worse", "expected"),
    [(1, 5, "holds"), (3, 3, "holds"), (4, 2, "does not hold"), (2, 2, "cannot be judged")],
)
def test_plain_training_is_competitive_here(better, worse, expected, plain):
    table, name = beside_methods(better, worse, plain=plain), "plain_training_is_competitive_here"
    assert verdict(name, table) == expected
    found = judged(name, table)
    assert found.n == 5 and (found.low, found.high) == (worse / 6, 1 - better / 6)
    for less in (table[table.network < 2], table[table.method != plain], table[~table.method.isin(METHODS[1:])]):
        assert verdict(name, less) == "cannot be judged"
    other = table.assign(dataset="omniglot")
    other.loc[other.method == plain, "accuracy"] -= 0.5
    assert verdict(name, pd.concat([table, other])) == "does not hold"  # not on every data set
    table = beside_methods(0, 6, plain=plain)
    table.loc[0, "accuracy"] = np.nan
    assert verdict(name, table) == "cannot be judged"


def test_near_published():
    printed = published.table()
    row = printed.query("method == 'Galanti et al., simple' and dataset == 'cifar_fs' and shot == 5").iloc[0]

    def both(shift, spread=1e-4, **more):
        mine = measured(0.0, spread=spread, dataset="cifar_fs", **{"backbone": "wrn_28_4", **more})
        mine = mine[mine["method"] == SIMPLE]
        return pd.concat([printed, mine.assign(accuracy=mine["accuracy"] - 0.5 + row["accuracy"] + shift)])

    for shift, expected in ((0.01, "holds"), (-0.045, "does not hold"), (0.025, "cannot be judged")):
        assert verdict("near_published", both(shift)) == expected  # ± 0.0098 as printed
    assert verdict("near_published", both(0.0, spread=0.2)) == "cannot be judged"
    assert verdict("near_published", both(0.0, backbone="conv4")) == "cannot be judged"
    assert verdict("near_published", printed) == "cannot be judged"


def test_every_claim_about_tables_and_episodes_says_what_would_make_it_fail():
    names = [*PRINTED, *COMPETITIVE, *HERE, "near_published", *(n for n in claims.CLAIMS if n.startswith("episodes_"))]
    assert len(names) == 22 and all(len(claims.CLAIMS[name].fails_if) > 20 for name in names)
    kinds = {name: claims.CLAIMS[name].kind for name in names}
    assert [name for name, kind in kinds.items() if kind == claims.TABLE] == [*PRINTED, *COMPETITIVE]
