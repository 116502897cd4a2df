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
