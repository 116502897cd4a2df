"""Claims on networks trained on superclasses: what is left of the classes ("characters") that were merged?

Over a table with one row per network, grouping and measured epoch: augmentation ("none" or its name), grouping
("random", or how characters that are alike were put together), size (characters per superclass), merged (whether the
network was trained on these superclasses; else on their characters: the plain network, looked at by the same groups),
repeat (the draw of characters and seeds, which all networks of a row share), epoch, fine (fraction of the variance
inside superclasses, of unseen samples, that lies between their characters), error_inside (two-class 5-shot error on
pairs of characters of one superclass, unseen samples) and error_new (the same on pairs of new characters).

Draws are the independent units. Sizes, groupings and augmentations were chosen: a claim is made of each of them, holds
if all do, and fails as soon as one is on the other side by an interval that holds for all at once.
"""

import numpy as np
import pandas as pd

from ncbook.claims._registry import OPEN, Verdict, claim
from ncbook.claims._statistics import mean_interval, shown, side, together

KIND = ["augmentation", "grouping", "size"]
NEEDED = {*KIND, "merged", "repeat", "epoch", "fine", "error_inside", "error_new"}
FEWEST_DRAWS = 3
_NONE = "no table of superclasses"
_TRAINED = "fraction between characters, trained less untrained"
_LATE = "fraction between characters, at the end less at half time"


def at(table: pd.DataFrame, column: str, *, merged: bool = True, moment: float = 1.0) -> pd.DataFrame:
    """One column at a moment of training, a row per draw and a column per kind (augmentation, grouping, size).

    Args:
        table: one row per network, grouping and measured epoch.
        column: which.
        merged: of the networks trained on the superclasses, or of the plain ones.
        moment: part of the training that is over: the measured epoch nearest to it.

    Example:
        >>> rows = [("none", "random", 2, True, 0, epoch, 0.1 * epoch) for epoch in (0, 1, 2)]
        >>> table = pd.DataFrame(rows, columns=[*KIND, "merged", "repeat", "epoch", "fine"])
        >>> float(at(table, "fine", moment=0.5).iloc[0, 0])
        0.1
    """
    epochs = np.sort(table["epoch"].unique())
    epoch = epochs[np.abs(epochs - moment * epochs[-1]).argmin()]
    rows = table[(table["merged"].astype(bool) == merged) & (table["epoch"] == epoch)]
    return rows.pivot(index="repeat", columns=KIND, values=column)


def _of_every_kind(table: pd.DataFrame, sign: int, what: str, differences) -> Verdict:
    """Whether ``differences`` of the table, a column per kind, are on average above 0 (sign 1) or below (sign -1)."""
    if not len(table):
        return Verdict(OPEN, _NONE)
    found = differences(table)
    if len(found) < FEWEST_DRAWS or not len(found.columns) or not np.isfinite(found).all(axis=None):
        return Verdict(OPEN, f"{what}: {len(found)} draws of {len(found.columns)} kinds, all finite, are too few")
    sides = [side(found[kind], sign, parts=len(found.columns)) for kind in found]
    parts = "; ".join(f"{', '.join(map(str, kind))}: {shown(*mean_interval(found[kind]))}" for kind in found)
    return Verdict(together(sides), f"{what}: {parts}; n = {len(found)} draws", n=len(found))


def _to_plain(column: str):
    return lambda table: at(table, column) - at(table, column, merged=False)


def _over_training(since: float, augmented: bool):
    """Fine structure at the end less that at an earlier moment, with or without augmentation."""

    def differences(table):
        rows = table[(table["augmentation"] != "none") == augmented]
        return at(rows, "fine") - at(rows, "fine", moment=since) if len(rows) else pd.DataFrame()

    return differences


def _alike_to_random(table: pd.DataFrame) -> pd.DataFrame:
    """Loss of fine structure to the plain network, of groups that are alike less that of random ones."""
    lost = _to_plain("fine")(table)
    pairs = {kind: (kind[0], "random", kind[2]) for kind in lost if kind[1] != "random"}
    return pd.DataFrame({kind: lost[kind] - lost[other] for kind, other in pairs.items() if other in lost})


for _name, _sign, _what, _differences in (
    ("merging_raises_the_error_inside", 1, "two-class error inside superclasses, merged less plain",
     _to_plain("error_inside")),
    ("merging_raises_the_error_on_new_classes", 1, "two-class error on new characters, merged less plain",
     _to_plain("error_new")),
    ("inside_is_worse_than_new", 1, "two-class error inside superclasses less that on new characters",
     lambda table: at(table, "error_inside") - at(table, "error_new")),
    ("fine_structure_is_left_augmented", 1, _TRAINED, _over_training(0, True)),
    ("fine_structure_falls_late_augmented", -1, _LATE, _over_training(0.5, True)),
    ("fine_structure_is_left_not_augmented", 1, _TRAINED, _over_training(0, False)),
    ("fine_structure_falls_late_not_augmented", -1, _LATE, _over_training(0.5, False)),
    ("groups_alike_lose_more", -1, "fraction between characters, merged less plain, alike less random",
     _alike_to_random),
):  # fmt: skip
    claim(_name, NEEDED, _NONE, sign=_sign, what=_what, differences=_differences)(_of_every_kind)
