"""Claims on networks whose collapse is enforced, or hindered: does it reach new classes, and does it help there?

Over a table with one row per network: kind (how it was trained), ``against`` (the kind that it differs from by one
thing, itself for the plain one), ``enforces`` (whether that thing asks for collapse), strength (of the penalty, missing
for other kinds), repeat (the draw of classes and seeds, which all kinds share), cdnv and directional of "source_train",
"source_test" and "novel" (as cdnv_novel), and error (5-shot, nearest class mean, on the new classes); of kinds that
train behind a projector also projected_error, that of the features after it.

Draws are the independent units. Kinds were chosen, not drawn: a claim across kinds must hold in the mean over draws
and, against all orders of the kinds, for their means.
"""

import numpy as np
import pandas as pd

from ncbook.claims._registry import (
    FAILS,
    HOLDS,
    OPEN,
    Verdict,
    above_zero,
    all_of,
    claim,
    mean_interval,
    side,
    spearman,
    together,
    trend,
)

SLIDES = "slides, open question: better transferability by explicitly enforcing neural collapse?"
THEORY = "slides, new classes: small CDNV there, small few-shot error"
QUESTION = "asked by neither work"
SPLITS = ("source_train", "source_test", "novel")
NEEDED = {"kind", "against", "enforces", "strength", "repeat", "error"}
NEEDED |= {f"{metric}_{split}" for metric in ("cdnv", "directional") for split in SPLITS}
FEWEST_KINDS = 4
NONE = Verdict(OPEN, "no table of kinds")


def paired(table: pd.DataFrame, column: str, *, log: bool = False) -> pd.DataFrame:
    """Difference of every kind to the kind that it is compared with, on the same draw: a row per draw.

    Args:
        table: one row per network: kind, against, repeat and the column.
        column: what to compare.
        log: whether of its logarithm.

    Example:
        >>> rows = [("plain", "plain", 0, 2.0), ("other", "plain", 0, 5.0)]
        >>> paired(pd.DataFrame(rows, columns=["kind", "against", "repeat", "error"]), "error").to_dict()
        {'other': {0: 3.0}}
    """
    values = table.set_index(["repeat", "kind"])[column].unstack()
    values = np.log(values) if log else values
    kinds = table[table["kind"] != table["against"]].drop_duplicates("kind")
    return pd.DataFrame({row.kind: values[row.kind] - values[row.against] for row in kinds.itertuples()})


def _differences(table: pd.DataFrame, column: str, log: bool) -> pd.DataFrame | None:
    """Of the kinds that enforce collapse, if they can be judged."""
    if not set(table) >= NEEDED:
        return None
    kinds = table.loc[table["enforces"].astype(bool), "kind"].unique()
    found = paired(table, column, log=log)
    found = found[[kind for kind in found if kind in kinds]]
    return found if len(found) >= 3 and len(found.columns) and np.isfinite(found).all(axis=None) else None


def _text(found: pd.DataFrame, log: bool) -> str:
    """Mean of every kind with its interval, as a factor if of logarithms."""
    parts = []
    for kind, values in found.items():
        mean, low, high = mean_interval(values)
        if log:
            parts.append(f"{kind} × {np.exp(mean):.2f} ({np.exp(low):.2f} … {np.exp(high):.2f})")
        else:
            parts.append(f"{kind} {mean:+.3f} ({low:+.3f} … {high:+.3f})")
    return "; ".join(parts) + f"; n = {len(found)} draws"


def _each(column: str, *, log: bool):
    """Every kind that enforces collapse lowers the column, on average over draws."""

    def check(table):
        if (found := _differences(table, column, log)) is None:
            return NONE
        sides = [side(found[kind], -1, parts=len(found.columns)) for kind in found]
        return Verdict(together(sides), _text(found, log), n=len(found))

    return check


FAILS_EACH = "one of these kinds raises it on average over draws, beyond an interval that holds for all at once"

