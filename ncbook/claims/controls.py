"""Claims about controls: is it the number of classes, the number of samples, the distribution of classes?

Over histories of runs with columns that tell the networks apart (``control``, ``n_source``, ``samples_per_class``,
``repeat``), or over a table of few-shot errors of networks trained on one distribution and tested on another.
"""

import numpy as np
import pandas as pd

from ncbook.claims._registry import FAILS, HOLDS, OPEN, Verdict, above_zero, claim, trend

F3 = {  # panel -> (split, metric, +1 where it rises with l, statement); CDNV de-biased: m differs between networks
    "source_cdnv_rises": ("source_train", "cdnv_debiased", +1, "larger CDNV of the training samples, F3 (a)"),
    "test_cdnv_rises": ("source_test", "cdnv_debiased", +1, "larger CDNV of unseen samples, F3 (b)"),
    "novel_cdnv_falls": ("novel", "cdnv_debiased", -1, "smaller CDNV of new classes, F3 (c)"),
    "error_falls": ("novel", "accuracy_5shot", +1, "smaller 5-shot error on new classes, F3 (d)"),
}
CONTROLS = {
    "equal accuracy": "trained until the training accuracy is reached",
    "equal budget": "as many training images and steps for each number of classes",
}


def final_values(table: pd.DataFrame, split: str, metric: str, keys: list[str]) -> pd.Series:
    """Last value of a metric on a split for each network, indexed by the columns that tell networks apart."""
    if not {*keys} <= {*table}:
        return pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[]] * len(keys), names=keys))
    rows = table[(table["split"] == split) & (table["metric"] == metric)].sort_values("epoch")
    return rows.groupby(keys).tail(1).set_index(keys)["value"].sort_index()  # "last()" would skip a NaN


def _over_classes(split: str, metric: str, sign: int, control: str):
    def check(table):
        of_control = table[table["control"] == control] if "control" in table else table.iloc[:0]
        values = final_values(of_control, split, metric, ["n_source", "repeat"])
        if "fitted" in of_control and not of_control["fitted"].all():
            missed = len(of_control.loc[~of_control["fitted"], ["n_source", "repeat"]].drop_duplicates())
            return Verdict(OPEN, f"{missed} of {len(values)} networks did not reach the accuracy", n=len(values))
        if not np.isfinite(values).all():
            return Verdict(OPEN, f"{metric} on {split} is not finite everywhere", n=len(values))
        what = "5-shot accuracy" if metric.startswith("accuracy") else "de-biased CDNV"
        return trend(values.index.get_level_values("n_source"), values, sign, f"l, {what}")

    return check


for _control, _how in CONTROLS.items():
    for _name, (_split, _metric, _sign, _what) in F3.items():
        claim(
            f"{_name}_at_{_control.replace(' ', '_')}",
            f"More source classes, {_how}: {_what}",
            "control of deck F3",
            fails_if="the trend over networks is the opposite one, one-sided p of the permutation test ≤ 0.025",
        )(_over_classes(_split, _metric, _sign, _control))


def gaps(table: pd.DataFrame) -> pd.Series:
    """De-biased CDNV of unseen minus that of training samples, of each network (samples_per_class, repeat)."""
    keys = ["samples_per_class", "repeat"]
    test, train = (final_values(table, split, "cdnv_debiased", keys) for split in ("source_test", "source_train"))
    return test - train


@claim(
    "gap_falls_with_m",
    "More training samples per class: unseen samples come closer to the training ones in CDNV",
    "deck, new samples: o_m(1)",
    fails_if="the gap rises with m over networks, one-sided p of the permutation test ≤ 0.025",
)
def _gap_falls(table):
    gap = gaps(table)
    if not np.isfinite(gap).all():
        return Verdict(OPEN, "some pairs of classes cannot be told apart from so few samples")
    return trend(gap.index.get_level_values("samples_per_class"), gap, -1, "m, gap of de-biased CDNV")


