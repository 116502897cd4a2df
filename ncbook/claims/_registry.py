"""What a claim and a verdict are, and the statistics that several claims are judged by. Touches no files.

A verdict must be able to fail: "holds" asks for an interval (or an exact p-value) that excludes the opposite, "does not
hold" for one that excludes the claim; what lies between "cannot be judged".
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be judged"
THEOREM, TABLE, FINDING = "theorem checked", "fact about a printed table", "finding"
FEWEST = 4  # moments under which a curve over training is not judged
LEVEL = 0.95  # of every interval; half of the rest is the p-value asked for on either side


class Verdict(NamedTuple):
    """What came of one claim.

    Attributes:
        verdict: "holds", "does not hold" or "cannot be judged".
        numbers: the statistic in words, with what belongs to it.
        statistic: the number that decides; NaN where there is none.
        low, high: its 95 % interval; NaN where it has none.
        n: how many it rests on: networks, pairs of classes, cells of a table; 0 where nothing was measured.
    """

    verdict: str
    numbers: str
    statistic: float = np.nan
    low: float = np.nan
    high: float = np.nan
    n: int = 0


class Claim(NamedTuple):
    """One claim.

    Attributes:
        statement: the claim in words.
        source: where it is made.
        kind: "theorem checked" (only an error in a proof or in this code could make it fail), "fact about a printed
            table", or "finding".
        fails_if: what would have made it fail.
        check: table -> Verdict.
    """

    statement: str
    source: str
    kind: str
    fails_if: str
    check: Callable[[pd.DataFrame], Verdict]


CLAIMS: dict[str, Claim] = {}


def claim(name: str, statement: str, source: str, *, fails_if: str = "", kind: str = FINDING):
    """Register the check below under that name."""

    def register(check):
        CLAIMS[name] = Claim(statement, source, kind, fails_if, check)
        return check

    return register


def judged(holds: bool, numbers: str, **statistic) -> Verdict:
    return Verdict(HOLDS if holds else FAILS, numbers, **statistic)


def beyond(low: float, high: float, sign: int) -> str:
    """Verdict on a quantity claimed to be above 0 (sign 1) or below 0 (sign -1), from its interval."""
    low, high = sorted((sign * low, sign * high))
    return HOLDS if low > 0 else FAILS if high < 0 else OPEN


def together(verdicts) -> str:
    """Verdict on a claim that is made of several: it holds if all do, and does not if one does not."""
    return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS


def mean_interval(values) -> tuple[float, float, float]:
    """Mean of independent values and its 95 % interval by Student's t; infinitely wide for one value.

    Example:
        >>> [round(x, 3) for x in mean_interval([1.0, 2.0, 3.0])]  # 2 ± 4.303 / sqrt(3)
        [2.0, -0.484, 4.484]
    """
    from scipy.stats import t  # a second to import: only when something is judged

    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), -np.inf, np.inf
    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def above_zero(values, sign: int, what: str, unit: str = "") -> Verdict:
    """Whether independent values, one per network, are on average above 0 (sign 1) or below 0 (sign -1)."""
    values = np.asarray(values, float)
    if len(values) < 3:
        return Verdict(OPEN, f"{len(values)} network(s); 3 are needed", n=len(values))
    mean, low, high = mean_interval(values)
    text = f"{what} {mean:+.3g}{unit} ({low:+.3g} … {high:+.3g}), n = {len(values)} networks"
    return Verdict(beyond(low, high, sign), text, mean, low, high, len(values))


def spearman(x, y) -> float:
    """Rank correlation, ties with their mean rank (pandas' own method waits for scipy, which is slow to import)."""
    return float(pd.Series(np.asarray(x)).rank().corr(pd.Series(np.asarray(y)).rank()))


def permutation_p(x, y) -> tuple[float, float]:
    """P-values of a rank correlation being at most, and at least, as large as found, were y in any order.

    Over all orders up to seven points, over 20,000 drawn ones (and the one found) beyond.

    Example:
        >>> permutation_p([1, 2, 3, 4], [1, 2, 3, 4])[1] == 1 / 24
        True
    """
    from itertools import permutations

    a, b = (pd.Series(np.asarray(v)).rank().to_numpy() for v in (x, y))
    a, b = a - a.mean(), b - b.mean()
    if len(a) <= 7:
        orders = np.array(list(permutations(range(len(a)))))
    else:
        orders = np.random.default_rng(0).permuted(np.tile(np.arange(len(a)), (20_000, 1)), axis=1)
        orders = np.vstack([np.arange(len(a)), orders])
    products, found = b[orders] @ a, b @ a
    slack = 1e-9 * np.abs(products).max()
    return float((products <= found + slack).mean()), float((products >= found - slack).mean())


def trend(x, y, sign: int, what: str) -> Verdict:
    """Whether y rises (sign 1) or falls (sign -1) with x, by the exact p-value of their rank correlation."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 5 or len(np.unique(x)) < 3:
        needed = "5 networks at 3 different values are needed"
        return Verdict(OPEN, f"{len(x)} networks at {len(np.unique(x))} values; {needed}", n=len(x))
    if len(np.unique(y)) == 1:
        return Verdict(OPEN, f"Spearman({what}) is not defined: one of them is constant (n = {len(x)})", n=len(x))
    rho = spearman(x, y)
    down, up = permutation_p(x, y)
    claimed, opposite = (up, down) if sign > 0 else (down, up)
    verdict = HOLDS if claimed <= (1 - LEVEL) / 2 else FAILS if opposite <= (1 - LEVEL) / 2 else OPEN
    text = f"Spearman({what}) = {rho:+.2f}, one-sided p = {claimed:.2g}, n = {len(x)} networks"
    return Verdict(verdict, text, rho, n=len(x))
