"""Claims about networks trained by episodes (prototypical networks), and the controls that they need.

Over histories of such runs: epoch, split (source_train, validation), metric, value, and the columns ``backbone`` and
``way``, the classes of an episode. Metrics, each averaged over the episodes of an epoch: support_nc1, query_nc1,
support_nc2, query_nc2, error, and nc1_floor, what NC1 is without any signal. No notebook measures them yet.
"""

import numpy as np
import pandas as pd

from ncbook.claims._registry import FEWEST, OPEN, Verdict, claim, judged

SMALL, LARGE = "conv4", "resnet18"
ALIKE = 0.1  # relative difference up to which two numbers count as alike
NONE = Verdict(OPEN, "no finite history of networks trained by episodes")


def _curves(table: pd.DataFrame, split: str, metric: str) -> dict[str, pd.Series]:
    """For each backbone the values over epochs, where they were measured and are finite."""
    if not {"backbone", "way"} <= set(table):
        return {}
    rows = table[(table["split"] == split) & (table["metric"] == metric)].sort_values("epoch")
    found = {name: run.set_index("epoch")["value"] for name, run in rows.groupby("backbone")}
    return {name: run for name, run in found.items() if len(run) >= FEWEST and np.isfinite(run).all()}


def _late(run: pd.Series) -> pd.Series:
    """The second half of the epochs."""
    return run.iloc[len(run) // 2 :]


def _noise(run: pd.Series) -> float:
    """Change from epoch to epoch in the second half, root mean square, relative to the mean: no unit."""
    late = _late(run)
    return float(np.sqrt(late.diff().pow(2).mean()) / late.mean())


def _ways(table: pd.DataFrame) -> dict[str, set[int]]:
    """Classes of an episode on each split."""
    return {split: set(rows["way"]) for split, rows in table.groupby("split")}


def _both(table: pd.DataFrame, metric: str) -> tuple[pd.Series, pd.Series] | None:
    """Small and large network on source_train."""
    found = _curves(table, "source_train", metric)
    return (found[SMALL], found[LARGE]) if {SMALL, LARGE} <= set(found) else None


@claim(
    "episodes_nc_plateaus",
    "NC1 and NC2 of episodes fall and then stay, above zero: no complete collapse",
    "report, figures 2 and 4",
)
def _plateaus(table):
    parts, holds = [], True
    for metric in ("support_nc1", "query_nc1", "support_nc2", "query_nc2"):
        for name, run in _curves(table, "source_train", metric).items():
            first, middle, last = run.iloc[0], _late(run).iloc[0], run.iloc[-1]
            # stays: the second half brings a tenth of the whole fall at most; above zero: 1 % of the start
            holds &= bool(last < first and abs(last - middle) <= ALIKE * (first - last) and last > 0.01 * first)
            parts.append(f"{name} {metric}: {first:.3g} → {middle:.3g} → {last:.3g}")
    return judged(holds, "start → half → end: " + "; ".join(parts)) if parts else NONE


@claim("episodes_support_like_query", "Support and query sets collapse alike", "report, section 4.1")
def _support_like_query(table):
    parts, largest = [], 0.0
    for metric in ("nc1", "nc2"):
        query = _curves(table, "source_train", f"query_{metric}")
        for name, support in _curves(table, "source_train", f"support_{metric}").items():
            if name in query:
                gap = float((_late(support) / _late(query[name]) - 1).abs().mean())
                largest = max(largest, gap)
                parts.append(f"{name} {metric} {gap:.3f}")
    numbers = "mean |support / query - 1| in the second half: " + ", ".join(parts)
    return judged(largest <= ALIKE, f"{numbers} (claimed ≤ {ALIKE})") if parts else NONE


@claim("episodes_larger_collapses_more", "The larger network has the smaller NC1", "report, section 4.2")
def _larger(table):
    parts, holds = [], True
    for metric in ("support_nc1", "query_nc1"):
        if pair := _both(table, metric):
            small, large = (float(_late(run).mean()) for run in pair)
            holds &= large < small
            parts.append(f"{metric}: {SMALL} {small:.3g}, {LARGE} {large:.3g}")
    return judged(holds, "mean of the second half: " + "; ".join(parts)) if parts else NONE


@claim(
    "episodes_larger_collapses_more_above_noise",
    "Its NC1 is also smaller in multiples of the NC1 of pure noise, which depends on the dimension (control)",
    "THEORY.md, part 5",
)
def _larger_above_noise(table):
    pair, floors = _both(table, "support_nc1"), _both(table, "nc1_floor")
    if not pair or not floors:
        return NONE if not pair else Verdict(OPEN, "the noise floor was not measured")
    small, large = (float(_late(run / floor).mean()) for run, floor in zip(pair, floors, strict=True))
    return judged(large < small, f"support NC1 / noise floor: {SMALL} {small:.3g}, {LARGE} {large:.3g}")


@claim("episodes_smaller_is_noisier", "NC1 of the smaller network is noisier from epoch to epoch", "report, figure 4")
def _smaller_noisier(table):
    if not (pair := _both(table, "support_nc1")):
        return NONE
    small, large = map(_noise, pair)
    return judged(small > large, f"relative change from epoch to epoch: {SMALL} {small:.3g}, {LARGE} {large:.3g}")


@claim(
    "episodes_validation_noisier_and_smaller",
    "On validation classes NC1 is noisier and smaller than on training classes",
    "report, figures 5 and 6",
)
def _validation(table):
    parts, holds = [], True
    train, validation = (_curves(table, split, "support_nc1") for split in ("source_train", "validation"))
    for name in train.keys() & validation.keys():
        noise = _noise(train[name]), _noise(validation[name])
        level = float(_late(train[name]).mean()), float(_late(validation[name]).mean())
        holds &= noise[1] > noise[0] and level[1] < level[0]
        parts.append(f"{name}: noise {noise[0]:.3g}, {noise[1]:.3g}; NC1 {level[0]:.3g}, {level[1]:.3g}")
    return judged(holds, "training, validation: " + "; ".join(sorted(parts)) + _unequal(table)) if parts else NONE


def _errors_below(table: pd.DataFrame) -> Verdict:
    parts, holds = [], True
    train, validation = (_curves(table, split, "error") for split in ("source_train", "validation"))
    for name in train.keys() & validation.keys():
        here, there = float(_late(train[name]).mean()), float(_late(validation[name]).mean())
        holds &= there < here
        parts.append(f"{name} {here:.4f}, {there:.4f}")
    return judged(holds, "training, validation error: " + "; ".join(sorted(parts))) if parts else NONE


def _unequal(table: pd.DataFrame) -> str:
    """A remark where training and validation episodes have different numbers of classes."""
    ways = _ways(table)
    if ways["source_train"] == ways["validation"]:
        return ""
    return f"; {min(ways['source_train'])}- against {min(ways['validation'])}-way, which alone makes a difference"


@claim(
    "episodes_validation_error_smaller",
    "The validation error of the smaller network stays below its training error",
    "report, figure 1 (read there as underfitting)",
)
def _validation_error(table):
    if {"backbone", "way"} <= set(table):
        table = table[table["backbone"] == SMALL]
    verdict = _errors_below(table)
    return verdict if verdict is NONE else Verdict(verdict.verdict, verdict.numbers + _unequal(table))


@claim(
    "episodes_validation_error_smaller_at_equal_way",
    "It also stays below with as many classes an episode on both sides (control)",
    "THEORY.md, part 5",
)
def _validation_error_equal(table):
    if {"backbone", "way"} <= set(table):
        table = table[table["backbone"] == SMALL]
        ways = _ways(table)
        if ways.get("source_train") != ways.get("validation"):
            return Verdict(OPEN, f"training and validation episodes have different numbers of classes: {ways}")
    return _errors_below(table)
