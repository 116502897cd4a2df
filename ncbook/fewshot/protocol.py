"""The protocol of an evaluation: one setting, the same episodes for all candidates, correct queries counted.

Called by the public functions of ``evaluation``; touches features, labels and nothing else.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ncbook._checks import check_choice, check_whole

from .checks import check_samples
from .episodes import Episodes, EpisodeSampler, seeded_generator
from .heads import MEAN_HEADS, Products, Scores, scores_of
from .precision import exponent_of, full_precision, rounding, scaled_ridge, times_power_of_two
from .refined import refined_scores
from .results import FewShotResult, half_width
from .routes import Gather, Gram, Route, choose, chunk_size, rows_of
from .transforms import apply_transform, check_source_mean, check_transform

ROUTES = {"gather": Gather, "gram": Gram}
_REFINED_BYTES = 2**26  # float64 features held at once
_UNDECIDED_AT_ONCE = 2**14  # episodes that wait for float64


class Candidate(NamedTuple):
    """A head with its ridge."""

    head: str
    ridge: float


@dataclass(frozen=True, eq=False)
class Setting:
    """What all candidates and all numbers of shots of an evaluation have in common, checked."""

    way: int
    query: int
    episodes: int
    seed: int
    transform: str | Sequence[str]
    source_mean: Tensor | None = None
    query_features: Tensor | None = None
    query_labels: Tensor | None = None
    route: str = "auto"
    confusion: bool = True

    def __post_init__(self):
        for name, low in dict(way=2, query=1, episodes=1, seed=0).items():
            object.__setattr__(self, name, check_whole(name, getattr(self, name), low))
        check_choice("route", self.route, ("auto", *ROUTES))
        object.__setattr__(self, "transform", check_transform(self.transform))
        if (self.query_features is None) != (self.query_labels is None):
            raise ValueError("query_features and query_labels: one is None; allowed: both or neither")

    def prepare(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
        """Transformed features of shots and queries, all entries below 1 by a factor 2^-exponent, and the exponent."""
        features = queries = check_samples(features, labels)
        if self.query_features is not None:
            queries = check_samples(self.query_features, self.query_labels, "query_features", "query_labels")
            if queries.shape[1] != features.shape[1] or queries.device != features.device:
                raise ValueError(
                    f"query_features has {queries.shape[1]} columns on {queries.device}; "
                    f"allowed: {features.shape[1]} columns on {features.device}, as features"
                )
        check_source_mean(self.transform, self.source_mean, features.shape[1])
        support = apply_transform(features, self.transform, self.source_mean, "features")
        if queries is features:
            exponent = exponent_of(support)
            support = times_power_of_two(support, -exponent)
            return support, support, exponent
        queries = apply_transform(queries.to(support.dtype), self.transform, self.source_mean, "query_features")
        exponent = exponent_of(support, queries)
        return times_power_of_two(support, -exponent), times_power_of_two(queries, -exponent), exponent


@torch.no_grad()
def run(
    features: Tensor, labels: Tensor, candidates: Iterable[Candidate], shots: Iterable[int], setting: Setting
) -> dict[tuple[Candidate, int], FewShotResult]:
    """Check, prepare and evaluate: a result for each candidate and number of shots, in their order."""
    candidates = list(dict.fromkeys(candidates))  # each once
    shots = list(dict.fromkeys(check_whole("shot", shot, 1) for shot in shots))
    support, queries, exponent = setting.prepare(features, labels)
    sizes = dict(way=setting.way, query=setting.query, query_labels=setting.query_labels)
    samplers = {shot: EpisodeSampler(labels, shot=shot, **sizes) for shot in shots}
    # inner products of centered features are exact to more digits; all heads but cosine ignore a common shift
    cosine = [candidate for candidate in candidates if candidate.head == "cosine"]
    others = [candidate for candidate in candidates if candidate.head != "cosine"]
    results = {}
    with full_precision(support.device):
        for group in filter(None, (cosine, others)):
            x, q = support, queries
            if group is others:
                middle = support.mean(0)
                x = support - middle
                q = x if queries is support else queries - middle
            name = setting.route
            if name == "auto":
                plan = [(setting.episodes, setting.way * shot, setting.way * setting.query) for shot in shots]
                name = choose(x, q, plan, _kernels(group), setting.way)
            game = _Game(ROUTES[name](x, q), support, queries, exponent, group, setting)
            for shot in shots:
                results |= game.play(samplers[shot])
    return {(candidate, shot): results[candidate, shot] for candidate in candidates for shot in shots}


def _kernels(candidates: Iterable[Candidate]) -> int:
    """How many need inner products of single shots."""
    return sum(head not in MEAN_HEADS for head, _ in candidates)


class _Game:
    """Candidates that share the inner products of one route; ``support`` and ``queries`` are not centered."""

    def __init__(self, route: Route, support: Tensor, queries: Tensor, exponent: int, candidates, setting: Setting):
        self.route, self.support, self.queries = route, support, queries
        self.candidates, self.setting = candidates, setting
        self.ridges = {candidate: scaled_ridge(candidate.ridge, -exponent) for candidate in candidates}
        self.kernels = _kernels(candidates)
        self.means = any(head in MEAN_HEADS for head, _ in candidates)

    def play(self, sampler: EpisodeSampler) -> dict[tuple[Candidate, int], FewShotResult]:
        """Evaluate all candidates on the same episodes with one number of shots."""
        setting, labels = self.setting, sampler.groups.labels
        way, device = setting.way, labels.device
        chunk = chunk_size(self.route, way * sampler.shot, way * setting.query, device)
        tallies = {candidate: _Tally(len(labels), setting, device) for candidate in self.candidates}
        classes = []
        for block in sampler.blocks(setting.episodes, seeded_generator(setting.seed, device)):
            classes.append(block.classes)
            for first in range(0, len(block), chunk):
                part = block[first : first + chunk]
                products = self.route.products(part, kernels=self.kernels, means=self.means)
                for candidate, tally in tallies.items():
                    scores = scores_of(candidate.head, self.ridges[candidate], way, products)
                    tally.add(part, *_decide(scores, products, setting))
                    if tally.n_undecided >= _UNDECIDED_AT_ONCE:
                        self.refine(candidate, tally)
        classes = torch.cat(classes)
        results = {}
        for candidate, tally in tallies.items():
            self.refine(candidate, tally)
            per_episode = torch.cat(tally.correct).double() / (way * setting.query)
            results[candidate, sampler.shot] = FewShotResult(
                accuracy=float(per_episode.mean()),
                ci95=half_width(per_episode),
                per_episode=per_episode,
                classes=classes,
                labels=labels,
                confusion=tally.confusion.view(len(labels), -1) if setting.confusion else None,
                head=candidate.head,
                way=way,
                shot=sampler.shot,
                query=setting.query,
                ridge=candidate.ridge,
                seed=setting.seed,
                transform=setting.transform,
                route=self.route.name,
            )
        return results

    def refine(self, candidate: Candidate, tally: "_Tally") -> None:
        """Decide in float64 what is undecided: few episodes on ordinary features, so those of many chunks at once."""
        if not tally.undecided:
            return
        episodes, places = Episodes.joined(tally.undecided), torch.cat(tally.places)
        tally.undecided, tally.places, tally.n_undecided = [], [], 0
        way, ridge = self.setting.way, self.ridges[candidate]
        numbers = self.support.shape[1] * (episodes.support[0].numel() + episodes.query[0].numel())  # per episode
        at_once = max(1, _REFINED_BYTES // (8 * numbers))
        correct = []
        for first in range(0, len(episodes), at_once):
            part = episodes[first : first + at_once]
            support, queries = rows_of(self.support, part.support), rows_of(self.queries, part.query)
            scores, products = refined_scores(candidate.head, support.double(), queries.double(), way, ridge)
            right, predicted, _ = _decide(scores, products, self.setting)
            correct.append(right.sum((1, 2)))
            tally.count(part, predicted)
        tally.correct = [torch.cat(tally.correct).index_copy_(0, places, torch.cat(correct))]


class _Tally:
    """Correct queries of one candidate, its confusion, and the episodes that are still undecided."""

    def __init__(self, n_classes: int, setting: Setting, device: torch.device):
        self.n_classes = n_classes
        self.correct: list[Tensor] = []
        self.confusion = torch.zeros(n_classes**2 if setting.confusion else 0, dtype=torch.int64, device=device)
        self.undecided: list[Episodes] = []
        self.places: list[Tensor] = []
        self.n_episodes = self.n_undecided = 0

    def add(self, part: Episodes, right: Tensor, predicted: Tensor | None, undecided: Tensor) -> None:
        """Count a chunk of episodes, and keep those in doubt for `_Game.refine`."""
        self.correct.append(right.sum((1, 2)))
        rows = undecided.nonzero().flatten()
        if len(rows):
            self.undecided.append(part[rows])
            self.places.append(self.n_episodes + rows)
            self.n_undecided += len(rows)
        self.n_episodes += len(part)
        self.count(part, predicted, None if not len(rows) else ~undecided)

    def count(self, part: Episodes, predicted: Tensor | None, counted: Tensor | None = None) -> None:
        """Add episodes to the confusion, or only those that are ``counted`` [E]."""
        if predicted is None:
            return
        predicted = part.classes.gather(1, predicted.flatten(1)).view_as(predicted)
        cells = part.classes[:, :, None] * self.n_classes + predicted
        ones = torch.ones_like(cells) if counted is None else counted[:, None, None].long().expand_as(cells)
        self.confusion.index_add_(0, cells.flatten(), ones.flatten())


def uncertainty(scores: Scores, products: Products) -> Tensor:
    """Differences of a query's scores up to which they tie, [E, Q]."""
    dtype = scores.values.dtype
    size = rounding(dtype, products.dim) * scores.size.to(dtype)[:, None]
    return size * (products.query_norms + products.shot_norm[:, None]).to(dtype) + scores.extra


def _decide(scores: Scores, products: Products, setting: Setting) -> tuple[Tensor, Tensor | None, Tensor]:
    """Right where the own class leads by more than rounding, the predicted class, and episodes in doubt [E]."""
    way, query = setting.way, setting.query
    same_class = torch.eye(way, dtype=torch.bool, device=scores.values.device)[:, :, None]
    values = scores.values.view(-1, way, way, query)
    own = values.diagonal(dim1=1, dim2=2).mT  # [E, true class, query]
    rivals = values.masked_fill(same_class, -math.inf)  # [E, class, true class, query]
    best, rival = rivals.max(1) if setting.confusion else (rivals.amax(1), None)
    lead = own - best
    error = uncertainty(scores, products).view_as(lead)
    right = lead > error
    if rival is not None:
        rival = torch.where(right, torch.arange(way, device=right.device)[:, None], rival)
    return right, rival, (lead.abs_() > error).flatten(1).all(1).logical_not_()
