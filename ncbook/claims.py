"""Each claim of the two works as a check on a tidy table, with a verdict. Judging only: nothing is measured here.

The notebooks end with `judge`, over histories of runs (`Run.history`, with a column ``n_source`` added where
several runs are compared) or over a table of class pairs with measured errors and bounds.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from ncbook.experiment import nearest

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be judged"
FEWEST = 4  # points under which a rank correlation is not worth a verdict


class Verdict(NamedTuple):
    """What came of one claim: "holds", "does not hold" or "cannot be judged", and the numbers behind it."""

    verdict: str
    numbers: str


class Claim(NamedTuple):
    """A claim in words, where it is made, and its check: table -> Verdict."""

    statement: str
    source: str
    check: Callable[[pd.DataFrame], Verdict]


CLAIMS: dict[str, Claim] = {}


def _claim(name: str, statement: str, source: str):
    def register(check):
        CLAIMS[name] = Claim(statement, source, check)
        return check

    return register


def judge(names: list[str], table: pd.DataFrame) -> pd.DataFrame:
    """Judge claims on a table.

    Args:
        names: names out of `CLAIMS`.
        table: tidy histories (epoch, step, split, metric, value and, for several runs, n_source), or one row a
            pair of classes (error, half_width, and a column for each bound).

    Returns:
        One row a claim: claim, statement, source, verdict, numbers.

    Raises:
        ValueError: an unknown claim.
    """
    rows = []
    for name in names:
        if name not in CLAIMS:
            raise ValueError(f"claim={name!r} is unknown; {nearest(name, list(CLAIMS))}")
        claim = CLAIMS[name]
        rows.append((name, claim.statement, claim.source, *claim.check(table)))
    return pd.DataFrame(rows, columns=["claim", "statement", "source", "verdict", "numbers"])


def series(table: pd.DataFrame, split: str, metric: str) -> pd.DataFrame:
    """Rows of one metric on one split; ``n_source`` is 0 where the table has a single run."""
    rows = table[(table["split"] == split) & (table["metric"] == metric)]
    return rows if "n_source" in rows else rows.assign(n_source=0)


def final(table: pd.DataFrame, split: str, metric: str) -> pd.Series:
    """Last value of a metric on a split, indexed by n_source in ascending order."""
    rows = series(table, split, metric).sort_values("epoch")
    return rows.groupby("n_source")["value"].last().sort_index()


def first(table: pd.DataFrame, split: str, metric: str) -> pd.Series:
    """Value before the first step, indexed by n_source in ascending order."""
    rows = series(table, split, metric)
    return rows[rows["epoch"] == 0].groupby("n_source")["value"].last().sort_index()


def _verdict(holds: bool, numbers: str) -> Verdict:
    return Verdict(HOLDS if holds else FAILS, numbers)


def _missing(table: pd.DataFrame, *wanted: tuple[str, str]) -> Verdict | None:
    for split, metric in wanted:
        rows = series(table, split, metric)
        if rows.empty:
            return Verdict(OPEN, f"{metric} was not measured on {split}")
        if not np.isfinite(rows["value"]).all():
            return Verdict(OPEN, f"{metric} on {split} is not finite everywhere")
    return None


def _trend(x: pd.Series, y: pd.Series, threshold: float, what: str) -> Verdict:
    """Rank correlation against a threshold whose sign is the claimed direction."""
    if len(x) < FEWEST:
        return Verdict(OPEN, f"{len(x)} points; {FEWEST} are needed")
    if x.nunique() == 1 or y.nunique() == 1:
        return Verdict(OPEN, f"Spearman({what}) is not defined: one of them is constant (n = {len(x)})")
    rho = float(spearmanr(x, y).statistic)
    holds = rho >= threshold if threshold > 0 else rho <= threshold
    sign = "≥" if threshold > 0 else "≤"
    return _verdict(holds, f"Spearman({what}) = {rho:+.2f}, n = {len(x)} (claimed {sign} {threshold:+.1f})")


@_claim("train_cdnv_falls", "CDNV of the training samples falls over training", "deck F1, F3 (a)")
def _train_cdnv_falls(table):
    if missing := _missing(table, ("source_train", "cdnv")):
        return missing
    rows = series(table, "source_train", "cdnv")
    if rows.groupby("n_source").size().min() < FEWEST:
        return Verdict(OPEN, f"fewer than {FEWEST} measured epochs in a run")
    rhos = [spearmanr(run["epoch"], run["value"]).statistic for _, run in rows.groupby("n_source")]
    return _verdict(
        max(rhos) <= -0.9,
        f"Spearman(epoch, CDNV) ≤ {max(rhos):+.2f} in {len(rhos)} run(s) of {len(rows) // len(rhos)} epochs "
        "(claimed ≤ -0.9)",
    )


@_claim("train_nc_falls", "NC1, NC2, NC3 and NC4 of the training samples are smaller at the end", "Papyan et al.")
def _train_nc_falls(table):
    parts, holds = [], True
    for metric in ("nc1", "nc2", "nc3", "nc4"):
        if missing := _missing(table, ("source_train", metric)):
            return missing
        begin, end = first(table, "source_train", metric), final(table, "source_train", metric)
        holds &= bool((end < begin).all())
        parts.append(f"{metric}: {begin.iloc[-1]:.2g} → {end.iloc[-1]:.2g}")
    return _verdict(holds, "; ".join(parts))


@_claim(
    "new_samples",
    "Unseen samples of the source classes collapse too, less than the training ones",
    "deck F3 (b)",
)
def _new_samples(table):
    # The two sides have different numbers of samples a class, so the order is judged on the de-biased CDNV.
    wanted = [("source_train", "cdnv_debiased"), ("source_test", "cdnv_debiased"), ("source_test", "cdnv")]
    for split, metric in wanted:
        if series(table, split, metric).empty:
            return Verdict(OPEN, f"{metric} was not measured on {split}")
    train, test = final(table, "source_train", "cdnv_debiased"), final(table, "source_test", "cdnv_debiased")
    begin, end = first(table, "source_test", "cdnv"), final(table, "source_test", "cdnv")
    if not np.isfinite([*train, *test]).all():
        return Verdict(OPEN, "most pairs of classes cannot be told apart from so few samples")
    fine = (test >= train) & (end < begin)
    return _verdict(
        bool(fine.all()),
        f"final de-biased CDNV train {train.iloc[-1]:.3f} ≤ test {test.iloc[-1]:.3f}; test falls "
        f"{begin.iloc[-1]:.2f} → {end.iloc[-1]:.3f}; {int(fine.sum())} of {len(fine)} runs",
    )


@_claim("new_classes", "New classes collapse too, less than unseen samples of the source classes", "deck F3 (c)")
def _new_classes(table):
    if missing := _missing(table, ("source_test", "cdnv"), ("novel", "cdnv")):
        return missing
    test, novel = final(table, "source_test", "cdnv"), final(table, "novel", "cdnv")
    begin = first(table, "novel", "cdnv")
    fine = (novel >= test) & (novel < begin)
    return _verdict(
        bool(fine.all()),
        f"final CDNV test {test.iloc[-1]:.3f} ≤ novel {novel.iloc[-1]:.3f} < novel at start {begin.iloc[-1]:.3f}; "
        f"{int(fine.sum())} of {len(fine)} runs",
    )


def _over_classes(metric: str, split: str, threshold: float, what: str):
    def check(table):
        if missing := _missing(table, (split, metric)):
            return missing
        values = final(table, split, metric)
        found = _trend(values.index.to_series(), values, threshold, f"l, {what}")
        if found.verdict == OPEN:
            return Verdict(OPEN, f"{len(values)} numbers of source classes; {FEWEST} are needed")
        return Verdict(
            found.verdict,
            f"{values.iloc[0]:.3f} at l = {values.index[0]} → {values.iloc[-1]:.3f} at l = {values.index[-1]}; "
            + found.numbers,
        )

    return check


_claim("novel_cdnv_falls_with_l", "More source classes: smaller CDNV of new classes", "deck F3 (c)")(
    _over_classes("cdnv", "novel", -0.8, "final novel CDNV")
)
_claim("accuracy_rises_with_l", "More source classes: better 5-shot accuracy on new classes", "deck F3 (d)")(
    _over_classes("accuracy_5shot", "novel", +0.8, "final 5-shot accuracy")
)


@_claim("gap_shrinks_with_l", "More source classes: new classes come closer to unseen samples of the source classes",
        "deck F3 (b), (c)")  # fmt: skip
def _gap_shrinks(table):
    if missing := _missing(table, ("source_test", "cdnv"), ("novel", "cdnv")):
        return missing
    gap = final(table, "novel", "cdnv") - final(table, "source_test", "cdnv")
    found = _trend(gap.index.to_series(), gap, -0.8, "l, gap")
    if found.verdict == OPEN:
        return Verdict(OPEN, f"{len(gap)} numbers of source classes; {FEWEST} are needed")
    return Verdict(found.verdict, f"gap {gap.iloc[0]:.3f} → {gap.iloc[-1]:.3f}; {found.numbers}")


@_claim(
    "accuracy_follows_cdnv",
    "Smaller CDNV of new classes goes with better 5-shot accuracy",
    "deck F3 (c), (d)",
)
def _accuracy_follows(table):
    if missing := _missing(table, ("novel", "cdnv"), ("novel", "accuracy_5shot")):
        return missing
    keys = ["n_source", "epoch"]
    both = series(table, "novel", "cdnv").merge(series(table, "novel", "accuracy_5shot"), on=keys)
    return _trend(both["value_x"], both["value_y"], -0.8, "novel CDNV, 5-shot accuracy over epochs and l")


def _bound(column: str, name: str):
    def check(pairs):
        if column not in pairs or "error" not in pairs:
            return Verdict(OPEN, f"no column {column!r}")
        above = pairs["error"] > pairs[column] + pairs["half_width"]
        vacuous = pairs[column] >= 1
        tightest = (pairs["error"] / pairs[column]).max()
        return _verdict(
            not above.any(),
            f"error above {name} in {int(above.sum())} of {len(pairs)} pairs; {int(vacuous.sum())} vacuous (≥ 1); "
            f"largest error/bound {tightest:.2f}",
        )

    return check


_claim("b1_pairs", "Pair error ≤ 4(1+1/n)V / (1+2(1+1/n)V)", "deck, constant of B1")(_bound("b1", "B1"))
_claim("b5_pairs", "Pair error ≤ the best bound that one quadratic makes of V", "B5")(_bound("b5", "B5"))
_claim("b3_pairs", "Pair error ≤ the directional bound with exact fourth moments", "B3")(_bound("b3", "B3"))


@_claim(
    "directional_predicts",
    "Directional CDNV orders pairs of new classes by error better than CDNV (judged at the most shots)",
    "Luthra et al. 2025",
)
def _directional_predicts(resampled):
    """Rank correlations with the error, one row a resample of the classes: shot, cdnv, directional."""
    if not {"shot", "cdnv", "directional"} <= set(resampled):
        return Verdict(OPEN, "no rank correlations")
    parts, low, high = [], 0.0, 0.0
    for shot, rows in resampled.groupby("shot"):
        if len(rows) < 50:
            return Verdict(OPEN, f"{len(rows)} resamples of the classes; 50 are needed")
        gain = rows["directional"] - rows["cdnv"]
        low, high = gain.quantile([0.025, 0.975])
        parts.append(f"n = {shot}: {gain.mean():+.3f} ({low:+.3f} … {high:+.3f})")
    numbers = "gain in rank correlation, 95 % intervals: " + "; ".join(parts)
    return Verdict(OPEN, numbers + ": too close to tell") if low <= 0 <= high else _verdict(low > 0, numbers)


@_claim("multiclass", "k-way error ≤ (k-1) × mean pair error", "deck, union bound")
def _multiclass(tasks):
    if not {"error", "bound", "half_width"} <= set(tasks):
        return Verdict(OPEN, "no k-way errors")
    above = tasks["error"] > tasks["bound"] + tasks["half_width"]
    return _verdict(
        not above.any(),
        "; ".join(f"k = {r.way}: {r.error:.3f} ≤ {r.bound:.3f}" for r in tasks.itertuples()),
    )
