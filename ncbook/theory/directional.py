"""Bounds on the two-class error from the moments of each pair of classes: how much noise lies along which direction.

With D = mu_1 - mu_2, d = |D|, class means m_1 = mu_1 + a and m_2 = mu_2 + b of n shots each and a query x = mu_1 + xi,
all bounds look at the margin Z = |x - m_2|^2 - |x - m_1|^2; an error on class 1 is Z <= 0. e_1 and e_2 are averaged.
"""

import torch
from torch import Tensor

from ncbook._checks import named_arguments

from ._checks import check_at_least, check_cdnv, check_shot
from .moments import PairMoments, _no_diagonal


def _linear_variance(of: PairMoments, shot: int) -> Tensor:
    """W_1 [..., C, C], row of the query's class: Var(2<D, xi - b> + 2<xi, a - b>) / d^4."""
    trace = of.products.diagonal(dim1=-2, dim2=-1)[..., :, None] + of.products  # tr Sigma_i (Sigma_i + Sigma_j)
    return 4 * (of.along + (of.along.mT + trace) / shot) / of.squared_distance**2


def _balanced(one_sided: Tensor, of: PairMoments) -> Tensor:
    """(e_1 + e_2) / 2, at most 1, which it is for equal means; NaN on the diagonal."""
    both = ((one_sided + one_sided.mT) / 2).clamp(max=1)
    return _no_diagonal(both.masked_fill(of.squared_distance == 0, 1.0))


@named_arguments
def second_moment_bound(features: Tensor, labels: Tensor | None = None, *, shot: int) -> Tensor:
    r"""Bound B2 on the two-class few-shot error of every pair: directional, second moments only.

    .. math::
        e_1 \le 1 - \frac{(1-\rho_1)^2}{1 + W_1} \;(\rho_1 < 1), \qquad
        e_1 \le \Bigl(\sqrt{W_1/4} + \sqrt{\rho_1 + W_1/4}\Bigr)^2,

        \rho_1 = \frac{v_1}{n d^2}, \qquad
        W_1 d^4 = 4 D^\top\Sigma_1 D + \tfrac4n D^\top\Sigma_2 D + \tfrac4n \mathrm{tr}\,\Sigma_1(\Sigma_1 + \Sigma_2)

    the smaller of both. Averaged over the classes, Err <= 4(1+1/n)Vt + 2V/n + 8V^2/(n PR) with the participation ratio
    PR = tr(S)^2 / |S|_F^2 of S = Sigma_1 + Sigma_2.

    Proof sketch: Z / d^2 >= 1 + G - r with r = |a|^2 / d^2, E r = rho, and G linear in each of xi, a, b, E G = 0, E G^2
    = W. So an error needs G <= r - 1, and a quadratic in G plus a multiple of r that is at least 1 there and nowhere
    negative has an expectation of second moments only; two such functions give the two forms.

    Args:
        features: float [N, D], taken as the population, with ``labels``; or `PairMoments` alone.
        labels: int64 [N]; gaps are allowed.
        shot: n >= 1.

    Returns:
        float64 [C, C], symmetric, in [0, 1], NaN on the diagonal.

    Raises:
        ValueError: as `ncbook.collapse.directional_cdnv_matrix`, and fewer than one shot.

    Reference:
        Proved in this project; in full in notebooks/appendix/proofs.ipynb.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [10.0], [12.0]])  # variances 1, distance 10: rho = 0.01
        >>> w = (4 * 100 + 4 * 100 + 4 * 2) / 10**4
        >>> bound = 1 - 0.99**2 / (1 + w)
        >>> abs(float(second_moment_bound(x, torch.tensor([0, 0, 1, 1]), shot=1)[0, 1]) - bound) < 1e-12
        True
    """
    shot = check_shot(shot)
    of = _moments(features, labels)
    w = _linear_variance(of, shot)
    rho = of.variance[..., :, None] / (shot * of.squared_distance)
    first = torch.where(rho < 1, 1 - (1 - rho).square() / (1 + w), 1.0)
    second = ((w / 4).sqrt() + (rho + w / 4).sqrt()).square()
    return _balanced(torch.minimum(first, second), of)


