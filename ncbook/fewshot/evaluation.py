"""Evaluate classifiers on top of features over many episodes: the public functions, each a call of the protocol."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ncbook._checks import check_choice, check_real, named_arguments

from .checks import check_finite
from .heads import HEADS, KERNEL_HEADS
from .protocol import Candidate, Setting, run, uncertainty
from .refined import refined_scores
from .results import FewShotResult


@named_arguments
def evaluate(
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    way: int = 5,
    shot: int = 5,
    query: int = 15,
    episodes: int = 10_000,
    head: str = "ridge",
    ridge: float = 1.0,
    seed: int = 0,
    transform: str | Sequence[str] = "none",
    source_mean: torch.Tensor | None = None,
    query_features: torch.Tensor | None = None,
    query_labels: torch.Tensor | None = None,
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
    in the theory, so identical features have accuracy 0 and not 1 / way. It is the same for all heads, on both
    routes and at every scale: scores tie when they differ by no more than float64 arithmetic rounds, some 1e-15
    to 1e-13 of their scale (|w| |q| of the ridge classifier, |m| (|q| + |m|) of the nearest class mean), for
    features shifted to the mean of the episode's shots.

    The arithmetic is float32 (float64 for float64 features, half precision is widened), never TF32 or bf16,
    on the features' device. Episodes in which it could not tell the own class from a rival are computed once
    more in float64. "gather" copies the features of each chunk of episodes together; "gram" computes
    all inner products once, [N, N], and pays with many episodes. "auto" takes the cheaper by a cost model.

    Args:
        features: [N, D], floating point.
        labels: integers [N], with or without gaps.
        way: classes per episode.
        shot: labeled samples per class.
        query: samples to classify per class.
        episodes: how many.
        head: "ridge", "ncc", "logistic" or "cosine".
        ridge: weight of the penalty, above 0; used by "ridge" and "logistic".
        seed: seed of the episodes.
        transform: "none", "l2" (rows to norm 1), "centered" (minus ``source_mean``), "power" (square root, for
            features >= 0), or a sequence of them, applied in order, such as ("centered", "l2"). "centred" is
            accepted too.
        source_mean: [D], for "centered".
        query_features: [M, D], another set from which the queries come (domain shift); None: the same set.
        query_labels: integers [M], with the classes of ``labels``.
        route: "auto", "gather" or "gram".
        confusion: also count the C x C confusion.

    Returns:
        FewShotResult.

    Raises:
        TypeError, ValueError: for bad input, before any work.
        ArithmeticError: when ``ridge`` is too small beside features of this scale with nearly dependent shots,
            so that scores have no digits even in float64.

    Reference:
        Galanti, György and Hutter, On the role of neural collapse in transfer learning (2022); Snell, Swersky
        and Zemel, Prototypical networks (2017); Tian et al., Rethinking few-shot image classification (2020).

    Example:
        Two classes on a line, far apart: nothing can go wrong.

        >>> features = torch.tensor([[-2.0], [-1.0], [-1.5], [1.0], [2.0], [1.5]])
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> evaluate(features, labels, way=2, shot=1, query=2, episodes=100, head="ncc").accuracy
        1.0
    """
    check_choice("head", head, HEADS)
    candidate = Candidate(head, _check_ridge(ridge))
    setting = Setting(
        way, query, episodes, seed, transform, source_mean, query_features, query_labels, route, confusion
    )
    (result,) = run(features, labels, [candidate], [shot], setting).values()
    return result


@named_arguments
def compare(
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    heads: Sequence[str] = ("ncc", "ridge"),
    shots: Sequence[int] = (1, 5),
    way: int = 5,
    query: int = 15,
    episodes: int = 10_000,
    ridge: float = 1.0,
    seed: int = 0,
    transform: str | Sequence[str] = "none",
    source_mean: torch.Tensor | None = None,
    query_features: torch.Tensor | None = None,
    query_labels: torch.Tensor | None = None,
    route: str = "auto",
    confusion: bool = True,
) -> dict[tuple[str, int], FewShotResult]:
    """Evaluate several heads and numbers of shots at the cost of little more than one.

    Heads share the episodes and the inner products, all share one Gram matrix. Each entry equals ``evaluate``
    with that head and shot.

    Args:
        features: as in ``evaluate``, like all that is not listed here.
        labels: as in ``evaluate``.
        heads: names of heads.
        shots: numbers of shots.

    Returns:
        {(head, shot): FewShotResult}.

    Raises:
        TypeError, ValueError, ArithmeticError: as ``evaluate``.

    Example:
        >>> features = torch.tensor([[-2.0], [-1.0], [-1.5], [1.0], [2.0], [1.5]])
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> results = compare(features, labels, shots=(1, 2), way=2, query=1, episodes=100)
        >>> {name: result.accuracy for name, result in results.items()}
        {('ncc', 1): 1.0, ('ncc', 2): 1.0, ('ridge', 1): 1.0, ('ridge', 2): 1.0}
    """
    heads, shots = _check_several("heads", heads, "names"), _check_several("shots", shots, "integers")
    candidates = [Candidate(check_choice("heads", head, HEADS), _check_ridge(ridge)) for head in heads]
    setting = Setting(
        way, query, episodes, seed, transform, source_mean, query_features, query_labels, route, confusion
    )
    results = run(features, labels, candidates, shots, setting)
    return {(candidate.head, shot): result for (candidate, shot), result in results.items()}


