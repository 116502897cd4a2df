"""Discrete two-class distributions: their exact few-shot error, and the search for those that come near a bound.

Used by notebooks/appendix/tightness.ipynb and by tests that look for violations.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ncbook._checks import check_real, check_whole, named_arguments

from ._checks import check_shot
from .moments import PairMoments

_TIE = 1e-11  # margins below this fraction of the squared distance are ties: a distribution next to it has them exactly
_LARGEST = 50_000  # placements of the shots on the points of a class
_NUMBERS_AT_ONCE = 2**22


class Distributions(NamedTuple):
    """L pairs of classes, each on K points of D dimensions.

    Attributes:
        points: float64 [L, 2, K, D].
        weights: float64 [L, 2, K], of sum 1 over the points of a class.
    """

    points: Tensor
    weights: Tensor

    def __getitem__(self, rows) -> "Distributions":
        return Distributions(self.points[rows], self.weights[rows])

    @property
    def moments(self) -> PairMoments:
        """Their `PairMoments`, [L, 2, 2]."""
        return PairMoments.of_points(self.points, self.weights)


def two_point(jump, *, beyond: float = 0.0) -> Distributions:
    """Class 1 at 0 that jumps, with probability p, just past the midpoint of the means; class 2 always at 1.

    With many shots Err / (4V) -> 1 as p -> 0: no constant below 4 serves `ncbook.theory.cdnv_bound` for every n.

    Args:
        jump: p, float or tensor [L], above 0 and below 1.
        beyond: the jump passes the midpoint even if a fraction p + ``beyond`` of the shots have jumped.

    Example:
        >>> distribution = two_point(0.01, beyond=0.02)
        >>> round(float(errors(distribution, shot=1000) / (4 * distribution.moments.cdnv[:, 0, 1])), 3)
        0.97
    """
    p = torch.as_tensor(jump, dtype=torch.float64).reshape(-1)
    if not bool(((p > 0) & (p + beyond < 1)).all()) or not beyond >= 0:
        raise ValueError(f"jump={jump!r} with beyond={beyond!r}; allowed: jump above 0, beyond at least 0, sum below 1")
    zero, one = torch.zeros_like(p), torch.ones_like(p)
    t = (1 + 1e-9) / (2 - p - beyond)  # t = (1 + (p + beyond) t) / 2, and a hair further
    points = torch.stack([torch.stack([zero, t], -1), torch.stack([one, one], -1)], 1)[..., None]
    weights = torch.stack([torch.stack([1 - p, p], -1), torch.stack([one, zero], -1)], 1)
    return Distributions(points, weights)


def shared_point(probability) -> Distributions:
    """Three points on a line; each class at its end with probability 1 - p, at the middle one with p.

    With one shot Err = p = 4V / (1 + 4V), exactly, for every p: the largest error for its CDNV that is known.

    Args:
        probability: p, float or tensor [L], above 0 and below 1.

    Example:
        >>> distribution = shared_point(0.3)
        >>> v = distribution.moments.cdnv[0, 0, 1]  # p (1-p) / (2 - 2p)^2 = 0.3 / 2.8
        >>> round(float(errors(distribution, shot=1)), 6), round(float(4 * v / (1 + 4 * v)), 6)
        (0.3, 0.3)
    """
    p = torch.as_tensor(probability, dtype=torch.float64).reshape(-1)
    if not bool(((p > 0) & (p < 1)).all()):
        raise ValueError(f"probability={probability!r}; allowed: above 0 and below 1")
    points = torch.tensor([[0.0, 1.0], [2.0, 1.0]], dtype=torch.float64).expand(len(p), 2, 2)[..., None]
    return Distributions(points, torch.stack([1 - p, p], -1)[:, None].expand(-1, 2, -1))


def random_distributions(count: int, points: int, dim: int, *, generator: torch.Generator) -> Distributions:
    """Distributions with Gaussian points of random spread about means at random distance, and random weights."""
    x = torch.randn(count, 2, points, dim, generator=generator, dtype=torch.float64)
    x *= (3 * torch.randn(count, 2, 1, 1, generator=generator, dtype=torch.float64)).exp()
    x[:, 1] += 3 * torch.randn(count, 1, dim, generator=generator, dtype=torch.float64)
    weights = (2 * torch.randn(count, 2, points, generator=generator, dtype=torch.float64)).softmax(-1)
    return _normalized(Distributions(x, weights))


def errors(distributions: Distributions, shot: int) -> Tensor:
    r"""Exact two-class nearest-class-mean error of every distribution, shots and query independent, a tie an error.

    Sums over all ways in which n shots can fall on K points (multinomial weights): no Monte-Carlo error.

    Args:
        distributions: L distributions.
        shot: n >= 1, few enough that binom(n + K - 1, K - 1) stays below 50,000.

    Returns:
        float64 [L], in [0, 1].

    Raises:
        ValueError: fewer than one shot, or too many ways.

    Example:
        >>> points = torch.tensor([[[[0.0], [1.0]], [[1.0], [1.0]]]])  # a coin at 0 or 1 against a point at 1
        >>> float(errors(Distributions(points, torch.full((1, 2, 2), 0.5)), shot=1))  # all but x = m = 0; m_1 = 1
        0.625
    """
    check_shot(shot)
    n_pairs, _, n_points, _ = distributions.points.shape
    ways = math.comb(shot + n_points - 1, n_points - 1)
    if ways > _LARGEST:
        raise ValueError(f"shot={shot!r} with {n_points} points: {ways} placements; allowed: at most {_LARGEST}")
    counts = _placements(shot, n_points).to(distributions.points)  # [M, K]
    coefficients = math.lgamma(shot + 1) - torch.lgamma(counts + 1).sum(1)  # ln of the multinomial coefficients
    step = max(1, _NUMBERS_AT_ONCE // (ways * n_points))
    parts = [
        _errors(distributions[first : first + step], counts, coefficients, shot) for first in range(0, n_pairs, step)
    ]
    return torch.cat(parts)


def _errors(distributions: Distributions, counts: Tensor, coefficients: Tensor, shot: int) -> Tensor:
    points, weights = distributions.points, distributions.weights
    means = (counts / shot) @ points  # [L, 2, M, D]
    logs = torch.special.xlogy(counts[:, None, None, None, :], weights).sum(-1)  # [M, 1, L, 2], 0 ln 0 = 0
    chances = (coefficients[:, None, None] + logs[:, 0]).exp().permute(1, 2, 0)  # [L, 2, M]
    truth = (weights[..., None] * points).sum(-2)
    tie = _TIE * (truth[:, 0] - truth[:, 1]).square().sum(-1)[:, None, None]
    total = 0.0
    for own, rival in ((0, 1), (1, 0)):
        x = points[:, own]  # [L, K, D]
        to_own = (x[:, :, None] - means[:, None, own]).square().sum(-1)  # [L, K, M]
        to_rival, order = (x[:, :, None] - means[:, None, rival]).square().sum(-1).sort(-1)
        reached = chances[:, None, rival].expand_as(order).gather(2, order).cumsum(-1)  # P[|x - m_2|^2 <= sorted]
        places = torch.searchsorted(to_rival, (to_own + tie).contiguous(), right=True)
        wrong = torch.where(places > 0, reached.gather(2, (places - 1).clamp_min(0)), 0.0)  # [L, K, M]
        total = total + (weights[:, own] * (wrong * chances[:, None, own]).sum(-1)).sum(-1) / 2
    return total


def _placements(shots: int, points: int) -> Tensor:
    """All counts [M, K] of sum ``shots``: the shots in a row, with K - 1 bars between those of different points."""
    last = shots + points - 1
    bars = [(-1, *places, last) for places in itertools.combinations(range(last), points - 1)]
    return torch.tensor(bars).diff(dim=1) - 1


class Frontier(NamedTuple):
    """The worst distributions found, one for each level of a quantity, levels ascending.

    Attributes:
        level: float64 [B].
        error: float64 [B].
        distributions: B of them.
    """

    level: Tensor
    error: Tensor
    distributions: Distributions


@named_arguments
def search(
    level: Callable[[PairMoments], Tensor],
    *,
    shot: int,
    points: int = 2,
    dim: int = 1,
    low: float = 1e-3,
    high: float = 1.0,
    bins: int = 48,
    rounds: int = 400,
    children: int = 256,
    seed: int = 0,
    start: Distributions | None = None,
) -> Frontier:
    """Search for the largest error at every level of a bound (or of the CDNV).

    Keeps the worst distribution of each bin of the level, and goes on from mutations of kept ones: an archive of
    elites (Mouret & Clune, 2015), so that one that is good at one level can become the ancestor of one at another. It
    finds lower limits of the worst error, never upper ones.

    Args:
        level: moments of L distributions -> [L, 2, 2]; the entry of the pair counts. A bound, or ``lambda m: m.cdnv``.
        shot: n >= 1.
        points: K, points of a class, at least 2.
        dim: D.
        low, high, bins: logarithmic bins of the level.
        rounds: generations.
        children: distributions tried in each.
        seed: seed of the search.
        start: distributions to start from as well; `two_point` and `shared_point` distributions always are.

    Returns:
        Frontier, with the bins that were reached.

    Raises:
        ValueError: as `errors`, and counts that are too small.

    Example:
        >>> found = search(lambda m: m.cdnv, shot=1, rounds=50, seed=0)
        >>> bool((found.error <= 4 * 2 * found.level / (1 + 4 * found.level)).all())  # B1 with n = 1
        True
    """
    check_whole("points", points, 2)
    for name, value in dict(dim=dim, bins=bins, rounds=rounds, children=children).items():
        check_whole(name, value, 1)
    check_real("high", high, check_real("low", low, 0, above_low=True), above_low=True)
    generator = torch.Generator().manual_seed(seed)
    edges = torch.linspace(math.log(low), math.log(high), bins + 1, dtype=torch.float64)
    x = torch.zeros(bins, 2, points, dim, dtype=torch.float64)
    w = torch.full((bins, 2, points), 1 / points, dtype=torch.float64)
    error, reached = torch.full((bins,), -1.0, dtype=torch.float64), torch.zeros(bins, dtype=torch.float64)

    def keep(distributions: Distributions) -> None:
        value = level(distributions.moments)[:, 0, 1]
        found = errors(distributions, shot)
        place = torch.bucketize(value.log(), edges) - 1
        here = (place == torch.arange(bins)[:, None]) & found.isfinite()  # [bins, L]
        worst, row = torch.where(here, found, -1.0).max(1)
        better = worst > error
        x[better], w[better] = distributions.points[row[better]], distributions.weights[row[better]]
        error[better], reached[better] = worst[better], value[row[better]]

    for beyond in (0.0, 0.03, 0.1, 0.3):
        keep(_embedded(two_point(torch.logspace(-4, -0.3, 64), beyond=beyond), points, dim))
    keep(random_distributions(4 * children, points, dim, generator=generator))
    keep(_embedded(shared_point(torch.linspace(0.002, 0.99, 64)), points, dim))
    if start is not None:
        keep(start)
    for _ in range(rounds):
        filled = (error >= 0).nonzero()[:, 0]
        parents = filled[torch.randint(len(filled), (children,), generator=generator)]
        keep(_mutated(Distributions(x[parents], w[parents]), generator))
    filled = error >= 0
    return Frontier(reached[filled], error[filled], Distributions(x[filled], w[filled]))


def _mutated(distributions: Distributions, generator: torch.Generator) -> Distributions:
    """A random one of the points or weights of each distribution, or all, moved by a step of random size."""
    n, _, k, dim = distributions.points.shape

    def steps(*shape):
        size = 10 ** (-5 * torch.rand(n, generator=generator, dtype=torch.float64))
        moved = torch.rand(shape, generator=generator, dtype=torch.float64) < 0.4
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return size.view(-1, *[1] * (len(shape) - 1)) * noise * moved

    points = distributions.points + steps(n, 2, k, dim)
    weights = (distributions.weights.clamp_min(1e-12).log() + 2 * steps(n, 2, k)).softmax(-1)
    return _normalized(Distributions(points, weights))


def _normalized(distributions: Distributions) -> Distributions:
    """Means at distance 1: no error changes."""
    means = (distributions.weights[..., None] * distributions.points).sum(-2)  # [L, 2, D]
    distance = (means[:, 1] - means[:, 0]).square().sum(-1).sqrt().clamp_min(1e-12)
    points = (distributions.points - means[:, :1, None]) / distance[:, None, None, None]
    return Distributions(points, distributions.weights)


def _embedded(distributions: Distributions, points: int, dim: int) -> Distributions:
    """The distributions with further points of weight 0 and further coordinates of 0."""
    k, d = distributions.points.shape[2:]
    x = F.pad(distributions.points, (0, dim - d, 0, points - k))
    return Distributions(x, F.pad(distributions.weights, (0, points - k)))
