"""Claims across objectives: classifiers against networks trained on episodes, at equal data, network and images.

Over a table with one row per network: objective, ``episodic`` (whether it trains on episodes), repeat (the draw of
classes and seeds, which all objectives share), cdnv, directional and b3 of its new classes, and error (5-shot, nearest
class mean).
"""

import numpy as np
import pandas as pd

from ncbook.claims._registry import OPEN, Verdict, above_zero, claim, spearman, trend

QUESTION = "asked by neither work"
PREDICTORS = {"cdnv": "CDNV", "directional": "directional CDNV", "b3": "the bound B3"}
NEEDED = {"objective", "episodic", "repeat", "cdnv", "directional", "b3", "error"}
NONE = Verdict(OPEN, "fewer than two objectives of either family")


def _both_families(table: pd.DataFrame) -> bool:
    if not set(table) >= NEEDED:
        return False
    return table.groupby("episodic")["objective"].nunique().reindex([False, True], fill_value=0).min() >= 1


@claim("classifiers_collapse_more",
       "Classifiers have a smaller CDNV on new classes than networks trained on episodes", QUESTION,
       fails_if="per draw, the mean log ratio of their CDNV is above 0, beyond its interval")  # fmt: skip
def _classifiers(table):
    if not _both_families(table):
        return NONE
    families = np.log(table["cdnv"]).groupby([table["repeat"], table["episodic"]])
    logs = families.agg(lambda values: values.mean(skipna=False)).unstack()
    return above_zero(logs[False] - logs[True], -1, "log CDNV, classifiers less episodes,")


def _across(name: str):
    def check(table):
        if not set(table) >= NEEDED or table["objective"].nunique() < 4:
            return Verdict(OPEN, "fewer than four objectives")
        return trend(table[name], table["error"], 1, f"{PREDICTORS[name]}, error", table["repeat"])

    return check


for _name, _words in PREDICTORS.items():
    claim(f"{_name}_predicts_across_objectives",
          f"Across objectives, on the same new classes, the 5-shot error rises with {_words}", QUESTION,
          fails_if="a rank correlation within draws that permutations show to be negative")(_across(_name))  # fmt: skip


@claim("cdnv_predicts_within_objectives",
       "Among networks of one objective, on different new classes, the 5-shot error rises with the CDNV", QUESTION,
       fails_if="a rank correlation within objectives that permutations show to be negative")  # fmt: skip
def _within(table):
    if not set(table) >= NEEDED:
        return NONE
    return trend(table["cdnv"], table["error"], 1, "CDNV, error, within objectives", table["objective"])


@claim("directional_predicts_better_across_objectives",
       "Across objectives directional CDNV orders 5-shot errors better than CDNV", QUESTION,
       fails_if="a mean difference of the rank correlations, over draws, below 0 beyond its interval")  # fmt: skip
def _directional(table):
    if not set(table) >= NEEDED or table["objective"].nunique() < 4:
        return Verdict(OPEN, "fewer than four objectives")
    gains = [
        spearman(rows["directional"], rows["error"]) - spearman(rows["cdnv"], rows["error"])
        for _, rows in table.groupby("repeat")
    ]
    return above_zero(gains, 1, "rank correlation with the error, directional less plain CDNV,")
