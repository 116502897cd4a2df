"""What the collapse metrics are computed from: a checked sample, its moments, the between-class covariance.

Used by `collapse`, from all features at once, and by `_collapse_metrics`, from batches.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Sufficient statistics of a labelled sample, by the pure functions or by the accumulator."""

    classes: Tensor  # [C] the labels, ascending
    counts: Tensor  # [C]
    means: Tensor  # [C, D]
    variances: Tensor  # [C]
    within: Callable[[Tensor | None], Tensor]  # directions A [k, D] -> A S_W A^T [k, k]; None -> S_W [D, D]
    resolution: float = torch.finfo(torch.float64).eps  # rounding error of the means, in standard deviations

    @cached_property
    def gram(self) -> Tensor:
        """[C, C] inner products of the centred means."""
        centred = self.means - self.means.mean(0)
        return centred @ centred.T

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
        gram: The smaller one of R R^T + (see below) [C, C] and R^T R [D, D]: ``by_class`` tells which.
        inverse: Its (pseudo-)inverse.
        rank: Of R: min(C - 1, D), less where class means are linearly dependent beyond that.
    """

    def __init__(self, means: Tensor, weights: Tensor):
        n_classes, dim = means.shape
        self.rows = weights.sqrt()[:, None] * (means - weights @ means)
        raise_if_centred_means_vanish(self.rows, means)
        self.by_class = n_classes <= dim
        if self.by_class:
            # R^T sqrt(w) = 0: this null direction of R R^T, along which the formulas never look, is filled
            # up. So at most C - 1 eigenpairs count, whatever rounding does, and the rank is full in general
            # position.
            gram, null = self.rows @ self.rows.T, weights.sqrt()
            self.gram = gram + gram.trace() / (n_classes - 1) * torch.outer(null, null)
        else:
            self.gram = self.rows.T @ self.rows
        self.inverse, rank = pseudo_inverse(self.gram, max(n_classes, dim))
        self.rank = rank - self.by_class

    def trace_of_inverse_with(self, within: Callable[[Tensor | None], Tensor]) -> Tensor:
        """tr(S_W (R^T R)^+)."""
        if self.by_class:  # (R^T R)^+ = R^T (R R^T)^+ (R R^T)^+ R
            return ((self.inverse @ within(self.rows)) * self.inverse).sum()
        return (within(None) * self.inverse).sum()


def pseudo_inverse(psd: Tensor, long_side: int) -> tuple[Tensor, int]:
    """(Pseudo-inverse, rank) of a positive semi-definite matrix, made of sums of long_side products."""
    eps = torch.finfo(psd.dtype).eps
    factor, failed = torch.linalg.cholesky_ex(psd)
    pivots = factor.detach().diagonal().square()
    if not failed and pivots.min() > eps**0.5 * psd.detach().diagonal().max():
        return torch.cholesky_inverse(factor), len(psd)  # far from singular: much faster than what follows
    rank = torch.linalg.matrix_rank(psd.detach(), rtol=eps * long_side, hermitian=True)
    return torch.linalg.pinv(psd, rtol=eps * long_side, hermitian=True), int(rank)


class Sample:
    """Checked features; ``index`` [N] holds 0 ... C - 1 in place of the labels; counts and means are accurate.

    No copy of the features in the accurate dtype is made, nor of what is left of them without the means: both are
    taken a block of rows at a time, while it is near the cores.
    """

    def __init__(self, features: Tensor, labels: Tensor, *, least: int = 1):
        check_batch(features, labels)
        self.features, self.dtype = features, _accurate_dtype(features.device)
        self.classes, self.index, counts = labels.to(features.device).unique(return_inverse=True, return_counts=True)
        if len(self.classes) < 2:
            raise ValueError(f"labels must hold at least two classes, got {self.classes.tolist()}")
        self.counts = counts.to(self.dtype)  # [C]
        sums = features.new_zeros(len(counts), features.shape[1], dtype=self.dtype)
        for x, index in self._blocks():
            sums = sums.index_add(0, index, x)
        self.means = sums / self.counts[:, None]  # [C, D]
        # Sums are finite only if every term is: no scan of the features, and one synchronisation for two
        # checks.
        finite, smallest = torch.stack([self.means.detach().isfinite().all(), counts.min()]).tolist()
        if not finite:
            raise_not_finite(features)
        if smallest < least:
            raise_single_samples(self.classes, counts)

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(Rows [n, D] in the accurate dtype, their index [n]), block after block."""
        rows = rows_at_a_time(self.features.shape[1])
        for x, index in zip(self.features.split(rows), self.index.split(rows), strict=True):
            yield x.to(self.dtype), index

    def residuals(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(x - mu_y [n, D], index y [n]), block after block."""
        for x, index in self._blocks():
            yield x - self.means[index], index

    def moments(self) -> Moments:
        squares = torch.cat([r.square().sum(1) for r, _ in self.residuals()])  # [N]
        variances = torch.zeros_like(self.counts).index_add(0, self.index, squares) / self.counts
        return Moments(self.classes, self.counts, self.means, variances, self._within)

    def _within(self, directions: Tensor | None) -> Tensor:
        total = 0
        for r, _ in self.residuals():
            along = r if directions is None else r @ directions.T  # [n, k]
            total = total + along.T @ along
        return total / len(self.features)


def check_batch(features: Tensor, labels: Tensor) -> None:
    """Raise unless features are [N, D] floats and labels [N] integers."""
    for name, value in (("features", features), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not features.is_floating_point():
        raise TypeError(f"features must be of a float dtype, got {features.dtype}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be of an integer dtype, got {labels.dtype}")
    if features.ndim != 2 or features.shape[1] == 0:
        shape = list(features.shape)
        raise ValueError(f"features must be [N, D], got {shape}; features.flatten(1) flattens a layer's maps")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels must be [N] = [{len(features)}] like features, got {list(labels.shape)}")


def check_logits(logits: Tensor, n: int, n_classes: int) -> None:
    """Raise unless logits are [n, n_classes] floats."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(f"logits must be a float tensor, got {getattr(logits, 'dtype', type(logits).__name__)}")
    if logits.shape != (n, n_classes):
        raise ValueError(f"logits must be [N, C] = [{n}, {n_classes}], got {list(logits.shape)}")


def raise_not_finite(features: Tensor) -> None:
    """Say which row of the features holds NaN or infinite values, or that their sums overflow."""
    rows = (~features.detach().isfinite().all(1)).nonzero().flatten()
    if len(rows):
        raise ValueError(
            f"features must be finite, got NaN or infinite values in {len(rows)} of {len(features)} rows, "
            f"first in row {rows[0].item()}"
        )
    largest = features.detach().abs().max().item()
    raise ValueError(f"features must be small enough for sums of their squares, got values up to {largest:g}")


def raise_single_samples(classes: Tensor, counts: Tensor) -> None:
    """Name the classes that have too few samples for a variance."""
    single = some(classes[counts < 2].tolist())
    raise ValueError(f"labels must hold two samples or more of each class for a variance, got one of: {single}")


def some(items: list) -> str:
    return ", ".join(map(str, items[:5])) + (f" and {len(items) - 5} more" if len(items) > 5 else "")


def _accurate_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def rows_at_a_time(width: int) -> int:
    """How many rows of this width to hold at once where [N, width] would not be bounded."""
    return max(1, 2**20 // width)


def raise_if_centred_means_vanish(centred: Tensor, means: Tensor) -> None:
    if negligible(centred.detach().abs().max(), means):
        raise ValueError("features must have distinct class means, got identical ones for all classes")


def negligible(values: Tensor, means: Tensor) -> Tensor:
    return values <= 16 * torch.finfo(means.dtype).eps * means.detach().abs().max()


def pair_indices(n_classes: int, device: torch.device) -> Tensor:
    """[2, C (C - 1) / 2] the unordered pairs i < j, in the order of torch.pdist."""
    return torch.triu_indices(n_classes, n_classes, 1, device=device)


def sum_of_pairs(values: Tensor) -> Tensor:
    i, j = pair_indices(len(values), values.device)
    return values[i] + values[j]
