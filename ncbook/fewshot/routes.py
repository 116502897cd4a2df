"""Two ways to the inner products of an episode: from its gathered features, or from one Gram matrix.

Also which of the two is cheaper, and how many episodes at once; called by the protocol.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .episodes import Episodes
from .heads import Products

# Bytes of one chunk of episodes: what stays near the cores of a CPU, what fills a GPU.
_CPU_CHUNK, _GPU_CHUNK = 8 * 2**20, 2**30
_GRAM_LIMIT = 2**30  # bytes above which a Gram matrix is built only with route="gram"

# Rough rates of a device, of which only ratios matter for the choice: floating-point operations per second,
# bytes per second, seconds for one number gathered from a Gram matrix that fits a cache of _CACHE bytes, and
# from a larger one.
_RATES = {"cpu": (1.2e11, 2.5e10, 2e-9, 4e-9), "cuda": (4e13, 2e12, 1e-11, 4e-11)}
_CACHE = 32 * 2**20


class Route:
    """What both have in common: features [N, D] and [M, D] with the norms of their rows."""

    def __init__(self, support: Tensor, queries: Tensor):
        self.support, self.queries = support, queries
        self.support_norms = torch.linalg.vector_norm(support, dim=1)
        same = queries is support
        self.query_norms = self.support_norms if same else torch.linalg.vector_norm(queries, dim=1)

    def products(self, episodes: Episodes, *, kernels: int, means: bool) -> Products:
        """The products of a chunk of episodes: those that ``kernels`` heads need, those of class means, or both."""
        products = self.inner_products(episodes, kernels, means)
        shot_norm = self.support_norms.take(episodes.support).flatten(1).amax(1)
        query_norms = self.query_norms.take(episodes.query.flatten(1))
        return Products(**products, shot_norm=shot_norm, query_norms=query_norms, dim=self.support.shape[1])


class Gather(Route):
    """Copies the features of a chunk of episodes together, then batched matrix products."""

    name = "gather"

    def bytes(self, shots: int, queries: int) -> int:
        """Bytes per episode."""
        return (shots + queries) * self.support.shape[1] * self.support.element_size()

    def inner_products(self, episodes: Episodes, kernels: int, means: bool) -> dict:
        """Fields of `Products`; of shots with queries only where that takes fewer operations than their weights do."""
        e, way, _ = episodes.support.shape
        q = rows_of(self.queries, episodes.query)
        if not kernels:
            # gathers and averages without a copy of the shots
            m = F.embedding_bag(episodes.support.flatten(0, 1), self.support, mode="mean").view(e, way, -1)
            return dict(mq=m @ q.mT, mm=m.square().sum(-1))
        s = rows_of(self.support, episodes.support)
        S, Q = s.shape[1], q.shape[1]
        found = dict(K=s @ s.mT)
        found |= dict(rows=(s, q)) if weight_products(kernels, way, S, Q) < S * Q else dict(Kq=s @ q.mT)
        if means:
            m = s.view(e, way, -1, s.shape[2]).mean(2)
            found |= dict(mq=m @ q.mT, mm=m.square().sum(-1))
        return found


class Gram(Route):
    """All inner products once; each episode then only picks its own."""

    name = "gram"

    def __init__(self, support: Tensor, queries: Tensor):
        super().__init__(support, queries)
        self.shots_shots = support @ support.T
        self.shots_queries = self.shots_shots if queries is support else support @ queries.T

    def bytes(self, shots: int, queries: int) -> int:
        """Bytes per episode: the numbers and their int64 places."""
        return shots * (shots + queries) * (self.shots_shots.element_size() + 8)

    def inner_products(self, episodes: Episodes, kernels: int, means: bool) -> dict:
        """Fields of `Products`."""
        e, way, shot = episodes.support.shape
        shots, queries = episodes.support.flatten(1), episodes.query.flatten(1)
        Kq = _pick(self.shots_queries, shots, queries)
        found = dict(Kq=Kq)
        if kernels:
            found["K"] = _pick(self.shots_shots, shots, shots)
        if means:
            own = _pick(self.shots_shots, episodes.support, episodes.support)  # [E, way, shot, shot]
            found |= dict(mq=Kq.view(e, way, shot, -1).mean(2), mm=own.mean((2, 3)))
        return found


def rows_of(features: Tensor, rows: Tensor) -> Tensor:
    """Features of the rows [E, way, n] as [E, way x n, D]."""
    return features.index_select(0, rows.flatten()).view(len(rows), -1, features.shape[1])


def _pick(gram: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Entries [..., R, C] of a matrix at rows [..., R] and columns [..., C]."""
    # shots are the rows: the many queries of a class lie near each other within one row
    places = rows[..., :, None] * gram.shape[1] + columns[..., None, :]
    # one row of the (not copied) matrix per episode: two to three times faster than gram.take on a CPU.
    return gram.flatten().expand(len(places), -1).gather(1, places.flatten(1)).view_as(places)


def chunk_size(route: Gather | Gram, shots: int, queries: int, device: torch.device) -> int:
    """Episodes at once."""
    return max(1, (_CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK) // route.bytes(shots, queries))


def weight_products(kernels: int, way: int, shots: int, queries: int) -> int:
    """Products of D terms that ``kernels`` heads take by their weights, where shots with queries take S x Q in all."""
    return kernels * way * (shots + queries)


def choose(support: Tensor, queries: Tensor, plan: list[tuple[int, int, int]], kernels: int, way: int) -> str:
    """The cheaper route for ``plan``, a list of (episodes, shots, queries), if ``kernels`` heads need single shots."""
    flops, bandwidth, near, far = _RATES.get(support.device.type, _RATES["cuda"])
    n, m, dim, size = len(support), len(queries), support.shape[1], support.element_size()
    entries = n * n + (0 if queries is support else n * m)
    if entries * size > _GRAM_LIMIT:
        return "gather"
    gather = gram = 0.0
    gram += 2 * entries * dim / flops + 2 * entries * size / bandwidth
    pick = near if entries * size <= _CACHE else far
    for episodes, s, q in plan:
        products = s * s + min(s * q, weight_products(kernels, way, s, q)) if kernels else way * q
        gather += episodes * (2 * (s + q) * dim * size / bandwidth + 2 * products * dim / flops)
        gram += episodes * s * (s + q) * pick
    return "gram" if gram < gather else "gather"
