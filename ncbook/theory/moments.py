"""What the directional bounds need to know of every ordered pair of classes."""

from typing import NamedTuple

import torch
from torch import Tensor

from ncbook.collapse.moments import power_of_two
from ncbook.collapse.pairs import directional_cdnv_of_pairs, variances_towards_means
from ncbook.collapse.sample import Sample

_NUMBERS_AT_ONCE = 2**24  # of the covariances held at a time


class PairMoments(NamedTuple):
    r"""Moments of classes and of ordered pairs (i, j), with D = mu_i - mu_j. All float64; leading dimensions allowed.

    Of features whose fourth powers are no numbers, too large or too small, they are those of the features times a power
    of two, one for all leading dimensions: every bound is a ratio in which the scale cancels.

    Attributes:
        squared_distance: |D|^2, [C, C]; 1 on the diagonal, which nobody reads.
        variance: v_i = tr Sigma_i, [C].
        along: D^T Sigma_i D, [C, C].
        products: tr(Sigma_i Sigma_j), [C, C].
        fourth: E |x - mu_i|^4, [C].
        skew: E[ |x - mu_i|^2 <x - mu_i, D> ], [C, C].
    """

    squared_distance: Tensor
    variance: Tensor
    along: Tensor
    products: Tensor
    fourth: Tensor
    skew: Tensor

    @property
    def cdnv(self) -> Tensor:
        """V, [C, C], infinite for equal means, NaN on the diagonal."""
        v = self.variance
        pairs = (v[..., :, None] + v[..., None, :]) / (2 * self.squared_distance)
        return _no_diagonal(pairs.masked_fill(self.squared_distance == 0, torch.inf))

    @classmethod
    @torch.no_grad()
    def of_features(cls, features: Tensor, labels: Tensor) -> "PairMoments":
        """Of samples, taken as the population: shots and queries are then drawn from them with replacement.

        Args:
            features: float [N, D].
            labels: int64 [N]; gaps are allowed.

        Raises:
            ValueError: as `ncbook.collapse.directional_cdnv_matrix`.
        """
        sample = Sample(features, labels, least=2)
        means, counts = sample.means, sample.counts
        along = variances_towards_means(sample)
        directional_cdnv_of_pairs(sample.moments(), along)  # refuses equal means
        residuals = torch.cat([rows for rows, _ in sample.residuals()])  # [N, D]
        squares = residuals.square().sum(1)  # [N]
        fourth = torch.zeros_like(counts).index_add_(0, sample.index, squares.square()) / counts
        cubed = torch.zeros_like(means).index_add_(0, sample.index, squares[:, None] * residuals) / counts[:, None]
        towards = cubed @ means.T  # E[|eta_i|^2 eta_i] against every mean
        distance = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").square().fill_diagonal_(1.0)
        return cls(
            squared_distance=distance,
            variance=sample.variances,
            along=along,
            products=_products(residuals, sample.index, counts),
            fourth=fourth,
            skew=towards.diagonal()[:, None] - towards,
        )

    @classmethod
    def of_gaussians(cls, means: Tensor, covariances: Tensor) -> "PairMoments":
        """Of Gaussian classes with means [C, D] and covariances [C, D, D], or their diagonals [C, D]."""
        unit = _unit(means.double())
        means, covariances = means.double() * unit, covariances.double() * unit * unit
        if covariances.ndim == 2:
            covariances = torch.diag_embed(covariances)
        gaps = means[:, None] - means[None]  # [C, C, D]
        flat = covariances.flatten(1)
        products = flat @ flat.T
        variance = covariances.diagonal(dim1=1, dim2=2).sum(1)
        return cls(
            squared_distance=gaps.square().sum(-1).fill_diagonal_(1.0),
            variance=variance,
            along=torch.einsum("ijp,ipq,ijq->ij", gaps, covariances, gaps),
            products=products,
            fourth=variance**2 + 2 * products.diagonal(),  # of a Gaussian
            skew=torch.zeros_like(products),
        )

    @classmethod
    def of_points(cls, points: Tensor, weights: Tensor) -> "PairMoments":
        """Of discrete classes: points [..., C, K, D] with weights [..., C, K] of sum 1."""
        weights = weights.double()
        points = points.double() * _unit((weights[..., None] * points.double()).sum(-2))
        means = (weights[..., None] * points).sum(-2)  # [..., C, D]
        residuals = points - means[..., None, :]
        squares = residuals.square().sum(-1)  # [..., C, K]
        gaps = means[..., :, None, :] - means[..., None, :, :]  # [..., C, C, D]
        covariances = torch.einsum("...ck,...ckp,...ckq->...cpq", weights, residuals, residuals).flatten(-2)
        cubed = ((weights * squares)[..., None] * residuals).sum(-2)  # [..., C, D]
        reach = torch.einsum("...ckp,...cjp->...cjk", residuals, gaps)  # <eta, D>
        eye = torch.eye(means.shape[-2], dtype=torch.float64, device=means.device)
        return cls(
            squared_distance=gaps.square().sum(-1) + eye,
            variance=(weights * squares).sum(-1),
            along=(weights[..., None, :] * reach.square()).sum(-1),
            products=covariances @ covariances.mT,
            fourth=(weights * squares.square()).sum(-1),
            skew=torch.einsum("...cp,...cjp->...cj", cubed, gaps),
        )


def _unit(means: Tensor) -> float:
    """The power of two that makes distances of means [..., C, D] numbers whose fourth powers are numbers."""
    return power_of_two(float((means - means.mean(-2, keepdim=True)).abs().max()), torch.float64)


def _products(residuals: Tensor, index: Tensor, counts: Tensor) -> Tensor:
    """tr(Sigma_i Sigma_j) [C, C]; a block of rows of all covariances at a time."""
    n_classes, dim = len(counts), residuals.shape[1]
    order = index.argsort(stable=True)
    by_class = residuals[order].split(counts.long().tolist())
    products = residuals.new_zeros(n_classes, n_classes)
    step = max(1, _NUMBERS_AT_ONCE // (n_classes * dim))
    for first in range(0, dim, step):
        block = [(rows[:, first : first + step].T @ rows / len(rows)).flatten() for rows in by_class]
        rows = torch.stack(block)  # [C, step x D]
        products += rows @ rows.T
    return products


def _no_diagonal(pairs: Tensor) -> Tensor:
    """NaN on the diagonal of [..., C, C]."""
    eye = torch.eye(pairs.shape[-1], dtype=torch.bool, device=pairs.device)
    return pairs.masked_fill(eye, torch.nan)