@named_arguments
def directional_bound(features: Tensor, labels: Tensor | None = None, shot: int | None = None) -> Tensor:
    r"""Bound B3 on the two-class few-shot error of every pair: directional, with the exact fourth moment.

    The margin Z has mean d^2 M_1 and variance d^4 w_1, and an error is Z <= 0, so Cantelli's inequality gives

    .. math::
        e_1 \le \frac{w_1}{w_1 + M_1^2}, \quad M_1 = 1 + \frac{v_2 - v_1}{n d^2},

        w_1 d^4 = W_1 d^4 + q_1 + q_2 - 4 k_2,

    W_1 as in `second_moment_bound`, q_c = (E|x-mu_c|^4 - v_c^2)/n^3 + 2(n-1) tr(Sigma_c^2)/n^3 and k_2 = E[|eta|^2 <D,
    eta>]/n^2 with eta = y - mu_2, y ~ Q_2. Where M_1 <= 0 the bound is 1. The samples are taken as the
    population: it is exact for shots and query drawn from them with replacement.

    Args:
        features: float [N, D], taken as the population, with ``labels``; or `PairMoments` alone.
        labels: int64 [N]; gaps are allowed.
        shot: n >= 1.

    Returns:
        float64 [C, C], symmetric: (e_1 + e_2) / 2, at most 1, NaN on the diagonal. Never above
        `published_bound_2026`.

    Raises:
        ValueError: as `ncbook.collapse.directional_cdnv_matrix`, and fewer than one shot.

    Reference:
        Proved in this project; in full in notebooks/appendix/proofs.ipynb.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [10.0], [12.0]])  # variances 1, distance 10
        >>> w = (4 + 4 / 1 + 4 * 2 / 100 + 0) / 100           # in units of d^2 = 100; E|.|^4 = v^2, k = 0
        >>> abs(float(directional_bound(x, torch.tensor([0, 0, 1, 1]), shot=1)[0, 1]) - w / (w + 1)) < 1e-12
        True
    """
    shot = check_shot(shot)
    of = _moments(features, labels)
    n, d4 = shot, of.squared_distance**2
    squares = of.products.diagonal(dim1=-2, dim2=-1)  # tr Sigma_c^2
    q = (of.fourth - of.variance**2) / n**3 + 2 * (n - 1) * squares / n**3  # Var |a|^2, [..., C]
    # row = the query's class 1, column = the rival 2; skew is that of the column's class along mu_2 - mu_1 = -D
    w = _linear_variance(of, n) + (q[..., :, None] + q[..., None, :] + 4 * of.skew.mT / n**2) / d4
    v = of.variance
    margin = 1 + (v[..., None, :] - v[..., :, None]) / (n * of.squared_distance)
    one_sided = torch.where(margin > 0, w / (w + margin.square()), 1.0)
    return _balanced(one_sided, of)


@named_arguments
def published_bound_2025(cdnv, directional_cdnv, root_cdnv, *, shot: int, way: int = 2, a: float = 16.0):
    r"""Directional bound of Luthra, Yang and Galanti (2025), for comparison.

    .. math::
        Err \le (k-1)\Bigl[\Bigl(\tfrac12 - \tfrac2a - \tfrac{2^{3/2}}{an}\Bigr)^{-2}\tilde V
                + \tfrac a4\Bigl(\tfrac{2}{\sqrt n}(V^s + V) + \tfrac Vn\Bigr)\Bigr]

    Read from the authors' public code, which puts the root of V for V^s; that V^s is the mean of sqrt(v_i) / d is an
    inference. The freedom of a is theirs; 16 is the choice they fix.

    Args:
        cdnv: V >= 0, averaged over pairs; float or tensor.
        directional_cdnv: Vt >= 0, averaged over ordered pairs.
        root_cdnv: V^s >= 0, mean of sqrt(v_i / d^2) over ordered pairs.
        shot: n >= 1.
        way: k >= 2.
        a: at least 5, and above 4 + 2^(5/2) / n: below, the formula's first bracket is negative and its square would
            hide it.

    Returns:
        The bound; vacuous above 1.

    Raises:
        ValueError: what is below its least value.

    Reference:
        arXiv:2506.04411, Proposition 1, through the code that accompanies it.

    Example:
        >>> round(published_bound_2025(0.0, 0.01, 0.0, shot=10**9), 4)  # (1/2 - 1/8)^-2 * 0.01
        0.0711
    """
    for name, value in dict(cdnv=cdnv, directional_cdnv=directional_cdnv, root_cdnv=root_cdnv).items():
        check_cdnv(name, value)
    shot = check_shot(shot)
    way = check_at_least("way", way, 2)
    least = max(5.0, 4 + 2**2.5 / shot)
    a = check_at_least("a", a, 0)
    if a < 5 or a <= 4 + 2**2.5 / shot:
        raise ValueError(f"a={a!r} with shot={shot!r}; allowed: at least 5 and above {least:.4g}")
    bracket = 1 / 2 - 2 / a - 2**1.5 / (a * shot)
    return (way - 1) * (directional_cdnv / bracket**2 + a / 4 * (2 / shot**0.5 * (root_cdnv + cdnv) + cdnv / shot))


