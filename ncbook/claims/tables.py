"""Claims about the table: few-shot accuracies by method, data set and shot, as published or as measured here.

Over one row per cell: method, dataset, shot, accuracy; as published with backbone, half_width (95 %) and remark, as
measured here with ``network``, its number: one row per network, all methods on the same classes with the same seeds.
"""

import numpy as np
import pandas as pd

from ncbook import catalog
from ncbook.claims._registry import FAILS, HOLDS, OPEN, Verdict, claim
from ncbook.claims._statistics import beyond, mean_interval, side, wider

SIMPLE, SCHEDULED, SELECTED = "simple", "lr scheduling", "lr scheduling + model selection"
OURS = "Galanti et al., "  # before a recipe's name, in the published table
PLAIN = ["RFS-simple", "RFS-distill", "Transductive fine-tuning"]  # transfer too, by others
NOT_COMPARABLE = "mixed row|transductive|source and validation"  # remarks
NEAR = 0.03  # of the published accuracy: the recipe behind it is not known
COLUMNS = [(name, shot) for name in ("mini_imagenet", "cifar_fs", "fc100") for shot in (1, 5)]
CELL = ["method", "dataset", "shot"]
STANDING = ["dataset", "shot", "methods", "better", "alike", "worse", "best_rank", "worst_rank"]
EPISODIC = [name for name, (_, parameters) in catalog.OBJECTIVES.items() if "train_way" in parameters]
NO_CELLS = Verdict(OPEN, "no accuracies that this claim is about")


def _at(cells: pd.DataFrame) -> dict[tuple, pd.DataFrame]:
    """Rows of each cell: one as published, one per network as measured."""
    return dict(list(cells.groupby(CELL))) if set(cells) >= {*CELL, "accuracy"} else {}


def _gain(better: pd.DataFrame, worse: pd.DataFrame, parts: int = 1) -> tuple[float, float, int]:
    """Difference, half width (of ``parts`` at once) and n: of printed cells, or the mean of differences per network."""
    if "network" in better:
        gain = better.set_index("network")["accuracy"] - worse.set_index("network")["accuracy"]
        mean, _, high = mean_interval(gain, parts)
        return mean, high - mean, len(gain)
    half = wider(parts) * np.hypot(better["half_width"].item(), worse["half_width"].item())
    return better["accuracy"].item() - worse["accuracy"].item(), half, 0


def _all_positive(found: dict[tuple, tuple[float, float, int]]) -> Verdict:
    """Whether every gain (value, half width, networks) is above 0: by the one that is smallest in half widths.

    Printed gains without an interval are left out. n counts networks where there are any, else gains.
    """
    if missing := [cell for cell, (gain, _, _) in found.items() if np.isnan(gain)]:
        return Verdict(OPEN, f"a network without an accuracy: {missing[0]}")
    found = {cell: gain for cell, gain in found.items() if not np.isnan(gain[1])}
    if not found:
        return NO_CELLS
    gain, half, n = min(found.values(), key=lambda it: it[0] / max(it[1], 1e-12))
    parts = [f"{', '.join(cell[:2])} {cell[2]}-shot {g:+.4f} ± {h:.4f}" for cell, (g, h, _) in found.items()]
    text = f"{len(parts)} differences from {min(found.values())[0]:+.4f} to {max(found.values())[0]:+.4f}"
    text = (text if len(parts) > 6 else "; ".join(parts)) + (f", n = {n} networks" if n else "")
    return Verdict(beyond(gain - half, gain + half, 1), text, gain, gain - half, gain + half, n or len(parts))


def _compare(cells: pd.DataFrame, pairs) -> Verdict:
    """Whether in each pair of cells the first is above the second."""
    at = _at(cells)
    pairs = [(a, b) for a, b in pairs if a in at and b in at]
    return _all_positive({a: _gain(at[a], at[b], len(pairs)) for a, b in pairs})


@claim("more_shots_are_better_here")
@claim("more_shots_are_better")
def _more_shots(cells):
    rows = dict.fromkeys(cell[:2] for cell in _at(cells))
    return _compare(cells, [((*row, 5), (*row, 1)) for row in rows])


@claim("order_of_data_sets")
def _order(cells):
    easier = [("cifar_fs", "mini_imagenet"), ("mini_imagenet", "fc100")]
    recipes = [(OURS + name, shot) for name in (SIMPLE, SCHEDULED, SELECTED) for shot in (1, 5)]
    return _compare(cells, [((name, a, shot), (name, b, shot)) for name, shot in recipes for a, b in easier])


@claim("selection_helps")
def _selection(cells):
    return _compare(cells, [((OURS + SELECTED, *column), (OURS + SIMPLE, *column)) for column in COLUMNS[:-1]])


@claim("scheduling_alone_hurts_fc100")
def _scheduling(cells):
    columns = [("fc100", 1), ("fc100", 5), ("cifar_fs", 5)]
    return _compare(cells, [((OURS + SIMPLE, *column), (OURS + SCHEDULED, *column)) for column in columns])


@claim("selection_helps_here")
def _selection_here(cells):
    columns = dict.fromkeys(cell[1:] for cell in _at(cells))
    return _compare(cells, [((SELECTED, *column), (SIMPLE, *column)) for column in columns])


