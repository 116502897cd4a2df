"""Claims across objectives: classifiers against networks trained on episodes, at equal data, network and images.

Over a table with one row per network: objective, ``episodic`` (whether it trains on episodes), repeat (the draw of
classes and seeds, which all objectives share), cdnv, directional and b3 of its new classes, error (5-shot, nearest
class mean), and own_accuracy_1 and own_accuracy_5, of the classifier that each objective trains.
"""

import numpy as np
import pandas as pd

from ncbook.claims._registry import (
    FAILS,
    HOLDS,
    OPEN,
    Verdict,
    above_zero,
    claim,
    mean_interval,
    side,
    spearman,
    together,
    trend,
)

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


@claim("plain_training_is_competitive_here",
       "Plain training with a ridge classifier is in the upper half of methods made for few shots, with 1 and 5 shots",
       "the slides' motivation: transfer is competitive",
       fails_if="a number of shots with which more than half of them are better, by paired intervals")  # fmt: skip
def _competitive(table):
    own = ["own_accuracy_1", "own_accuracy_5"]
    if not set(table) >= {"objective", "episodic", "repeat", *own}:
        return NONE
    parts, found, methods = [], [], sorted(table.loc[table["episodic"], "objective"].unique())
    plain = table[table["objective"] == "cross_entropy"].set_index("repeat")
    if plain.empty or len(methods) < 2:
        return Verdict(OPEN, "no plain training, or fewer than two methods made for few shots")
    for column in own:
        leads = {
            name: plain[column] - table[table["objective"] == name].set_index("repeat")[column] for name in methods
        }
        sides = [side(lead, 1, len(methods)) for lead in leads.values()]
        worse, better = sides.count(HOLDS), sides.count(FAILS)
        parts.append(HOLDS if worse >= len(methods) / 2 else FAILS if better > len(methods) / 2 else OPEN)
        means = ", ".join(f"{name} {mean_interval(lead)[0]:+.3f}" for name, lead in leads.items())
        found.append(f"{column[-1]}-shot: {better} better, {worse} worse of {len(methods)} ({means})")
    draws = table["repeat"].nunique()
    if draws < 3:
        return Verdict(OPEN, f"{draws} draw(s) of classes and seeds; 3 are needed", n=draws)
    return Verdict(together(parts), f"plain less method; {'; '.join(found)}; n = {draws} draws", n=draws)