@claim(
    "gap_remains",
    "At the largest number of samples per class a gap is left",
    "deck, new samples: o_m(1)",
    fails_if="the interval over networks of the gap at the largest m lies below 0",
)
def _gap_remains(table):
    gap = gaps(table)
    if gap.empty or not np.isfinite(gap).all():
        return Verdict(OPEN, "samples_per_class was not varied, or pairs of classes cannot be told apart")
    m = gap.index.get_level_values("samples_per_class").max()
    return above_zero(gap.xs(m, level="samples_per_class"), +1, f"gap at m = {m}:")


@claim(
    "gap_falls_as_root_m",
    "The gap falls with m at least as fast as 1/√m: gap ~ m^-a with a ≥ 1/2",
    "deck, new samples: o_m(1); the rate of uniform bounds",
    fails_if="the interval over series of networks of a lies below 1/2",
)
def _gap_rate(table):
    gap = gaps(table)
    if gap.empty or not (np.isfinite(gap) & (gap > 0)).all():
        return Verdict(OPEN, "samples_per_class was not varied, or a gap is not above 0")
    lines = np.log(gap).unstack("repeat").dropna(axis=1)  # [m, repeats]: a series of networks per column
    a = -np.polyfit(np.log(lines.index.to_numpy(float)), lines, 1)[0]
    found = above_zero(a - 0.5, +1, "a - 1/2:")
    if found.n < 3:
        return found
    shift = {"statistic": found.statistic + 0.5, "low": found.low + 0.5, "high": found.high + 0.5}
    text = f"a = {shift['statistic']:.2f} ({shift['low']:.2f} … {shift['high']:.2f}), {len(a)} series of {len(lines)}"
    return found._replace(numbers=text, **shift)


def _over_directions(column: str, sign: int, other):
    """Paired per network: ``column`` of (trained, tested on another) minus what ``other(column, a, b)`` names."""

    def check(table):
        if not {column, "trained", "tested"} <= {*table}:
            return Verdict(OPEN, f"{column} was not measured on another distribution")
        wide = table.set_index(["trained", "tested", "repeat"])[["error", "cdnv", "untrained"]].unstack("repeat")
        found = {}
        for a, b in wide.index[[a != b for a, b in wide.index]]:
            against, row = other(column, a, b)
            difference = wide.loc[(a, b), column] - wide.loc[row, against]
            found[f"{a} → {b}"] = above_zero(difference, sign, "")
        if not found:
            return Verdict(OPEN, "one distribution only")
        verdicts = [one.verdict for one in found.values()]
        least = min(found.values(), key=lambda one: sign * one.statistic)
        text = "; ".join(f"{name}:{one.numbers}" for name, one in found.items())
        verdict = FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS
        return least._replace(verdict=verdict, numbers=text)

    return check


_ELSEWHERE = "On the same new classes, a network trained on another distribution"
for _name, _statement, _column, _sign, _other in (
    ("other_distribution_costs", "New classes from another distribution have a larger 5-shot error than the network's "
     "own", "error", +1, lambda column, a, b: (column, (a, a))),
    ("training_elsewhere_costs", f"{_ELSEWHERE} has a larger 5-shot error than one trained on theirs", "error", +1,
     lambda column, a, b: (column, (b, b))),
    ("training_elsewhere_costs_cdnv", f"{_ELSEWHERE} has a larger CDNV than one trained on theirs", "cdnv", +1,
     lambda column, a, b: (column, (b, b))),
    ("training_elsewhere_helps", f"{_ELSEWHERE} has a smaller 5-shot error than before training", "error", -1,
     lambda column, a, b: ("untrained", (a, b))),
):  # fmt: skip
    claim(
        _name,
        f"{_statement}, in every direction",
        "deck: arbitrary tasks do not transfer",
        fails_if="in one direction the interval of the paired difference lies on the other side of 0",
    )(_over_directions(_column, _sign, _other))
