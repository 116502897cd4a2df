"""Claims about curves over training: collapse on training samples, unseen samples and new classes (F3).

Over histories of runs (`Run.history`), with columns ``n_source`` and ``repeat`` added where several are compared.
"""

import numpy as np
import pandas as pd

from ncbook.claims._registry import FEWEST, OPEN, Verdict, claim, judged, spearman, trend


def series(table: pd.DataFrame, split: str, metric: str) -> pd.DataFrame:
    """Rows of one metric on one split; ``n_source`` and ``repeat`` are 0 where the table has not got them."""
    rows = table[(table["split"] == split) & (table["metric"] == metric)]
    return rows.assign(**{column: 0 for column in ("n_source", "repeat") if column not in rows})


def final(table: pd.DataFrame, split: str, metric: str) -> pd.Series:
    """Last value of a metric on a split, mean over repeats, indexed by n_source in ascending order."""
    rows = series(table, split, metric).sort_values("epoch")
    return rows.groupby(["n_source", "repeat"])["value"].last().groupby("n_source").mean()


def first(table: pd.DataFrame, split: str, metric: str) -> pd.Series:
    """Value before the first step, mean over repeats, indexed by n_source in ascending order."""
    rows = series(table, split, metric)
    return rows[rows["epoch"] == 0].groupby("n_source")["value"].mean()


def _missing(table: pd.DataFrame, *wanted: tuple[str, str]) -> Verdict | None:
    for split, metric in wanted:
        rows = series(table, split, metric)
        if rows.empty:
            return Verdict(OPEN, f"{metric} was not measured on {split}")
        if not np.isfinite(rows["value"]).all():
            return Verdict(OPEN, f"{metric} on {split} is not finite everywhere")
    return None


@claim("train_cdnv_falls", "CDNV of the training samples falls over training", "deck F1, F3 (a)")
def _train_cdnv_falls(table):
    if missing := _missing(table, ("source_train", "cdnv")):
        return missing
    rows = series(table, "source_train", "cdnv")
    found = rows.groupby(["n_source", "repeat"])
    if found.size().min() < FEWEST:
        return Verdict(OPEN, f"fewer than {FEWEST} measured epochs in a run")
    rhos = {key: spearman(run["epoch"], run["value"]) for key, run in found}
    steady = {key: rho <= -0.9 + 1e-9 for key, rho in rhos.items()}
    others = sorted({n_source for (n_source, _), fine in steady.items() if not fine})
    return judged(
        all(steady.values()),
        f"Spearman(epoch, CDNV) ≤ {max(rhos.values()):+.2f}; ≤ -0.9 as claimed in {sum(steady.values())} of "
        f"{len(rhos)} run(s)"
        + (f", not in some with l = {', '.join(map(str, others))}" if others and max(others) else ""),
    )


@claim("train_nc_falls", "NC1, NC2, NC3 and NC4 of the training samples are smaller at the end", "Papyan et al.")
def _train_nc_falls(table):
    parts, holds = [], True
    for metric in ("nc1", "nc2", "nc3", "nc4"):
        if missing := _missing(table, ("source_train", metric)):
            return missing
        begin, end = first(table, "source_train", metric), final(table, "source_train", metric)
        holds &= bool((end < begin).all())
        parts.append(f"{metric}: {begin.iloc[-1]:.2g} → {end.iloc[-1]:.2g}")
    return judged(holds, "; ".join(parts))


