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

from ncbook.claims._registry import OPEN, Verdict, claim, mean_interval, side, together

QUESTION = "asked by neither work"
SOURCE = "slides, open questions; Yang, Steinhardt and Hu 2023"
KIND = ["augmentation", "grouping", "size"]
NEEDED = {*KIND, "merged", "repeat", "epoch", "fine", "error_inside", "error_new"}
FEWEST_DRAWS = 3
NONE = Verdict(OPEN, "no table of superclasses")


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


def each(found: pd.DataFrame, sign: int, what: str) -> Verdict:
    """Whether every column of draws is on average above 0 (sign 1) or below 0 (sign -1)."""
    if len(found) < FEWEST_DRAWS or not len(found.columns) or not np.isfinite(found).all(axis=None):
        return Verdict(OPEN, f"{what}: {len(found)} draws of {len(found.columns)} kinds, all finite, are too few")
    sides, parts = [side(found[kind], sign, parts=len(found.columns)) for kind in found], []
    for kind, values in found.items():
        mean, low, high = mean_interval(values)
        parts.append(f"{', '.join(map(str, kind))}: {mean:+.3f} ({low:+.3f} … {high:+.3f})")
    return Verdict(together(sides), f"{what}: {'; '.join(parts)}; n = {len(found)} draws", n=len(found))


def _claim(name: str, statement: str, sign: int, what: str, differences, source: str = QUESTION):
    """Register a claim that is made of every kind: ``differences`` of the table are above 0, or below it."""
    opposite = "below 0" if sign > 0 else "above 0"

    def check(table):
        return each(differences(table), sign, what) if set(table) >= NEEDED and len(table) else NONE

    fails_if = f"{what} is on average {opposite} for one of them, beyond an interval that holds for all at once"
    claim(name, statement, source, fails_if=fails_if)(check)


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


_claim("merging_raises_the_error_inside",
       "Merged into superclasses, characters of one superclass are told apart less well from five unseen samples each "
       "than by a network trained on the characters, for every size, grouping and augmentation",
       1, "two-class error inside superclasses, merged less plain", _to_plain("error_inside"), SOURCE)  # fmt: skip
_claim("merging_raises_the_error_on_new_classes",
       "A network trained on superclasses tells new characters apart less well than one trained on the characters, for "
       "every size, grouping and augmentation",
       1, "two-class error on new characters, merged less plain", _to_plain("error_new"), SOURCE)  # fmt: skip
_claim("inside_is_worse_than_new",
       "A network trained on superclasses tells characters of one superclass apart less well than characters it has "
       "never seen, for every size, grouping and augmentation",
       1, "two-class error inside superclasses less that on new characters",
       lambda table: at(table, "error_inside") - at(table, "error_new"))  # fmt: skip
for _augmented, _with, _name in ((True, "with", "augmented"), (False, "without", "not_augmented")):
    _claim(f"fine_structure_is_left_{_name}",
           f"Trained on superclasses {_with} augmentation, more of the variance inside them lies between their "
           "characters than in the untrained network, for every size and grouping",
           1, "fraction between characters, trained less untrained", _over_training(0, _augmented), SOURCE)  # fmt: skip
    _claim(f"fine_structure_falls_late_{_name}",
           f"Trained on superclasses {_with} augmentation, the fraction of the variance inside them that lies between "
           "their characters falls in the second half of the training, for every size and grouping",
           -1, "fraction between characters, at the end less at half time", _over_training(0.5, _augmented)
           )  # fmt: skip
_claim("groups_alike_lose_more",
       "Superclasses of characters that are alike lose more of the variance between their characters than random ones "
       "of the same size, for every size and augmentation",
       -1, "fraction between characters, merged less plain, alike less random", _alike_to_random)  # fmt: skip
