"""Bounds by leaving one out: with 4 as the constant for every number of shots, and the best of all from the CDNV alone.

A query and the n shots of its class are n + 1 independent draws x_i, and any of them might have been the query. So
count errors over all choices of the two that are left out. With m the mean of the n + 1 and eta_i = x_i - m, the query
is at (1 + 1/n) eta_i from its shots' mean, and the eta_i add up to 0: few of them can be long in one direction.

T2 to T4 are proved by hand, T1 by hand but for one inequality of a few variables, which is checked by computer,
all in notebooks/appendix/constant.ipynb.
"""

import torch

from ncbook._checks import check_whole, named_arguments

from ._checks import as_came, check_at_least, check_cdnv, saturating
from .quadratic import quadratic_bound

_COEFFICIENTS = {1: (0, 8, 24, 1), 2: (6, 8, 32, 2), 3: (6.5, 8, 32, 2), 4: (7, 8, 32, 2), 5: (7, 9, 48, 4),
                 6: (7, 9, 48, 4)}  # fmt: skip
_COEFFICIENTS_FROM_7 = (6.5, 12, 64, 4)


def coefficients(shot: int) -> tuple[float, float, float, float]:
    """c_1 to c_4 of the pointwise inequality behind `sharp_bound`, in the appendix's notation.

    Args:
        shot: n >= 1.

    Example:
        >>> coefficients(1), coefficients(100)
        ((0, 8, 24, 1), (6.5, 12, 64, 4))
    """
    return _COEFFICIENTS.get(check_whole("shot", shot, 1), _COEFFICIENTS_FROM_7)


def second_order(shot: int) -> float:
    r"""theta_n of `sharp_bound`: what the `coefficients` cost in expectation.

    .. math:: \theta_n = \max\Bigl\{\tfrac14(c_1 e^2 + 2 c_2 e m + c_3 m^2) + \tfrac{c_4 m}n,\; \tfrac{2 c_4 m}n\Bigr\},
              \qquad m = \frac1{n+1}, \quad e = 2 - m

    Args:
        shot: n >= 1.

    Example:
        >>> second_order(1), round(second_order(2), 4), round(second_order(5), 4)  # 7.7236 is the largest of all
        (5.0, 7.6111, 7.7236)
    """
    shot = check_whole("shot", shot, 1)
    c1, c2, c3, c4 = coefficients(shot)
    m = 1 / (shot + 1)
    e = 2 - m
    return max((c1 * e**2 + 2 * c2 * e * m + c3 * m**2) / 4 + c4 * m / shot, 2 * c4 * m / shot)


@named_arguments
def sharp_bound(cdnv, shot: int):
    r"""Bound T1 on the two-class few-shot error, for any two distributions, below 4V for every number of shots.

    .. math:: Err \le \frac{4V + 2\theta_n V^2}{1 + 4V} < 4V \quad (V > 0), \qquad \theta_n < 8

    The constant 4 is the smallest for every n: `distributions.two_point` has Err / (4V) -> 1 as V -> 0.

    Proof sketch: draw n + 1 points of each class and let s be the fraction of errors over all choices of the two that
    are left out, summed over the classes: e_1 + e_2 = E s. Pointwise s <= L + E*, where E L = 8V / (1 + 4V) and every
    term of E* has known second moments of order V^2. That inequality is proved by hand where one class alone errs and
    for n >= 8 with small variances, elsewhere by a branch and bound.

    Args:
        cdnv: V >= 0, float or tensor; NaN (the diagonal of a matrix) stays NaN.
        shot: n >= 1, a whole number.

    Returns:
        The bound, as ``cdnv`` came; infinite for infinite V, and of use for small V only: see `best_bound`.

    Raises:
        ValueError: negative V, fewer than one shot.
        TypeError: a number of shots that is not whole.

    Reference:
        Proved in this project, in notebooks/appendix/constant.ipynb.

    Example:
        >>> round(sharp_bound(0.1, shot=1), 6)  # (0.4 + 2 * 5 * 0.01) / 1.4
        0.357143
    """
    cdnv = check_cdnv("cdnv", cdnv)
    return saturating(4 * cdnv, 1.0) * (1 + second_order(shot) / 2 * cdnv)