@named_arguments
def published_bound_2026(features: Tensor, labels: Tensor | None = None, *, shot: int) -> Tensor:
    r"""Directional bound of Luthra, Salunkhe and Galanti (2026) for every pair, for comparison.

    .. math::
        e_1 \le \frac{4\tilde V_{12} + (\sqrt{E_1} + \sqrt{E_2} + \sqrt{E_3})^2}{(1 + (v_2 - v_1)/(n d^2))^2},

        E_1 = \tfrac4n\bigl(V^2 + \tfrac V4\bigr), \quad E_2 = \tfrac Vn, \quad
        E_3 = \frac{\Theta + 2(n-1)V^2}{n^3}, \quad
        V = \frac{v_1 + v_2}{d^2}, \quad \Theta = \frac{E|x-\mu_1|^4 + E|y-\mu_2|^4}{d^4}

    V is *not* halved here. The theorem is stated for n >= 10; the formula holds for every n >= 1 (see
    notebooks/appendix/proofs.ipynb) but is loose there. `directional_bound` is never above it.

    Args:
        features: float [N, D], taken as the population, with ``labels``; or `PairMoments` alone.
        labels: int64 [N]; gaps are allowed.
        shot: n >= 1.

    Returns:
        float64 [C, C], symmetric, *not* capped at 1, NaN on the diagonal; inf where the denominator or the
            distance vanishes.

    Raises:
        ValueError: as `ncbook.collapse.directional_cdnv_matrix`, and fewer than one shot.

    Reference:
        arXiv:2603.03530, Theorem 4.1, through the code that accompanies it.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [10.0], [12.0]])  # variances 1, distance 10: V = 0.02, Theta = 2e-4
        >>> e = (4 * (0.02**2 + 0.005)) ** 0.5 + 0.02**0.5 + 0.0002**0.5
        >>> abs(float(published_bound_2026(x, torch.tensor([0, 0, 1, 1]), shot=1)[0, 1]) - (0.04 + e**2)) < 1e-12
        True
    """
    shot = check_shot(shot)
    of = _moments(features, labels)
    n, v, m4, d2 = shot, of.variance, of.fourth, of.squared_distance
    V = (v[..., :, None] + v[..., None, :]) / d2
    theta = (m4[..., :, None] + m4[..., None, :]) / d2**2
    e1, e2, e3 = 4 / n * (V**2 + V / 4), V / n, (theta + 2 * (n - 1) * V**2) / n**3
    margin = 1 + (v[..., None, :] - v[..., :, None]) / (n * d2)
    one_sided = (4 * of.along / d2**2 + (e1.sqrt() + e2.sqrt() + e3.sqrt()).square()) / margin.square()
    both = (one_sided + one_sided.mT) / 2
    return _no_diagonal(both.masked_fill(d2 == 0, torch.inf))


def _moments(features: Tensor | PairMoments, labels: Tensor | None) -> PairMoments:
    if isinstance(features, PairMoments):
        if labels is not None:
            raise ValueError("labels beside PairMoments; allowed: None")
        return features
    if labels is None:
        raise ValueError("labels=None beside features; allowed: int64 [N]")
    return PairMoments.of_features(features, labels)