for _name, _column, _words, _source in (
    ("enforcing_lowers_source_cdnv", "cdnv_source_train", "CDNV on the training samples", QUESTION),
    ("enforcing_lowers_new_class_cdnv", "cdnv_novel", "CDNV on new classes", QUESTION),
    ("enforcing_lowers_new_class_directional", "directional_novel", "directional CDNV on new classes", QUESTION),
    ("enforcing_always_helps_transfer", "error", "5-shot error on new classes", SLIDES),
):
    _text_of = f"Every kind of training that asks for collapse has a smaller {_words} than the same training without it"
    claim(_name, _text_of, _source, fails_if=FAILS_EACH)(_each(_column, log=_column != "error"))


@claim("enforcing_can_help_transfer",
       "Some kind of training that asks for collapse has a smaller 5-shot error on new classes than the same training "
       "without it", SLIDES, fails_if="every such kind raises the error, each beyond its interval")  # fmt: skip
def _some(table):
    if (found := _differences(table, "error", False)) is None:
        return NONE
    lowest = [mean_interval(found[kind], len(found.columns))[2] < 0 for kind in found]  # the best of many by luck
    raised = [mean_interval(found[kind])[1] > 0 for kind in found]
    verdict = HOLDS if any(lowest) else FAILS if all(raised) else OPEN
    return Verdict(verdict, _text(found, False), n=len(found))


def _strengths(column: str, sign: int, what: str):
    def check(table):
        if not set(table) >= NEEDED:
            return NONE
        rows = table[table["strength"].notna()]
        if rows["strength"].nunique() < 3:
            return Verdict(OPEN, "fewer than three strengths of the penalty")
        return trend(rows["strength"], rows[column], sign, what, rows["repeat"])

    return check


claim("penalty_lowers_source_cdnv",
      "The stronger the penalty on the CDNV, the smaller the CDNV of the training samples", QUESTION,
      fails_if="a rank correlation within draws that permutations show to be positive")(
    _strengths("cdnv_source_train", -1, "strength, source CDNV"))  # fmt: skip
claim("penalty_lowers_new_class_error",
      "The stronger the penalty on the CDNV of source classes, the smaller the 5-shot error on new classes", SLIDES,
      fails_if="a rank correlation within draws that permutations show to be positive")(
    _strengths("error", -1, "strength, error"))  # fmt: skip


def correlations(table: pd.DataFrame, x: str, y: str = "error") -> pd.Series:
    """Rank correlation over kinds of each draw; twelve digits, so that none is 0 and not 1e-18."""
    found = {draw: spearman(rows[x], rows[y]) for draw, rows in table.groupby("repeat")}
    return pd.Series(found, dtype=float).round(12)


def _across(x: str, y: str, what: str):
    """Over kinds, y rises with x: on average over draws, and for the kinds' means."""

    def check(table):
        if not set(table) >= NEEDED or table["kind"].nunique() < FEWEST_KINDS:
            return Verdict(OPEN, "fewer than four kinds")
        if not np.isfinite(table[[x, y]]).all(axis=None):
            return Verdict(OPEN, f"{what}: not finite for every network", n=len(table))
        means = table.groupby("kind")[[x, y]].mean()
        return all_of(
            above_zero(correlations(table, x, y), 1, f"rank correlation over kinds, {what},"),
            trend(means[x], means[y], 1, f"{what}, means of the kinds")._replace(n=len(means)),
        )

    return check


FAILS_ACROSS = (
    "the mean over draws of the rank correlation over kinds is below 0 beyond its interval, "
    "or that of the kinds' means is negative against permutations"
)
for _name, _x, _y, _statement, _source in (
    ("source_cdnv_carries_over", "cdnv_source_train", "cdnv_novel",
     "The smaller the CDNV of the training samples, the smaller that of new classes", QUESTION),
    ("train_cdnv_foretells_transfer", "cdnv_source_train", "error",
     "The 5-shot error on new classes rises with the CDNV of the training samples", SLIDES),
    ("held_out_cdnv_foretells_transfer", "cdnv_source_test", "error",
     "The 5-shot error on new classes rises with the CDNV of unseen samples of the source classes", QUESTION),
    ("held_out_directional_foretells_transfer", "directional_source_test", "error",
     "The 5-shot error on new classes rises with the directional CDNV of unseen samples of the source classes",
     QUESTION),
    ("error_follows_new_class_cdnv", "cdnv_novel", "error",
     "The 5-shot error on new classes rises with their CDNV", THEORY),
    ("error_follows_new_class_directional", "directional_novel", "error",
     "The 5-shot error on new classes rises with their directional CDNV", THEORY),
):  # fmt: skip
    claim(_name, f"Across kinds of training: {_statement[0].lower()}{_statement[1:]}", _source, fails_if=FAILS_ACROSS)(
        _across(_x, _y, f"{_x} and {_y}")
    )


