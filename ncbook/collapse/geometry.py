"""Geometry of the class means: NC2, how far from a simplex ETF, and NC3, how far from the classifier's weight.

Called by the reader of a notebook, by `overview`, and with means in place of features by the accumulator.
"""

import math

import torch
from torch import Tensor

from ncbook._checks import check_choice, check_floats, check_whole, named_arguments

from .moments import at_rounding_level, check_means_differ, mean_off_diagonal, power_of_two
from .sample import Sample, name_a_few

NC2_VARIANTS = ("centered", "uncentered", "normalized", "equinorm", "equiangularity")
_SPELLINGS = {"centred": "centered", "uncentred": "uncentered", "normalised": "normalized"}


@named_arguments
def nc2(features: Tensor, labels: Tensor, *, variant: str = "centered") -> Tensor:
    r"""NC2: how far the class means are from a simplex equiangular tight frame (ETF).

    .. math:: \left\| \frac{H H^\top}{\|H H^\top\|_F}
              - \frac{1}{\sqrt{C - 1}} \left(I - \frac1C 1 1^\top\right) \right\|_F

    ============== ==================================================== ============
    ``variant``    meaning                                              range
    ============== ==================================================== ============
    centered       the rows of H are the centered class means           [0, sqrt(2)]
    uncentered     the rows of H are the class means themselves         [0, sqrt(2)]
    normalized     the rows of H are the centered means at length 1     [0, sqrt(2)]
    equinorm       instead: std / mean of the centered means' lengths   [0, inf)
    equiangularity instead: mean over pairs of |cos of the centered     [0, C/(C-1)]
                   means + 1/(C - 1)|
    ============== ==================================================== ============

    Args:
        features: [N, D].
        labels: [N]; a class with a single sample is accepted.
        variant: One of the above; "centred", "uncentred" and "normalised" are accepted, too.

    Returns:
        0-d tensor; 0 for a simplex ETF (for "uncentered", one about the origin).

    Raises:
        ValueError: As every metric; and if ``variant`` is none of the above, if all class means are identical
            (for "uncentered": zero), or, where one divides by lengths, if a class mean is the global mean.

    Reference:
        centered: Zhu et al., "A geometric analysis of neural collapse with unconstrained features", NeurIPS 2021, their
        metric of NC2; uncentered: Medepalli, Doraiswamy, the report's formula; normalized: the code of that report;
        equinorm and equiangularity: Papyan, Han, Donoho, PNAS 2020, figures 2 and 4.

    Example:
        Two means are always an ETF once centered; the lengths 1, 0, 1 have mean 2/3 and variance 2/9.

        >>> nc2(torch.tensor([[3.0], [7.0]]), torch.tensor([0, 1])).round(decimals=12)
        tensor(0., dtype=torch.float64)
        >>> nc2(torch.tensor([[-1.0], [0.0], [1.0]]), torch.tensor([0, 1, 2]), variant="equinorm") ** 2
        tensor(0.5000, dtype=torch.float64)
    """
    variant = check_choice("variant", _SPELLINGS.get(variant, variant), NC2_VARIANTS)
    sample = Sample(features, labels)
    return nc2_of_means(sample.means, sample.classes, variant)


def nc2_of_means(means: Tensor, classes: Tensor, variant: str = "centered") -> Tensor:
    """Formula of `nc2`."""
    n_classes = len(means)
    if variant == "uncentered":
        return gram_to_etf(means @ means.T)
    centered = means - means.mean(0)
    check_means_differ(centered, means)
    if variant == "centered":
        return gram_to_etf(centered @ centered.T)
    lengths = centered.norm(dim=1)
    if variant == "equinorm":
        return lengths.std(correction=0) / lengths.mean()
    at_center = at_rounding_level(lengths.detach(), means)
    if at_center.any():
        raise ValueError(
            f"variant={variant!r} divides by the distance of class means from the global mean, which is zero for "
            f"{name_a_few(classes[at_center].tolist())}; allowed: class means that differ from the global mean"
        )
    directions = centered / lengths[:, None]
    if variant == "normalized":
        return gram_to_etf(directions @ directions.T)
    return mean_off_diagonal((directions @ directions.T + 1 / (n_classes - 1)).abs())


