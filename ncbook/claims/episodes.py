"""Claims about networks trained by episodes (prototypical networks), and the controls that they need.

Over `episodewise.measure` of several networks (epoch, split, set, metric, value, ci95, n) with three columns added:
``backbone``, the network's name, the smaller of two first; ``repeat``, the draw of classes and seeds, which is what is
independent of the next; ``setting``: "report" is measured as the report does (training episodes of many classes with
batch statistics, validation episodes of few classes in evaluation mode), "equal" in evaluation mode with the same
number of classes, shots and queries on both splits, "equal_dim" like that with features projected to the smaller
network's dimension. Curves are judged by their mean over the second half of training.
"""

import numpy as np
import pandas as pd

from ncbook.claims._registry import OPEN, Verdict, claim
from ncbook.claims._statistics import FEWEST, above_zero, all_of, log_ratio, side, together, within

COLUMNS = ["backbone", "repeat", "setting", "epoch", "split", "set", "metric", "value", "ci95", "n"]
NETWORK = ["backbone", "repeat"]
ALIKE = 0.1  # relative difference up to which two numbers count as alike
LEFT = 0.01  # of the value before training: what is smaller counts as complete collapse
SETS, NC = ("support", "query"), ("nc1", "nc2_normalized")  # NC2 as the report's code has it, and so its figures


def _rows(table: pd.DataFrame, metric: str, part: str, split: str, setting: str) -> pd.DataFrame:
    rows = table.reindex(columns=COLUMNS)
    wanted = {"metric": metric, "set": part, "split": split, "setting": setting}
    return rows[(rows[list(wanted)] == pd.Series(wanted)).all(axis=1)].sort_values("epoch", kind="stable")


def _late(
    table: pd.DataFrame, metric: str, part: str = "support", split: str = "source_train", setting: str = "report"
) -> pd.Series:
    """Mean over the second half of training, one per network, indexed by (backbone, repeat)."""
    rows = _rows(table, metric, part, split, setting)
    rows = rows[rows["epoch"] >= rows["epoch"].max() / 2]
    return rows.groupby(NETWORK)["value"].agg(lambda values: values.to_numpy().mean())  # NaN if one is


def _names(table: pd.DataFrame) -> list[str]:
    return [*table["backbone"].unique()] if "backbone" in table else []


def _small_large(table: pd.DataFrame, values: pd.Series) -> list[pd.Series]:
    """Values of the smaller and of the larger network, by draw; empty where there is no such network."""
    return [values[values.index.get_level_values(0) == name].droplevel(0) for name in [*_names(table), None, None][:2]]


def _spread(table: pd.DataFrame) -> pd.DataFrame:
    """Standard deviation over episodes relative to the value (times 1.96) in its place: what fresh ones scatter by."""
    rows = table.reindex(columns=COLUMNS)
    return rows.assign(value=rows["ci95"] * rows["n"].astype(float) ** 0.5 / rows["value"])


def _within(values: pd.Series, limit: float, what: str, parts: int) -> Verdict:
    """Whether independent values are on average between -limit and limit."""
    found = above_zero(values, 1, what)
    if np.isnan(found.statistic):
        return found
    return found._replace(verdict=within(values, limit, parts))


def _each(table: pd.DataFrame, check, of=lambda verdict: abs(verdict.statistic)) -> Verdict:
    """The claim for every network; the statistic is the largest."""
    if len(_names(table)) == 0:
        return Verdict(OPEN, "no networks trained by episodes")
    parts = [part for name in _names(table) for part in check(table[table["backbone"] == name], name)]
    return all_of(*sorted(parts, key=lambda part: -np.nan_to_num(of(part))))


