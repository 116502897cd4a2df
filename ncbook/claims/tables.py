"""Claims about the table: few-shot accuracies by method, data set and shot, as published or as measured here.

Over one row per cell: method, dataset, shot, accuracy, half_width (95 %).
"""

import pandas as pd

from ncbook.claims._registry import OPEN, Verdict, claim, judged

SIMPLE, SCHEDULED, SELECTED = "simple", "lr scheduling", "lr scheduling + model selection"
NEAR = 0.03  # of the published accuracy: the recipe behind it is not known

CELL = {"method", "dataset", "shot", "accuracy"}


def _wide(cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by (method, dataset) and shot."""
    return cells.pivot_table(index=["method", "dataset"], columns="shot", values="accuracy", sort=False)


def _recipe(cells: pd.DataFrame, name: str) -> pd.DataFrame:
    """Accuracy by dataset and shot of one recipe, published or measured here."""
    rows = cells[cells["method"].str.removeprefix("Galanti et al., ") == name]
    return rows.pivot_table(index="dataset", columns="shot", values="accuracy", sort=False)


@claim("more_shots_are_better", "Five shots are better than one, everywhere", "the table")
def _more_shots(cells):
    if not set(cells) >= CELL:
        return Verdict(OPEN, "no accuracies by method, data set and shot")
    wide = _wide(cells)
    if not {1, 5} <= set(wide.columns):
        return Verdict(OPEN, "1 and 5 shots are needed")
    both = wide.dropna(subset=[1, 5])
    gain = both[5] - both[1]
    return judged(bool((gain > 0).all()), f"{len(gain)} rows; gain {gain.min():.3f} … {gain.max():.3f}")


@claim(
    "order_of_data_sets", "CIFAR-FS is easiest and FC-100 hardest, Mini-ImageNet between, for each recipe", "the table"
)
def _order(cells):
    if not set(cells) >= CELL:
        return Verdict(OPEN, "no accuracies by method, data set and shot")
    parts, holds = [], True
    for name in (SIMPLE, SCHEDULED, SELECTED):
        wide = _recipe(cells, name)
        if not {"cifar_fs", "mini_imagenet", "fc100"} <= set(wide.index):
            return Verdict(OPEN, "the three data sets are not at hand")
        ordered = wide.loc[["cifar_fs", "mini_imagenet", "fc100"]]
        holds &= bool((ordered.diff().dropna() < 0).all(axis=None))
        parts.append(f"{name}: {' > '.join(f'{value:.3f}' for value in ordered[5])} (5-shot)")
    return judged(holds, "; ".join(parts))


def _compare(cells: pd.DataFrame, better: str, worse: str, where: dict[str, tuple[int, ...]]) -> Verdict:
    """Whether one recipe is at least as good as another in these columns."""
    if not set(cells) >= CELL:
        return Verdict(OPEN, "no accuracies by method, data set and shot")
    a, b = _recipe(cells, better), _recipe(cells, worse)
    columns = [(name, shot) for name, shots in where.items() for shot in shots if name in a.index and name in b.index]
    if not columns:
        return Verdict(OPEN, "the data sets of this claim are not at hand")
    gains = {column: a.loc[column] - b.loc[column] for column in columns}
    text = ", ".join(f"{name} {shot}-shot {gain:+.4f}" for (name, shot), gain in gains.items())
    return judged(min(gains.values()) >= 0, text)


@claim(
    "selection_helps",
    "lr scheduling + model selection is at least as good as simple, but on FC-100 with 5 shots",
    "the table",
)
def _selection(cells):
    return _compare(cells, SELECTED, SIMPLE, {"mini_imagenet": (1, 5), "cifar_fs": (1, 5), "fc100": (1,)})


@claim(
    "scheduling_alone_hurts_fc100",
    "lr scheduling alone is worse than simple on FC-100 and, with 5 shots, CIFAR-FS",
    "the table",
)
def _scheduling(cells):
    return _compare(cells, SIMPLE, SCHEDULED, {"fc100": (1, 5), "cifar_fs": (5,)})


@claim(
    "selection_helps_here",
    "lr scheduling + model selection is at least as good as simple, on every data set measured here",
    "the table, on other data",
)
def _selection_here(cells):
    """Judged by intervals: several seeds of each recipe."""
    if not set(cells) >= {*CELL, "half_width"}:
        return Verdict(OPEN, "no intervals")
    wide = {name: cells[cells["method"] == name].set_index(["dataset", "shot"]) for name in (SIMPLE, SELECTED)}
    parts, gains = [], []
    for column in wide[SIMPLE].index.intersection(wide[SELECTED].index):
        a, b = wide[SELECTED].loc[column], wide[SIMPLE].loc[column]
        gain, half = a["accuracy"] - b["accuracy"], (a["half_width"] ** 2 + b["half_width"] ** 2) ** 0.5
        gains.append((gain, half))
        parts.append(f"{column[0]} {column[1]}-shot {gain:+.4f} ± {half:.4f}")
    if not parts:
        return Verdict(OPEN, "both recipes are needed")
    worse = any(gain < -half for gain, half in gains)
    better = all(gain >= 0 for gain, _ in gains) and any(gain > half for gain, half in gains)
    if not worse and not better:
        return Verdict(OPEN, "no difference beyond the intervals: " + ", ".join(parts))
    return judged(better, ", ".join(parts))


@claim(
    "near_published",
    f"Each recipe with WRN-28-4 comes within {100 * NEAR:.0f} points of the published accuracy",
    "the table",
)
def _near_published(cells):
    """Over published rows and rows measured here (mark "measured here") together."""
    if not set(cells) >= {*CELL, "backbone", "mark"}:
        return Verdict(OPEN, "no accuracies by method, data set and shot")
    here = cells[(cells["mark"] == "measured here") & (cells["backbone"] == "wrn_28_4")]
    column = ["method", "dataset", "shot"]
    printed = cells.assign(method=cells["method"].str.removeprefix("Galanti et al., "))
    both = here.merge(printed[printed["mark"] != "measured here"], on=column, suffixes=("", "_printed"))
    if both.empty:
        return Verdict(OPEN, "no recipe was measured with WRN-28-4 on a data set of the table")
    both["gap"] = both["accuracy"] - both["accuracy_printed"]
    text = ", ".join(f"{row.method}, {row.dataset} {row.shot}-shot {row.gap:+.4f}" for row in both.itertuples())
    return judged(bool(both["gap"].abs().max() <= NEAR), text)
