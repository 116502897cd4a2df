"""The best bound that second moments give through one quadratic function: B5, from the CDNV alone or directional.

With x = mu_1 + xi, m_1 = mu_1 + a, m_2 = mu_2 + b and lengths in units of d = |D|, an error on class 1 is F >= 0 for

    F = |x - m_1|^2 - |x - m_2|^2 = |a|^2 - |b|^2 - 1 - 2 <D, xi> + 2 <D, b> - 2 (1 - theta) <xi, a - b> - 2 theta g

where g stands for <xi, a - b> itself, a fifth variable that is uncorrelated with 1, xi, a and b. Let R be the matrix of
1 + lambda F. Every Q >= 0 with Q >= R (as matrices) is a quadratic q that is nowhere negative and at least 1 where an
error is made, so e_1 <= E q = tr(Q Sigma); and the least trace of such a Q is the sum of the positive eigenvalues of
Sigma^(1/2) R Sigma^(1/2). Every lambda >= 0 and every theta gives a bound; it is convex in lambda.
"""

import functools

import torch
from torch import Tensor

from ncbook._checks import named_arguments

from ._checks import QUERIES, as_came, check_cdnv, check_pool, check_shot, saturating
from .bounds import cdnv_bound
from .directional import _balanced, _moments, second_moment_bound
from .moments import PairMoments

_THETAS = (0.0, 0.35, 0.7, 1.0)
_GOLDEN = (5**0.5 - 1) / 2
_STEPS = 12
_PAIRS_AT_ONCE = 10_000
_VACUOUS = 1e6


@named_arguments
def quadratic_bound(cdnv, shot: int, *, pool: int | None = None, queries: str = "undrawn"):
    r"""Bound B5 on the two-class few-shot error: the best that the CDNV gives through one quadratic function.

    .. math:: Err \le \min_{\lambda, \theta}\; \mathrm{tr}\bigl[(\Sigma^{1/2} R_{\lambda\theta} \Sigma^{1/2})_+\bigr],
              \qquad \Sigma = \mathrm{diag}\Bigl(1, V, \frac Vn, \frac Vn, \frac{2V^2}{n}\Bigr)

    with R as at the head of this module. Never above `cdnv_bound`, never above 1, and tending with n to

    .. math:: \frac{4V}{1 + 4V}

    which is attained there (`mean_mismatch_bound`). The minimum is taken over some quadratics, each of which is a
    bound: it lies above the least one by less than 1e-3 of it. With one shot also, and often smaller, 6V / (1 + 3V):
    see below. Whether 4V / (1 + 4V) itself holds for every n is open; with one shot `distributions.shared_point`
    attains it.

    Proof sketch: one Q serves both classes and, without its first row, every direction across D. E q is linear in the
    variances, so its average over the classes only holds v_1 + v_2 = 2V d^2, and tr Sigma_1 (Sigma_1 + Sigma_2) <= v_1
    (v_1 + v_2). One shot: query and shot of a class may be swapped. In the triangle x, m_1, m_2 with A
    = |x - m_1|^2 and the median w from m_2, two errors need A >= (4/3) |w|^2 and one needs A >= (4/9) |w|^2, so q = 2
    (3A/4 + |w - G|^2) / |G|^2 is at least the fraction of errors, for every multiple G of D; take the best. In full in
    notebooks/appendix/proofs.ipynb.

    Args:
        cdnv: V >= 0, float or tensor; NaN (the diagonal of a matrix) stays NaN.
        shot: n >= 1.
        pool, queries: as in `cdnv_bound`.

    Returns:
        The bound, as ``cdnv`` came; in [0, 1].

    Raises:
        ValueError: as `cdnv_bound`.

    Reference:
        Proved in this project.

    Example:
        >>> round(quadratic_bound(0.25, shot=10**9), 3), round(quadratic_bound(0.1, shot=1), 4)  # 1 / 2 and 0.6 / 1.3
        (0.5, 0.4615)
    """
    cdnv = check_cdnv("cdnv", cdnv)
    shot = check_shot(shot)
    if pool is not None:
        pool, shot = check_pool("pool", pool, shot, queries)
    values = torch.as_tensor(cdnv if isinstance(cdnv, Tensor) else float(cdnv), dtype=torch.float64)
    # far above the largest V whose quadratic is kept the bound is 1, which is its limit
    v = values.nan_to_num(0.0, posinf=_VACUOUS).clamp_max(_VACUOUS).flatten()
    parabolas = _parabolas(float(shot), pool, queries).to(v.device)
    powers = torch.stack([torch.ones_like(v), v, v**2])  # [3, P]
    parts = [(parabolas @ part).amin(0) for part in powers.split(_PAIRS_AT_ONCE, dim=1)]
    # B1 is one such quadratic: the minimum only takes away what rounding leaves above it
    bound = torch.minimum(torch.cat(parts).clamp(0, 1), cdnv_bound(v, shot, pool=pool, queries=queries))
    if shot == 1 and pool is None:
        bound = torch.minimum(bound, saturating(3 * v, 2.0))
    bound = torch.where(values.isnan(), torch.nan, bound.view(values.shape))
    return as_came(bound, cdnv)


