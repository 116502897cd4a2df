"""Claims about curves over training: collapse on training samples, unseen samples and new classes (F3).

Over histories of runs (`Run.history`), with columns ``n_source`` and ``repeat`` added where several are compared.
Networks of one ``repeat`` share their new classes and their seed, and their source classes are nested: intervals are
over repeats, and trends with the number of source classes are permuted within them.
"""

import numpy as np
import pandas as pd

from ncbook.claims._registry import (
    FAILS,
    FEWEST,
    HOLDS,
    OPEN,
    Verdict,
    above_zero,
    all_of,
    by_draw,
    claim,
    log_ratio,
    spearman,
    trend,
)

NETWORK = ["n_source", "repeat"]
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


def _falls(table: pd.DataFrame, split: str, parts: int = 1) -> Verdict:
    """Final CDNV over the one before training, below 1."""
    ends = final(table, split, "cdnv"), first(table, split, "cdnv")
    return log_ratio(*ends, -1, f"{split} CDNV, final / initial:", parts)


INITIAL = "the interval of final / initial CDNV over draws lies above 1"


def _fitted(table: pd.DataFrame) -> str:
    """How well the networks fit their training samples, which equal steps do not make equal."""
    accuracy = final(table, "source_train", "accuracy").groupby("n_source").mean()
    if len(accuracy) < 2:
        return ""
    ends = f"{accuracy.iloc[0]:.3f} at l = {accuracy.index[0]}, {accuracy.iloc[-1]:.3f} at l = {accuracy.index[-1]}"
    return f"; training accuracy {ends}"


@claim(
    "train_cdnv_falls",
    "CDNV of the training samples falls over training and is at its lowest in the end",
    "deck F1, F3 (a)",
    fails_if=f"{INITIAL}, or a network ends more than 10 % above its lowest value",
)
def _train_cdnv_falls(table):
    if missing := _missing(table, ("source_train", "cdnv")):
        return missing
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


@claim(
    "train_nc_falls",
    "NC1, NC2, NC3 and NC4 of the training samples are smaller in the end than before training",
    "Papyan et al. 2020",
    fails_if="the interval of one of the four differences, over draws and for all four at once, lies above 0",
)
def _train_nc_falls(table):
    parts = []
    for metric in ("nc1", "nc2", "nc3", "nc4"):
        if missing := _missing(table, ("source_train", metric)):
            return missing
        begin, end = first(table, "source_train", metric), final(table, "source_train", metric)
        what = f"{metric} {begin.mean():.2g} → {end.mean():.2g}, difference"
        parts.append(above_zero(by_draw(end - begin), -1, what, parts=4))
    return all_of(*parts)


@claim(
    "new_samples",
    "Unseen samples of the source classes collapse too, less than the training ones",
    "deck F3 (b); less: Hui, Belkin & Nakkiran 2022",
    fails_if=f"{INITIAL}, or that of their de-biased CDNV over the training samples' lies below 1",
)
def _new_samples(table):
    # The two sides have different numbers of samples per class, so the order is judged on the de-biased CDNV.
    debiased = "cdnv_debiased_mean"
    if missing := _missing(table, ("source_train", debiased), ("source_test", debiased), ("source_test", "cdnv")):
        return missing
    train, test = final(table, "source_train", debiased), final(table, "source_test", debiased)
    what = f"de-biased CDNV {train.mean():.3f} (train), {test.mean():.3f} (test), ratio"
    return all_of(log_ratio(test, train, 1, what, parts=2), _falls(table, "source_test", parts=2))


@claim(
    "new_classes",
    "New classes collapse too, less than unseen samples of the source classes",
    "deck F3 (c)",
    fails_if=f"{INITIAL}, or that of their de-biased CDNV over the unseen source samples' lies below 1",
)
def _new_classes(table):
    debiased = "cdnv_debiased_mean"  # 20 samples per class against 5
    if missing := _missing(table, ("source_test", debiased), ("novel", debiased), ("novel", "cdnv")):
        return missing
    test, novel = final(table, "source_test", debiased), final(table, "novel", debiased)
    what = f"de-biased CDNV {test.mean():.3f} (test), {novel.mean():.3f} (novel), ratio"
    return all_of(log_ratio(novel, test, 1, what, parts=2), _falls(table, "novel", parts=2))


def _against_l(table: pd.DataFrame, values: pd.Series, sign: int, what: str) -> Verdict:
    """Trend of one value per network with its number of source classes, means at both ends in words."""
    size, repeat = (values.index.get_level_values(level) for level in NETWORK)
    found = trend(size, values, sign, f"l, {what}", block=repeat)
    means = values.groupby("n_source").mean()
    ends = f"{means.iloc[0]:.3f} at l = {means.index[0]} → {means.iloc[-1]:.3f} at l = {means.index[-1]}"
    return found._replace(numbers=f"{what} {ends}; {found.numbers}{_fitted(table)}")


