"""Claims about inequalities: measured few-shot errors against their bounds, and which number predicts them.

Over one row per pair of classes (error, half_width of its 95 % interval, a column per bound), per number of ways, or
per network and number of shots.
"""

import numpy as np

from ncbook.claims._registry import FAILS, HOLDS, OPEN, Verdict, claim
from ncbook.claims._statistics import beyond, mean_interval, shown, together, trend, wider


def _below(rows, column: str, what: str):
    """Whether no error is above its bound, by the largest error/bound and its interval.

    The interval holds for all rows at once: every half width is widened from 95 % for one row to 95 % for all of them
    (Bonferroni, which asks nothing of how they depend); an error that was never seen counts as 0. Rows whose bound is 1
    or more cannot fail and do not count.
    """
    bad = rows[column].isna() | ~np.isfinite(rows["error"]) | ~np.isfinite(rows["half_width"])
    if bad.any():
        return Verdict(OPEN, f"{what}: {int(bad.sum())} of {len(rows)} rows are not finite", n=len(rows))
    tested = rows[rows[column] < 1]
    if not len(tested):
        return Verdict(OPEN, f"{what} is vacuous (≥ 1) in all {len(rows)} rows")
    bound, half = tested[column], wider(len(tested)) * tested["half_width"]
    ends = [tested["error"], (tested["error"] - half).clip(lower=0), (tested["error"] + half).clip(upper=1)]
    ratios = [np.where(e > 0, e / bound, 0.0) for e in ends]  # 0 / 0: nothing is above
    ratio, low, high = (float(r.max()) for r in ratios)
    verdict = FAILS if low > 1 else HOLDS if high <= 1 else OPEN
    text = f"largest error / {what} {ratio:.2f} ({low:.2f} … {high:.2f} for all at once), n = {len(tested)}"
    counts = f"{int((ratios[0] > 1).sum())} above, {len(rows) - len(tested)} more vacuous (≥ 1)"
    return Verdict(verdict, f"{text}; {counts}", ratio, low, high, len(tested))


for _name, _column, _label in (
    ("b1_pairs", "b1", "B1"),
    ("b2_pairs", "b2", "B2"),
    ("b3_pairs", "b3", "B3"),
    ("b5_pairs", "b5", "B5"),
    ("best_pairs", "best", "best bound"),
    ("printed_form_holds", "printed", "(1+1/n)V"),
    ("multiclass", "bound", "(k-1) × mean pair error"),
):
    _needs = {_column, "error", "half_width"}
    claim(_name, _needs, f"no column {_column!r}", column=_column, what=_label)(_below)


def _orders_better(correlations, gain, shots=lambda n: n > 0, margin=0.0):
    """Whether a gain in rank correlation is above -margin at each number of shots; a network is one observation.

    Over one row per network and number of shots: shot; cdnv, directional, b3: rank correlations with the error. Holds
    if every interval is above -margin; does not hold if one of them is below it. Intervals by Student's t over
    networks, together at 95 % (Bonferroni over the numbers of shots). The smallest gain is the statistic.
    """
    if correlations[["cdnv", "directional", "b3"]].isna().any(axis=None):
        return Verdict(OPEN, "a rank correlation is missing")
    gains = {n: gain(rows) for n, rows in correlations.groupby("shot") if shots(n)}
    count = min(map(len, gains.values()), default=0)
    if 1 not in gains or count < 3:
        return Verdict(OPEN, "3 networks with one shot and more are needed")
    found = {n: mean_interval(values, len(gains)) for n, values in gains.items()}
    verdicts = [beyond(low + margin, high + margin, 1) for _, low, high in found.values()]
    parts = "; ".join(f"n = {n}: {shown(*interval)}" for n, interval in found.items())
    text = f"gain in rank correlation over {count} networks, together 95 %: {parts}"
    return Verdict(together(verdicts), text, *min(found.values()), count)


for _name, _options in {
    "directional_predicts": {"gain": lambda c: c["directional"] - c["cdnv"]},
    "cdnv_serves_at_one_shot": {"gain": lambda c: c["cdnv"] - c["directional"], "shots": lambda n: n == 1},
    "b3_orders_best": {"gain": lambda c: c["b3"] - c[["cdnv", "directional"]].max(axis=1), "margin": 0.01},
}.items():
    claim(_name, {"shot", "cdnv", "directional", "b3"}, "no rank correlations", **_options)(_orders_better)


@claim("pair_error_follows_cdnv", {"mean_cdnv", "mean_error"}, "no networks")
def _pair_error_follows_cdnv(networks):
    """One row per network at the end of its training: mean_cdnv, mean_error."""
    return trend(networks["mean_cdnv"], networks["mean_error"], 1, "CDNV, pair error")