@claim("episodes_nc_plateaus")
def _plateaus(table):
    def check(rows, name):
        for metric in NC:
            runs = [_rows(rows, metric, part, "source_train", "report") for part in SETS]
            runs = [part.pivot(index="repeat", columns="epoch", values="value") for part in runs]
            runs, what = sum(runs) / len(SETS), f"{name} {metric}"
            if runs.shape[1] < FEWEST or not np.isfinite(runs).all(axis=None):
                yield Verdict(OPEN, f"{what}: not {FEWEST} finite moments in each run")
                continue
            half = int(np.abs(runs.columns.to_numpy(float) - runs.columns[-1] / 2).argmin())  # by epochs
            first, middle, last = (runs.iloc[:, place] for place in (0, half, -1))
            change, parts = np.log(last / first), 4 * len(NC) * len(_names(table))
            ends = " → ".join(f"{moment.mean():.3g}" for moment in (first, middle, last))
            stays = _within((middle - last) / (first - last), ALIKE, f"{what} {ends}, of the fall after half", parts)
            falls = [side(change, -1, parts), side(change, 1, parts, np.log(LEFT))] if stays.n >= 3 else [OPEN]
            yield stays._replace(verdict=together([stays.verdict, *falls]))

    return _each(table, check)


@claim("episodes_support_like_query")
def _support_like_query(table):
    def check(rows, name):
        for metric in NC:
            ratio = np.log(_late(rows, metric) / _late(rows, metric, "query"))
            yield _within(
                ratio, np.log(1 + ALIKE), f"{name} log({metric} support / query)", len(NC) * len(_names(table))
            )

    return _each(table, check)


def _larger(table, metric: str = "nc1", setting: str = "report", unit: str = "", sets=SETS, change=None):
    """The larger network's value over the smaller's is below 1."""
    parts, rows = [], table if change is None else change(table)
    for part in sets:
        values = _late(rows, metric, part, setting=setting)
        values = values / _late(rows, unit, part, setting=setting) if unit else values
        small, large = _small_large(table, values)
        what = f"{metric} / {unit}" if unit else metric
        means = f"{small.mean():.3g} and {large.mean():.3g}, " if len(small) else ""
        parts.append(log_ratio(large, small, -1, f"{part} {what} {means}larger / smaller", len(sets)))
    return all_of(*parts)


for _name, _options in {
    "larger_collapses_more": {},
    "larger_collapses_more_above_noise": {"unit": "nc1_floor"},
    "larger_collapses_more_at_equal_dim": {"setting": "equal_dim"},
    "larger_has_smaller_cdnv": {"metric": "cdnv"},
    "larger_has_smaller_nc2": {"metric": "nc2_normalized"},
    "smaller_is_noisier": {"sets": ("support",), "change": _spread},
    "smaller_is_noisier_at_equal_dim": {"sets": ("support",), "change": _spread, "setting": "equal_dim"},
}.items():
    claim(f"episodes_{_name}", **_options)(_larger)


def _validation(table, setting: str):
    """Validation against training episodes, of every network."""

    def pair(rows, name):
        for what, sign, values in (("noise", 1, _spread(rows)), ("NC1", -1, rows)):
            levels = [_late(values, "nc1", "support", split, setting) for split in ("validation", "source_train")]
            yield log_ratio(*levels, sign, f"{name} {what}, validation / training", 2 * len(_names(table)))

    return _each(table, pair, of=lambda verdict: abs(np.log(verdict.statistic)))


def _validation_error(table, setting: str):
    """The smaller network's error on validation episodes against training episodes."""
    train, validation = (
        _small_large(table, _late(table, "error", "query", split, setting))[0]
        for split in ("source_train", "validation")
    )
    means = f"{validation.mean():.3g} and {train.mean():.3g}, " if len(train) and len(validation) else ""
    return above_zero(validation - train, -1, f"validation and training error {means}difference")


for _name, _check in (("noisier_and_smaller", _validation), ("error_smaller", _validation_error)):
    claim(f"episodes_validation_{_name}", setting="report")(_check)
    claim(f"episodes_validation_{_name}_at_equal_way", setting="equal")(_check)
