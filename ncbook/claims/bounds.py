"""Claims about inequalities: measured few-shot errors against their bounds, and which number predicts them.

Over one row per pair of classes (error, half_width of its 95 % interval, a column per bound), per number of ways, or
per network and number of shots.
"""

import numpy as np

from ncbook.claims._registry import FAILS, FINDING, HOLDS, LEVEL, OPEN, THEOREM, Verdict, beyond, claim, together, trend

_ONE_ABOVE = "one pair whose error, less what chance allows among all of them, is above"


def _below(column: str, what: str):
    """Whether no error is above its bound, by the largest error/bound and its interval.

    The interval holds for all rows at once: every half width is widened from 95 % for one row to 95 % for all of them
    (Bonferroni, which asks nothing of how they depend); an error that was never seen counts as 0. Rows whose bound is 1
    or more cannot fail and do not count.
    """

    def check(rows):
        if not {column, "error", "half_width"} <= set(rows):
            return Verdict(OPEN, f"no column {column!r}")
        bad = rows[column].isna() | ~np.isfinite(rows["error"]) | ~np.isfinite(rows["half_width"])
        if bad.any():
            return Verdict(OPEN, f"{what}: {int(bad.sum())} of {len(rows)} rows are not finite", n=len(rows))
        tested = rows[rows[column] < 1]
        if not len(tested):
            return Verdict(OPEN, f"{what} is vacuous (≥ 1) in all {len(rows)} rows")
        from scipy.stats import norm

        wider = norm.isf((1 - LEVEL) / 2 / len(tested)) / norm.isf((1 - LEVEL) / 2)
        bound, half = tested[column], wider * tested["half_width"]
        ends = [tested["error"], (tested["error"] - half).clip(lower=0), (tested["error"] + half).clip(upper=1)]
        ratios = [np.where(e > 0, e / bound, 0.0) for e in ends]  # 0 / 0: nothing is above
        ratio, low, high = (float(r.max()) for r in ratios)
        verdict = FAILS if low > 1 else HOLDS if high <= 1 else OPEN
        text = f"largest error / {what} {ratio:.2f} ({low:.2f} … {high:.2f} for all at once), n = {len(tested)}"
        counts = f"{int((ratios[0] > 1).sum())} above, {len(rows) - len(tested)} more vacuous (≥ 1)"
        return Verdict(verdict, f"{text}; {counts}", ratio, low, high, len(tested))

    return check


for _column, _label, _statement, _source, _kind in (
    ("b1", "B1", "Pair error ≤ 4(1+1/n)V / (1+2(1+1/n)V)", "deck, constant of B1", THEOREM),
    ("b2", "B2", "Pair error ≤ the directional bound with second moments", "B2", THEOREM),
    ("b3", "B3", "Pair error ≤ the directional bound with exact fourth moments", "B3", THEOREM),
    ("b5", "B5", "Pair error ≤ the best bound that one quadratic makes of V (one shot: or 6V/(1+3V))", "B5", THEOREM),
    (
        "best",
        "best bound",
        "Pair error ≤ the least bound proved from V alone, which is below 4V",
        "T1 to T3, B5",
        THEOREM,
    ),
    (
        "printed",
        "(1+1/n)V",
        "(1+1/n)V as printed, without a constant, lies above every pair error of this network",
        "deck",
        FINDING,
    ),
):
    _name = "printed_form_holds" if _column == "printed" else f"{_column}_pairs"
    claim(_name, _statement, _source, kind=_kind, fails_if=f"{_ONE_ABOVE} {_label}")(_below(_column, _label))

claim(
    "multiclass",
    "k-way error ≤ (k-1) × mean pair error",
    "deck, union bound",
    kind=THEOREM,
    fails_if="one k whose error, less what chance allows among all of them, is above (k-1) × the mean pair error",
)(_below("bound", "(k-1) × mean pair error"))


def _orders_better(gain, shots=lambda n: n > 0, margin=0.0):
    """Whether a gain in rank correlation is above -margin at each number of shots; a network is one observation.

    Holds if every interval is above -margin; does not hold if one of them is below it. Intervals by Student's t over
    networks, together at 95 % (Bonferroni over the numbers of shots). The smallest gain is the statistic.
    """

    def check(correlations):
        """One row per network and number of shots: shot; cdnv, directional, b3: rank correlations with the error."""
        if not {"shot", "cdnv", "directional", "b3"} <= set(correlations):
            return Verdict(OPEN, "no rank correlations")
        if correlations[["cdnv", "directional", "b3"]].isna().any(axis=None):
            return Verdict(OPEN, "a rank correlation is missing")
        gains = gain(correlations).groupby(correlations["shot"]).agg(["mean", "sem", "count"])
        gains = gains[shots(gains.index)]
        if 1 not in gains.index or gains["count"].min() < 3:
            return Verdict(OPEN, "3 networks with one shot and more are needed")
        from scipy.stats import t

        half = t.isf((1 - LEVEL) / 2 / len(gains), gains["count"] - 1) * gains["sem"]
        low, high = gains["mean"] - half, gains["mean"] + half
        verdicts = [beyond(low[n] + margin, high[n] + margin, 1) for n in gains.index]
        parts = [f"n = {n}: {gains['mean'][n]:+.3f} ({low[n]:+.3f} … {high[n]:+.3f})" for n in gains.index]
        worst, count = gains["mean"].idxmin(), int(gains["count"].min())
        text = f"gain in rank correlation over {count} networks, together 95 %: {'; '.join(parts)}"
        return Verdict(together(verdicts), text, gains["mean"][worst], low[worst], high[worst], count)

    return check


claim(
    "directional_predicts",
    "At every number of shots directional CDNV orders pairs of new classes by error better than CDNV",
    "Luthra et al. 2025",
    fails_if="one number of shots at which it orders them worse, beyond chance over networks",
)(_orders_better(lambda c: c["directional"] - c["cdnv"]))
claim(
    "cdnv_serves_at_one_shot",
    "With one shot CDNV orders pairs of new classes by error better than directional CDNV",
    "B2 and B3: at n = 1 noise in every direction counts in full",
    fails_if="a lower rank correlation, beyond chance over networks",
)(_orders_better(lambda c: c["cdnv"] - c["directional"], lambda n: n == 1))
claim(
    "b3_orders_best",
    "At no number of shots is B3 more than 0.01 behind the better of CDNV and directional CDNV in ordering pairs",
    "B3",
    fails_if="one number of shots at which its rank correlation is more than 0.01 lower, beyond chance over networks",
)(_orders_better(lambda c: c["b3"] - c[["cdnv", "directional"]].max(axis=1), margin=0.01))


@claim(
    "pair_error_follows_cdnv",
    "Over trained networks, mean pair error on new classes rises with their mean CDNV",
    "deck, Err ≲ (1+1/n)V",
    fails_if="final networks whose error falls as their CDNV rises, beyond chance (exact over all orders)",
)
def _pair_error_follows_cdnv(networks):
    """One row per network at the end of its training: mean_cdnv, mean_error."""
    if not {"mean_cdnv", "mean_error"} <= set(networks):
        return Verdict(OPEN, "no networks")
    return trend(networks["mean_cdnv"], networks["mean_error"], 1, "CDNV, pair error")
