r"""Jackknife over classes: how far a metric would move with other classes of the same kind.

A metric of C classes is one number, however many samples it is made of: what would other classes give? Leaving classes
out, one or one group at a time, says so without any assumption on their distribution. Called by the report.
"""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from .moments import Moments, projected
from .sample import Sample

GROUPS = 10  # of classes, for metrics that take long


def standard_error(replicates: Tensor) -> Tensor:
    r"""Standard error of a metric from its values without each of G groups of classes.

    .. math:: \sqrt{\frac{G - 1}{G} \sum_g (\theta_{(g)} - \bar\theta)^2}

    Args:
        replicates: [G] or [G, ...]: the metric without group g; G of at least 2.

    Returns:
        [...]. With Student's t of G - 1 degrees of freedom it makes an interval.

    Reference:
        Tukey, "Bias and confidence in not-quite large samples", 1958; of averages over pairs (U-statistics): Arvesen,
        "Jackknifing U-statistics", Annals of Mathematical Statistics 1969.

    Example:
        Of a mean of 1, 2 and 3 it is that of the mean, 1 / sqrt(3):

        >>> standard_error(torch.tensor([2.5, 2.0, 1.5])) ** 2
        tensor(0.3333)
    """
    groups = len(replicates)
    return ((groups - 1) / groups * (replicates - replicates.mean(0)).square().sum(0)).sqrt()


def means_without_each(matrix: Tensor) -> Tensor:
    """Mean off the diagonal of a matrix of pairs [C, C] without class k, for every k; C of at least 3.

    Args:
        matrix: [C, C], anything on the diagonal.

    Returns:
        [C].

    Example:
        >>> means_without_each(torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 3.0, 0.0]]))
        tensor([3., 2., 1.])
    """
    n_classes = len(matrix)
    matrix = matrix.masked_fill(torch.eye(n_classes, dtype=torch.bool, device=matrix.device), 0)
    of_class = matrix.sum(0) + matrix.sum(1)
    return (matrix.sum() - of_class) / ((n_classes - 1) * (n_classes - 2))


def classes_without_each(n_classes: int, groups: int = GROUPS) -> Iterator[Tensor]:
    """Which classes are left, bool [C], without each group of classes; class k is in group k mod G.

    Example:
        >>> [kept.tolist() for kept in classes_without_each(3, groups=2)]
        [[False, True, False], [True, False, True]]
    """
    group = torch.arange(n_classes) % min(groups, n_classes)
    for left_out in range(min(groups, n_classes)):
        yield group != left_out


def moments_without_each(features: Tensor, labels: Tensor, groups: int = GROUPS) -> Iterator[tuple[Tensor, Moments]]:
    """The moments of the classes that are left without each group of classes; class k is in group k mod G.

    Sums over samples are made once and a group's are taken off, so that G moments cost little more than two.

    Args:
        features: [N, D].
        labels: [N], of at least 3 classes.
        groups: G; as many as classes where there are fewer.

    Yields:
        Which classes are left bool [C], and their moments.

    Raises:
        ValueError: As every metric; and with fewer than 3 classes.
    """
    sample = Sample(features, labels, least=2)
    moments, n_classes = sample.moments(), len(sample.counts)
    if n_classes < 3:
        raise ValueError(f"labels hold {n_classes} classes; allowed: at least 3, of which some are left out")
    total = moments.within(None) * len(sample.features)
    for kept in classes_without_each(n_classes, groups):
        kept = kept.to(features.device)
        rows = ~kept[sample.index]
        residuals = sample.features[rows].to(sample.dtype) - sample.means[sample.index[rows]]
        within = (total - residuals.T @ residuals) / sample.counts[kept].sum()
        yield kept, part_of(moments, kept, within)


def part_of(moments: Moments, kept: Tensor, within: Tensor | None = None) -> Moments:
    """Moments of the classes ``kept`` bool [C] alone; without ``within`` only for formulas of means and variances."""
    of_class = {name: getattr(moments, name)[kept] for name in ("classes", "counts", "means", "variances")}
    return dataclasses.replace(moments, **of_class, within=projected(within))
