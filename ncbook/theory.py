"""The right-hand side of each inequality: from CDNV and sample counts to few-shot error. Pure; torch alone.

Measured sides are `fewshot.pair_errors` and `collapse`; notebook 04 puts the two next to each other. Everywhere
V is the CDNV, n (``shot``) the samples a class, k (``way``) the classes of a task; Err is the error of the
nearest-class-mean classifier, a tie counted as an error, averaged over the classes with equal weight.
"""

import math

import torch

from ncbook import collapse


def _at_least(name: str, value, low: float) -> None:
    given = value.detach() if isinstance(value, torch.Tensor) else torch.as_tensor(value)
    if bool((given < low).any()) or bool(given.isnan().any()):
        raise ValueError(f"{name}={value!r}; allowed: at least {low}")


def cdnv_bound(cdnv, shot: int):
    r"""Bound B1 on the two-class few-shot error, for any two distributions and every number of shots.

    .. math:: Err \le \frac{4(1+1/n)V}{1 + 2(1+1/n)V} \le 4(1+1/n)V

    The form C(1+1/n)V is the deck's; its constant could not be confirmed in any source at hand. C = 4 is proved
    (sum of two squares that is at least 1 wherever an error is made; see notebook 04) and is the smallest
    constant that serves every n. Below 1, that is, saying anything, only for V < 1 / (2(1+1/n)).

    Args:
        cdnv: V >= 0, float or tensor; NaN (the diagonal of a matrix) stays NaN.
        shot: n >= 1.

    Returns:
        The bound, as ``cdnv`` came; in [0, 2).

    Raises:
        ValueError: negative V, or fewer than one shot.

    >>> round(cdnv_bound(0.1, shot=1), 6)  # 4 * 2 * 0.1 / (1 + 2 * 2 * 0.1) = 0.8 / 1.4
    0.571429
    """
    given = cdnv.detach() if isinstance(cdnv, torch.Tensor) else torch.as_tensor(cdnv)
    if bool((given < 0).any()):
        raise ValueError(f"cdnv={cdnv!r}; allowed: at least 0")
    _at_least("shot", shot, 1)
    c = 1 + 1 / shot
    return 4 * c * cdnv / (1 + 2 * c * cdnv)


def spread_bound(cdnv, shot: int, rank: float):
    r"""Bound B2's corollary for noise spread over many directions.

    .. math:: Err \le 2V/n + (8 + 4/n)\,V/r \quad\text{when}\quad \lambda_{\max}(\Sigma_i) \le v_i / r

    r is the effective rank of the noise (isotropic noise in p dimensions: r = p). It takes the place of the
    deck's spherical statement, (1/p + 1/n)V: neither symmetry nor the dimension is what is needed.

    Args:
        cdnv: V >= 0, float or tensor.
        shot: n >= 1.
        rank: r >= 1, the smaller tr(Sigma) / lambda_max(Sigma) of the two classes.

    Returns:
        The bound, as ``cdnv`` came.

    Raises:
        ValueError: negative V, fewer than one shot, a rank below one.

    >>> round(spread_bound(0.1, shot=1, rank=12), 6)  # 0.2 + 12 * 0.1 / 12
    0.3
    """
    given = cdnv.detach() if isinstance(cdnv, torch.Tensor) else torch.as_tensor(cdnv)
    if bool((given < 0).any()):
        raise ValueError(f"cdnv={cdnv!r}; allowed: at least 0")
    _at_least("shot", shot, 1)
    _at_least("rank", rank, 1)
    return 2 * cdnv / shot + (8 + 4 / shot) * cdnv / rank


