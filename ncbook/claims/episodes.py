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

from ncbook.claims._registry import FEWEST, OPEN, Verdict, above_zero, all_of, claim, log_ratio, side, together

COLUMNS = ["backbone", "repeat", "setting", "epoch", "split", "set", "metric", "value", "ci95", "n"]
NETWORK = ["backbone", "repeat"]
ALIKE = 0.1  # relative difference up to which two numbers count as alike
LEFT = 0.01  # of the value before training: what is smaller counts as complete collapse
SETS, NC = ("support", "query"), ("nc1", "nc2_normalized")  # NC2 as the report's code has it, and so its figures
DIFFERENT = "the interval of the factor, over draws, lies on the other side of 1"


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
    return found._replace(verdict=together([side(values, 1, parts, -limit), side(values, -1, parts, limit)]))


def _each(table: pd.DataFrame, check, of=lambda verdict: abs(verdict.statistic)) -> Verdict:
    """The claim for every network; the statistic is the largest."""
    if len(_names(table)) == 0:
        return Verdict(OPEN, "no networks trained by episodes")
    parts = [part for name in _names(table) for part in check(table[table["backbone"] == name], name)]
    return all_of(*sorted(parts, key=lambda part: -np.nan_to_num(of(part))))


@claim(
    "episodes_nc_plateaus",
    "NC1 and NC2 of training episodes (mean of both sets) fall and then stay, above zero: no complete collapse",
    "report, figures 2 and 4",
    fails_if=f"one rises, changes in the second half by more than {ALIKE:.0%} of its fall, or ends below {LEFT:.0%} of "
    "its start, each beyond an interval over draws that holds for all at once",
)
def _plateaus(table):
    def check(rows, name):
        for metric in NC:
            runs = [_rows(rows, metric, part, "source_train", "report") for part in SETS]
            runs = [part.pivot(index="repeat", columns="epoch", values="value") for part in runs]
            runs, what = sum(runs) / len(SETS), f"{name} {metric}"
            if runs.shape[1] < FEWEST or not np.isfinite(runs).all(axis=None):
                yield Verdict(OPEN, f"{what}: not {FEWEST} finite moments in each run")
                continue
            first, middle, last = (runs.iloc[:, place] for place in (0, runs.shape[1] // 2, -1))
            change, parts = np.log(last / first), 4 * len(NC) * len(_names(table))
            ends = " → ".join(f"{moment.mean():.3g}" for moment in (first, middle, last))
            stays = _within((middle - last) / (first - last), ALIKE, f"{what} {ends}, of the fall after half", parts)
            falls = [side(change, -1, parts), side(change, 1, parts, np.log(LEFT))] if stays.n >= 3 else [OPEN]
            yield stays._replace(verdict=together([stays.verdict, *falls]))

    return _each(table, check)


@claim(
    "episodes_support_like_query",
    "Support and query sets of training episodes collapse alike",
    "report, section 4.1",
    fails_if=f"NC1 or NC2 of one differs by more than {ALIKE:.0%}, beyond an interval over draws that holds for all",
)
def _support_like_query(table):
    def check(rows, name):
        for metric in NC:
            ratio = np.log(_late(rows, metric) / _late(rows, metric, "query"))
            yield _within(
                ratio, np.log(1 + ALIKE), f"{name} log({metric} support / query)", len(NC) * len(_names(table))
            )

    return _each(table, check)


def _larger(metric: str = "nc1", setting: str = "report", unit: str = "", sets=SETS, sign: int = -1, change=None):
    """A check of the larger network's value over the smaller's."""

    def check(table):
        parts, rows = [], table if change is None else change(table)
        for part in sets:
            values = _late(rows, metric, part, setting=setting)
            values = values / _late(rows, unit, part, setting=setting) if unit else values
            small, large = _small_large(table, values)
            what = f"{metric} / {unit}" if unit else metric
            means = f"{small.mean():.3g} and {large.mean():.3g}, " if len(small) else ""
            parts.append(log_ratio(large, small, sign, f"{part} {what} {means}larger / smaller", len(sets)))
        return all_of(*parts)

    return check


for _name, _statement, _source, _options in [
    ("larger_collapses_more", "The larger network has the smaller NC1", "report, section 4.2", {}),
    ("larger_collapses_more_above_noise",
     "Its NC1 is also smaller in multiples of the NC1 of noise with its own within-class covariance (control)",
     "THEORY.md, part 5", {"unit": "nc1_floor"}),
    ("larger_collapses_more_at_equal_dim",
     "Its NC1 is also smaller when its features are projected to the dimension of the smaller network's (control)",
     "THEORY.md, part 5", {"setting": "equal_dim"}),
    ("larger_has_smaller_cdnv", "Its CDNV is smaller, too, which no dimension enters (control)", "THEORY.md, part 5",
     {"metric": "cdnv"}),
    ("larger_has_smaller_nc2", "The larger network has the smaller NC2", "report, section 4.2",
     {"metric": "nc2_normalized"}),
    ("smaller_is_noisier", "NC1 of the smaller network is noisier: relative to its mean it scatters more over episodes",
     "report, figure 4", {"sets": ("support",), "change": _spread}),
    ("smaller_is_noisier_at_equal_dim", "It is also noisier at equal dimension (control)", "THEORY.md, part 5",
     {"sets": ("support",), "change": _spread, "setting": "equal_dim"}),
]:  # fmt: skip
    claim(f"episodes_{_name}", _statement, _source, fails_if=DIFFERENT)(_larger(**_options))


def _validation(setting: str):
    """A check of validation against training episodes, of every network."""

    def check(table):
        def pair(rows, name):
            for what, sign, values in (("noise", 1, _spread(rows)), ("NC1", -1, rows)):
                levels = [_late(values, "nc1", "support", split, setting) for split in ("validation", "source_train")]
                yield log_ratio(*levels, sign, f"{name} {what}, validation / training", 2 * len(_names(table)))

        return _each(table, pair, of=lambda verdict: abs(np.log(verdict.statistic)))

    return check


claim(
    "episodes_validation_noisier_and_smaller",
    "On validation classes NC1 is noisier and smaller than on training classes",
    "report, figures 5 and 6",
    fails_if="for one network the interval of one factor, over draws and for all at once, lies on the other side of 1",
)(_validation("report"))
claim(
    "episodes_validation_noisier_and_smaller_at_equal_way",
    "It is also noisier and smaller in evaluation mode with as many classes, shots and queries on both sides (control)",
    "THEORY.md, part 5",
    fails_if="for one network the interval of one factor, over draws and for all at once, lies on the other side of 1",
)(_validation("equal"))


def _validation_error(setting: str):
    """A check of the smaller network's error on validation episodes against training episodes."""

    def check(table):
        train, validation = (
            _small_large(table, _late(table, "error", "query", split, setting))[0]
            for split in ("source_train", "validation")
        )
        means = f"{validation.mean():.3g} and {train.mean():.3g}, " if len(train) and len(validation) else ""
        return above_zero(validation - train, -1, f"validation and training error {means}difference")

    return check


claim(
    "episodes_validation_error_smaller",
    "The validation error of the smaller network stays below its training error",
    "report, figure 1 (read there as underfitting)",
    fails_if="the interval of the difference, over draws, lies above 0",
)(_validation_error("report"))
claim(
    "episodes_validation_error_smaller_at_equal_way",
    "It also stays below with as many classes, shots and queries in evaluation mode on both sides (control)",
    "THEORY.md, part 5",
    fails_if="the interval of the difference, over draws, lies above 0",
)(_validation_error("equal"))