def _better(first: str, second: str, what: str):
    """The first orders kinds by their error better than the second."""

    def check(table):
        if not set(table) >= NEEDED or table["kind"].nunique() < FEWEST_KINDS:
            return Verdict(OPEN, "fewer than four kinds")
        return above_zero(correlations(table, first) - correlations(table, second), 1, what)

    return check


for _name, _first, _second, _statement, _what in (
    ("directional_orders_kinds_better", "directional_novel", "cdnv_novel",
     "Across kinds of training, directional CDNV of new classes orders their 5-shot errors better than CDNV",
     "directional less plain CDNV"),
    ("held_out_orders_kinds_better", "cdnv_source_test", "cdnv_source_train",
     "Across kinds of training, CDNV of unseen samples of source classes orders 5-shot errors on new classes better "
     "than that of training samples", "unseen less training samples"),
):  # fmt: skip
    claim(_name, _statement, QUESTION,
          fails_if="a mean difference of the rank correlations over kinds below 0, beyond its interval over draws")(
        _better(_first, _second, f"rank correlation with the error, {_what},"))  # fmt: skip


def regret(table: pd.DataFrame, column: str) -> pd.Series:
    """Of each draw: error of the kind with the smallest value in the column, less that of the best kind.

    Example:
        >>> rows = [("a", 0, 0.1, 0.3), ("b", 0, 0.2, 0.25)]
        >>> regret(pd.DataFrame(rows, columns=["kind", "repeat", "cdnv", "error"]), "cdnv").round(6).to_dict()
        {0: 0.05}
    """
    draws = table.groupby("repeat")
    return pd.Series({r: rows.loc[rows[column].idxmin(), "error"] - rows["error"].min() for r, rows in draws})


@claim("least_held_out_cdnv_beats_plain",
       "The kind of training with the smallest CDNV on unseen samples of source classes has a smaller 5-shot error on "
       "new classes than plain training", QUESTION,
       fails_if="the error of the kind so chosen, less that of the plain one, is above 0, by its interval")  # fmt: skip
def _selected(table):
    if not set(table) >= NEEDED or table["kind"].nunique() < FEWEST_KINDS:
        return Verdict(OPEN, "fewer than four kinds")
    plain = table["kind"].iloc[0]
    errors = table[table["kind"] == plain].set_index("repeat")["error"]
    chosen = regret(table, "cdnv_source_test") + table.groupby("repeat")["error"].min()
    return above_zero(chosen - errors, -1, f"error of the kind with the least held-out CDNV less {plain},")


def _one_difference(difference, sign: int, what: str, missing: str):
    """Of each draw one difference; ``difference`` of the table is None or empty where there is nothing to compare."""

    def check(table):
        found = difference(table) if set(table) >= NEEDED else None
        return Verdict(OPEN, missing) if found is None or not len(found) else above_zero(found, sign, what)

    return check


def _longer(table):
    return paired(table, "error").get("longer")


def _projected(table):
    if "projected_error" in table:
        rows = table.dropna(subset="projected_error").set_index("repeat")
        return rows["projected_error"] - rows["error"]


claim("longer_training_hurts_new_classes",
      "The same training for longer has a larger 5-shot error on new classes",
      "Hui, Belkin, Nakkiran 2022, of linear probes",
      fails_if="the error after the longer training, less that after the shorter, is below 0, by its interval")(
    _one_difference(_longer, 1, "5-shot error, longer less plain,", "no kind that is trained longer"))  # fmt: skip
claim("projector_keeps_harm_off_features",
      "Features before the projector that a loss acts behind have a smaller 5-shot error on new classes than after it",
      "Harun et al. 2025",
      fails_if="the error after the projector, less that before it, is below 0, by its interval")(
    _one_difference(_projected, 1, "5-shot error, after less before the projector,", "no kind with a projector")
)  # fmt: skip