def standing(cells: pd.DataFrame, recipe: str = SELECTED) -> pd.DataFrame:
    """Where a row of the slides stands among comparable methods, in each column of the table.

    Comparable: printed with an interval, one network, inductive, trained on source classes alone. Two cells differ
    where their difference is beyond the square root of the sum of their squared half widths.

    Args:
        cells: the published table, or the rows of it to compare with and those of the slides.
        recipe: "simple", "lr scheduling" or "lr scheduling + model selection".

    Returns:
        dataset, shot, methods (others in the column), better, alike, worse (that many of them), and best_rank and
        worst_rank that the intervals allow. Columns without an interval of this row are left out.
    """
    ranked = cells[cells["half_width"].notna() & ~cells["remark"].str.contains(NOT_COMPARABLE)]
    rows = []
    for dataset, shot in COLUMNS:
        column = ranked[(ranked["dataset"] == dataset) & (ranked["shot"] == shot)]
        own = column[column["method"] == OURS + recipe]
        others = column[~column["method"].str.startswith(OURS)]
        if len(own) and len(others):
            gap = others["accuracy"] - own["accuracy"].item()
            half = np.hypot(others["half_width"], own["half_width"].item())
            n, better, worse = len(others), int((gap > half).sum()), int((gap < -half).sum())
            rows.append((dataset, shot, n, better, n - better - worse, worse, 1 + better, 1 + n - worse))
    return pd.DataFrame(rows, columns=STANDING)


def _upper_half(cells: pd.DataFrame, backbones: str = "") -> Verdict:
    """Whether the slides' last row has at least half of the methods made for few shots below it, in every column."""
    found = standing(cells[~cells["method"].isin(PLAIN) & cells["backbone"].str.match(backbones)])
    return NO_CELLS if found.empty else _in_upper_half(found)


def _in_upper_half(found: pd.DataFrame) -> Verdict:
    """Whether the row that `standing` speaks of has at least half of the methods below it, in every column."""
    low, high = found["worse"] / found["methods"], 1 - found["better"] / found["methods"]
    verdict = FAILS if high.min() < 0.5 else HOLDS if low.min() >= 0.5 else OPEN
    at = high.idxmin() if verdict == FAILS else low.idxmin()  # the column that decides
    ranks = (
        f"{r.dataset} {r.shot}-shot {r.best_rank} to {r.worst_rank} of {r.methods + 1}" for r in found.itertuples()
    )
    below = (low[at] + high[at]) / 2  # those not told apart count half
    return Verdict(verdict, "rank " + "; ".join(ranks), below, low[at], high[at], int(found["methods"].sum()))


_RANKED = {*CELL, "accuracy", "half_width", "backbone", "remark"}
claim("transfer_is_competitive", _RANKED, NO_CELLS.numbers)(_upper_half)
claim("transfer_is_competitive_among_residual", _RANKED, NO_CELLS.numbers, backbones="ResNet|WRN")(_upper_half)


@claim("near_published", {*CELL, "accuracy", "half_width", "backbone", "network"}, NO_CELLS.numbers)
def _near_published(cells):
    """Over published rows (network is missing) and rows measured here together."""
    printed, margins = cells[cells["network"].isna()].set_index(CELL), {}
    for (method, *column), rows in _at(cells[cells["backbone"] == "wrn_28_4"]).items():
        if (key := (OURS + method, *column)) in printed.index:
            mean, _, high = mean_interval(rows["accuracy"])
            accuracy, half = printed.loc[key, ["accuracy", "half_width"]]
            margins[method, *column] = NEAR - abs(mean - accuracy), np.hypot(high - mean, half), len(rows)
    return _all_positive(margins)


def standing_here(cells: pd.DataFrame) -> pd.DataFrame:
    """Where plain training stands among the methods made for few shots that were measured beside it, in each column.

    Plain training is the slides' last row where it was measured, else "cross_entropy" with the ridge head. Two methods
    differ where the mean of their differences, network by network, is beyond its interval; to be better than plain
    training, beyond one that holds for all methods at once.

    Args:
        cells: method, dataset, shot, network and accuracy; methods made for few shots are those that train on episodes.

    Returns:
        The columns of `standing`, and networks, the fewest. Columns without plain training are left out.
    """
    at, rows = _at(cells), []
    for dataset, shot in dict.fromkeys(cell[1:] for cell in at):
        column = {
            cell[0]: found.set_index("network")["accuracy"] for cell, found in at.items() if cell[1:] == (dataset, shot)
        }
        plain = column.get(SELECTED, column.get("cross_entropy"))
        leads = [plain - column[name] for name in EPISODIC if plain is not None and name in column]
        sides = [side(lead, 1, len(leads)) if len(lead) >= 3 else OPEN for lead in leads]
        n, worse, better = len(leads), sides.count(HOLDS), sides.count(FAILS)
        if n:
            networks = min(map(len, leads))
            rows.append((dataset, shot, n, better, n - better - worse, worse, 1 + better, 1 + n - worse, networks))
    return pd.DataFrame(rows, columns=[*STANDING, "networks"])


@claim("plain_training_is_competitive_here", {*CELL, "accuracy", "network"}, NO_CELLS.numbers)
def _competitive_here(cells):
    found = standing_here(cells)
    if found.empty or found["methods"].min() < 2:
        return Verdict(OPEN, "no plain training, or fewer than two methods made for few shots")
    return _in_upper_half(found)._replace(n=int(found["networks"].min()))