def directional_bound(features: torch.Tensor, labels: torch.Tensor, shot: int) -> torch.Tensor:
    r"""Bound B3 on the two-class few-shot error of every pair: directional, with the exact fourth moment.

    With D = mu_1 - mu_2, d = |D|, x ~ Q_1, class means m_1, m_2 of n shots each, the margin
    Z = |x - m_2|^2 - |x - m_1|^2 has mean d^2 M_1 and variance d^4 w_1, and an error is Z <= 0, so Cantelli gives

    .. math::
        e_1 \le \frac{w_1}{w_1 + M_1^2}, \quad M_1 = 1 + \frac{v_2 - v_1}{n d^2},

        w_1 d^4 = 4 D^T\Sigma_1 D + \frac{4}{n} D^T\Sigma_2 D + \frac{4}{n}\mathrm{tr}\,\Sigma_1(\Sigma_1+\Sigma_2)
                  + q_1 + q_2 - 4 k_2,

    q_c = (E|x-mu_c|^4 - v_c^2)/n^3 + 2(n-1) tr(Sigma_c^2)/n^3 and k_2 = E[|eta|^2 <D, eta>]/n^2 with
    eta = y - mu_2, y ~ Q_2. Where M_1 <= 0 the bound is 1. The samples at hand are taken as the population: it is
    exact for shots and query drawn from them with replacement.

    Args:
        features: float [N, D].
        labels: int64 [N]; gaps are allowed.
        shot: n >= 1.

    Returns:
        float64 [C, C], symmetric: (e_1 + e_2) / 2, at most 1, NaN on the diagonal.

    Raises:
        ValueError: as `ncbook.collapse.cdnv_matrix`, and fewer than one shot.

    >>> x = torch.tensor([[0.0], [2.0], [10.0], [12.0]])  # variances 1, distance 10
    >>> w = (4 + 4 / 1 + 4 * 2 / 100 + 0) / 100           # in units of d^2 = 100; E|.|^4 = v^2, k = 0
    >>> abs(float(directional_bound(x, torch.tensor([0, 0, 1, 1]), shot=1)[0, 1]) - w / (w + 1)) < 1e-12
    True
    """
    _at_least("shot", shot, 1)
    collapse.cdnv_matrix(features, labels)  # refuses what is not a set of classes with distinct means
    classes = labels.unique()  # ascending
    x = features.double()
    means, covariances, fourth, third = [], [], [], []
    for label in classes:  # C small tensors; no loop over samples or pairs
        rows = x[labels == label]
        centred = rows - rows.mean(0)
        squares = centred.square().sum(1)  # [N_c]
        means.append(rows.mean(0))
        covariances.append(centred.T @ centred / len(rows))
        fourth.append(squares.square().mean())
        third.append((squares[:, None] * centred).mean(0))  # E[|eta|^2 eta]
    mean, cov = torch.stack(means), torch.stack(covariances)  # [C, D], [C, D, D]
    m4, m3 = torch.stack(fourth), torch.stack(third)  # [C], [C, D]
    v = cov.diagonal(dim1=1, dim2=2).sum(1)  # [C]
    flat = cov.flatten(1)
    products = flat @ flat.T  # [C, C]: tr(Sigma_i Sigma_j)
    n = shot

    gaps = mean[:, None] - mean[None]  # [C, C, D]: mu_i - mu_j
    d2 = gaps.square().sum(-1)  # [C, C]
    along = torch.einsum("ijp,ipq,ijq->ij", gaps, cov, gaps)  # D^T Sigma_i D
    k = torch.einsum("ijp,jp->ij", gaps, m3) / n**2  # k_2, row 1 = i, column 2 = j
    q = (m4 - v**2) / n**3 + 2 * (n - 1) * products.diagonal() / n**3  # [C]
    w = 4 * along + 4 * along.T / n + 4 * (products.diagonal()[:, None] + products) / n + q[:, None] + q[None] - 4 * k
    w = w / d2**2
    margin = 1 + (v[None] - v[:, None]) / (n * d2)  # M_1 of class i against j
    one_sided = torch.where(margin > 0, w / (w + margin**2), torch.ones_like(w))
    bound = ((one_sided + one_sided.T) / 2).clamp(max=1)
    return bound.fill_diagonal_(math.nan)


def multiclass_bound(pair_errors: torch.Tensor) -> torch.Tensor:
    r"""Union bound from two-class errors to the k-way error.

    .. math:: Err_P(f) \le (k-1)\, \mathrm{Avg}_{i \ne j} Err_{P_{ij}}(f)

    Args:
        pair_errors: [k, k] with anything (NaN) on the diagonal.

    Returns:
        0-d tensor, at least 0; above 1 it says nothing.

    Raises:
        ValueError: not a square matrix of at least two classes.

    >>> multiclass_bound(torch.tensor([[torch.nan, 0.1, 0.2], [0.1, torch.nan, 0.3], [0.2, 0.3, torch.nan]]))
    tensor(0.4000)
    """
    shape = list(pair_errors.shape)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
        raise ValueError(f"pair_errors is of shape {shape}; allowed: [k, k] with k of at least 2")
    k = shape[0]
    off = ~torch.eye(k, dtype=torch.bool, device=pair_errors.device)
    return (k - 1) * pair_errors[off].mean()


def without_replacement_factor(samples: int, shot: int) -> float:
    r"""Factor m / (m - n) from the error over all m samples to the error over those not drawn as shots.

    It holds for shots drawn without replacement and a fixed f: the mean error on the m - n left-over samples is
    unbiased for the population's error and at most m / (m - n) times the mean error over all m.

    Args:
        samples: m, samples a class.
        shot: n < m.

    Returns:
        A number above 1.

    Raises:
        ValueError: fewer than one shot, or no sample left.

    >>> without_replacement_factor(500, 5)
    1.0101010101010102
    """
    _at_least("shot", shot, 1)
    if samples <= shot:
        raise ValueError(f"samples={samples!r} with shot={shot!r}; allowed: more samples than shots")
    return samples / (samples - shot)
