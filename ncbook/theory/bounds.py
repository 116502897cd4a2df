"""Bounds on the two-class error from the CDNV alone."""

import torch

from ncbook import collapse
from ncbook._checks import named_arguments

from ._checks import QUERIES, check_at_least, check_cdnv, check_pool, check_shot, saturating


@named_arguments
def cdnv_bound(cdnv, shot: int, *, pool: int | None = None, queries: str = "undrawn"):
    r"""Bound B1 on the two-class few-shot error, for any two distributions and every number of shots.

    .. math:: Err \le \frac{4cV}{1 + 2cV} \le 4cV, \qquad c = 1 + \frac1n

    The form C(1+1/n)V is the deck's; its constant could not be confirmed in any source that could be read (16 is
    remembered). C = 4 is proved and is the smallest constant that serves every n: `distributions.two_point` comes as
    near to it as one likes.

    Proof sketch: with y = x - m_1 and h = x - m_2, an error on class 1 is |y| >= |h|. There, and with D = mu_1 -
    mu_2, q = 2 (|y|^2 + |h - (1+t) D|^2) / ((1+t)^2 |D|^2) is at least 1 (parallelogram identity), and q >= 0
    everywhere; so the error is at most E q, which holds second moments only. Take the best t, average over the
    classes (Jensen). In full in notebooks/appendix/proofs.ipynb.

    With a ``pool`` of m samples per class, V theirs, and shots drawn from it *without* replacement, the shots are
    correlated with the samples that are left over and c becomes

    .. math:: c = 1 + \frac{m}{n(m-1)} \;\text{(queries left over)}, \qquad c = 1 + \frac{m-n}{n(m-1)} \;\text{(all m)}

    Since the mean error over left-over samples is unbiased for a fixed f, the first also bounds the error on the
    population in the mean over pools, with no factor m / (m - n).

    Args:
        cdnv: V >= 0, float or tensor; NaN (the diagonal of a matrix) stays NaN.
        shot: n >= 1.
        pool: m > n, or None: shots and query are independent draws of the distributions.
        queries: with a pool, "undrawn" (samples that are not shots) or "all".

    Returns:
        The bound, as ``cdnv`` came; in [0, 2], 2 for infinite V; vacuous, at least 1, for V >= 1 / (2c).

    Raises:
        ValueError: negative V, fewer than one shot, a pool of no more than the shots, other queries.

    Reference:
        The form: slides of 7 December 2022, "few-shot error" statement. The constant: proved in this project.

    Example:
        >>> round(cdnv_bound(0.1, shot=1), 6)  # 4 * 2 * 0.1 / (1 + 2 * 2 * 0.1) = 0.8 / 1.4
        0.571429
        >>> round(cdnv_bound(0.1, shot=1, pool=2, queries="all"), 6)  # c = 1 + (2 - 1) / (1 * 1) = 2
        0.571429
    """
    cdnv = check_cdnv("cdnv", cdnv)
    shot = check_shot(shot)
    c = 1 + 1 / shot
    if pool is not None:
        pool, shot = check_pool("pool", pool, shot, queries)
        c = 1 + (pool if queries == QUERIES[0] else pool - shot) / (shot * (pool - 1))
    return saturating(2 * c * cdnv, 2.0)


def mean_mismatch_bound(cdnv):
    r"""Bound B4 on the fraction of a set's own samples that lie nearer to the other class's mean. No probability in it.

    .. math:: \text{mismatch} \le \frac{4V}{1 + 4V}

    V is the CDNV of the set (balanced fraction of both classes), or the directional CDNV of class i (fraction of
    class i).

    Proof sketch: a sample of class 1 is misplaced if its coordinate along D deviates from mu_1 by at least |D| / 2;
    Cantelli's inequality for the uniform distribution on the set; x / (1 + x) is concave.

    Args:
        cdnv: V >= 0, float or tensor; NaN stays NaN.

    Returns:
        The bound, as ``cdnv`` came; in [0, 1], 1 for infinite V.

    Raises:
        ValueError: negative V.

    Example:
        >>> mean_mismatch_bound(0.25)  # 1 / (1 + 1)
        0.5
    """
    cdnv = check_cdnv("cdnv", cdnv)
    return saturating(4 * cdnv, 1.0)


