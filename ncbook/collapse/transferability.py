r"""What features say of transfer without training a head: LogME, class separation R², and two ranks without labels.

Called by the reader of a notebook and by the report, which has moments in place of features where images do not fit.
"""

import math

import torch
from torch import Tensor

from ncbook._checks import check_features, check_matrix, describe_not_finite

from .moments import Moments
from .sample import Sample, accurate_dtype

_EPSILON = 1e-7  # of RankMe
_ROUNDS = 11  # of LogME's fixed point, as its authors do


def rankme(features: Tensor) -> Tensor:
    r"""RankMe: how many directions the features use, from their singular values. Needs no labels.

    .. math:: \exp\Big(-\sum_k p_k \ln p_k\Big), \qquad p_k = \frac{\sigma_k}{\sum_j \sigma_j} + 10^{-7}

    The singular values are those of the features as they are: their mean counts, and is often the largest. Features of
    C classes that have collapsed use C directions at most (C - 1 of a simplex ETF about the origin): a small value says
    that few directions are used, not whether for the better.

    Args:
        features: [N, D].

    Returns:
        0-d tensor in [1, min(N, D)], up to the 1e-7 in p; min(N, D) if all directions are used alike.

    Raises:
        TypeError, ValueError: If ``features`` is not a float tensor [N, D], is empty, not finite, or zero.

    Reference:
        Garrido, Balestriero, Najman, LeCun, "RankMe: assessing the downstream performance of pretrained self-supervised
        representations by their rank", ICML 2023, arXiv:2210.02885, equation 1.

    Example:
        Singular values 3 and 1: p = 3/4 and 1/4, and exp of its entropy is 4 / 3^(3/4).

        >>> rankme(torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        tensor(1.7548, dtype=torch.float64)
    """
    return rankme_of_singular_values(_singular_values(features))


def rankme_of_singular_values(values: Tensor) -> Tensor:
    """Formula of `rankme`, of min(N, D) singular values at any scale."""
    p = values / values.sum() + _EPSILON
    return torch.special.entr(p).sum().exp()


def effective_rank(features: Tensor) -> Tensor:
    r"""Effective rank of the features' covariance: how many directions they vary along. Needs no labels.

    .. math:: \exp\Big(-\sum_k p_k \ln p_k\Big), \qquad p_k = \frac{\lambda_k}{\sum_j \lambda_j},

    with the eigenvalues of the covariance about the mean of all samples. Two things differ from `rankme`: the mean is
    taken off, so that features far from the origin do not look as if they used one direction; and eigenvalues are
    squares of singular values, so that directions of small variance count for less. Of the same centered features this
    one is never above RankMe.

    Args:
        features: [N, D].

    Returns:
        0-d tensor in [1, min(N - 1, D)]. Of C classes of one size whose class means are a simplex ETF it is C - 1 at
        collapse. Rotation, translation and scale leave it as it is.

    Raises:
        TypeError, ValueError: If ``features`` is not a float tensor [N, D], is not finite, or does not vary.

    Reference:
        Roy, Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007, of the covariance
        matrix, whose singular values are its eigenvalues.

    Example:
        Variances 3/2 and 1/2 about the mean (7, 7): p = 3/4 and 1/4, as in the example of RankMe.

        >>> x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3**0.5], [0.0, -(3**0.5)]], dtype=torch.float64)
        >>> effective_rank(x + 7)
        tensor(1.7548, dtype=torch.float64)
    """
    values = _singular_values(features, centered=True)
    return effective_rank_of_eigenvalues((values / values.max()).square())


def effective_rank_of_eigenvalues(values: Tensor) -> Tensor:
    """Formula of `effective_rank`, of eigenvalues at any scale."""
    return torch.special.entr(values / values.sum()).sum().exp()


