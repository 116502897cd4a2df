"""The scores of single episodes once more, in float64 from the features themselves; called by the protocol.

For the few episodes that the fast arithmetic leaves undecided: ties, near ties, and features of a scale, an offset or a
rank that takes its digits. Each episode is shifted to the mean of its own shots and scaled by a power of two, so that
nothing is lost to what the episode has in common.
"""

import torch
from torch import Tensor

from .heads import TOO_SMALL, Products, Scores, cosine_scores, logistic_scores, ncc_scores, one_hot
from .precision import rounding
from .transforms import unit_rows

_UNDECIDED = 1e-6  # relative error of float64 scores above which they are no answer


def refined_scores(head: str, support: Tensor, queries: Tensor, way: int, ridge: float) -> tuple[Scores, Products]:
    """Scores of episodes from their features.

    Args:
        head: name of the head.
        support: float64 [E, S, D], shots, class after class.
        queries: float64 [E, Q, D].
        way: classes per episode.
        ridge: weight of the penalty, at the scale of these features.

    Returns:
        The scores, and the products with the norms that their error is judged with.

    Raises:
        ArithmeticError: when ``ridge`` is too small beside nearly dependent shots, even in float64.
    """
    if head == "cosine":
        queries = unit_rows(queries)
        largest = support.abs().amax((1, 2))
    else:
        for _ in range(2):  # the mean of numbers far from 0 is rounded: once more, near 0
            middle = support.mean(1, keepdim=True)
            support, queries = support - middle, queries - middle
        largest = torch.maximum(support.abs().amax((1, 2)), queries.abs().amax((1, 2)))
    scale = torch.exp2(-torch.frexp(largest).exponent.clamp_min(-1000).double())[:, None, None]
    support = support * scale
    queries = queries if head == "cosine" else queries * scale
    ridge = (ridge * scale * scale).clamp_max(2.0**100)  # [E, 1, 1]

    shot_norms, query_norms = (torch.linalg.vector_norm(rows, dim=-1) for rows in (support, queries))
    products = Products(shot_norms.amax(1), query_norms, support.shape[-1])
    if head == "ridge":
        return _ridge(support, queries, way, ridge[..., 0]), products
    if head == "logistic":
        products = products._replace(K=support @ support.mT, Kq=support @ queries.mT)
        return logistic_scores(products, way, ridge, tolerance=1e-8), products
    means = support.unflatten(1, (way, -1)).mean(2)
    products = products._replace(mq=means @ queries.mT, mm=means.square().sum(-1))
    return _cosine(products, way) if head == "cosine" else ncc_scores(products, way, 0.0), products


def _cosine(products: Products, way: int) -> Scores:
    """A mean within rounding of 0 is 0."""
    zero = products.mm.sqrt() <= rounding(products.mm.dtype, products.dim) * products.shot_norm[:, None]
    scores = cosine_scores(products._replace(mm=products.mm.masked_fill(zero, 1.0)), way, 0.0)
    # the mean is known here, not only its square: its direction is uncertain by |shots| / |mean|
    return Scores(scores.values.masked_fill(zero[:, :, None], 0.0), scores.size.sqrt().clamp_min(1.0))


def _ridge(support: Tensor, queries: Tensor, way: int, ridge: Tensor) -> Scores:
    """Ridge regression by singular values: unlike a Gram matrix, they keep the digits of small directions."""
    Y = one_hot(way, support[..., 0])  # [way, S]
    U, s, Vt = torch.linalg.svd(support, full_matrices=False)
    kept = s > rounding(s.dtype, max(support.shape)) * s[:, :1]  # else rounding has made them from 0
    # s / (s^2 + ridge), [E, R]; without a division by a square that vanishes
    shrunk = torch.where(kept, 1 / (s + ridge / s.where(kept, 1.0)), 0.0)
    along = Y @ U  # [E, way, R]
    # shots whose classes have the same mean along a direction leave rounding there, which has no digits: it is 0
    along = torch.where(along.abs() > rounding(s.dtype, U.shape[1]), along, 0.0) * shrunk[:, None]
    weight = torch.linalg.vector_norm(along, dim=2).amax(1)
    residual = torch.linalg.vector_norm(Y - 1 / way - (along * s[:, None]) @ U.mT, dim=2).amax(1)
    least = torch.where(kept, s, torch.inf).amin(1).square() + ridge[:, 0]
    # the classical perturbation of least squares, by a relative change of the features
    size = s[:, 0] * (residual / least + weight / least.sqrt())
    size = torch.maximum(size, weight).where(weight > 0, 0.0)
    if bool((rounding(s.dtype, support.shape[-1]) * size > _UNDECIDED * weight).any()):
        raise ArithmeticError(TOO_SMALL)
    return Scores(along @ (Vt @ queries.mT), size)
