"""The part of the proof of Err < 4V that a computer does: a branch and bound whose every rounding is outward.

Used by constant.ipynb, which states what is to be shown, and by tests/test_theory.py. NumPy alone.

To show: s <= r on a box of parameters, where s, the largest possible fraction of errors, rises or falls with each
parameter, and so does r, the right-hand side. On a part of the box it is enough that the upper end of s at its worst
corner is at most the lower end of r at its worst corner; parts for which that fails are halved. Corners are dyadic
fractions, so exact. Every operation on `Interval`s is one correctly rounded operation of IEEE 754, moved to the
next number outward: the intervals hold the exact values. What ends with no part left is proved.
"""

import itertools
from typing import NamedTuple

import numpy as np

_BOXES_AT_ONCE = 2**12  # enough for NumPy to be fast, few enough to stay in the cache


class Interval:
    """Arrays ``low`` <= exact value <= ``high`` of nonnegative numbers; a difference stands for its positive part."""

    def __init__(self, low, high=None):
        self.low = np.asarray(low, dtype=np.float64)
        self.high = self.low if high is None else np.asarray(high, dtype=np.float64)

    def __add__(self, other):
        other = interval(other)
        return _outward(self.low + other.low, self.high + other.high)

    def __sub__(self, other):
        other = interval(other)
        return _outward(self.low - other.high, np.maximum(self.high - other.low, 0))

    def __mul__(self, other):
        other = interval(other)
        return _outward(self.low * other.low, self.high * other.high)

    def __truediv__(self, other):
        other = interval(other)
        with np.errstate(
            divide="ignore", invalid="ignore"
        ):  # over an interval that holds 0: from 0 or more to infinity
            low = np.where(self.low > 0, self.low / other.high, 0)
            return _outward(low, np.where(other.low > 0, self.high / other.low, np.inf))

    def __rsub__(self, other):
        return interval(other) - self

    __radd__, __rmul__ = __add__, __mul__

    def root(self):
        """Square root."""
        return _outward(np.sqrt(self.low), np.sqrt(self.high))


def interval(value) -> Interval:
    """A number that float64 holds exactly, or what is an interval already."""
    return value if isinstance(value, Interval) else Interval(value)


def _outward(low, high):
    return Interval(np.maximum(np.nextafter(low, -np.inf), 0), np.nextafter(high, np.inf))


class Outcome(NamedTuple):
    """What a search found.

    Attributes:
        proved: no part is left.
        boxes: how many parts were looked at.
    """

    proved: bool
    boxes: int


def settle(low, high, slack, skip=None, weights=1.0) -> Outcome:
    """Halve parts of the box until all are settled, or one that is not has become as narrow as 2^-16.

    Args:
        low, high: corners, dyadic fractions [D].
        slack: (low [B, D], high [B, D]) -> [B]; not negative only where the inequality holds on the whole part.
        skip: the same -> bool [B]; true only where nothing is to be shown.
        weights: of the widths, to choose the side that is halved.
    """
    parts, boxes = [(np.atleast_2d(np.asarray(low, float)), np.atleast_2d(np.asarray(high, float)))], 0
    while parts:
        low, high = parts.pop()
        if skip is not None:
            left = ~skip(low, high)
            low, high = low[left], high[left]
        boxes += len(low)
        open_ = ~(slack(low, high) >= 0)  # NaN settles nothing
        low, high = low[open_], high[open_]
        if not len(low):
            continue
        if (high - low).max(1).min() < 2.0**-16:
            return Outcome(False, boxes)
        side, rows = ((high - low) * weights).argmax(1), np.arange(len(low))
        middle = (low[rows, side] + high[rows, side]) / 2
        lower_high, upper_low = high.copy(), low.copy()
        lower_high[rows, side] = upper_low[rows, side] = middle
        low, high = np.concatenate([low, upper_low]), np.concatenate([lower_high, high])
        starts = range(0, len(low), _BOXES_AT_ONCE)
        parts += [(low[i : i + _BOXES_AT_ONCE], high[i : i + _BOXES_AT_ONCE]) for i in starts]
    return Outcome(True, boxes)


def _right_side(N, c, a_low, a_high, k, f_low, f_high):
    """Lower end of L + E*; p = (f k)^2, q = ((1 - f) k)^2, k = 1 - t, and a_i from ``a_low`` to ``a_high``."""
    (a1, a2), (top1, top2) = a_low, a_high
    p, q = f_low * k, (1 - f_high) * k
    p, q = p * p, q * q
    T1, T2 = p - top1 / N, q - top2 / N
    total = 2 * (a1 + a2 + k * k) + c[0] * (a1 * a2) + c[1] * (a1 * q + a2 * p) + c[2] * (p * q)
    return (total + c[3] * (T1 * T1 + T2 * T2)).low


ROWS = {  # errors of class 1 and of class 2: their share s, the largest distance t for A >= B
    "(2,2)": (1.0, lambda A, B: (A + interval(3).root() * B) / 2),
    "(2,3)": (1.25, lambda A, B: (A + B) / 2),
    "(3,3)": (1.5, lambda A, B: B),
    "(3,4), (4,4)": (2.0, lambda A, B: B / interval(2).root()),
}


