"""Evaluate classifiers on top of features over many episodes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_choice, check_count, check_features, check_positive
from .episodes import check_episodes, episode_blocks
from .heads import HEADS, MEAN_HEADS, scores_of
from .precision import full_precision
from .results import FewShotResult, half_width
from .routes import Gather, Gram, choose, chunk_size, means_of_kernel
from .transforms import apply_transform, check_transform

ROUTES = {"gather": Gather, "gram": Gram}


def evaluate(
    features: Tensor,
    labels: Tensor,
    *,
    way: int = 5,
    shot: int = 5,
    query: int = 15,
    episodes: int = 10_000,
    head: str = "ridge",
    ridge: float = 1.0,
    seed: int = 0,
    transform: str | Sequence[str] = "none",
    source_mean: Tensor | None = None,
    query_features: Tensor | None = None,
    query_labels: Tensor | None = None,
    route: str = "auto",
    confusion: bool = True,
) -> FewShotResult:
    """Few-shot accuracy of a classifier on frozen features.

    In each episode of ``sample_episodes(labels, ..., seed=seed)`` the head is fitted to the shots and
    classifies the queries:

    - "ridge": ridge regression on one-hot labels, min |Y - XW - 1b'|^2 + ridge |W|^2, as scikit-learn's
      ``Ridge(alpha=ridge)``. The classifier of Galanti, György and Hutter's experiments.
    - "ncc": nearest class mean, the classifier of their theory; Snell et al. (2017) with a fixed embedding.
    - "logistic": min sum cross-entropy + ridge |W|^2 / 2, as ``LogisticRegression(C=1 / ridge)``; with "l2"
      and ridge 1 the classifier of Tian et al. (2020, RFS).
    - "cosine": largest cosine with the class mean; with one shot, matching by cosine (Vinyals et al. 2016).

    A query is correct if its own class scores strictly higher than every other: a tie counts as an error, as
    in the theory (THEORY 7), so identical features have accuracy 0 and not 1 / way.

    The arithmetic is float32 (float64 for float64 features, half precision is widened), never TF32 or bf16,
    on the features' device. "gather" copies the features of each chunk of episodes together; "gram" computes
    all inner products once, [N, N], and pays with many episodes. "auto" takes the cheaper by a cost model.

    Args:
        features: [N, D], floating point.
        labels: integers [N], with or without gaps.
        way: classes an episode.
        shot: labelled samples a class.
        query: samples to classify a class.
        episodes: how many.
        head: "ridge", "ncc", "logistic" or "cosine".
        ridge: weight of the penalty, above 0; used by "ridge" and "logistic".
        seed: seed of the episodes.
        transform: "none", "l2" (rows to norm 1), "centred" (minus ``source_mean``), "power" (square root, for
            features >= 0), or a sequence of them, applied in order, such as ("centred", "l2").
        source_mean: [D], for "centred".
        query_features: [M, D], another set from which the queries come (domain shift); None: the same set.
        query_labels: integers [M], with the classes of ``labels``.
        route: "auto", "gather" or "gram".
        confusion: also count the C x C confusion.

    Returns:
        FewShotResult.

    Raises:
        TypeError, ValueError: for bad input, before any work.
        ArithmeticError: when ``ridge`` is too small for the features' scale in their precision.

    Example:
        Two classes on a line, far apart: nothing can go wrong.

        >>> features = torch.tensor([[-2.0], [-1.0], [-1.5], [1.0], [2.0], [1.5]])
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> evaluate(features, labels, way=2, shot=1, query=2, episodes=100, head="ncc").accuracy
        1.0
    """
    results = compare(
        features,
        labels,
        heads=(head,),
        shots=(shot,),
        way=way,
        query=query,
        episodes=episodes,
        ridge=ridge,
        seed=seed,
        transform=transform,
        source_mean=source_mean,
        query_features=query_features,
        query_labels=query_labels,
        route=route,
        confusion=confusion,
    )
    return results[head, shot]


def compare(
    features: Tensor,
    labels: Tensor,
    *,
    heads: Sequence[str] = ("ncc", "ridge"),
    shots: Sequence[int] = (1, 5),
    way: int = 5,
    query: int = 15,
    episodes: int = 10_000,
    ridge: float = 1.0,
    seed: int = 0,
    transform: str | Sequence[str] = "none",
    source_mean: Tensor | None = None,
    query_features: Tensor | None = None,
    query_labels: Tensor | None = None,
    route: str = "auto",
    confusion: bool = True,
) -> dict[tuple[str, int], FewShotResult]:
    """Evaluate several heads and numbers of shots at the cost of little more than one.

    Heads share the episodes and the inner products, all share one Gram matrix. Each entry equals ``evaluate``
    with that head and shot.

    Args:
        heads: names of heads.
        shots: numbers of shots.
        features, labels, way, query, episodes, ridge, seed, transform, source_mean, query_features,
        query_labels,
            route, confusion: as in ``evaluate``.

    Returns:
        {(head, shot): FewShotResult}.
    """
    if isinstance(heads, str) or not heads:
        raise ValueError(f"heads must be a non-empty sequence of names, got {heads!r}")
    if isinstance(shots, int) or not shots:
        raise ValueError(f"shots must be a non-empty sequence of integers, got {shots!r}")
    for head in heads:
        check_choice("head", head, HEADS)
    contenders = [(head, check_positive("ridge", ridge)) for head in heads]
    setting = dict(way=way, query=query, episodes=episodes, seed=seed)
    domain = dict(
        transform=transform, source_mean=source_mean, query_features=query_features, query_labels=query_labels
    )
    results = _run(features, labels, contenders, shots, setting, domain, route, confusion)
    return {(head, shot): result for (head, _, shot), result in results.items()}


@dataclass(frozen=True)
class RidgeSelection:
    """The ridge with the highest accuracy, and what every candidate reached: {ridge: FewShotResult}."""

    ridge: float
    results: dict[float, FewShotResult]


def select_ridge(
    features: Tensor,
    labels: Tensor,
    *,
    ridges: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0),
    way: int = 5,
    shot: int = 5,
    query: int = 15,
    episodes: int = 2000,
    head: str = "ridge",
    seed: int = 0,
    transform: str | Sequence[str] = "none",
    source_mean: Tensor | None = None,
) -> RidgeSelection:
    """Choose the ridge on the features of *validation* classes ("model selection").

    Every candidate sees the same episodes. Give the chosen value to ``evaluate`` on the novel classes;
    choosing on the novel classes themselves would be looking at the answer.

    Args:
        features: [N, D], of the validation classes.
        labels: integers [N].
        ridges: candidates, each above 0. The first of equally good ones is taken.
        head: "ridge" or "logistic".
        way, shot, query, episodes, seed, transform, source_mean: as in ``evaluate``.

    Returns:
        RidgeSelection.
    """
    check_choice("head", head, ("ridge", "logistic"))
    if not isinstance(ridges, Sequence) or isinstance(ridges, str) or not ridges:
        raise ValueError(f"ridges must be a non-empty sequence of numbers above 0, got {ridges!r}")
    contenders = [(head, check_positive("ridges", ridge)) for ridge in ridges]
    setting = dict(way=way, query=query, episodes=episodes, seed=seed)
    domain = dict(transform=transform, source_mean=source_mean, query_features=None, query_labels=None)
    found = _run(features, labels, contenders, (shot,), setting, domain, "auto", False)
    results = {ridge: result for (_, ridge, _), result in found.items()}
    return RidgeSelection(max(results, key=lambda ridge: results[ridge].accuracy), results)


def recalled_ridge(shot: int, *, alpha: float = 1.0) -> float:
    """The scaling alpha x sqrt(shot) of the ridge: *recalled, not confirmed*.

    It is remembered from the paper by Galanti, György and Hutter (2022); no source that could be read
    states the value used there. It has a name so that it can be tried and is not taken for the paper's.

    Example:
        >>> recalled_ridge(4)
        2.0
    """
    return check_positive("alpha", alpha) * math.sqrt(check_count("shot", shot))


@torch.no_grad()
def _run(features, labels, contenders, shots, setting, domain, route, confusion):
    """Validate, prepare and evaluate: {(head, ridge, shot): FewShotResult} of contenders (head, ridge)."""
    check_choice("route", route, ("auto", *ROUTES))
    contenders, shots = list(dict.fromkeys(contenders)), list(dict.fromkeys(shots))  # asked for twice, played once
    features = check_features(features, labels)
    queries = features
    if (domain["query_features"] is None) != (domain["query_labels"] is None):
        raise ValueError("query_features and query_labels must be given together")
    if domain["query_features"] is not None:
        names = ("query_features", "query_labels")
        queries = check_features(domain["query_features"], domain["query_labels"], *names).to(features.dtype)
        if queries.shape[1] != features.shape[1] or queries.device != features.device:
            raise ValueError(
                f"query_features must have {features.shape[1]} columns on {features.device} like features, "
                f"got {queries.shape[1]} on {queries.device}"
            )
    transform = check_transform(domain["transform"], domain["source_mean"], features)
    groups = {shot: check_episodes(labels, domain["query_labels"], shot=shot, **setting) for shot in shots}

    with full_precision(features.device):
        support = apply_transform(features, transform, domain["source_mean"])
        same = queries is features
        queries = support if same else apply_transform(queries, transform, domain["source_mean"])
        results = {}
        # Inner products of centred features are exact to more digits. All heads but cosine ignore a common
        # shift.
        for shifted in (False, True):
            heads = [contender for contender in contenders if (contender[0] != "cosine") == shifted]
            if not heads:
                continue
            if shifted:
                middle = support.mean(0)
                support = support - middle
                queries = support if same else queries - middle
            means_only = all(head in MEAN_HEADS for head, _ in heads)
            way, count = setting["way"], setting["episodes"]
            plan = [(count, way * shot, way * setting["query"], means_only) for shot in shots]
            chosen = choose(support, queries, plan) if route == "auto" else route
            data = ROUTES[chosen](support, queries)
            for shot in shots:
                results |= _play(data, groups[shot], heads, shot, transform, confusion, **setting)
    return {(head, ridge, shot): results[head, ridge, shot] for head, ridge in contenders for shot in shots}


def _play(data, groups, contenders, shot, transform, confusion, *, way, query, episodes, seed):
    """Evaluate all contenders on the same episodes with one number of shots."""
    support_groups, _ = groups
    n_classes, device = len(support_groups.labels), support_groups.order.device
    correct = {contender: [] for contender in contenders}
    given = {c: torch.zeros(n_classes * n_classes, dtype=torch.int64, device=device) for c in contenders}
    broken = torch.zeros((), dtype=torch.bool, device=device)
    kernel_needed = any(head not in MEAN_HEADS for head, _ in contenders)
    means_needed = any(head in MEAN_HEADS for head, _ in contenders)
    same_class = torch.eye(way, dtype=torch.bool, device=device)[:, :, None]
    chunk = chunk_size(data, way * shot, way * query, device)
    classes = []
    for block in episode_blocks(*groups, way, shot, query, episodes, seed):
        classes.append(block.classes)
        for first in range(0, len(block), chunk):
            part = block[first : first + chunk]
            kernel = data.kernel(part) if kernel_needed else None
            means = None
            if means_needed:
                means = means_of_kernel(*kernel, way) if kernel_needed else data.means(part)
            for head, ridge in contenders:
                scores = scores_of(head, ridge, way, kernel, means).view(-1, way, way, query)
                broken |= scores.isnan().any()
                own = scores.diagonal(dim1=1, dim2=2).mT  # [E, true class, query]
                rivals = scores.masked_fill(same_class, -math.inf)  # [E, class, true class, query]
                if confusion:
                    best, rival = rivals.max(1)
                    right = own > best
                    true = torch.arange(way, device=device)[:, None]
                    named = part.classes.gather(1, torch.where(right, true, rival).flatten(1)).view_as(right)
                    cell = part.classes[:, :, None] * n_classes + named
                    given[head, ridge].index_add_(0, cell.flatten(), torch.ones_like(cell.flatten()))
                else:
                    right = own > rivals.amax(1)
                correct[head, ridge].append(right.sum((1, 2)))
    if broken:
        raise ArithmeticError(
            "scores are NaN: ridge is too small for features of this scale in this precision; "
            "use a larger ridge, transform='l2' or features.double()"
        )
    classes = torch.cat(classes)
    results = {}
    for head, ridge in contenders:
        per_episode = torch.cat(correct[head, ridge]).double() / (way * query)
        results[head, ridge, shot] = FewShotResult(
            accuracy=float(per_episode.mean()),
            ci95=half_width(per_episode),
            per_episode=per_episode,
            classes=classes,
            labels=support_groups.labels,
            confusion=given[head, ridge].view(n_classes, n_classes) if confusion else None,
            head=head,
            way=way,
            shot=shot,
            query=query,
            ridge=ridge,
            seed=seed,
            transform=transform,
            route=data.name,
        )
    return results
