"""Claims about a reader's own images and models: is a small CDNV a small error there, too?

Over one row per pair of classes (class_a, class_b, cdnv, error, and directional_cdnv where there is one), or over the
table of `ncbook.compare_models`.
"""

import numpy as np

from ncbook.claims._registry import FAILS, HOLDS, OPEN, Verdict, claim
from ncbook.claims._statistics import beyond, mean_interval, shown, spearman, together, wider

FEWEST_CLASSES = 5


def rank_correlation(pairs, column: str = "cdnv") -> tuple[float, float, float]:
    """Rank correlation of a column with the error over pairs, and its 95 % interval over classes.

    Pairs that share a class are not independent: the interval is that of the jackknife, which leaves out one class with
    all of its pairs at a time, on the scale of the inverse hyperbolic tangent, with Student's t.

    Args:
        pairs: class_a, class_b, error and the column: every pair of some classes.
        column: what is to order the pairs.

    Returns:
        Value, low, high; NaN where one of the two is constant.
    """
    values, errors = pairs[column].to_numpy(float), pairs["error"].to_numpy(float)
    a, b = pairs["class_a"].to_numpy(), pairs["class_b"].to_numpy()

    def scaled(rows):
        if np.ptp(values[rows]) == 0 or np.ptp(errors[rows]) == 0:
            return np.nan
        return np.arctanh(np.clip(spearman(values[rows], errors[rows]), -1 + 1e-9, 1 - 1e-9))

    found = scaled(np.ones(len(a), bool))
    classes = np.array(sorted({*a, *b}))
    without = np.array([scaled((a != name) & (b != name)) for name in classes])
    pseudo = len(classes) * found - (len(classes) - 1) * without
    _, low, high = mean_interval(pseudo)
    half = (high - low) / 2
    return tuple(float(np.tanh(v)) for v in (found, found - half, found + half))


@claim("harder_pairs_err_more", {"class_a", "class_b", "cdnv", "error"}, "no pairs of classes")
def _harder_pairs(pairs):
    n = len({*pairs["class_a"], *pairs["class_b"]})
    if n < FEWEST_CLASSES or len(pairs) != n * (n - 1) // 2:
        return Verdict(
            OPEN, f"{len(pairs)} pairs of {n} classes; every pair of {FEWEST_CLASSES} and more is needed", n=n
        )
    if bad := int((~np.isfinite(pairs[["cdnv", "error"]])).any(axis=1).sum()):
        return Verdict(OPEN, f"missing or not finite in {bad} of {len(pairs)} pairs", n=n)
    rho, low, high = rank_correlation(pairs)
    if not np.isfinite([rho, low, high]).all():
        return Verdict(OPEN, f"Spearman(CDNV, pair error) is not defined: one of them is constant (n = {n})", n=n)
    text = f"Spearman(CDNV, pair error) = {rho:+.2f} ({low:+.2f} … {high:+.2f}), n = {n} classes, {len(pairs)} pairs"
    if "directional_cdnv" in pairs and np.isfinite(other := rank_correlation(pairs, "directional_cdnv")).all():
        text += "; directional CDNV {:+.2f} ({:+.2f} … {:+.2f})".format(*other)
    return Verdict(beyond(low, high, 1), text, rho, low, high, n)


@claim("smaller_cdnv_errs_less", {"cdnv_difference"}, "no models that are compared")
def _models(table):
    accuracies = [c for c in table.columns if c.startswith("accuracy") and c.count("_") == 3]
    if not accuracies or len(table) < 2:
        return Verdict(OPEN, "no models that are compared")
    most_shots = max(accuracies, key=lambda name: int(name.split("_")[2].removesuffix("shot")))
    others, accuracy = table.iloc[1:], most_shots
    for_all, found = wider(len(others)), {}
    for row in others.to_dict("records"):
        (x, *ends), (y, *sides) = (
            [row[f"{name}_difference{end}"] for end in ("", "_low", "_high")] for name in ("cdnv", accuracy)
        )
        if not np.isfinite([x, *ends, y, *sides]).all():
            return Verdict(OPEN, f"{row['model']}: a difference or its interval is missing", n=len(others))
        apart, surely = (beyond(*(x + f * (end - x) for end in ends), 1) != OPEN for f in (1, for_all))
        gain, (low, high) = -np.sign(x) * y, sorted(-np.sign(x) * np.array(sides))
        fails = surely and beyond(*(gain + for_all * (end - gain) for end in (low, high)), 1) == FAILS
        holds = apart and beyond(low, high, 1) == HOLDS
        found[row["model"]] = FAILS if fails else HOLDS if holds else OPEN, gain, low, high
    verdicts = [verdict for verdict, *_ in found.values()]
    verdict = together(verdicts)
    least = min((one for one in found.values() if one[0] == verdict), key=lambda one: one[1])
    parts = [f"{name} {shown(*interval)}" for name, (_, *interval) in found.items()]
    first = table["model"].iloc[0]
    text = f"accuracy that the smaller CDNV goes with, paired with {first!r}: {'; '.join(parts)}"
    return Verdict(verdict, text, *least[1:], len(others))
