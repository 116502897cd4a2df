"""Metrics of pairs of classes: CDNV, directional CDNV, smallest distance of two class means.

Called by the reader of a notebook, by `overview`, and with moments in place of features by the accumulator.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ncbook._checks import named_arguments, warn

from .moments import (
    Moments,
    at_rounding_level,
    check_means_differ,
    mean_off_diagonal,
    pair_indices,
    rows_at_a_time,
    sum_of_pairs,
)
from .sample import Sample


@named_arguments
def cdnv_matrix(features: Tensor, labels: Tensor, *, debiased: bool = False) -> Tensor:
    r"""Class-distance normalized variance (CDNV) of every pair of classes.

    .. math:: V_{ij} = \frac{v_i + v_j}{2 \|\mu_i - \mu_j\|^2}

    The plug-in estimate is biased: the squared distance of two sample means exceeds the true one by
    :math:`v_i/n_i + v_j/n_j` on average, so that V saturates near (n - 1)/2 for classes that do not differ.
    ``debiased=True`` takes :math:`s_k^2 = v_k n_k/(n_k - 1)` for the variances and
    :math:`\hat d^2 = \|\mu_i - \mu_j\|^2 - s_i^2/n_i - s_j^2/n_j` for the squared distance (their ratio stays
    slightly biased). A pair with :math:`\hat d^2 \le 0` cannot be told from coinciding classes: its entry is
    ``inf``, and a RuntimeWarning counts such pairs.

    Args:
        features: [N, D].
        labels: [N].
        debiased: Correct the plug-in bias.

    Returns:
        [C, C], symmetric, NaN on the diagonal; entries in [0, inf), 0 at collapse.

    Raises:
        ValueError: As every metric; and if a class has a single sample or two classes have identical means.

    Reference:
        Galanti, György, Hutter, "On the role of neural collapse in transfer learning", arXiv:2112.15121, the
        definition of the CDNV. The de-biased form is this package's.

    Example:
        Means 1 and 11, variances 1: V = (1 + 1) / (2 · 10²).

        >>> features = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
        >>> cdnv_matrix(features, torch.tensor([0, 0, 1, 1]))
        tensor([[   nan, 0.0100],
                [0.0100,    nan]], dtype=torch.float64)
    """
    return cdnv_matrix_of(Sample(features, labels, least=2).moments(), debiased=debiased)


def cdnv_matrix_of(moments: Moments, *, debiased: bool = False) -> Tensor:
    """Formula of `cdnv_matrix`."""
    return _square(cdnv_of_pairs(moments, debiased=debiased), len(moments.counts))


@named_arguments
def cdnv(features: Tensor, labels: Tensor, *, debiased: bool = False) -> Tensor:
    """CDNV, averaged over the C(C - 1)/2 unordered pairs of classes.

    Formula, arguments, errors and source as for `cdnv_matrix`. In [0, inf); 0 at collapse. ``debiased=True``
    gives ``inf``, with a warning, if any pair of classes cannot be told apart.

    Example:
        >>> features, labels = torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1])
        >>> cdnv(features, labels)
        tensor(0.0100, dtype=torch.float64)
        >>> (cdnv(features, labels, debiased=True) * 98).round(decimals=12)  # (2 + 2) / (2 (100 - 1 - 1))
        tensor(2., dtype=torch.float64)
    """
    return cdnv_of_pairs(Sample(features, labels, least=2).moments(), debiased=debiased).mean()


def cdnv_of_pairs(moments: Moments, *, debiased: bool = False) -> Tensor:
    """[C (C - 1) / 2] CDNV of the unordered pairs."""
    squared, variances = _squared_distances(moments), moments.sums_of_variances
    if not debiased:
        return variances / (2 * squared)
    unbiased = moments.variances * moments.counts / (moments.counts - 1)
    squared = squared - sum_of_pairs(unbiased / moments.counts)
    lost = squared <= 0
    if lost.any():
        warn(
            f"{lost.sum().item()} of {len(lost)} pairs of classes cannot be told apart: their de-biased squared "
            "distance is not positive, their CDNV inf",
            RuntimeWarning,
        )
    return (sum_of_pairs(unbiased) / (2 * squared.masked_fill(lost, 1.0))).masked_fill(lost, torch.inf)


def directional_cdnv_matrix(features: Tensor, labels: Tensor) -> Tensor:
    r"""Variance of each class along the line to another class, over their squared distance.

    .. math:: \tilde V_{ij} = \frac{u_{ij}^\top \Sigma_i u_{ij}}{\|\mu_j - \mu_i\|^2}, \qquad
              u_{ij} = \frac{\mu_j - \mu_i}{\|\mu_j - \mu_i\|}

    Args:
        features: [N, D].
        labels: [N].

    Returns:
        [C, C], row i for the variance of class i: not symmetric; NaN on the diagonal; entries in [0, inf), 0 at
        collapse, at most twice the entry of `cdnv_matrix`.

    Raises:
        ValueError: As every metric; and if a class has a single sample or two classes have identical means.

    Reference:
        Luthra, Yang, Galanti, arXiv:2506.04411, the definition of the directional CDNV.

    Example:
        Both classes vary by 1 along the line of the means (0, 0) and (10, 0), and class 1 by 4 across it.

        >>> features = torch.tensor([[-1.0, 0], [1, 0], [9, 2], [11, -2]])
        >>> directional_cdnv_matrix(features, torch.tensor([0, 0, 1, 1]))
        tensor([[   nan, 0.0100],
                [0.0100,    nan]], dtype=torch.float64)
    """
    sample = Sample(features, labels, least=2)
    return directional_cdnv_matrix_of(sample, sample.moments())


def directional_cdnv_matrix_of(sample: Sample, moments: Moments) -> Tensor:
    """Formula of `directional_cdnv_matrix`."""
    return directional_cdnv_of_pairs(moments, variances_towards_means(sample))


def variances_towards_means(sample: Sample) -> Tensor:
    """[C, C]: variance of class i along mu_j - mu_i (a direction not of unit length)."""
    scatter = scatter_towards_means(sample.residuals(), sample.means - sample.means.mean(0))
    return scatter / sample.counts[:, None]


def directional_cdnv(features: Tensor, labels: Tensor) -> Tensor:
    """Directional CDNV, averaged over the C(C - 1) ordered pairs of classes.

    Formula, arguments, errors and source as for `directional_cdnv_matrix`. In [0, inf); 0 at collapse.

    Example:
        >>> features = torch.tensor([[-1.0, 0], [1, 0], [9, 2], [11, -2]])
        >>> directional_cdnv(features, torch.tensor([0, 0, 1, 1]))
        tensor(0.0100, dtype=torch.float64)
    """
    return mean_off_diagonal(directional_cdnv_matrix(features, labels))


def directional_cdnv_of_pairs(moments: Moments, variances: Tensor) -> Tensor:
    """[C, C], given the variance of class i along mu_j - mu_i (a direction not of unit length)."""
    diagonal = torch.eye(len(variances), dtype=torch.bool, device=variances.device)
    squared = _square(_squared_distances(moments), len(variances)).masked_fill(diagonal, 1.0)
    return (variances / squared.square()).masked_fill(diagonal, torch.nan)


def scatter_towards_means(residuals: Iterable[tuple[Tensor, Tensor]], means: Tensor) -> Tensor:
    """[C, C]: sum of ((x - mu_i) . (mu_j - mu_i))² over samples x of class i, whose (residuals, index) are given."""
    scatter = means.new_zeros(len(means), len(means))
    rows = rows_at_a_time(len(means))
    for block, index in residuals:
        for r, y in zip(block.split(rows), index.split(rows), strict=True):
            along = r @ means.T  # [rows, C]
            scatter.index_add_(0, y, (along - along.gather(1, y[:, None])).square())
    return scatter


@named_arguments
def min_distance(
    features: Tensor, labels: Tensor, *, normalized: bool = False, normalised: bool | None = None
) -> Tensor:
    r"""Smallest distance between two class means.

    .. math:: \min_{i \ne j} \|\mu_i - \mu_j\|, \qquad
              \text{normalized: divided by } \frac1C \sum_k \|\tilde\mu_k\|

    Args:
        features: [N, D].
        labels: [N]; a class with a single sample is accepted.
        normalized: Divide by the mean distance of class means from the global mean, to be free of scale.
        normalised: The same, as it was spelled before.

    Returns:
        0-d tensor in [0, inf). Normalized it is at most sqrt(2C/(C - 1)), the value of a simplex ETF.

    Raises:
        ValueError: As every metric; and, if ``normalized``, if all class means are identical.

    Reference:
        Galanti, György, Hutter, arXiv:2112.15121 (their evidence that class means stay apart).

    Example:
        >>> features, labels = torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1])
        >>> min_distance(features, labels)
        tensor(10., dtype=torch.float64)
        >>> min_distance(features, labels, normalized=True)
        tensor(2., dtype=torch.float64)
    """
    sample = Sample(features, labels)
    if normalized if normalised is None else normalised:
        return min_distance_of_means(sample.means, normalized=True)
    return min_distance_of_means(sample.means) / sample.unit


def min_distance_of_means(means: Tensor, *, normalized: bool = False) -> Tensor:
    """Formula of `min_distance`."""
    smallest = torch.pdist(means).min()
    if not normalized:
        return smallest
    centered = means - means.mean(0)
    check_means_differ(centered, means)
    return smallest / centered.norm(dim=1).mean()


def _squared_distances(moments: Moments) -> Tensor:
    """[C (C - 1) / 2] between class means; raises if two of these are equal up to rounding."""
    # Both are cached, hence taken before gradients are switched off.
    distances, variances = moments.distances, moments.sums_of_variances
    with torch.no_grad():
        spread = variances.sqrt()
        equal = (distances <= 16 * moments.resolution * spread) | at_rounding_level(distances, moments.means)
        if equal.any():
            i, j = (moments.classes[k[equal][0]].item() for k in pair_indices(len(moments.means), equal.device))
            raise ValueError(
                f"features have identical class means for classes {i} and {j} ({equal.sum().item()} such pairs); "
                "allowed: class means that differ"
            )
    return distances.square()


def _square(pairs: Tensor, n_classes: int) -> Tensor:
    """Values of the unordered pairs as [C, C], NaN on the diagonal."""
    i, j = pair_indices(n_classes, pairs.device)
    return pairs.new_full((n_classes, n_classes), torch.nan).index_put((i, j), pairs).index_put((j, i), pairs)
