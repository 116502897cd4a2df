"""Claims about networks trained by episodes (prototypical networks), and the controls that they need.

Over histories of such runs: epoch, split (source_train, validation), metric, value, and the columns ``backbone`` and
``way``, the classes of an episode. Metrics, each averaged over the episodes of an epoch: support_nc1, query_nc1,
support_nc2, query_nc2, error, and nc1_floor, what NC1 is without any signal. No notebook measures them yet. They judge
one run per backbone, by a difference without an interval: whoever measures them brings several runs first.
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


def _below(pairs: dict[str, tuple[float, float]], numbers: str, remark: str = "") -> Verdict:
    """Whether in each pair the first number is smaller."""
    text = "; ".join(f"{name} {a:.3g}, {b:.3g}" for name, (a, b) in pairs.items())
    return judged(all(a < b for a, b in pairs.values()), f"{numbers}: {text}{remark}") if pairs else NONE


def _large_small(table: pd.DataFrame, metric: str) -> list[pd.Series]:
    """Large and small network on source_train; empty where one is missing."""
    found = _curves(table, "source_train", metric)
    return [found[LARGE], found[SMALL]] if {SMALL, LARGE} <= set(found) else []


@claim("episodes_nc_plateaus", "NC1 and NC2 of episodes fall and then stay, above zero: no complete collapse",
       "report, figures 2 and 4",
       fails_if="one rises, ends below 1 % of its start, or makes a tenth of its fall in the second half")  # fmt: skip
def _plateaus(table):
    parts, holds = [], True
    for metric in ("support_nc1", "query_nc1", "support_nc2", "query_nc2"):
        for name, run in _curves(table, "source_train", metric).items():
            first, middle, last = run.iloc[0], _late(run).iloc[0], run.iloc[-1]
            holds &= bool(last < first and abs(last - middle) <= ALIKE * (first - last) and last > 0.01 * first)
            parts.append(f"{name} {metric}: {first:.3g} → {middle:.3g} → {last:.3g}")
    return judged(holds, "start → half → end: " + "; ".join(parts)) if parts else NONE


@claim("episodes_support_like_query", "Support and query sets collapse alike", "report, section 4.1",
       fails_if=f"they differ by more than {ALIKE:.0%} on average over the second half")  # fmt: skip
def _support_like_query(table):
    gaps = {}
    for metric in ("nc1", "nc2"):
        query = _curves(table, "source_train", f"query_{metric}")
        for name, support in _curves(table, "source_train", f"support_{metric}").items():
            if name in query:
                gaps[f"{name} {metric}"] = float((_late(support) / _late(query[name]) - 1).abs().mean())
    numbers = ", ".join(f"{name} {gap:.3f}" for name, gap in gaps.items())
    text = f"mean |support / query - 1| in the second half: {numbers} (claimed ≤ {ALIKE})"
    return judged(max(gaps.values()) <= ALIKE, text) if gaps else NONE


@claim("episodes_larger_collapses_more", "The larger network has the smaller NC1", "report, section 4.2",
       fails_if="its mean NC1 over the second half is not the smaller one, on support or query sets")  # fmt: skip
def _larger(table):
    runs = {metric: _large_small(table, metric) for metric in ("support_nc1", "query_nc1")}
    means = {metric: tuple(float(_late(run).mean()) for run in both) for metric, both in runs.items() if both}
    return _below(means, f"mean of the second half, {LARGE}, {SMALL}")


@claim("episodes_larger_collapses_more_above_noise",
       "Its NC1 is also smaller in multiples of the NC1 of pure noise, which depends on the dimension (control)",
       "THEORY.md, part 5", fails_if="in multiples of the noise floor its mean NC1 is not the smaller one")  # fmt: skip
def _larger_above_noise(table):
    both, floors = _large_small(table, "support_nc1"), _large_small(table, "nc1_floor")
    if both and not floors:
        return Verdict(OPEN, "the noise floor was not measured")
    ratios = tuple(float(_late(run / floor).mean()) for run, floor in zip(both, floors, strict=False))
    return _below({"support NC1 / noise floor": ratios} if ratios else {}, f"{LARGE}, {SMALL}")


@claim("episodes_smaller_is_noisier", "NC1 of the smaller network is noisier from epoch to epoch", "report, figure 4",
       fails_if="its relative change from epoch to epoch is not the larger one")  # fmt: skip
def _smaller_noisier(table):
    noise = tuple(map(_noise, _large_small(table, "support_nc1")))
    return _below({"NC1": noise} if noise else {}, f"relative change from epoch to epoch, {LARGE}, {SMALL}")


@claim("episodes_validation_noisier_and_smaller",
       "On validation classes NC1 is noisier and smaller than on training classes", "report, figures 5 and 6",
       fails_if="for one network it is calmer or larger on validation classes")  # fmt: skip
def _validation(table):
    pairs = {}
    train, validation = (_curves(table, split, "support_nc1") for split in ("source_train", "validation"))
    for name in sorted(train.keys() & validation.keys()):
        pairs[f"{name} noise, training and validation"] = _noise(train[name]), _noise(validation[name])
        level = float(_late(validation[name]).mean()), float(_late(train[name]).mean())
        pairs[f"{name} NC1, validation and training"] = level
    return _below(pairs, "second half", _unequal(table))


def _unequal(table: pd.DataFrame) -> str:
    """A remark where training and validation episodes have different numbers of classes."""
    ways = {split: set(rows["way"]) for split, rows in table.groupby("split")} if "way" in table else {}
    if ways.get("source_train") == ways.get("validation"):
        return ""
    return f"; classes per episode differ: {ways}, which alone makes a difference"


def _errors(table: pd.DataFrame, remark: str = "") -> Verdict:
    train, validation = (_curves(table, split, "error").get(SMALL) for split in ("source_train", "validation"))
    if train is None or validation is None:
        return NONE
    errors = float(_late(validation).mean()), float(_late(train).mean())
    return _below({SMALL: errors}, "validation, training error", remark)


@claim("episodes_validation_error_smaller",
       "The validation error of the smaller network stays below its training error",
       "report, figure 1 (read there as underfitting)",
       fails_if="its mean validation error over the second half is not the smaller one")  # fmt: skip
def _validation_error(table):
    return _errors(table, _unequal(table))


@claim("episodes_validation_error_smaller_at_equal_way",
       "It also stays below with as many classes per episode on both sides (control)", "THEORY.md, part 5",
       fails_if="with as many classes per episode on both sides it is not the smaller one")  # fmt: skip
def _validation_error_equal(table):
    return Verdict(OPEN, _unequal(table)[2:]) if _unequal(table) else _errors(table)