@claim(
    "new_samples",
    "Unseen samples of the source classes collapse too, less than the training ones",
    "deck F3 (b)",
)
def _new_samples(table):
    # The two sides have different numbers of samples per class, so the order is judged on the de-biased CDNV.
    wanted = [("source_train", "cdnv_debiased"), ("source_test", "cdnv_debiased"), ("source_test", "cdnv")]
    for split, metric in wanted:
        if series(table, split, metric).empty:
            return Verdict(OPEN, f"{metric} was not measured on {split}")
    train, test = final(table, "source_train", "cdnv_debiased"), final(table, "source_test", "cdnv_debiased")
    begin, end = first(table, "source_test", "cdnv"), final(table, "source_test", "cdnv")
    if not np.isfinite([*train, *test]).all():
        return Verdict(OPEN, "most pairs of classes cannot be told apart from so few samples")
    fine = (test >= train) & (end < begin)
    return judged(
        bool(fine.all()),
        f"final de-biased CDNV train {train.iloc[-1]:.3f} ≤ test {test.iloc[-1]:.3f}; test falls "
        f"{begin.iloc[-1]:.2f} → {end.iloc[-1]:.3f}; {int(fine.sum())} of {len(fine)} runs",
    )


@claim("new_classes", "New classes collapse too, less than unseen samples of the source classes", "deck F3 (c)")
def _new_classes(table):
    if missing := _missing(table, ("source_test", "cdnv"), ("novel", "cdnv")):
        return missing
    test, novel = final(table, "source_test", "cdnv"), final(table, "novel", "cdnv")
    begin = first(table, "novel", "cdnv")
    fine = (novel >= test) & (novel < begin)
    return judged(
        bool(fine.all()),
        f"final CDNV test {test.iloc[-1]:.3f} ≤ novel {novel.iloc[-1]:.3f} < novel at start {begin.iloc[-1]:.3f}; "
        f"{int(fine.sum())} of {len(fine)} runs",
    )


def _over_classes(metric: str, split: str, threshold: float, what: str):
    def check(table):
        if missing := _missing(table, (split, metric)):
            return missing
        values = final(table, split, metric)
        found = trend(values.index.to_series(), values, threshold, f"l, {what}")
        if found.verdict == OPEN:
            return Verdict(OPEN, f"{len(values)} numbers of source classes; {FEWEST} are needed")
        return Verdict(
            found.verdict,
            f"{values.iloc[0]:.3f} at l = {values.index[0]} → {values.iloc[-1]:.3f} at l = {values.index[-1]}; "
            + found.numbers,
        )

    return check


claim("novel_cdnv_falls_with_l", "More source classes: smaller CDNV of new classes", "deck F3 (c)")(
    _over_classes("cdnv", "novel", -0.8, "final novel CDNV")
)
claim("accuracy_rises_with_l", "More source classes: better 5-shot accuracy on new classes", "deck F3 (d)")(
    _over_classes("accuracy_5shot", "novel", +0.8, "final 5-shot accuracy")
)


@claim("gap_shrinks_with_l", "More source classes: new classes come closer to unseen samples of the source classes",
        "deck F3 (b), (c)")  # fmt: skip
def _gap_shrinks(table):
    if missing := _missing(table, ("source_test", "cdnv"), ("novel", "cdnv")):
        return missing
    gap = final(table, "novel", "cdnv") - final(table, "source_test", "cdnv")
    found = trend(gap.index.to_series(), gap, -0.8, "l, gap")
    if found.verdict == OPEN:
        return Verdict(OPEN, f"{len(gap)} numbers of source classes; {FEWEST} are needed")
    return Verdict(found.verdict, f"gap {gap.iloc[0]:.3f} → {gap.iloc[-1]:.3f}; {found.numbers}")


@claim(
    "accuracy_follows_cdnv",
    "Smaller CDNV of new classes goes with better 5-shot accuracy",
    "deck F3 (c), (d)",
)
def _accuracy_follows(table):
    if missing := _missing(table, ("novel", "cdnv"), ("novel", "accuracy_5shot")):
        return missing
    keys = ["n_source", "repeat", "epoch"]
    both = series(table, "novel", "cdnv").merge(series(table, "novel", "accuracy_5shot"), on=keys)
    return trend(both["value_x"], both["value_y"], -0.8, "novel CDNV, 5-shot accuracy over epochs and l")
