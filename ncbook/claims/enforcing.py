"""Claims on networks whose collapse is enforced, or hindered: does it reach new classes, and does it help there?

Over a table with one row per network: kind (how it was trained), ``against`` (the kind that it differs from by one
thing, itself for the plain one), ``enforces`` (whether that thing asks for collapse), strength (of the penalty, missing
for other kinds), repeat (the draw of classes and seeds, which all kinds share), cdnv and directional of "source_train",
"source_test" and "novel" (as cdnv_novel), and error (5-shot, nearest class mean, on the new classes); of kinds that
train behind a projector also projected_error, that of the features after it.

Draws are the independent units. Kinds were chosen, not drawn: see `_statistics.across`.
"""

import numpy as np
import pandas as pd

from ncbook.claims._registry import FAILS, HOLDS, OPEN, Verdict, claim
from ncbook.claims._statistics import above_zero, across, mean_interval, orders_better, shown, side, together, trend
from ncbook.claims._statistics import correlations as correlations  # for readers of the same table

SPLITS = ("source_train", "source_test", "novel")
NEEDED = {"kind", "against", "enforces", "strength", "repeat", "error"}
NEEDED |= {f"{metric}_{split}" for metric in ("cdnv", "directional") for split in SPLITS}
NONE, FEW = "no table of kinds", "fewer than four kinds"


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
    kinds = table.loc[table["enforces"].astype(bool), "kind"].unique()
    found = paired(table, column, log=log)
    found = found[[kind for kind in found if kind in kinds]]
    return found if len(found) >= 3 and len(found.columns) and np.isfinite(found).all(axis=None) else None


def _text(found: pd.DataFrame, log: bool) -> str:
    """Mean of every kind with its interval, as a factor if of logarithms."""
    words = "× {:.2f} ({:.2f} … {:.2f})".format if log else shown
    intervals = {kind: np.array(mean_interval(values)) for kind, values in found.items()}
    parts = [f"{kind} {words(*(np.exp(ends) if log else ends))}" for kind, ends in intervals.items()]
    return "; ".join(parts) + f"; n = {len(found)} draws"


def _each(table, column: str, log: bool):
    """Every kind that enforces collapse lowers the column, on average over draws."""
    if (found := _differences(table, column, log)) is None:
        return Verdict(OPEN, NONE)
    sides = [side(found[kind], -1, parts=len(found.columns)) for kind in found]
    return Verdict(together(sides), _text(found, log), n=len(found))


for _name, _column in {
    "enforcing_lowers_source_cdnv": "cdnv_source_train",
    "enforcing_lowers_new_class_cdnv": "cdnv_novel",
    "enforcing_lowers_new_class_directional": "directional_novel",
    "enforcing_always_helps_transfer": "error",
}.items():
    claim(_name, NEEDED, NONE, column=_column, log=_column != "error")(_each)


@claim("enforcing_can_help_transfer", NEEDED, NONE)
def _some(table):
    if (found := _differences(table, "error", False)) is None:
        return Verdict(OPEN, NONE)
    lowest = [mean_interval(found[kind], len(found.columns))[2] < 0 for kind in found]  # the best of many by luck
    raised = [mean_interval(found[kind])[1] > 0 for kind in found]
    verdict = HOLDS if any(lowest) else FAILS if all(raised) else OPEN
    best = found.mean().idxmin()
    at_once = shown(*mean_interval(found[best], len(found.columns)))
    text = f"{_text(found, False)}; {best}, by an interval for all {len(found.columns)} at once: {at_once}"
    return Verdict(verdict, text, n=len(found))


def _strengths(table, column: str, what: str):
    rows = table[table["strength"].notna()]
    if rows["strength"].nunique() < 3:
        return Verdict(OPEN, "fewer than three strengths of the penalty")
    return trend(rows["strength"], rows[column], -1, what, rows["repeat"])


for _name, _column, _what in (
    ("penalty_lowers_source_cdnv", "cdnv_source_train", "strength, source CDNV"),
    ("penalty_lowers_new_class_error", "error", "strength, error"),
):
    claim(_name, NEEDED, NONE, column=_column, what=_what)(_strengths)


for _name, _x, _y in (
    ("source_cdnv_carries_over", "cdnv_source_train", "cdnv_novel"),
    ("train_cdnv_foretells_transfer", "cdnv_source_train", "error"),
    ("held_out_cdnv_foretells_transfer", "cdnv_source_test", "error"),
    ("held_out_directional_foretells_transfer", "directional_source_test", "error"),
    ("error_follows_new_class_cdnv", "cdnv_novel", "error"),
    ("error_follows_new_class_directional", "directional_novel", "error"),
):
    claim(_name, NEEDED, FEW, of_four="kind", unit="kind", x=_x, y=_y, what=f"{_x} and {_y}")(across)


for _name, _first, _second, _what in (
    ("directional_orders_kinds_better", "directional_novel", "cdnv_novel", "directional less plain CDNV"),
    ("held_out_orders_kinds_better", "cdnv_source_test", "cdnv_source_train", "unseen less training samples"),
):
    claim(_name, NEEDED, FEW, of_four="kind", first=_first, second=_second, what=_what)(orders_better)


def regret(table: pd.DataFrame, column: str) -> pd.Series:
    """Of each draw: error of the kind with the smallest value in the column, less that of the best kind.

    Example:
        >>> rows = [("a", 0, 0.1, 0.3), ("b", 0, 0.2, 0.25)]
        >>> regret(pd.DataFrame(rows, columns=["kind", "repeat", "cdnv", "error"]), "cdnv").round(6).to_dict()
        {0: 0.05}
    """
    draws = table.groupby("repeat")
    return pd.Series({r: rows.loc[rows[column].idxmin(), "error"] - rows["error"].min() for r, rows in draws})


@claim("least_held_out_cdnv_beats_plain", NEEDED, FEW, of_four="kind")
def _selected(table):
    plain = table.loc[table["kind"] == table["against"], "kind"].iloc[0]
    errors = table[table["kind"] == plain].set_index("repeat")["error"]
    chosen = regret(table, "cdnv_source_test") + table.groupby("repeat")["error"].min()
    return above_zero(chosen - errors, -1, f"error of the kind with the least held-out CDNV less {plain},")


@claim("longer_training_hurts_new_classes", NEEDED, "no kind that is trained longer")
def _longer(table):
    found = paired(table, "error")
    if "longer" not in found:
        return Verdict(OPEN, "no kind that is trained longer")
    return above_zero(found["longer"], 1, "5-shot error, longer less plain,")


@claim("projector_keeps_harm_off_features", {*NEEDED, "projected_error"}, "no kind with a projector")
def _projected(table):
    rows = table.dropna(subset="projected_error").set_index("repeat")
    if not len(rows):
        return Verdict(OPEN, "no kind with a projector")
    return above_zero(rows["projected_error"] - rows["error"], 1, "5-shot error, after less before the projector,")
