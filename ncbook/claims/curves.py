"""Claims about curves over training: collapse on training samples, unseen samples and new classes (F3).

Over histories of runs (`Run.history`), with columns ``n_source`` and ``repeat`` added where several are compared.
Networks of one ``repeat`` share their new classes and their seed, and their source classes are nested: intervals are
over repeats, and trends with the number of source classes are permuted within them.
"""

import numpy as np
import pandas as pd

from ncbook.claims._registry import FAILS, HOLDS, OPEN, Verdict, claim
from ncbook.claims._statistics import FEWEST, above_zero, all_of, by_draw, correlations, log_ratio, spearman, trend

NETWORK = ["n_source", "repeat"]
_NC = ("nc1", "nc2", "nc3", "nc4")
# Splits have different numbers of samples per class, so they are compared by the de-biased CDNV.
_DEBIASED = "cdnv_debiased_mean"
_CDNV, _ACCURACY = ("novel", "cdnv"), ("novel", "accuracy_5shot")
RISE = 0.1  # above its lowest value, relative, up to which a curve counts as being at its lowest


def series(table: pd.DataFrame, split: str, metric: str) -> pd.DataFrame:
    """Rows of one metric on one split, by epoch; ``n_source`` and ``repeat`` are 0 where the table has not got them."""
    rows = table[(table["split"] == split) & (table["metric"] == metric)]
    rows = rows.assign(**{column: 0 for column in NETWORK if column not in rows})
    return rows.sort_values([*NETWORK, "epoch"])


def final(table: pd.DataFrame, split: str, metric: str) -> pd.Series:
    """Value of a metric at the end of training, one per network, indexed by (n_source, repeat)."""
    return series(table, split, metric).groupby(NETWORK)["value"].agg(lambda values: values.iloc[-1])  # NaN as it is


def first(table: pd.DataFrame, split: str, metric: str) -> pd.Series:
    """Value before the first step, one per network, indexed by (n_source, repeat)."""
    return series(table, split, metric).groupby(NETWORK)["value"].agg(lambda values: values.iloc[0])


def _missing(table: pd.DataFrame, *wanted: tuple[str, str]) -> Verdict | None:
    for split, metric in wanted:
        if series(table, split, metric).empty:
            return Verdict(OPEN, f"{metric} was not measured on {split}")
        last = final(table, split, metric)
        if np.isinf(last).any() and "debiased" in metric:
            return Verdict(OPEN, f"too many pairs of classes on {split} cannot be told apart from so few samples")
        if not np.isfinite(last).all():
            return Verdict(OPEN, f"{metric} on {split} is not finite everywhere")
    return None


def _claim(claimed: str, *wanted: tuple[str, str], **options):
    """Register the check below, of tables that have these (split, metric), finite at the end."""

    def register(check):
        claim(claimed)(lambda table: _missing(table, *wanted) or check(table, **options))
        return check

    return register


def _falls(table: pd.DataFrame, split: str, parts: int = 1) -> Verdict:
    """Final CDNV over the one before training, below 1."""
    ends = final(table, split, "cdnv"), first(table, split, "cdnv")
    return log_ratio(*ends, -1, f"{split} CDNV, final / initial:", parts)


def _fitted(table: pd.DataFrame) -> str:
    """How well the networks fit their training samples, which equal steps do not make equal."""
    accuracy = final(table, "source_train", "accuracy").groupby("n_source").mean()
    if len(accuracy) < 2:
        return ""
    ends = f"{accuracy.iloc[0]:.3f} at l = {accuracy.index[0]}, {accuracy.iloc[-1]:.3f} at l = {accuracy.index[-1]}"
    return f"; training accuracy {ends}"


@_claim("train_cdnv_falls", ("source_train", "cdnv"))
def _train_cdnv_falls(table):
    rows = series(table, "source_train", "cdnv")
    if rows.groupby(NETWORK).size().min() < FEWEST:
        return Verdict(OPEN, f"fewer than {FEWEST} measured epochs in a run")
    if not np.isfinite(rows["value"]).all():
        return Verdict(OPEN, "cdnv on source_train is not finite everywhere")
    falls = _falls(table, "source_train")
    above = final(table, "source_train", "cdnv") / rows.groupby(NETWORK)["value"].min() - 1
    rises = rows.groupby(NETWORK)["value"].apply(lambda run: int((np.diff(run) > 0).sum())).sum()
    text = f"ends at most {above.max():.0%} above its lowest value; rises in {rises} of {len(rows) - len(above)} steps"
    return all_of(falls, Verdict(HOLDS if above.max() <= RISE else FAILS, text))


