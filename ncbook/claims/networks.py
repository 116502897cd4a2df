"""Claims about networks of several depths (F1), their layers, and several learning rates (F2).

Over histories of runs with a column ``layers`` (depth of the network) or ``learning_rate``, or over `layerwise.measure`
of several networks with a column ``layers``.
"""

import numpy as np
import pandas as pd

from ncbook.claims._registry import FEWEST, OPEN, Verdict, claim, judged, spearman, trend
from ncbook.layerwise import separation_law

TRAINED = 0.99  # train accuracy above which a network counts as trained
DEEP = 10


def curves(table: pd.DataFrame, split: str, metric: str, by: str) -> dict[float, pd.Series]:
    """For each network, the values of a metric over epochs."""
    rows = table[(table["split"] == split) & (table["metric"] == metric)].sort_values("epoch")
    return {key: run.set_index("epoch")["value"] for key, run in rows.groupby(by)}


def trained(table: pd.DataFrame, by: str = "layers") -> list[float]:
    """Networks whose final train accuracy is above 99 %; the others are left out of claims about collapse."""
    return [key for key, run in curves(table, "source_train", "accuracy", by).items() if run.iloc[-1] > TRAINED]


def _trained_curves(table: pd.DataFrame, split: str, metric: str = "cdnv") -> tuple[dict[float, pd.Series], str]:
    """A metric over epochs of the trained networks, and how many were left out, in words."""
    if "layers" not in table:
        return {}, "one network only"
    every, kept = curves(table, split, metric, "layers"), trained(table)
    left = [f"{key:g}" for key in every if key not in kept]
    words = f"; left out below {TRAINED:.0%} train accuracy: {', '.join(left)} layers" if left else ""
    return {key: run for key, run in every.items() if key in kept}, words


@claim("deeper_collapses_more", "Deeper networks collapse more: CDNV of the training samples", "deck F1")
def _deeper(table):
    found, left = _trained_curves(table, "source_train")
    if len(found) < FEWEST:
        return Verdict(OPEN, f"{len(found)} trained networks; {FEWEST} are needed{left}")
    last = pd.Series({key: run.iloc[-1] for key, run in found.items()})
    verdict = trend(last.index.to_series(), last, -0.8, "layers, final train CDNV")
    ends = f"{last.iloc[0]:.3g} at {last.index[0]:g} layers, {last.iloc[-1]:.3g} at {last.index[-1]:g}"
    holds = verdict.verdict == "holds" and last.iloc[-1] < last.iloc[0]
    return judged(holds, f"{ends}; {verdict.numbers}{left}")


@claim("deep_train_cdnv_falls", f"With {DEEP} and more layers the training CDNV falls over training", "deck F1")
def _deep_falls(table):
    found, left = _trained_curves(table, "source_train")
    found = {key: run for key, run in found.items() if key >= DEEP}
    if not found or min(map(len, found.values())) < FEWEST:
        return Verdict(OPEN, f"{len(found)} trained networks of {DEEP} or more layers, {FEWEST} epochs needed{left}")
    rhos = {key: spearman(run.index.to_series(), run) for key, run in found.items()}
    text = ", ".join(f"{key:g}: {rho:+.2f}" for key, rho in rhos.items())
    return judged(max(rhos.values()) <= -0.9 + 1e-9, f"Spearman(epoch, CDNV) by layers {text} (claimed ≤ -0.9){left}")


@claim("depth_test_above_train", "At every depth unseen samples collapse less than training ones", "deck F1")
def _test_above_train(table):
    # The two sides have different numbers of samples per class, so the order is judged on the de-biased CDNV.
    train, left = _trained_curves(table, "source_train", "cdnv_debiased")
    test, _ = _trained_curves(table, "source_test", "cdnv_debiased")
    if not train:
        return Verdict(OPEN, f"no trained network{left}")
    if not np.isfinite([run.iloc[-1] for run in [*train.values(), *test.values()]]).all():
        return Verdict(OPEN, f"most pairs of classes cannot be told apart from so few samples{left}")
    text = ", ".join(f"{key:g}: {train[key].iloc[-1]:.3g} ≤ {test[key].iloc[-1]:.3g}" for key in train)
    return judged(
        all(train[key].iloc[-1] <= test[key].iloc[-1] for key in train), f"de-biased CDNV by layers {text}{left}"
    )


@claim(
    "test_cdnv_plateaus",
    f"With {DEEP} and more layers CDNV of unseen samples falls, then stays, while the training one falls on",
    "deck F1",
)
def _plateaus(table):
    train, left = _trained_curves(table, "source_train")
    test, _ = _trained_curves(table, "source_test")
    train = {key: run for key, run in train.items() if key >= DEEP}
    if not train or min(map(len, train.values())) < FEWEST:
        return Verdict(OPEN, f"no trained network of {DEEP} or more layers with {FEWEST} measured epochs{left}")
    # Factors over the last half of training, and over all of it.
    late = {key: (train[key].iloc[-1] / _middle(train[key]), test[key].iloc[-1] / _middle(test[key])) for key in train}
    fell = all(test[key].iloc[-1] < 0.5 * test[key].iloc[0] for key in train)
    text = ", ".join(f"{key:g}: train × {a:.2f}, test × {b:.2f}" for key, (a, b) in late.items())
    return judged(fell and all(b > a for a, b in late.values()), f"change in the second half by layers {text}{left}")


def _middle(run: pd.Series) -> float:
    return float(np.interp(run.index[-1] / 2, run.index, run))


@claim("law_of_separation", "Fuzziness of training samples falls by a constant factor per layer", "He & Su 2023")
def _law(layers):
    if not {"layers", "depth", "fuzziness"} <= set(layers):
        return Verdict(OPEN, "no layers")
    fits = {key: separation_law(rows) for key, rows in layers.groupby("layers") if len(rows) >= FEWEST}
    if not fits:
        return Verdict(OPEN, f"no trained network of at least {FEWEST} layers")
    text = ", ".join(
        f"{k:g}: ρ = {v.ratio:.2f} ({v.low:.2f} … {v.high:.2f}), r = {v.correlation:+.2f}" for k, v in fits.items()
    )
    holds = all(fit.high < 1 and fit.correlation <= -0.9 for fit in fits.values())
    return judged(holds, f"by layers {text} (claimed r ≤ -0.9)")


@claim("means_stay_apart", "Class means stay apart while the CDNV falls, at each learning rate", "deck F2")
def _stay_apart(table):
    if "learning_rate" not in table:
        return Verdict(OPEN, "one learning rate only")
    distance = curves(table, "source_train", "min_distance_normalized", "learning_rate")
    raw = curves(table, "source_train", "min_distance", "learning_rate")
    cdnv = curves(table, "source_train", "cdnv", "learning_rate")
    if not distance or not cdnv:
        return Verdict(OPEN, "distances or CDNV were not measured")
    parts, holds = [], True
    for rate, run in distance.items():
        fraction = run.iloc[-1] / run.max()
        holds &= bool(fraction >= 0.5 and cdnv[rate].iloc[-1] < cdnv[rate].iloc[0])
        slope = spearman(raw[rate].index.to_series(), raw[rate])
        parts.append(f"{rate:g}: {fraction:.2f} of its largest, raw {slope:+.2f}")
    return judged(holds, f"normalized distance at the end, and Spearman(epoch, raw distance): {'; '.join(parts)}")