def gram_to_etf(gram: Tensor) -> Tensor:
    """Formula of `nc2`, of H H^T [C, C]."""
    n_classes = len(gram)
    length = gram.norm()
    if length == 0:
        raise ValueError(
            "features have class means of zero for all classes; allowed: class means that are not all zero"
        )
    etf = torch.eye(n_classes, dtype=gram.dtype, device=gram.device) - 1 / n_classes
    return (gram / length - etf / math.sqrt(n_classes - 1)).norm()


def nc2_of_equal_cosines(n_classes: int, cosine: float) -> Tensor:
    r"""Uncentered NC2 of class means with equal lengths and one cosine between any two: what such means alone give.

    .. math:: \mathrm{NC2}^2 = 2 - \frac{2 (1 - c) \sqrt{C - 1}}{\sqrt{C \, (1 + (C - 1) c^2)}}

    Features after a ReLU have positive cosines, so their uncentered NC2 is large before anything has collapsed: a value
    has to be held against this one.

    Args:
        n_classes: C, at least 2.
        cosine: c, from -1 / (C - 1), a simplex ETF, to 1, identical means.

    Returns:
        0-d float64 tensor in [0, sqrt(2)]; 0 at c = -1 / (C - 1).

    Raises:
        TypeError, ValueError: If there are fewer than two classes, or so many vectors cannot have this cosine.

    Reference:
        Derived in this project; the quantity is the report's (Medepalli, Doraiswamy).

    Example:
        >>> nc2_of_equal_cosines(5, -0.25)
        tensor(0., dtype=torch.float64)
        >>> nc2_of_equal_cosines(2, 0.0) ** 2  # orthogonal: 2 - 2 / sqrt(2)
        tensor(0.5858, dtype=torch.float64)
    """
    check_whole("n_classes", n_classes, 2)
    if not -1 / (n_classes - 1) - 1e-12 <= cosine <= 1:
        raise ValueError(f"cosine={cosine!r}; allowed for {n_classes} classes: {-1 / (n_classes - 1):.4g} to 1")
    others = n_classes - 1
    squared = 2 - 2 * (1 - cosine) * math.sqrt(others) / math.sqrt(n_classes * (1 + others * cosine**2))
    return torch.tensor(max(0.0, squared), dtype=torch.float64).sqrt()


def nc3(features: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    r"""NC3: how far the classifier is from the centered class means (self-duality).

    .. math:: \left\| \frac{W}{\|W\|_F} - \frac{H}{\|H\|_F} \right\|_F

    Args:
        features: [N, D].
        labels: [N]; a class with a single sample is accepted.
        weight: W [C, D], the classifier's weight; row k belongs to the k-th label in ascending order, as in H.

    Returns:
        0-d tensor in [0, 2]; 0 at collapse.

    Raises:
        ValueError: As every metric; and if ``weight`` is not [C, D], not finite or zero, or if all class
            means are identical.

    Reference:
        Papyan, Han, Donoho, PNAS 2020, figure 5.

    Example:
        The centered means are -5 and 5: every weight (-a, a) with a > 0 is dual to them, its negative is opposed.

        >>> features, labels = torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1])
        >>> nc3(features, labels, torch.tensor([[-3.0], [3.0]])).round(decimals=12)
        tensor(0., dtype=torch.float64)
        >>> nc3(features, labels, torch.tensor([[3.0], [-3.0]])).round(decimals=12)
        tensor(2., dtype=torch.float64)
    """
    return nc3_of_means(Sample(features, labels).means, weight)


def nc3_of_means(means: Tensor, weight: Tensor) -> Tensor:
    """Formula of `nc3`."""
    check_weight(weight, means.shape)
    weight = weight.to(means)
    centered = means - means.mean(0)
    check_means_differ(centered, means)
    largest = float(weight.detach().abs().max())
    if not 0 < largest < math.inf:
        raise ValueError(f"weight has entries up to {largest:g}; allowed: finite numbers that are not all zero")
    weight = weight * power_of_two(largest, weight.dtype)
    return (weight / weight.norm() - centered / centered.norm()).norm()


def check_weight(weight: Tensor, shape: tuple[int, int]) -> None:
    """Raise unless the classifier's weight is a float tensor of this shape."""
    check_floats("weight", weight, "[C, D]")
    if weight.shape != tuple(shape):
        raise ValueError(f"weight has shape {list(weight.shape)}; allowed: [C, D] = {list(shape)}")