def _over_classes(metric: str, sign: int, what: str):
    def check(table):
        return _missing(table, ("novel", metric)) or _against_l(table, final(table, "novel", metric), sign, what)

    return check


claim(
    "novel_cdnv_falls_with_l",
    "More source classes (equal steps): smaller CDNV of new classes",
    "deck F3 (c)",
    fails_if="the final CDNV of new classes rises with l (one-sided p ≤ 0.025, permuted within draws)",
)(_over_classes("cdnv", -1, "novel CDNV"))
claim(
    "accuracy_rises_with_l",
    "More source classes (equal steps): better 5-shot accuracy on new classes",
    "deck F3 (d)",
    fails_if="the final 5-shot accuracy falls with l (one-sided p ≤ 0.025, permuted within draws)",
)(_over_classes("accuracy_5shot", 1, "5-shot accuracy"))


@claim(
    "gap_shrinks_with_l",
    "More source classes (equal steps): new classes come closer to unseen samples of the source classes",
    "deck F3 (b), (c)",
    fails_if="the difference of de-biased CDNV rises with l (one-sided p ≤ 0.025, permuted within draws)",
)
def _gap_shrinks(table):
    debiased = "cdnv_debiased_mean"
    if missing := _missing(table, ("source_test", debiased), ("novel", debiased)):
        return missing
    test, novel = final(table, "source_test", debiased), final(table, "novel", debiased)
    found = _against_l(table, novel - test, -1, "gap of de-biased CDNV")
    closing, rising = (
        means.iloc[-1] - means.iloc[0]
        for means in ((novel - test).groupby("n_source").mean(), test.groupby("n_source").mean())
    )
    if not closing < 0:
        return found
    return found._replace(numbers=f"{found.numbers}; {-rising / closing:.0%} of the closing is source-test rising")


def _final_trend(table: pd.DataFrame, number: tuple[str, str], sign: int, what: str) -> Verdict:
    """Trend of the final 5-shot accuracy with another final number; a network that has one of them only is missing."""
    both = pd.concat([final(table, *number), final(table, "novel", "accuracy_5shot")], axis=1)
    return trend(*both.to_numpy().T, sign, what, block=both.index.get_level_values("repeat"))


@claim(
    "accuracy_follows_cdnv",
    "Over trained networks: the smaller the CDNV of new classes, the better the 5-shot accuracy",
    "deck F3 (c), (d)",
    fails_if="accuracy rises with CDNV over final networks (one-sided p ≤ 0.025, permuted within draws)",
)
def _accuracy_follows(table):
    if missing := _missing(table, ("novel", "cdnv"), ("novel", "accuracy_5shot")):
        return missing
    return _final_trend(table, ("novel", "cdnv"), -1, "final novel CDNV, 5-shot accuracy")


@claim(
    "accuracy_follows_cdnv_within_a_run",
    "Within a run, over the second half of its epochs: 5-shot accuracy rises as the CDNV of new classes falls",
    "the same, over epochs (control)",
    fails_if="the interval over draws of the rank correlation over epochs, averaged over a draw's networks, is above 0",
)
def _accuracy_follows_within(table):
    if missing := _missing(table, ("novel", "cdnv"), ("novel", "accuracy_5shot")):
        return missing
    both = series(table, "novel", "cdnv").merge(series(table, "novel", "accuracy_5shot"), on=[*NETWORK, "epoch"])
    both = both[both["epoch"] >= both.groupby(NETWORK)["epoch"].transform("max") / 2]  # at first all improve
    if both.groupby(NETWORK).size().min() < FEWEST:
        return Verdict(OPEN, f"fewer than {FEWEST} measured epochs in the second half of a run")
    rhos = both.groupby(NETWORK).apply(lambda run: spearman(run["value_x"], run["value_y"]), include_groups=False)
    found = above_zero(by_draw(rhos), -1, "Spearman(novel CDNV, accuracy) over epochs, mean")
    return found._replace(numbers=f"{found.numbers}; from {rhos.min():+.2f} to {rhos.max():+.2f} in a network")


@claim(
    "source_collapse_is_not_transfer",
    "What collapses most on its own training samples does not transfer best: 5-shot accuracy rises with their CDNV",
    "Kornblith et al. 2021 (other networks and data); deck F3 (a), (d)",
    fails_if="accuracy falls with the CDNV of training samples (one-sided p ≤ 0.025, permuted within draws)",
)
def _source_collapse(table):
    if missing := _missing(table, ("source_train", "cdnv"), ("novel", "accuracy_5shot")):
        return missing
    return _final_trend(table, ("source_train", "cdnv"), 1, "source-train CDNV, 5-shot accuracy")