def one_shot(row: str, coefficients) -> Outcome:
    """n = 1: parameters (A, B, f), the lengths within the classes and how xb and zb share 1 - t."""
    share, largest = ROWS[row]

    def a(lengths):
        return [0.75 * (length * length) for length in map(Interval, lengths.T[:2])]

    def slack(low, high):
        t = largest(*map(Interval, high.T[:2]))
        k = 1 - t
        return _right_side(3, coefficients, a(low), a(high), k, Interval(low[:, 2]), Interval(high[:, 2])) - share

    def skip(low, high):  # B <= A; and L >= 2 (a_1 + a_2)
        total = a(low)[0] + a(low)[1]
        return (low[:, 1] > high[:, 0]) | ((2 * total).low >= share)

    return settle([0, 0, 0], [1.25, 1.25, 1], slack, skip)


def several_shots(shot: int, coefficients, *, or_more: bool = False) -> Outcome:
    """n >= 2: parameters (t, a_1, a_2, f) with a_1 <= a_2; ``or_more``: for this n and all larger, a_2 >= t^2 / 5."""
    n, N = shot, 2 * shot + 1
    eps, K = interval(1) / (n * N), interval((2 * n - 1) * (n + 1)) / (2 * n * n - 1)  # both fall with n
    R = interval(2) if or_more else interval(2 * n * n - 1) / (n * n)

    def share(own, rival, t):  # upper end of s_1
        A, B, t2 = own + eps * rival, R * own + eps * rival, t * t
        return np.minimum(np.minimum((2 * A / (A + t2)).high, (K * B / (B + t2)).high), 1)

    def slack(low, high, steps=False):
        t, a1, a2 = Interval(low[:, 0]), Interval(high[:, 1]), Interval(high[:, 2])
        s1, s2 = share(a1, a2, t), share(a2, a1, t)
        if steps:
            s1, s2 = np.minimum(s1, _steps(n, a1, a2, t)), np.minimum(s2, _steps(n, a2, a1, t))
        k, f = 1 - Interval(high[:, 0]), (Interval(low[:, 3]), Interval(high[:, 3]))
        ends = [[Interval(corner[:, 1]), Interval(corner[:, 2])] for corner in (low, high)]
        found = _right_side(N, coefficients, *ends, k, *f) - np.nextafter(s1 + s2, np.inf)
        if not or_more:  # errors in one class alone: s <= L by hand
            reach = [((N * x).root() + (y / N).root()).high >= t.low for x, y in ((a1, a2), (a2, a1))]
            found = np.where(reach[0] & reach[1] & (s1 > 0) & (s2 > 0), found, np.inf)
        if n <= 4 and not steps and (rows := (found < 0) & (found > -0.25)).any():  # costly: only where it may help
            found[rows] = slack(low[rows], high[rows], steps=True)
        return found

    def skip(low, high):
        k = 1 - Interval(high[:, 0])
        done = (Interval(low[:, 1]) + Interval(low[:, 2]) + k * k).low >= 1  # L >= 2
        done |= low[:, 1] > high[:, 2]
        if or_more:
            t = Interval(low[:, 0])
            done |= (5 * Interval(high[:, 2])).high < (t * t).low
        return done

    return settle([0, 0, 0, 0], [1, 1, 1, 1], slack, skip, np.array([3, 2.5, 2.5, 0.6]))


def _steps(n, own, rival, t):
    """Upper end of s_1 by the steps of "one class" over all counts of errors that fit avg |h_j - h|^2 = eps a_2.

    k errors against b_j need |h_j| <= r_k. The h_j average h, so where r_k < t they fall short by t - r_k, the others
    make up for it, and sum |h_j - h|^2 is at least sum e^2 + (sum e)^2 / (number of others).
    """
    N, m = 2 * n + 1, n + 1
    reach = [(own * ((m - k) * N) / (k * n)).root() for k in range(1, m)] + [(own / n).root()]
    short = [Interval((t - r).low) for r in reach]
    largest = rival / (n * N) * m
    best = np.zeros(t.low.shape)
    for counts in itertools.combinations_with_replacement(range(m + 1), m):
        if sum(counts):
            missing = [short[k - 1] for k in counts if k]
            total, squares, fall_short = interval(0.0), interval(0.0), 0
            for e in missing:
                total, squares = total + e, squares + e * e
                fall_short = fall_short + (e.low > 0)
            others = Interval((m - fall_short).astype(float))
            possible = (squares + total * total / others).low <= largest.high
            possible |= total.low <= 0
            best = np.where(possible, np.maximum(best, sum(counts) / m**2), best)
    return np.nextafter(best, np.inf)


def small_variances() -> Outcome:
    """n >= 8 and a_i / t^2 < 1/5: the inequality in one variable, sigma = (a_1 + a_2) / t^2."""
    r = (interval(1) / 85).root()
    quotient = (2 + r) * (2 + r) / ((1 - r) * (1 - r))
    F = 4 * (quotient - 1) / 136

    def slack(low, high):
        s, one = Interval(high[:, 0]), 1 + Interval(high[:, 0])
        tangent = (2 + 24 * s) * s / one
        squared = one * one
        left = tangent * tangent / 32 + (4 + 2 * s) * squared + F * (squared * squared)
        return (6.5 + 12 * Interval(low[:, 0])).low - left.high

    return settle([0], [0.40625], slack)