@named_arguments
def leave_one_out_bound(cdnv, shot: int):
    r"""Bound T2 on the two-class few-shot error, for any two distributions, proved by hand.

    .. math:: Err \le K\frac{kV}{1 + kV}, \qquad k = 4 - \frac1{n^2}, \quad K = 1 + \frac{n}{2n^2 - 1}

    That is 6V / (1 + 3V) with one shot and tends with n to 4V / (1 + 4V), as `mean_mismatch_bound`.

    Proof sketch: let k of the n + 1 points of class 1 err against a fixed rival center b, h = m - b, and tau = (2 +
    1/n) avg|eta|^2 / |h|^2. Since the eta_i add up to 0, k errors need tau >= k / ((n + 1 - k)(2 + 1/n)), and all n + 1
    need tau >= n. So k / (n + 1) <= K R tau / (1 + R tau) with R = 2 - 1/n^2, and by Cauchy-Schwarz this is at most a
    quadratic in h whose expectation is known. b is the mean of n fresh shots; average over the classes (Jensen).

    Args:
        cdnv: V >= 0, float or tensor; NaN (the diagonal of a matrix) stays NaN.
        shot: n >= 1, a whole number.

    Returns:
        The bound, as ``cdnv`` came; in [0, K], K for infinite V.

    Raises:
        ValueError: negative V, fewer than one shot.
        TypeError: a number of shots that is not whole.

    Reference:
        Proved in this project, in notebooks/appendix/constant.ipynb.

    Example:
        >>> round(leave_one_out_bound(0.1, shot=1), 6)  # 0.6 / 1.3
        0.461538
    """
    cdnv = check_cdnv("cdnv", cdnv)
    n = check_whole("shot", shot, 1)
    return saturating((4 - 1 / n**2) * cdnv, 1 + n / (2 * n**2 - 1))


@named_arguments
def one_shot_bound(cdnv, shot: int = 1):
    r"""Bound T3 on the two-class error with one shot, for any two distributions, proved by hand.

    .. math:: Err \le \frac{z^2 V}{(z - 1)(1 + zV)} \quad (z \ge 3)

    At the best z this is 9V / (2 + 6V) for V <= 1/3, 4V / (1 + V)^2 for 1/3 <= V <= 1, and 1 from V = 1 on.

    Proof sketch: two points of each class, eight errors to count. How many there are bounds the distance of the
    midpoints by the distances within the classes, row by row of a table.

    Args:
        cdnv: V >= 0, float or tensor; NaN (the diagonal of a matrix) stays NaN.
        shot: 1, and nothing else.

    Returns:
        The bound, as ``cdnv`` came; in [0, 1].

    Raises:
        ValueError: negative V, more shots than one.

    Reference:
        Proved in this project, in notebooks/appendix/constant.ipynb.

    Example:
        >>> round(one_shot_bound(0.1), 6), one_shot_bound(0.5)  # 0.9 / 2.6 and 2 / 2.25
        (0.346154, 0.8888888888888888)
    """
    cdnv = check_cdnv("cdnv", cdnv)
    check_whole("shot", shot, 1, 1)
    v = torch.as_tensor(cdnv, dtype=torch.float64)
    upper = v.clamp_max(1.0)
    bound = torch.where(v > 1 / 3, 4 * upper / (1 + upper) ** 2, saturating(3 * v, 1.5))
    return as_came(bound, cdnv)


def fixed_center_bound(ratio):
    r"""Bound T4 on the error of one class, for every number of shots, if the rival's center is fixed and not drawn.

    .. math:: P\bigl(|x - m_1| \ge |x - b|\bigr) \le \frac{4 v_1}{|\mu_1 - b|^2 + 2 v_1}

    Proof sketch: as `leave_one_out_bound`, with k / (n + 1) <= 2 tau / (1 + tau); the number of shots cancels.

    Args:
        ratio: v_1 / \|mu_1 - b\|^2 >= 0, float or tensor; NaN stays NaN.

    Returns:
        The bound, as ``ratio`` came; in [0, 2], 2 for an infinite ratio.

    Raises:
        ValueError: a negative ratio.

    Reference:
        Proved in this project, in notebooks/appendix/constant.ipynb.

    Example:
        >>> round(fixed_center_bound(0.1), 6)  # 0.4 / 1.2
        0.333333
    """
    ratio = check_at_least("ratio", ratio, 0, infinite=True, nan=True)
    return saturating(2 * ratio, 2.0)


@named_arguments
def best_bound(cdnv, shot: int):
    r"""Least of all bounds on the two-class few-shot error that are proved from the CDNV alone: what notebooks draw.

    The minimum of `sharp_bound`, `leave_one_out_bound`, `quadratic_bound` (and with it `cdnv_bound`), with one shot
    `one_shot_bound`, and 1. Below 4V for every V > 0; no bound of the form C V with C < 4 exists. It need not fall with
    the number of shots, for the proofs do not: 0.346 with one shot and 0.351 with two at V = 0.1.

    Args:
        cdnv: V >= 0, float or tensor; NaN (the diagonal of a matrix) stays NaN.
        shot: n >= 1, a whole number.

    Returns:
        The bound, as ``cdnv`` came; in [0, 1].

    Raises:
        ValueError: negative V, fewer than one shot.
        TypeError: a number of shots that is not whole.

    Reference:
        Proved in this project, in notebooks/appendix/constant.ipynb and proofs.ipynb.

    Example:
        >>> [round(best_bound(0.1, shot=n), 3) for n in (1, 2, 5, 20)]
        [0.346, 0.351, 0.313, 0.293]
    """
    cdnv = check_cdnv("cdnv", cdnv)
    shot = check_whole("shot", shot, 1)
    bounds = [sharp_bound, leave_one_out_bound, quadratic_bound, *([one_shot_bound] if shot == 1 else [])]
    v = torch.as_tensor(cdnv, dtype=torch.float64)
    return as_came(torch.stack([bound(v, shot) for bound in bounds]).amin(0), cdnv)