def logme(features: Tensor, labels: Tensor) -> Tensor:
    r"""LogME: the log evidence of a Bayesian linear model of the labels, per sample, averaged over classes.

    .. math:: \frac1C \sum_k \frac1N \max_{\alpha, \beta} \ln \int \mathcal N(y_k \mid F w, \beta^{-1} I)\,
              \mathcal N(w \mid 0, \alpha^{-1} I)\, dw

    F [N, D] are the features as they are and y_k [N] is 1 for samples of class k, else 0. With the singular values
    :math:`\sigma_i` of F and the posterior mean m of the weights, the log evidence of a class is

    .. math:: \tfrac D2 \ln\alpha + \tfrac N2 \ln\beta - \tfrac12 \sum_i \ln(\alpha + \beta\sigma_i^2)
              - \tfrac\beta2 \|y - Fm\|^2 - \tfrac\alpha2 \|m\|^2 - \tfrac N2 \ln 2\pi,

    at the fixed point :math:`\alpha = \gamma / \|m\|^2`, :math:`\beta = (N - \gamma) / \|y - Fm\|^2`,
    :math:`\gamma = \sum_i \beta\sigma_i^2 / (\alpha + \beta\sigma_i^2)`, of at most 11 rounds from
    :math:`\alpha = \beta = 1` for features whose entries have mean square 1, so that scale does not matter. Where
    the features say nothing of a class, or N <= D, the evidence may have no maximum; the rounds then decide.

    Args:
        features: [N, D].
        labels: [N]; a class with a single sample is accepted. No gradient flows.

    Returns:
        0-d tensor, higher is better: it grows without limit (but for rounding) as classes become separable, and falls
        with C, since y_k of many classes is mostly 0. Compare models on the same images only. Rotation and scale
        leave it as it is; translation does not.

    Raises:
        ValueError: As every metric; and if all features are zero.

    Reference:
        You, Liu, Wang, Long, "LogME: practical assessment of pre-trained models for transfer learning", ICML 2021,
        equation 2 and algorithm 1.

    Example:
        One unit, 1 for class 0 and -1 for class 1. For both classes sigma² = 4 and at the fixed point gamma = 2/3,
        alpha = 6, beta = 3, so that the log evidence is (3 ln 3)/2 - 2 - 2 ln(2 pi), of four samples.

        >>> logme(torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), torch.tensor([0, 0, 1, 1]))
        tensor(-1.0070, dtype=torch.float64)
    """
    sample = Sample(features, labels)
    with torch.no_grad():
        x = sample.features.to(sample.dtype)
        rows = torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x  # FᵀF = RᵀR, whose squares are not taken
        _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
        return logme_of(singular, directions, sample.means * sample.counts[:, None], sample.counts, x.shape[1])


def logme_of(singular: Tensor, directions: Tensor, sums: Tensor, counts: Tensor, dim: int) -> Tensor:
    """Formula of `logme`.

    Args:
        singular: [r] singular values of F.
        directions: [r, D] its right singular vectors.
        sums: [C, D] sums of the features of each class: F^T y_k.
        counts: [C] samples per class: |y_k|².
        dim: D.
    """
    n, finfo = counts.sum(), torch.finfo(sums.dtype)
    if not singular.max() > 0:  # of which nothing else is defined either
        raise ValueError("features are zero in all rows; allowed: features that are not all zero")
    kept = singular > 8 * math.sqrt(dim) * finfo.eps * singular.max()
    singular, directions = singular[kept], directions[kept]
    explained = (sums @ directions.T / singular).square()  # [C, r] (u_i . y_k)²
    rest = counts - explained.sum(1)
    squares = singular / singular.norm() * (n * dim).sqrt()  # of entries with mean square 1
    squares = squares.square()

    def of_ratio(t):  # t = alpha / beta [C]: the sums over i of gamma, |m|² and |y - Fm|²
        shrunk = squares / (squares + t[:, None])
        weight = (shrunk.square() * explained / squares).sum(1).clamp_min(finfo.tiny)
        residual = ((1 - shrunk).square() * explained).sum(1) + rest
        return shrunk.sum(1), weight, residual.maximum(finfo.eps * counts)  # less than which is rounding

    ratio, settled = torch.ones_like(counts), torch.zeros_like(counts, dtype=torch.bool)
    alpha, beta = torch.ones_like(counts), torch.ones_like(counts)
    for _ in range(_ROUNDS):
        gamma, weight, residual = of_ratio(ratio)
        alpha = torch.where(settled, alpha, gamma / weight)
        beta = torch.where(settled, beta, (n - gamma).clamp_min(finfo.eps * n) / residual)
        new = alpha / beta
        settled, ratio = settled | ((new / ratio - 1).abs() <= 1e-3), new
    _, weight, residual = of_ratio(ratio)
    evidence = n * (beta / (2 * math.pi)).log() - (squares / ratio[:, None]).log1p().sum(1)
    return ((evidence - beta * residual - alpha * weight) / (2 * n)).mean()


