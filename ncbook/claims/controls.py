"""Claims about controls: is it the number of classes, the number of samples, the distribution of classes?

Over histories of runs with columns that tell the networks apart (``control``, ``n_source``, ``samples_per_class``,
``repeat``), or over a table of few-shot errors of networks trained on one distribution and tested on another.
"""

import numpy as np
import pandas as pd

from ncbook.claims._registry import OPEN, Verdict, claim
from ncbook.claims._statistics import above_zero, together, trend

F3 = {  # panel -> (split, metric, +1 where it rises with l); CDNV de-biased: m differs between networks
    "source_cdnv_rises": ("source_train", "cdnv_debiased", +1),
    "test_cdnv_rises": ("source_test", "cdnv_debiased", +1),
    "novel_cdnv_falls": ("novel", "cdnv_debiased", -1),
    "error_falls": ("novel", "accuracy_5shot", +1),
}
CONTROLS = ("equal accuracy", "equal budget")


def final_values(table: pd.DataFrame, split: str, metric: str, keys: list[str]) -> pd.Series:
    """Last value of a metric on a split for each network, indexed by the columns that tell networks apart."""
    rows = table[(table["split"] == split) & (table["metric"] == metric)].sort_values("epoch")
    rows = rows.reindex(columns=[*keys, "value"]).dropna(subset=keys)
    return rows.groupby(keys).tail(1).set_index(keys)["value"].sort_index().astype(float)  # last() would skip NaN


def gaps(table: pd.DataFrame) -> pd.Series:
    """De-biased CDNV of unseen minus that of training samples, of each network (samples_per_class, repeat)."""
    keys = ["samples_per_class", "repeat"]
    test, train = (final_values(table, split, "cdnv_debiased", keys) for split in ("source_test", "source_train"))
    return test - train


def _trend(values: pd.Series, sign: int, what: str) -> Verdict:
    """Of values over networks with the first level of their index, permuted within draws (the second)."""
    return trend(values.index.get_level_values(0), values, sign, what, block=values.index.get_level_values(1))


def _over_classes(table, control: str, split: str, metric: str, sign: int):
    part = table[table["control"] == control] if "control" in table else table.iloc[:0]
    values = final_values(part, split, metric, ["n_source", "repeat"])
    if "fitted" in part and not part["fitted"].all():
        return Verdict(OPEN, "not every network reached the accuracy", n=len(values))
    return _trend(values, sign, "l, 5-shot accuracy" if "accuracy" in metric else "l, de-biased CDNV")


for _control in CONTROLS:
    for _name, (_split, _metric, _sign) in F3.items():
        _options = dict(control=_control, split=_split, metric=_metric, sign=_sign)
        claim(f"{_name}_at_{_control.replace(' ', '_')}", **_options)(_over_classes)


@claim("gap_falls_with_m")
def _gap_falls(table):
    return _trend(gaps(table), -1, "m, gap of de-biased CDNV")


@claim("gap_remains")
def _gap_remains(table):
    m = gaps(table).unstack("repeat")
    last = m.iloc[-1] if len(m) and np.isfinite(m).all(axis=None) else []
    return above_zero(last, +1, "gap at the largest m")


@claim("gap_falls_as_root_m")
def _gap_rate(table):
    gap = gaps(table).unstack("repeat")  # [m, repeats]: a series of networks per column
    if len(gap) < 2 or not (np.isfinite(gap) & (gap > 0)).all(axis=None):
        return Verdict(OPEN, "m was not varied, or a gap is not above 0")
    a = -np.polyfit(np.log(gap.index.to_numpy(float)), np.log(gap), 1)[0]
    found = above_zero(a - 0.5, +1, "a - 1/2 =")
    return found._replace(statistic=found.statistic + 0.5, low=found.low + 0.5, high=found.high + 0.5)


def _over_directions(table, column: str, sign: int, other):
    """Paired per network: ``column`` of (trained, tested on another) minus what ``other(column, a, b)`` names."""
    wide = table.set_index(["trained", "tested", "repeat"])[["error", "cdnv", "untrained"]].unstack("repeat")
    pairs = {(a, b): other(column, a, b) for a, b in wide.index if a != b}
    pairs = {pair: (row, against) for pair, (row, against) in pairs.items() if row in wide.index}
    found = {
        f"{a} → {b}": above_zero(wide.loc[(a, b), column] - wide.loc[row, against], sign, "", parts=len(pairs))
        for (a, b), (row, against) in pairs.items()
    }
    if not found:
        return Verdict(OPEN, "one distribution only")
    least = min(found.values(), key=lambda one: sign * one.statistic)
    verdict = together([one.verdict for one in found.values()])
    return least._replace(verdict=verdict, numbers="; ".join(f"{k}:{one.numbers}" for k, one in found.items()))


for _name, _column, _sign, _other in (
    ("other_distribution_costs", "error", +1, lambda column, a, b: ((a, a), column)),
    ("training_elsewhere_costs", "error", +1, lambda column, a, b: ((b, b), column)),
    ("training_elsewhere_costs_cdnv", "cdnv", +1, lambda column, a, b: ((b, b), column)),
    ("training_elsewhere_helps", "error", -1, lambda column, a, b: ((a, b), "untrained")),
):
    _missing = f"{_column} was not measured on another distribution"
    claim(_name, {_column, "trained"}, _missing, column=_column, sign=_sign, other=_other)(_over_directions)