@named_arguments
def spread_bound(cdnv, shot: int, rank: float):
    r"""Bound B2's corollary for noise spread over many directions.

    .. math:: Err \le \frac{2V}{n} + \Bigl(8 + \frac4n\Bigr)\frac{V}{r} \le 12\Bigl(\frac1r + \frac1n\Bigr)V
              \quad\text{when}\quad \lambda_{\max}(\Sigma_i) \le v_i / r

    r is the effective rank of the noise (isotropic noise in p dimensions: r = p). It takes the place of the deck's
    statement for spherically symmetric classes, (1/p + 1/n)V up to a constant: neither symmetry nor the dimension is
    what is needed. The V/n term cannot be dropped. `rank_bound` is never above it.

    Proof sketch: put Vt <= V / r and the participation ratio >= r into the averaged form of `second_moment_bound`.

    Args:
        cdnv: V >= 0, float or tensor.
        shot: n >= 1.
        rank: r >= 1, the smaller `effective_rank` of the two classes; float or tensor.

    Returns:
        The bound, as ``cdnv`` came.

    Raises:
        ValueError: negative V, fewer than one shot, a rank below one.

    Example:
        >>> round(spread_bound(0.1, shot=1, rank=12), 6)  # 0.2 + 12 * 0.1 / 12
        0.3
    """
    return _of_rank(cdnv, shot, rank, 8)


@named_arguments
def rank_bound(cdnv, shot: int, rank: float):
    r"""The same with half the constant of V/r: the deck's form with 4, the smallest constant that serves all ranks.

    .. math:: Err \le \Bigl(\frac2n + \frac4r + \frac4{nr}\Bigr)V \le 4\Bigl(\frac1r + \frac1n\Bigr)V \ (r \ge 2)

    and at most 5(1/r + 1/n)V always. 4 is the smallest constant, since a class that jumps just past the midpoint has
    Err -> 4V/r as V -> 0 and n -> inf.

    Proof sketch: where rho_i >= 1 the bound is at least 1. Else W_i of `second_moment_bound` is at most
    kappa rho_i (1 + rho_1 + rho_2) + (4/r) rho_j with kappa = 4n/r, and the two first forms then add up to at most
    (2 + kappa + 4/r)(rho_1 + rho_2).

    Arguments, result and errors as of `spread_bound`.

    Example:
        >>> round(rank_bound(0.1, shot=1, rank=8), 6)  # 0.2 + 8 * 0.1 / 8
        0.3
    """
    return _of_rank(cdnv, shot, rank, 4)


def _of_rank(cdnv, shot: int, rank: float, constant: int):
    """(2/n + (constant + 4/n) / r) V."""
    cdnv = check_cdnv("cdnv", cdnv)
    shot = check_shot(shot)
    if isinstance(rank, torch.Tensor) and rank.ndim:
        rank = rank.where(~((rank < 1) & (rank >= 1 - 1e-9)), 1.0)  # as `effective_rank` may round
    rank = check_at_least("rank", rank, 1, infinite=True, nan=isinstance(rank, torch.Tensor) and rank.ndim > 0)
    return (2 / shot + (constant + 4 / shot) / rank) * cdnv


def effective_rank(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    r"""How many directions the noise of each class is spread over, as `spread_bound` counts them.

    .. math:: r_i = \mathrm{tr}\,\Sigma_i / \lambda_{\max}(\Sigma_i)

    `ncbook.collapse.effective_rank` is another number, the exponential of an entropy: of the same class it is at least
    as large, and with it these bounds are not proved.

    Args:
        features: float [N, D].
        labels: int64 [N]; gaps are allowed.

    Returns:
        float64 [C], in [1, min(D, N_c - 1)]; 1 for a class without any variance.

    Raises:
        ValueError: as `ncbook.collapse.cdnv_matrix`.

    Example:
        >>> x = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1], [9, 1], [9, -1]])
        >>> effective_rank(x, torch.tensor([0, 0, 0, 0, 1, 1]))  # the same in two directions; one direction
        tensor([2., 1.], dtype=torch.float64)
    """
    collapse.cdnv_matrix(features, labels)  # refuses what is not a set of classes with distinct means
    ranks = []
    for label in labels.unique():  # ascending; no loop over samples or pairs
        rows = features[labels == label].double()
        rows = rows - rows.mean(0)
        small = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows  # the same eigenvalues but zeros
        largest = torch.linalg.eigvalsh(small)[-1]
        ranks.append(torch.where(largest > 0, small.trace() / largest, 1.0))
    return torch.stack(ranks)