def class_separation(features: Tensor, labels: Tensor) -> Tensor:
    r"""Class separation R²: how much of the cosine distances between samples lies between classes.

    .. math:: R^2 = 1 - \frac{\bar d_{within}}{\bar d_{total}}, \quad
              \bar d_{within} = \frac1C \sum_k \frac{1}{n_k^2} \sum_{x, x'} (1 - \cos(x, x')), \quad
              \bar d_{total} = \frac{1}{C^2} \sum_{j, k} \frac{1}{n_j n_k} \sum_{x, x'} (1 - \cos(x, x'))

    over x, x' of class k, and over x of class j and x' of class k. Of features at length 1 these are the mean variance
    of a class, and the same plus tr S_B: no pair of samples is looked at. Classes count alike, whatever their sizes.

    Args:
        features: [N, D], none of them zero.
        labels: [N].

    Returns:
        0-d tensor in [0, 1]; 1 at collapse. Rotation and the lengths of the features leave it as it is.

    Raises:
        ValueError: As every metric; and if a class has a single sample, if a feature vector is zero, which has no
            direction, or if all have the same direction.

    Reference:
        Kornblith, Chen, Lee, Norouzi, "Why do better loss functions lead to less transferable features?", NeurIPS 2021,
        equation 11: of two networks the one with the larger value on its source classes often transfers worse.

    Example:
        Directions (1, 0) and (0, 1) in one class, (-1, 0) twice in the other: variances 1/2 and 0, class means (1/2,
        1/2) and (-1, 0), tr S_B = 5/8; R² = (5/8) / (1/4 + 5/8).

        >>> features = torch.tensor([[1.0, 0.0], [0.0, 9.0], [-1.0, 0.0], [-2.0, 0.0]])
        >>> class_separation(features, torch.tensor([0, 0, 1, 1]))
        tensor(0.7143, dtype=torch.float64)
    """
    check_features(features, labels)
    moments = Sample(unit_vectors(features), labels, least=2).moments()
    return class_separation_of(moments, float32=features.dtype != torch.float64)


def class_separation_of(moments: Moments, *, float32: bool = True) -> Tensor:
    """Formula of `class_separation`, of moments of features at length 1 that were float32 or less, or not."""
    within, between = moments.variances.mean(), moments.gram.diagonal().mean()
    resolution = torch.finfo(torch.float32 if float32 else torch.float64).eps  # of directions
    if not within + between > (4 * resolution * moments.unit) ** 2:
        raise ValueError("features have the same direction in all rows; allowed: directions that differ")
    return between / (within + between)


def transferability_of(moments: Moments, dim: int | None = None) -> dict[str, Tensor]:
    """LogME, RankMe and effective rank of moments: "logme", "rankme", "effective_rank".

    From eigenvalues of sums of products, which hold singular values down to 1e-7 of the largest one. ``dim`` is that
    of the features, if they were turned into fewer dimensions.
    """
    n, dim = moments.counts.sum(), dim or moments.means.shape[1]
    within, sums = n * moments.within(None), moments.counts[:, None] * moments.means  # [D, D], [C, D]
    values, vectors = torch.linalg.eigh(within + moments.means.T @ sums)
    off = moments.means - sums.sum(0) / n
    centered = torch.linalg.eigvalsh(within + off.T @ (moments.counts[:, None] * off))
    singular, variances = (_above_rounding(v).flip(0)[: int(n)] for v in (values, centered))
    return {
        "logme": logme_of(singular.sqrt(), vectors.T.flip(0)[: len(singular)], sums, moments.counts, dim),
        "rankme": rankme_of_singular_values(singular.sqrt()),
        "effective_rank": effective_rank_of_eigenvalues(variances),
    }


def _above_rounding(eigenvalues: Tensor) -> Tensor:
    """Eigenvalues of a sum of products, with what is rounding as 0."""
    least = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * eigenvalues.max()
    return eigenvalues.where(eigenvalues > least, 0.0)


def unit_vectors(features: Tensor) -> Tensor:
    """[N, D] features at length 1, in the accurate dtype."""
    zero = (features == 0).all(1)
    if zero.any():
        rows = zero.nonzero().flatten()
        raise ValueError(
            f"features are zero in {len(rows)} of {len(features)} rows, first in row {int(rows[0])}; "
            "allowed: vectors with a direction"
        )
    x = features.to(accurate_dtype(features))
    x = x / x.detach().abs().amax(1, keepdim=True)  # squares of what is left neither overflow nor vanish
    return x / x.norm(dim=1, keepdim=True)


def _singular_values(features: Tensor, *, centered: bool = False) -> Tensor:
    """[min(N, D)] singular values of checked features, or of what is left of them without their mean."""
    check_matrix(features)
    x = features.to(accurate_dtype(features))
    if not len(x):
        raise ValueError(f"features has shape {list(x.shape)}; allowed: [N, D] with N of at least 1")
    middle = x.mean(0)
    if not (middle.detach() - x.detach()).abs().max().isfinite():
        raise ValueError(describe_not_finite(features))
    values = torch.linalg.svdvals(x - middle if centered else x)
    rounding = 16 * torch.finfo(x.dtype).eps * middle.detach().norm() * len(x) ** 0.5
    if not values.max() > (rounding if centered else 0):
        allowed = "features that vary" if centered else "features that are not all zero"
        raise ValueError(f"features are {'the same' if centered else 'zero'} in all rows; allowed: {allowed}")
    return values
