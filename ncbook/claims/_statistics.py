"""The statistics that claims are judged by: intervals over independent units, rank correlations, permutations. Pure."""

import numpy as np
import pandas as pd

from ncbook.claims._registry import FAILS, HOLDS, OPEN, Verdict

FEWEST = 4  # moments under which a curve over training is not judged
DRAWS = 20_000  # orders, where there are too many to take all
LEVEL = 0.95  # of every interval; half of the rest is the p-value asked for on either side


def beyond(low: float, high: float, sign: int) -> str:
    """Verdict on a quantity claimed to be above 0 (sign 1) or below 0 (sign -1), from its interval."""
    low, high = sorted((sign * low, sign * high))
    return HOLDS if low > 0 else FAILS if high < 0 else OPEN


def together(verdicts) -> str:
    """Verdict on a claim that is made of several: it holds if all do, and does not if one does not."""
    return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS


def mean_interval(values, parts: int = 1) -> tuple[float, float, float]:
    """Mean of independent values and its 95 % interval by Student's t; infinitely wide for one value.

    ``parts``: of a claim that is made of so many, the interval holds for all of them at once (Bonferroni).

    Example:
        >>> [round(x, 3) for x in mean_interval([1.0, 2.0, 3.0])]  # 2 ± 4.303 / sqrt(3)
        [2.0, -0.484, 4.484]
    """
    from scipy.stats import t  # a second to import: only when something is judged

    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), -np.inf, np.inf
    half = t.isf((1 - LEVEL) / 2 / parts, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def shown(mean: float, low: float, high: float) -> str:
    """A difference with its interval."""
    return f"{mean:+.3f} ({low:+.3f} … {high:+.3f})"


def wider(parts: int) -> float:
    """Factor from a half width of one normal number to one that holds for ``parts`` numbers at once (Bonferroni)."""
    from scipy.stats import norm

    return norm.isf((1 - LEVEL) / 2 / parts) / norm.isf((1 - LEVEL) / 2)


def side(values, sign: int, parts: int = 1, margin: float = 0.0) -> str:
    """Verdict on a mean claimed to be above ``margin`` (sign 1) or below it (sign -1), one of ``parts`` of a claim.

    It holds by its own interval, since all parts must hold; it fails by one that holds for all parts at once.
    """
    (_, low, high), (_, lowest, highest) = mean_interval(values), mean_interval(values, parts)
    holds = beyond(low - margin, high - margin, sign) == HOLDS
    fails = beyond(lowest - margin, highest - margin, sign) == FAILS
    return HOLDS if holds else FAILS if fails else OPEN


def within(values, limit: float, parts: int = 1) -> str:
    """Verdict on a mean claimed to be between -limit and limit, as `side` has it."""
    return together([side(values, 1, parts, -limit), side(values, -1, parts, limit)])


def by_draw(values: pd.Series) -> pd.Series:
    """Mean over the networks of one draw of classes and seeds: what is independent of the next draw.

    Networks of one ``repeat`` share their new classes, their seed and a part of their source classes.
    """
    return values.groupby(level="repeat").mean()


def above_zero(values, sign: int, what: str, parts: int = 1) -> Verdict:
    """Whether independent values, one per draw, are on average above 0 (sign 1) or below 0 (sign -1)."""
    values = np.asarray(values, float)
    if len(values) < 3:
        return Verdict(OPEN, f"{what}: {len(values)} draw(s) of classes and seeds; 3 are needed", n=len(values))
    if not np.isfinite(values).all():
        return Verdict(OPEN, f"{what}: not finite for every network", n=len(values))
    mean, low, high = mean_interval(values)
    text = f"{what} {mean:+.3g} ({low:+.3g} … {high:+.3g}), n = {len(values)} draws"
    return Verdict(side(values, sign, parts), text, mean, low, high, len(values))


def log_ratio(a: pd.Series, b: pd.Series, sign: int, what: str, parts: int = 1) -> Verdict:
    """Whether a is above (sign 1) or below (sign -1) b: the factor between them, its interval over draws."""
    found = above_zero(by_draw(np.log(a / b)), sign, what, parts)
    if np.isnan(found.statistic):
        return found
    factor, low, high = np.exp([found.statistic, found.low, found.high])
    text = f"{what} {factor:.3g} ({low:.3g} … {high:.3g}), n = {found.n} draws, {len(a)} networks"
    return Verdict(found.verdict, text, factor, low, high, found.n)


def all_of(*parts: Verdict) -> Verdict:
    """Several statements that must all hold; the statistic is that of the first."""
    verdict = together([part.verdict for part in parts])
    return parts[0]._replace(verdict=verdict, numbers="; ".join(part.numbers for part in parts))


def _centered_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks less their mean, ties with their mean rank (scipy's is slow to import)."""
    ranks = pd.Series(values).rank().to_numpy()
    return ranks - ranks.mean()


def _blocks(x, y, block) -> list[tuple[np.ndarray, np.ndarray]]:
    """Centered ranks of both within each block."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    block = np.zeros(len(x)) if block is None else np.asarray(block)
    return [(_centered_ranks(x[block == b]), _centered_ranks(y[block == b])) for b in np.unique(block)]


def spearman(x, y, block=None) -> float:
    """Rank correlation; of several blocks (draws of classes), that of the ranks within each, pooled."""
    a, b = (np.concatenate(ranks) for ranks in zip(*_blocks(x, y, block), strict=True))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else np.nan  # one of them is constant


def correlations(table: pd.DataFrame, x: str, y: str = "error") -> pd.Series:
    """Rank correlation over the networks of each draw; twelve digits, so that none is 0 and not 1e-18."""
    found = {draw: spearman(rows[x], rows[y]) for draw, rows in table.groupby("repeat")}
    return pd.Series(found, dtype=float).round(12)


def across(table: pd.DataFrame, unit: str, x: str, y: str, what: str) -> Verdict:
    """Whether y rises with x over units that were chosen, not drawn: objectives, or kinds of training.

    It must hold in the mean over draws, which says that these units are ordered so, and, against all orders of the
    units, for their means, which says that it is no accident of the choice.
    """
    if not np.isfinite(table[[x, y]]).all(axis=None):
        return Verdict(OPEN, f"{what}: not finite for every network", n=len(table))
    means = table.groupby(unit)[[x, y]].mean()
    return all_of(
        above_zero(correlations(table, x, y), 1, f"rank correlation over {unit}s, {what},"),
        trend(means[x], means[y], 1, f"{what}, means of the {unit}s", units=f"{unit}s"),
    )


def orders_better(table: pd.DataFrame, first: str, second: str, what: str) -> Verdict:
    """Whether the first column orders the units of each draw by their error better than the second."""
    gains = correlations(table, first) - correlations(table, second)
    return above_zero(gains, 1, f"rank correlation with the error, {what},")


def trend_over_draws(x: pd.DataFrame, y: pd.DataFrame, what: str) -> Verdict:
    """Whether y rises with x over draws, in every row of [units, draws]; units share the draws, so they move together.

    Exact over all orders of up to 8 draws, else over 20,000 drawn ones.
    """
    from itertools import permutations

    if not (np.isfinite(x).all(axis=None) and np.isfinite(y).all(axis=None)):
        return Verdict(OPEN, f"{what}: not finite for every network", n=x.size)
    a, b = (np.array([_centered_ranks(row) for row in values.to_numpy()]) for values in (x, y))
    products, count = a.T @ b, a.shape[1]  # [draws, draws]
    if count < 5:  # of 4 draws one order in 24 is as good by chance
        return Verdict(OPEN, f"{what}: {count} draws could not show a trend beyond chance", n=count)
    if not (a.any() and b.any()):
        return Verdict(OPEN, f"Spearman({what}) is not defined: one of them is constant (n = {count})", n=count)
    exact = count <= 8
    orders = np.array(list(permutations(range(count)))) if exact else _drawn_orders(np.random.default_rng(0), count)
    down, up = _p_values(products[np.arange(count), orders].sum(1), products.trace(), exact)
    rho = products.trace() / np.sqrt((a * a).sum() * (b * b).sum())
    verdict = _by_p_values(up, down)
    text = f"Spearman({what}) = {rho:+.2f}, one-sided p = {up:.2g}, n = {count} draws of {len(a)} networks each"
    return Verdict(verdict, text, float(rho), n=count)


def permutation_p(x, y, block=None) -> tuple[float, float]:
    """P-values of a rank correlation being at most, and at least, as large as found, were y in any order per block.

    Exact, over all orders, up to 8 points per block and 200,000 orders in all; else over 20,000 drawn ones.

    Example:
        >>> permutation_p([1, 2, 3, 4], [1, 2, 3, 4])[1] == 1 / 24
        True
        >>> permutation_p([1, 2, 3, 1, 2, 3], [1, 2, 3, 7, 8, 9], block=[0, 0, 0, 1, 1, 1])[1] == 1 / 36
        True
    """
    from itertools import permutations

    rng = np.random.default_rng(0)
    found, totals, exact = 0.0, np.zeros(1), True  # totals: [orders so far]
    for a, b in _blocks(x, y, block):
        found += a @ b
        if len(a) <= 8:
            orders = np.array(list(permutations(range(len(a)))))
        else:
            orders, exact = _drawn_orders(rng, len(a)), False
        products = b[orders] @ a
        exact = exact and len(totals) * len(products) <= 200_000
        if exact:
            totals = (totals[:, None] + products).ravel()
        else:
            totals = rng.choice(totals, DRAWS) + rng.choice(products, DRAWS)
    return _p_values(totals, found, exact)


def _drawn_orders(rng: np.random.Generator, count: int) -> np.ndarray:
    """[DRAWS, count] orders at random."""
    return rng.permuted(np.tile(np.arange(count), (DRAWS, 1)), axis=1)


def _p_values(totals: np.ndarray, found: float, exact: bool) -> tuple[float, float]:
    """Fractions of the totals that are at most, and at least, what was found."""
    slack = 1e-9 * np.abs(totals).max()
    at_most, at_least = (totals <= found + slack).sum(), (totals >= found - slack).sum()
    # a drawn sample counts what was found as one more order
    return tuple(float((k + (not exact)) / (len(totals) + (not exact))) for k in (at_most, at_least))


def _by_p_values(claimed: float, opposite: float) -> str:
    """Verdict on a trend, from the p-values of the claimed and of the opposite direction."""
    return HOLDS if claimed <= (1 - LEVEL) / 2 else FAILS if opposite <= (1 - LEVEL) / 2 else OPEN


def trend(x, y, sign: int, what: str, block=None, units: str = "networks") -> Verdict:
    """Whether y rises (sign 1) or falls (sign -1) with x: rank correlation, p-value by permutation within blocks."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if bad := int((~(np.isfinite(x) & np.isfinite(y))).sum()):
        return Verdict(OPEN, f"{what}: missing or not finite in {bad} of {len(x)} {units}", n=len(x))
    if len(x) < 3 or permutation_p(x, x, block)[1] > (1 - LEVEL) / 2:
        return Verdict(OPEN, f"{what}: {len(x)} {units} could not show a trend beyond chance", n=len(x))
    if len(np.unique(y)) == 1:
        return Verdict(OPEN, f"Spearman({what}) is not defined: one of them is constant (n = {len(x)})", n=len(x))
    rho = spearman(x, y, block)
    down, up = permutation_p(x, y, block)
    claimed, opposite = (up, down) if sign > 0 else (down, up)
    verdict = _by_p_values(claimed, opposite)
    draws = "" if block is None else f" of {len(np.unique(block))} draws of classes"
    text = f"Spearman({what}) = {rho:+.2f}, one-sided p = {claimed:.2g}, n = {len(x)} {units}{draws}"
    return Verdict(verdict, text, rho, n=len(x))
