"""The two-class few-shot error of every pair of classes: the measured side of the theory's bounds."""

import torch
from torch import Tensor

from ncbook._checks import check_choice, check_whole, named_arguments

from .checks import check_samples
from .episodes import Groups, draw_distinct, seeded_generator
from .precision import exponent_of, full_precision, rounding, times_power_of_two

# scores held at once, [samples, draws x classes]: large enough for the matrix product, small enough for any machine
_SCORES_AT_ONCE = 4_000_000


@torch.no_grad()
@named_arguments
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

    For one draw of ``shot`` samples per class with means m_c,

        error(i, j) = (P[|x - m_i| >= |x - m_j|, x of class i] + P[|x - m_j| >= |x - m_i|, x of class j]) / 2,

    a tie counting as an error, averaged over draws. Every draw serves all pairs: one matrix product of all
    samples with all means. The arithmetic is float64 at a scale where nothing overflows, and scores tie as in
    ``evaluate``: when they differ by no more than it rounds, some 1e-15 to 1e-13 of |m| (|x| + |m|).

    Args:
        features: [N, D], floating point.
        labels: integers [N], with or without gaps; class k is the k-th label in ascending order.
        shot: samples per class that make its mean.
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
    check_whole("shot", shot, 1)
    check_whole("draws", draws, 2 if intervals else 1)
    check_whole("seed", seed, 0)
    if queries is None:
        queries = "all" if replacement else "undrawn"
    check_choice("queries", queries, ("undrawn", "all"))
    features = check_samples(features, labels)
    groups = Groups(labels)
    n_classes = len(groups.labels)
    if n_classes < 2:
        raise ValueError(f"labels holds {n_classes} class; allowed: at least 2 classes")
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
    x = times_power_of_two(features.double(), -exponent_of(features))[groups.order]  # sorted by class
    own = groups.index[groups.order]  # [N]
    means = x.new_zeros(n_classes, x.shape[1]).index_add_(0, own, x) / groups.size[:, None]
    x = x - means.median(0).values  # near 0 there are more digits; a median is not carried off by a far class
    norms = torch.linalg.vector_norm(x, dim=1)  # [N]
    with_norms = torch.cat([x, norms[:, None]], 1)  # [N, D + 1]
    eps = rounding(x.dtype, x.shape[1])
    generator = seeded_generator(seed, x.device)
    chunk = max(1, _SCORES_AT_ONCE // (len(x) * n_classes))
    total = x.new_zeros(n_classes, n_classes)
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
        means, lengths = x[shots].mean(0), norms[shots].mean(0)  # [draws, C, D] and [draws, C], at least |m|
        # |x - m|^2 = |x|^2 - 2 score. A score is uncertain by eps (|x| |m| + |m|^2): `highest` is its upper end
        columns = torch.cat([means, eps * lengths[..., None]], 2).flatten(0, 1)  # [draws x C, D + 1]
        highest = (with_norms @ columns.T).view(len(x), count, n_classes)
        highest -= means.square().sum(-1) / 2 - eps * lengths.square()
        own_column = own.view(-1, 1, 1).expand(-1, count, 1)
        own_length = lengths.T[own]  # [N, draws]
        own_lowest = highest.gather(2, own_column)[..., 0] - 2 * eps * own_length * (norms[:, None] + own_length)
        wrong = (highest >= own_lowest[..., None]).float()  # [N, draws, C]
        counted = wrong.new_ones(len(x), count)
        if queries == "undrawn":
            counted.scatter_(0, shots.movedim(1, 2).flatten(0, 1), 0.0)  # [shot x C, draws] rows of x
        wrong *= counted[:, :, None]
        misses = wrong.new_zeros(n_classes, count, n_classes).index_add_(0, own, wrong)
        n_queries = wrong.new_zeros(n_classes, count).index_add_(0, own, counted)
        fraction = (misses.double() / n_queries[:, :, None]).movedim(1, 0)  # [draws, C true, C rival]
        error = (fraction + fraction.mT) / 2
        total += error.sum(0)
        squares += error.square().sum(0)
    return total, squares
