"""Claims across objectives: classifiers against networks trained on episodes, at equal data, network and images.

Over a table with one row per network: objective, ``episodic`` (whether it trains on episodes), repeat (the draw of
classes and seeds, which all objectives share), cdnv, directional and b3 of its new classes, and error (5-shot, nearest
class mean).
"""

import numpy as np

from ncbook.claims._registry import OPEN, Verdict, claim
from ncbook.claims._statistics import above_zero, across, orders_better, trend_over_draws

PREDICTORS = {"cdnv": "CDNV", "directional": "directional CDNV", "b3": "the bound B3"}
NEEDED = {"objective", "episodic", "repeat", "cdnv", "directional", "b3", "error"}
NONE, FEW = "fewer than two objectives of either family", "fewer than four objectives"


@claim("classifiers_collapse_more", NEEDED, NONE)
def _classifiers(table):
    if table["episodic"].nunique() < 2:
        return Verdict(OPEN, NONE)
    families = np.log(table["cdnv"]).groupby([table["repeat"], table["episodic"]])
    logs = families.agg(lambda values: values.mean(skipna=False)).unstack()
    return above_zero(logs[False] - logs[True], -1, "log CDNV, classifiers less episodes,")


for _name, _what in PREDICTORS.items():
    _options = dict(unit="objective", x=_name, y="error", what=f"{_what} and error")
    claim(f"{_name}_predicts_across_objectives", NEEDED, FEW, of_four="objective", **_options)(across)


@claim("cdnv_predicts_within_objectives", NEEDED, NONE)
def _within(table):
    x, y = (table.pivot(index="objective", columns="repeat", values=name) for name in ("cdnv", "error"))
    return trend_over_draws(x, y, "CDNV, error, within objectives")


_BETTER = dict(first="directional", second="cdnv", what="directional less plain CDNV")
claim("directional_predicts_better_across_objectives", NEEDED, FEW, of_four="objective", **_BETTER)(orders_better)