@functools.lru_cache(maxsize=64)
def _parabolas(shot: float, pool: int | None, queries: str) -> Tensor:
    """Coefficients [K, 3] of tr(Q Sigma(V)) in 1, V, V^2 for the best Q of many V: each Q holds for every V."""
    v = torch.logspace(-7, 3, 300, dtype=torch.float64)
    left, spread = 0.0, 1 / shot  # covariance of xi and a, variance of a, in units of V
    if pool is not None:
        spread = (pool - shot) / (shot * (pool - 1))
        left = -1 / (pool - 1) if queries == QUERIES[0] else 0.0
    sigma = torch.diag_embed(torch.stack([torch.ones_like(v), v, v * spread, v * spread, 2 * v**2 / shot], -1))
    sigma[:, 1, 2] = sigma[:, 2, 1] = v * left * (1 - 1e-9)  # only to choose Q by; m = 2 would make it singular
    root = torch.linalg.cholesky(sigma)
    found = []
    for theta in _THETAS if pool is None else (0.0,):  # within a pool <xi, a - b> is correlated with the rest
        weight = _best_weight(lambda w, theta=theta: _least_trace(_R(w, theta), root), 2 / (1 + 4 * v))
        Q = _least_Q(_R(weight, theta), root)
        linear = Q[:, 1, 1] + spread * (Q[:, 2, 2] + Q[:, 3, 3]) + 2 * left * Q[:, 1, 2]
        found.append(torch.stack([Q[:, 0, 0], linear, 2 / shot * Q[:, 4, 4]], -1))
    return torch.cat(found)


@named_arguments
def directional_quadratic_bound(features: Tensor | PairMoments, labels: Tensor | None = None, *, shot: int) -> Tensor:
    r"""Bound B5 on the two-class few-shot error of every pair: directional, second moments only.

    As `quadratic_bound`, with the noise as it lies: along D the variances Vt_12, Vt_12 / n and Vt_21 / n, across it
    what is left of v_1 / d^2 and v_2 / d^2, and tr Sigma_1 (Sigma_1 + Sigma_2) / (n d^4) for <xi, a - b>. Never above
    `second_moment_bound` or `quadratic_bound`. `directional_bound`, which needs fourth moments, may be above or below.

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
        Noise along the line of the means only, very many shots: Cantelli's 4 Vt / (1 + 4 Vt).

        >>> x = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
        >>> round(float(directional_quadratic_bound(x, torch.tensor([0, 0, 1, 1]), shot=10**9)[0, 1]), 5)  # 0.04 / 1.04
        0.03846
    """
    shot = check_shot(shot)
    of = _moments(features, labels)
    n = shot
    d2 = of.squared_distance.where(of.squared_distance > 0, 1.0)  # equal means: `_balanced` makes the bound 1
    own = (of.variance[..., :, None] / d2).expand_as(d2)  # v_1 / d^2, row of the query's class
    rival = (of.variance[..., None, :] / d2).expand_as(d2)
    own_along, rival_along = of.along / d2**2, of.along.mT / d2**2
    trace = (of.products.diagonal(dim1=-2, dim2=-1)[..., :, None] + of.products) / d2**2
    along = torch.stack([torch.ones_like(d2), own_along, own_along / n, rival_along / n, trace / n], -1)
    across = torch.stack([own - own_along, (own - own_along) / n, (rival - rival_along) / n], -1).clamp_min(0)
    root_along, root_across = torch.diag_embed(along.sqrt()), torch.diag_embed(across.sqrt())
    # where B2's quadratic has its weight
    near = (2 * (1 - own / n) / (1 + 4 * (own_along + (rival_along + trace) / n))).clamp(0.02, 2)
    one_sided = torch.ones_like(d2)
    for theta in (_THETAS[0], _THETAS[-1]):

        def trace_of(weight, theta=theta):
            R = _R(weight, theta)
            return _least_trace(R, root_along) + _least_trace(R[..., 1:4, 1:4], root_across)

        one_sided = torch.minimum(one_sided, trace_of(_best_weight(trace_of, near)))
    bound = torch.minimum(_balanced(one_sided, of), second_moment_bound(of, shot=shot))
    return torch.minimum(bound, quadratic_bound(of.cdnv, shot))


def _R(weight: Tensor, theta: float) -> Tensor:
    """Matrix [..., 5, 5] of 1 + lambda F in 1, xi, a, b, g (lengths along D), for lambda = ``weight`` [...]."""
    zero, one, k = torch.zeros_like(weight), torch.ones_like(weight), weight * (1 - theta)
    rows = [
        [one - weight, -weight, zero, weight, -weight * theta],
        [-weight, zero, -k, k, zero],
        [zero, -k, weight, zero, zero],
        [weight, k, zero, -weight, zero],
        [-weight * theta, zero, zero, zero, zero],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _least_trace(R: Tensor, root: Tensor) -> Tensor:
    """The least tr(Q Sigma) of all Q >= 0 with Q >= R, for Sigma = root root'; [...]."""
    return torch.linalg.eigvalsh(root.mT @ R @ root).clamp_min(0).sum(-1)


def _least_Q(R: Tensor, root: Tensor) -> Tensor:
    """The Q [..., 5, 5] that has it; root must be invertible."""
    values, vectors = torch.linalg.eigh(root.mT @ R @ root)
    half = torch.linalg.solve(root.mT, vectors * values.clamp_min(0).sqrt()[..., None, :])  # Q = half half'
    return half @ half.mT


def _best_weight(trace_of, near: Tensor) -> Tensor:
    """Golden-section search for the lambda with the least trace, within a factor of 5 of ``near``."""
    low, high = near.log() - 1.6, near.log() + 1.6
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_a, at_b = trace_of(a.exp()), trace_of(b.exp())
    for _ in range(_STEPS):
        smaller = at_a < at_b
        low, high = torch.where(smaller, low, a), torch.where(smaller, b, high)
        new = torch.where(smaller, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
        at_new = trace_of(new.exp())
        a, at_a, b, at_b = (
            torch.where(smaller, new, b),
            torch.where(smaller, at_new, at_b),
            torch.where(smaller, a, new),
            torch.where(smaller, at_a, at_new),
        )
    return torch.where(at_a < at_b, a, b).exp()
