"""Claims about inequalities: measured few-shot errors against their bounds, and which number predicts them.

Over one row per pair of classes (error, half_width, a column per bound), a number of ways, or a resample of the
classes.
"""

from ncbook.claims._registry import OPEN, Verdict, claim, judged


def _bound(column: str, name: str):
    def check(pairs):
        if column not in pairs or "error" not in pairs:
            return Verdict(OPEN, f"no column {column!r}")
        above = pairs["error"] > pairs[column] + pairs["half_width"]
        vacuous = pairs[column] >= 1
        tightest = (pairs["error"] / pairs[column]).max()
        return judged(
            not above.any(),
            f"error above {name} in {int(above.sum())} of {len(pairs)} pairs; {int(vacuous.sum())} vacuous (≥ 1); "
            f"largest error/bound {tightest:.2f}",
        )

    return check


claim("b1_pairs", "Pair error ≤ 4(1+1/n)V / (1+2(1+1/n)V)", "deck, constant of B1")(_bound("b1", "B1"))
claim("b2_pairs", "Pair error ≤ the directional bound with second moments", "B2")(_bound("b2", "B2"))
claim("b5_pairs", "Pair error ≤ the best bound that one quadratic makes of V", "B5")(_bound("b5", "B5"))
claim("b3_pairs", "Pair error ≤ the directional bound with exact fourth moments", "B3")(_bound("b3", "B3"))


@claim(
    "directional_predicts",
    "Directional CDNV orders pairs of new classes by error better than CDNV (judged at the most shots)",
    "Luthra et al. 2025",
)
def _directional_predicts(resampled):
    """Rank correlations with the error, one row a resample of the classes: shot, cdnv, directional."""
    if not {"shot", "cdnv", "directional"} <= set(resampled):
        return Verdict(OPEN, "no rank correlations")
    parts, low, high = [], 0.0, 0.0
    for shot, rows in resampled.groupby("shot"):
        if len(rows) < 50:
            return Verdict(OPEN, f"{len(rows)} resamples of the classes; 50 are needed")
        gain = rows["directional"] - rows["cdnv"]
        low, high = gain.quantile([0.025, 0.975])
        parts.append(f"n = {shot}: {gain.mean():+.3f} ({low:+.3f} … {high:+.3f})")
    numbers = "gain in rank correlation, 95 % intervals: " + "; ".join(parts)
    return Verdict(OPEN, numbers + ": too close to tell") if low <= 0 <= high else judged(low > 0, numbers)


@claim("multiclass", "k-way error ≤ (k-1) × mean pair error", "deck, union bound")
def _multiclass(tasks):
    if not {"error", "bound", "half_width"} <= set(tasks):
        return Verdict(OPEN, "no k-way errors")
    above = tasks["error"] > tasks["bound"] + tasks["half_width"]
    return judged(
        not above.any(),
        "; ".join(f"k = {r.way}: {r.error:.3f} ≤ {r.bound:.3f}" for r in tasks.itertuples()),
    )