@_claim("train_nc_falls", *(("source_train", metric) for metric in _NC))
def _train_nc_falls(table):
    parts = []
    for metric in _NC:
        begin, end = first(table, "source_train", metric), final(table, "source_train", metric)
        what = f"{metric} {begin.mean():.2g} → {end.mean():.2g}, difference"
        parts.append(above_zero(by_draw(end - begin), -1, what, parts=len(_NC)))
    return all_of(*parts)


def _collapse_less(table, split: str, name: str, than: str, than_name: str):
    """Two statements: the CDNV of a split falls, and ends above that of another split."""
    less, more = final(table, than, _DEBIASED), final(table, split, _DEBIASED)
    what = f"de-biased CDNV {less.mean():.3f} ({than_name}), {more.mean():.3f} ({name}), ratio"
    return all_of(log_ratio(more, less, 1, what, parts=2), _falls(table, split, parts=2))


for _name, _split, _split_name, _than, _than_name in (
    ("new_samples", "source_test", "test", "source_train", "train"),
    ("new_classes", "novel", "novel", "source_test", "test"),
):
    _wanted = (_than, _DEBIASED), (_split, _DEBIASED), (_split, "cdnv")
    _claim(_name, *_wanted, split=_split, name=_split_name, than=_than, than_name=_than_name)(_collapse_less)


def _against_l(table: pd.DataFrame, values: pd.Series, sign: int, what: str) -> Verdict:
    """Trend of one value per network with its number of source classes, means at both ends in words."""
    size, repeat = (values.index.get_level_values(level) for level in NETWORK)
    found = trend(size, values, sign, f"l, {what}", block=repeat)
    means = values.groupby("n_source").mean()
    ends = f"{means.iloc[0]:.3f} at l = {means.index[0]} → {means.iloc[-1]:.3f} at l = {means.index[-1]}"
    return found._replace(numbers=f"{what} {ends}; {found.numbers}{_fitted(table)}")


def _over_classes(table: pd.DataFrame, number: tuple[str, str], sign: int, what: str) -> Verdict:
    return _against_l(table, final(table, *number), sign, what)


_claim("novel_cdnv_falls_with_l", _CDNV, number=_CDNV, sign=-1, what="novel CDNV")(_over_classes)
_claim("accuracy_rises_with_l", _ACCURACY, number=_ACCURACY, sign=1, what="5-shot accuracy")(_over_classes)


@_claim("gap_shrinks_with_l", ("source_test", _DEBIASED), ("novel", _DEBIASED))
def _gap_shrinks(table):
    test, novel = final(table, "source_test", _DEBIASED), final(table, "novel", _DEBIASED)
    found = _against_l(table, novel - test, -1, "gap of de-biased CDNV")
    closing, rising = (
        means.iloc[-1] - means.iloc[0]
        for means in ((novel - test).groupby("n_source").mean(), test.groupby("n_source").mean())
    )
    if not closing < 0:
        return found
    return found._replace(numbers=f"{found.numbers}; {-rising / closing:.0%} of the closing is source-test rising")


def _final_trend(table: pd.DataFrame, number: tuple[str, str], sign: int, what: str) -> Verdict:
    """Trend of the final 5-shot accuracy with another final number; a network that has one of them only is missing.

    Of these numbers of source classes: within draws beyond chance, and in the mean over draws.
    """
    both = pd.concat({"x": final(table, *number), "y": final(table, *_ACCURACY)}, axis=1)
    found = trend(both["x"], both["y"], sign, what, block=both.index.get_level_values("repeat"))
    if np.isnan(found.statistic):
        return found
    return all_of(found, above_zero(correlations(both.reset_index(), "x", "y"), sign, "its mean over draws"))


for _name, _number, _sign, _what in (
    ("accuracy_follows_cdnv", _CDNV, -1, "final novel CDNV, 5-shot accuracy"),
    ("source_collapse_is_not_transfer", ("source_train", "cdnv"), 1, "source-train CDNV, 5-shot accuracy"),
):
    _claim(_name, _number, _ACCURACY, number=_number, sign=_sign, what=_what)(_final_trend)


@_claim("accuracy_follows_cdnv_within_a_run", _CDNV, _ACCURACY)
def _accuracy_follows_within(table):
    both = series(table, *_CDNV).merge(series(table, *_ACCURACY), on=[*NETWORK, "epoch"])
    both = both[both["epoch"] >= both.groupby(NETWORK)["epoch"].transform("max") / 2]  # at first all improve
    if both.groupby(NETWORK).size().min() < FEWEST:
        return Verdict(OPEN, f"fewer than {FEWEST} measured epochs in the second half of a run")
    rhos = both.groupby(NETWORK).apply(lambda run: spearman(run["value_x"], run["value_y"]), include_groups=False)
    found = above_zero(by_draw(rhos), -1, "Spearman(novel CDNV, accuracy) over epochs, mean")
    return found._replace(numbers=f"{found.numbers}; from {rhos.min():+.2f} to {rhos.max():+.2f} in a network")