@torch.no_grad()
@named_arguments
def predict(support: torch.Tensor, queries: torch.Tensor, *, head: str = "ridge", ridge: float = 1.0) -> torch.Tensor:
    """Classify the queries of single episodes, in float64: what ``evaluate`` counts, query by query.

    Args:
        support: [E, way, shot, D], floating point: the shots of E episodes.
        queries: [E, Q, D].
        head: "ridge", "ncc", "logistic" or "cosine", as in ``evaluate``.
        ridge: weight of the penalty, above 0; used by "ridge" and "logistic".

    Returns:
        int64 [E, Q]: the class 0 ... way - 1 with the highest score, or -1 where the highest two tie, which
        ``evaluate`` counts as an error.

    Raises:
        TypeError, ValueError: for bad input.
        ArithmeticError: as ``evaluate``.

    Example:
        Class means 0 and 4: 1 and 3 belong to one each, 2 to none.

        >>> support = torch.tensor([[[[-1.0], [1.0]], [[4.0], [4.0]]]])
        >>> predict(support, torch.tensor([[[1.0], [2.0], [3.0]]]), head="ncc").tolist()
        [[0, -1, 1]]
    """
    check_choice("head", head, HEADS)
    ridge = _check_ridge(ridge)
    for name, value, shape in (("support", support, "[E, way, shot, D]"), ("queries", queries, "[E, Q, D]")):
        if not (isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim == shape.count(",") + 1):
            came = f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise TypeError(f"{name} is {came}; allowed: a floating-point tensor {shape}")
        check_finite(value, name)
    E, way, shot, D = support.shape
    if way < 2 or shot < 1 or (queries.shape[0], queries.shape[2]) != (E, D):
        raise ValueError(
            f"support has shape {list(support.shape)} and queries {list(queries.shape)}; "
            "allowed: [E, way, shot, D] with at least 2 classes of 1 shot, and [E, Q, D]"
        )
    scores, products = refined_scores(head, support.double().flatten(1, 2), queries.double(), way, ridge)
    best, classes = scores.values.topk(2, dim=1)
    return classes[:, 0].masked_fill(best[:, 0] - best[:, 1] <= uncertainty(scores, products), -1)


@dataclass(frozen=True)
class RidgeSelection:
    """A chosen ridge.

    Attributes:
        ridge: the one with the highest accuracy.
        results: {ridge: FewShotResult}, what every candidate reached.
    """

    ridge: float
    results: dict[float, FewShotResult]


@named_arguments
def select_ridge(
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    ridges: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0),
    way: int = 5,
    shot: int = 5,
    query: int = 15,
    episodes: int = 2000,
    head: str = "ridge",
    seed: int = 0,
    transform: str | Sequence[str] = "none",
    source_mean: torch.Tensor | None = None,
) -> RidgeSelection:
    """Choose the ridge on the features of *validation* classes ("model selection").

    Every candidate sees the same episodes. The chosen value goes to ``evaluate`` on the novel classes;
    choosing on the novel classes themselves would be looking at the answer.

    Args:
        features: [N, D], of the validation classes.
        labels: integers [N].
        ridges: candidates, each above 0. The first of equally good ones is taken.
        head: "ridge" or "logistic".
        way, shot, query, episodes, seed, transform, source_mean: as in ``evaluate``.

    Returns:
        RidgeSelection.

    Raises:
        TypeError, ValueError, ArithmeticError: as ``evaluate``, and for another head or no candidates.

    Example:
        >>> features = torch.tensor([[-2.0], [-1.0], [-1.5], [1.0], [2.0], [1.5]])
        >>> select_ridge(features, torch.tensor([0, 0, 0, 1, 1, 1]), ridges=(1, 10), way=2, shot=1, query=2).ridge
        1.0
    """
    check_choice("head", head, KERNEL_HEADS)
    ridges = _check_several("ridges", ridges, "numbers above 0")
    candidates = [Candidate(head, _check_ridge(ridge, "ridges")) for ridge in ridges]
    setting = Setting(way, query, episodes, seed, transform, source_mean, confusion=False)
    found = run(features, labels, candidates, [shot], setting)
    results = {candidate.ridge: result for (candidate, _), result in found.items()}
    return RidgeSelection(max(results, key=lambda ridge: results[ridge].accuracy), results)


def _check_ridge(ridge: float, name: str = "ridge") -> float:
    return check_real(name, ridge, 0, above_low=True)


def _check_several(name: str, values: Sequence, what: str) -> Sequence:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ValueError(f"{name}={values!r}; allowed: a non-empty sequence of {what}")
    return values
