"""The two-class few-shot error of every pair of classes."""

import torch
from torch import Tensor

from .checks import check_choice, check_count, check_features
from .episodes import Groups, draw_distinct
from .precision import full_precision

# scores held at once, [samples, draws x classes]: large enough for the matrix product, small enough for any
# machine
_SCORES_AT_ONCE = 4_000_000


@torch.no_grad()
def pair_errors(
    features: Tensor,
    labels: Tensor,
    *,
    shot: int,
    seed: int = 0,
    draws: int = 100,
    replacement: bool = False,
    queries: str | None = None,
    intervals: bool = False,
):
    """Two-class nearest-class-mean error of each pair of classes.

    For one draw of ``shot`` samples a class with means m_c,

        error(i, j) = (P[|x - m_i| >= |x - m_j|, x of class i] + P[|x - m_j| >= |x - m_i|, x of class j]) / 2,

    a tie counting as an error (THEORY 7), averaged over draws. Every draw serves all pairs: one matrix
    product of all samples with all means.

    Args:
        features: [N, D], floating point.
        labels: integers [N], with or without gaps; class k is the k-th label in ascending order.
        shot: samples a class that make its mean.
        seed: seed of the draws.
        draws: number of draws of the shots.
        replacement: False draws the shots without replacement. True draws them i.i.d.: the samples are then
            taken as the population itself, which is the setting of the bounds.
        queries: "undrawn", all samples that are not shots in this draw, or "all". None means "undrawn"
            without replacement and "all" with it, since a query from the population is drawn independently of
            the shots.
        intervals: also return half widths.

    Returns:
        float64 [C, C] in [0, 1], symmetric, NaN on the diagonal; with ``intervals`` a pair of such matrices,
        the second holding half widths of 95 % intervals: 1.96 standard errors over the draws. They are about
        the choice of shots, with the samples given, not about new samples of the classes.

    Raises:
        TypeError, ValueError: for bad input, among them a class with too few samples.

    Example:
        Two classes on a line, the nearer samples of each at distance 1 from the midpoint: never wrong.

        >>> features = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
        >>> pair_errors(features, torch.tensor([0, 0, 1, 1]), shot=1, draws=10)
        tensor([[nan, 0.],
                [0., nan]], dtype=torch.float64)
    """
    check_count("shot", shot)
    check_count("draws", draws, 2 if intervals else 1)
    check_count("seed", seed, 0)
    if queries is None:
        queries = "all" if replacement else "undrawn"
    check_choice("queries", queries, ("undrawn", "all"))
    features = check_features(features, labels)
    groups = Groups(labels)
    n_classes = len(groups.labels)
    if n_classes < 2:
        raise ValueError(f"labels must hold at least 2 classes, got {n_classes}")
    if queries == "undrawn":
        groups.check_size(shot + 1, "shot + 1")
    elif not replacement:
        groups.check_size(shot, "shot")

    with full_precision(features.device):
        total, squares = _sums_over_draws(features, groups, shot, draws, seed, replacement, queries)
    mean = (total / draws).fill_diagonal_(torch.nan)
    if not intervals:
        return mean
    variance = ((squares - draws * mean.square()) / (draws - 1)).clamp_min(0)
    return mean, 1.96 * (variance / draws).sqrt()


def _sums_over_draws(features, groups, shot, draws, seed, replacement, queries):
    """Sum and sum of squares [C, C] of the pairs' errors over draws."""
    n_classes = len(groups.labels)
    x = (features - features.mean(0))[groups.order]  # sorted by class; centred for the sake of float32
    own = groups.index[groups.order]  # [N]
    generator = torch.Generator(x.device).manual_seed(seed)
    chunk = max(1, _SCORES_AT_ONCE // (len(x) * n_classes))
    total = torch.zeros(n_classes, n_classes, dtype=torch.float64, device=x.device)
    squares = torch.zeros_like(total)
    for first in range(0, draws, chunk):
        count = min(chunk, draws - first)
        sizes = groups.size.expand(count, n_classes)
        if replacement:
            places = (shot, count, n_classes)
            uniform = torch.rand(places, generator=generator, dtype=torch.float64, device=x.device)
            within = (uniform * sizes).long()
        else:
            within = draw_distinct(sizes, shot, generator)
        shots = groups.start + within  # [shot, draws, C], rows of x
        means = x[shots].mean(0)  # [draws, C, D]
        # |x - m|^2 = |x|^2 - 2 score
        scores = (x @ means.flatten(0, 1).T).view(len(x), count, n_classes) - means.square().sum(-1) / 2
        own_score = scores.gather(2, own.view(-1, 1, 1).expand(-1, count, 1))  # [N, draws, 1]
        wrong = (scores >= own_score).to(x.dtype)  # [N, draws, C]
        asked = torch.ones(len(x), count, dtype=x.dtype, device=x.device)
        if queries == "undrawn":
            asked.scatter_(0, shots.movedim(1, 2).flatten(0, 1), 0.0)  # [shot x C, draws] rows of x
        wrong *= asked[:, :, None]
        misses = x.new_zeros(n_classes, count, n_classes).index_add_(0, own, wrong)
        asked_of = x.new_zeros(n_classes, count).index_add_(0, own, asked)
        share = (misses / asked_of[:, :, None]).double().movedim(1, 0)  # [draws, C true, C rival]
        error = (share + share.mT) / 2
        total += error.sum(0)
        squares += error.square().sum(0)
    return total, squares
