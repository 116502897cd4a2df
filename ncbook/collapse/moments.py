"""The sufficient statistics of a labeled sample, and the between-class covariance made of them.

The lowest floor of the folder: `sample` fills `Moments` from all features at once, `accumulator` from batches, and the
metrics (`pairs`, `covariance`, `geometry`) are formulas of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Sufficient statistics of a labeled sample whose features were multiplied by ``unit``.

    Attributes:
        classes: [C] the labels, ascending.
        counts: [C] samples per class.
        means: [C, D].
        variances: [C] mean squared distance from the class mean.
        within: Of directions A [k, D] it gives A S_W A^T [k, k], of None S_W [D, D].
        unit: A power of two; 1 for features of ordinary size (see `power_of_two`).
        resolution: Rounding error of the means, in standard deviations.
    """

    classes: Tensor
    counts: Tensor
    means: Tensor
    variances: Tensor
    within: Callable[[Tensor | None], Tensor]
    unit: float = 1.0
    resolution: float = torch.finfo(torch.float64).eps

    @cached_property
    def gram(self) -> Tensor:
        """[C, C] inner products of the centered means."""
        centered = self.means - self.means.mean(0)
        return centered @ centered.T

    @cached_property
    def distances(self) -> Tensor:
        """[C (C - 1) / 2] between class means, in the order of `pair_indices`."""
        i, j = pair_indices(len(self.means), self.means.device)
        lengths = self.gram.diagonal()
        squared = lengths[i] + lengths[j] - 2 * self.gram[i, j]
        # This cancels where two means are close to each other; differences first is exact there, but slower.
        if squared.min() > torch.finfo(squared.dtype).eps ** 0.25 * lengths.max():
            return squared.sqrt()
        return torch.pdist(self.means)

    @cached_property
    def sums_of_variances(self) -> Tensor:
        """[C (C - 1) / 2] of the two classes of a pair."""
        return sum_of_pairs(self.variances)

    @cached_property
    def between(self) -> "Between":
        """The between-class covariance, classes with equal weight."""
        return Between(self.means, torch.full_like(self.counts, 1 / len(self.counts)))


class Between:
    """R^T R = sum_k w_k (mu_k - mu)(mu_k - mu)^T with mu = sum_k w_k mu_k, for class weights of sum 1.

    Attributes:
        rows: R [C, D].
        rank: Of R: min(C - 1, D), less where class means are linearly dependent beyond that.
        inverse: Of R R^T, filled up in its null direction [C, C], or of R^T R [D, D], whichever is smaller; None if
            that is nearly singular: a product squares R's condition number, so that `inverse_rows` has to do.
    """

    def __init__(self, means: Tensor, weights: Tensor):
        self.means, n_classes, dim = means, *means.shape
        self.rows = weights.sqrt()[:, None] * (means - weights @ means)
        check_means_differ(self.rows, means)
        self.by_class = n_classes <= dim
        if self.by_class:
            # R^T sqrt(w) = 0: this null direction of R R^T, along which the formulas never look, is filled up. So at
            # most C - 1 eigenpairs count, whatever rounding does, and the rank is full in general position.
            gram, null = self.rows @ self.rows.T, weights.sqrt()
            gram = gram + gram.trace() / (n_classes - 1) * torch.outer(null, null)
        else:
            gram = self.rows.T @ self.rows
        factor = cholesky_if_regular(gram)
        self.inverse = None if factor is None else torch.cholesky_inverse(factor)
        self.rank = min(n_classes - 1, dim)
        if factor is None:
            rank = torch.linalg.matrix_rank(self.rows.detach(), atol=self._tolerance, rtol=0.0)
            self.rank = min(self.rank, int(rank))

    @cached_property
    def _tolerance(self) -> float:
        """Singular values of R that rounding alone makes: of R, and of means of many samples far from the origin."""
        largest = max(float(self.rows.detach().norm()), float(self.means.detach().abs().max()))
        return 1024 * torch.finfo(self.means.dtype).eps * largest

    @cached_property
    def inverse_rows(self) -> Tensor:
        """[C, D] the transposed pseudo-inverse of R, from its singular values."""
        return torch.linalg.pinv(self.rows, atol=self._tolerance, rtol=0.0).T

    def trace_of_inverse_with(self, within: Callable[[Tensor | None], Tensor]) -> Tensor:
        """tr(S_W (R^T R)^+)."""
        if self.inverse is None:
            return within(self.inverse_rows).trace()
        if self.by_class:  # (R^T R)^+ = R^T (R R^T)^-1 (R R^T)^-1 R
            return ((self.inverse @ within(self.rows)) * self.inverse).sum()
        return (within(None) * self.inverse).sum()


def projected(within: Tensor) -> Callable[[Tensor | None], Tensor]:
    """`Moments.within` of a matrix S_W [D, D] at hand."""
    return lambda directions: within if directions is None else directions @ within @ directions.T


def cholesky_if_regular(psd: Tensor) -> Tensor | None:
    """Cholesky factor of a matrix far from singular, else None: much faster than eigenvalues.

    Far enough that eps times the *square* of its condition number is 1e-8 or less: what is asked of the inverse along
    its small directions stands beside numbers that are as much larger along the others (one far sample does that).
    """
    factor, failed = torch.linalg.cholesky_ex(psd)
    pivots = factor.detach().diagonal().square()
    regular = (failed == 0) & (pivots.min() > torch.finfo(psd.dtype).eps ** 0.25 * psd.detach().diagonal().max())
    return factor if regular else None


def power_of_two(size: float, dtype: torch.dtype) -> float:
    """What to multiply numbers of this size by so that neither their fourth powers nor the inverses overflow.

    1 where nothing has to be done, else a power of two near 1 / size: multiplying rounds nothing, and metrics that do
    not depend on the scale of features keep every digit.

    Example:
        >>> power_of_two(1e10, torch.float64), power_of_two(2.0**400, torch.float64) == 2.0**-401
        (1.0, True)
    """
    exponent = max(-1000, math.frexp(size)[1])
    return 1.0 if abs(exponent) <= math.log2(torch.finfo(dtype).max) / 5 or size == 0 else 2.0**-exponent


def rows_at_a_time(width: int, size: int = 2**20) -> int:
    """How many rows of this width to hold at once where [N, width] would not be bounded."""
    return max(1, size // width)


def check_means_differ(centered: Tensor, means: Tensor) -> None:
    """Raise if all class means are the same up to rounding."""
    if at_rounding_level(centered.detach().abs().max(), means):
        raise ValueError("features have identical class means for all classes; allowed: class means that differ")


def at_rounding_level(values: Tensor, means: Tensor) -> Tensor:
    """Whether lengths are no larger than what rounding makes of 0 between vectors of the size of the means."""
    return values <= 16 * torch.finfo(means.dtype).eps * means.detach().abs().max()


def pair_indices(n_classes: int, device: torch.device) -> Tensor:
    """[2, C (C - 1) / 2] the unordered pairs i < j, in the order of torch.pdist."""
    return torch.triu_indices(n_classes, n_classes, 1, device=device)


def sum_of_pairs(values: Tensor) -> Tensor:
    """[C (C - 1) / 2] values_i + values_j."""
    i, j = pair_indices(len(values), values.device)
    return values[i] + values[j]


def mean_off_diagonal(matrix: Tensor) -> Tensor:
    """Mean over i != j of a square matrix."""
    return matrix[~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)].mean()
