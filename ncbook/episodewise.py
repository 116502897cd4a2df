"""Collapse episode by episode, as the report on prototypical networks measures it; and each objective's own classifier.

Computes from a `Run`, writes nothing. Called by notebook 07 and the appendix on families of objectives.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ncbook import catalog, collapse, fewshot, runs
from ncbook._checks import check_choice, check_whole, named_arguments
from ncbook.collapse.covariance import nc1_of
from ncbook.collapse.geometry import nc2_of_means
from ncbook.collapse.moments import mean_off_diagonal
from ncbook.collapse.pairs import cdnv_of_pairs, directional_cdnv_matrix_of
from ncbook.collapse.sample import Sample
from ncbook.features import as_input, reproducible, resolve_device
from ncbook.fewshot.results import half_width
from ncbook.objectives.episodic import Episodic
from ncbook.objectives.maml import batch_statistics

__all__ = ["BATCH_NORM", "METRICS", "OwnAccuracy", "measure", "own_accuracy"]
__dir__ = __all__.copy

_AT_ONCE = 16  # episodes
BATCH_NORM = ("running", "batch")  # statistics: of training, or of the shots and queries of the episode
_FORMULAS = {
    "nc1": lambda sample, moments: nc1_of(moments),
    "nc2_centered": lambda sample, moments: nc2_of_means(sample.means, sample.classes, "centered"),
    "nc2_uncentered": lambda sample, moments: nc2_of_means(sample.means, sample.classes, "uncentered"),
    "nc2_normalized": lambda sample, moments: nc2_of_means(sample.means, sample.classes, "normalized"),
    "cdnv": lambda sample, moments: cdnv_of_pairs(moments).mean(),
    "directional_cdnv": lambda sample, moments: mean_off_diagonal(directional_cdnv_matrix_of(sample, moments)),
}
METRICS = tuple(_FORMULAS)


@torch.no_grad()
@named_arguments
def measure(
    run: runs.Run,
    split: str = "source_train",
    *,
    way: int = 5,
    shot: int = 5,
    query: int = 15,
    episodes: int = 100,
    epochs: list[int] | None = None,
    batch_norm: str = "running",
    dim: int | None = None,
    metrics: tuple[str, ...] = METRICS,
    seed: int = 0,
) -> pd.DataFrame:
    """Metrics of the support set and of the query set of episodes, each with its own class means, averaged.

    Args:
        run: a run.
        split: "source_train", "source_test", "novel" or "validation".
        way, shot, query: classes per episode, and shots and queries per class, at least 2 of each: NC1 depends on all
            of them.
        episodes: how many, the same at every epoch.
        epochs: measured epochs; None: all.
        batch_norm: "running": evaluation mode; "batch": statistics of the shots and queries of the episode together, as
            in training.
        dim: the features are projected on so many random orthonormal directions, the same at every epoch; None: not.
        metrics: some of `METRICS`.
        seed: of the episodes, the projection and the noise.

    Returns:
        One row per epoch, set ("support", "query") and metric: epoch, split, set, metric, value (mean over episodes),
        ci95 (half width of its 95 % interval) and n (episodes). Beside ``metrics``: "nc1_floor", the NC1 of Gaussian
        noise with the within-class covariance measured over all these episodes and no classes at all (simulated, as
        many episodes); "nc1_floor_formula", `collapse.nc1_noise_floor` with that covariance's spectrum; and of the
        queries "error", the fraction that is not nearest to the mean of its class's shots, and "loss", the
        cross-entropy of negative squared distances from those means.

    Raises:
        ValueError: an unknown name, an epoch that was not kept, more ways than classes, too few samples in a class.
    """
    check_choice("split", split, catalog.SPLITS)
    check_choice("batch_norm", batch_norm, BATCH_NORM)
    for name in metrics:
        check_choice("metrics", name, METRICS)
    for name, value in (("shot", shot), ("query", query)):
        check_whole(name, value, 2)
    labels = getattr(run.splits, split).labels
    drawn = fewshot.sample_episodes(labels, way=way, shot=shot, query=query, episodes=episodes, seed=seed)
    rows = torch.cat([drawn.support, drawn.query], 2)  # [E, way, shot + query]
    found = []
    for epoch in run.saved_epochs if epochs is None else epochs:
        features = _features(run, split, epoch, rows, batch_norm)  # [E, way, shot + query, D]
        if dim is not None:
            features = features @ _projection(features.shape[-1], dim, seed)
        covariance = _within_class_covariance(features)
        parts = {"support": features[:, :, :shot], "query": features[:, :, shot:]}
        floors = {shape: _floors(covariance, shape, seed) for shape in {part.shape for part in parts.values()}}
        for name, part in parts.items():
            values = _each(metrics, part) | floors[part.shape]
            if name == "query":
                values |= _nearest_mean(*parts.values())
            for metric, v in values.items():
                found.append((epoch, split, name, metric, float(v.mean()), half_width(v), len(v)))
    return pd.DataFrame(found, columns=["epoch", "split", "set", "metric", "value", "ci95", "n"])


def _features(run: runs.Run, split: str, epoch: int, rows: Tensor, batch_norm: str) -> Tensor:
    """Features float32 [*rows.shape, D] of rows [E, way, shot + query], on the CPU."""
    if batch_norm == "running":
        return run.features(split, epoch)[0][rows]
    device, images = resolve_device(run.device), getattr(run.splits, split).images
    backbone = run.model(epoch).to(device)
    with reproducible(device), batch_statistics(backbone):
        each = [backbone(as_input(images[episode.flatten()].to(device))) for episode in rows]
    return torch.stack(each).float().cpu().unflatten(1, rows.shape[1:])


def _projection(size: int, dim: int, seed: int) -> Tensor:
    """``dim`` random orthonormal directions, [size, dim]."""
    if check_whole("dim", dim, 2) > size:
        raise ValueError(f"dim={dim}; allowed: at most the {size} dimensions of the features")
    return torch.linalg.qr(torch.randn(size, dim, generator=torch.Generator().manual_seed(seed)))[0]


def _each(metrics: Sequence[str], features: Tensor) -> dict[str, Tensor]:
    """Some of `METRICS` of each of E episodes [E, way, samples, D], float64 [E] each."""
    _, way, samples, _ = features.shape
    labels = torch.arange(way).repeat_interleave(samples)
    each = [Sample(episode.flatten(0, 1), labels, least=2) for episode in features]
    moments = [sample.moments() for sample in each]  # once for all metrics
    return {name: torch.stack([_FORMULAS[name](*of) for of in zip(each, moments, strict=True)]) for name in metrics}


def _within_class_covariance(features: Tensor) -> Tensor:
    """Covariance [D, D] about the class means of each episode, over all episodes [E, way, samples, D]."""
    deviations = (features - features.mean(2, keepdim=True)).flatten(0, 2).double()
    return deviations.T @ deviations / len(deviations)


def _floors(covariance: Tensor, shape: torch.Size, seed: int) -> dict[str, Tensor]:
    """NC1 of episodes [E, way, samples, D] of Gaussian noise with this covariance, [E]; and by the formula, [1]."""
    variances, directions = torch.linalg.eigh(covariance)
    variances = variances.clamp_min(0)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise = noise * variances.sqrt() @ directions.T
    formula = collapse.nc1_noise_floor(*shape[1:], spectrum=variances)
    return {"nc1_floor": _each(["nc1"], noise)["nc1"], "nc1_floor_formula": formula[None]}


def _nearest_mean(support: Tensor, queries: Tensor) -> dict[str, Tensor]:
    """Error and loss of each episode's queries [E, way, query, D] by the means of its shots [E, way, shot, D]."""
    way, query = queries.shape[1:3]
    distances = torch.cdist(queries.flatten(1, 2).double(), support.double().mean(2)).square()  # [E, way * query, way]
    labels = torch.arange(way).repeat_interleave(query).expand(len(queries), -1)
    own = distances.gather(2, labels[..., None]).squeeze(2)
    return {
        "error": 1 - _leads(-distances, labels).mean(1),
        "loss": ((-distances).logsumexp(2) + own).mean(1),
    }


def _leads(scores: Tensor, labels: Tensor) -> Tensor:
    """Where the class of labels [E, Q] has a larger score than every other, float64 of scores [E, Q, way]: no ties."""
    own = scores.gather(2, labels[..., None])
    rivals = scores.scatter(2, labels[..., None], -torch.inf)
    return (own.squeeze(2) > rivals.amax(2)).double()


class OwnAccuracy(NamedTuple):
    """What `own_accuracy` gives.

    Attributes:
        accuracy: mean over episodes, in [0, 1].
        ci95: half width of its 95 % interval over episodes.
        n: episodes.
    """

    accuracy: float
    ci95: float
    n: int


@torch.no_grad()
@named_arguments
def own_accuracy(
    run: runs.Run,
    split: str = "novel",
    *,
    way: int = 5,
    shot: int = 5,
    query: int = 15,
    episodes: int = 600,
    epoch: int | None = None,
    seed: int = 0,
) -> OwnAccuracy:
    """Few-shot accuracy of the classifier that the run's objective trains, on episodes of its classes.

    That is the softmax over distances, attention, relation scores, ridge regression or adapted network of an objective
    that trains on episodes, in evaluation mode (MAML adapts by batch statistics, as it trains); of an objective that
    trains on batches of samples the ridge head on frozen features, the protocol of the slides.

    Args:
        run: a run.
        split: "source_train", "source_test", "novel" or "validation".
        way, shot, query, episodes, seed: the episodes, those of `fewshot.sample_episodes`. MAML and ANIL classify as
            many ways as they were trained on.
        epoch: a measured epoch; None: the last.

    Raises:
        ValueError: as `fewshot.sample_episodes`; a number of ways that the run's head does not have.
    """
    check_choice("split", split, catalog.SPLITS)
    objective, labels = run.objective(epoch), getattr(run.splits, split).labels
    if not isinstance(objective, Episodic):
        setting = dict(way=way, shot=shot, query=query, episodes=episodes, seed=seed)
        result = fewshot.evaluate(*run.features(split, epoch), head="ridge", **setting)
        return OwnAccuracy(result.accuracy, result.ci95, episodes)
    drawn = fewshot.sample_episodes(labels, way=way, shot=shot, query=query, episodes=episodes, seed=seed)
    if objective.needs_images:
        device, images = resolve_device(run.device), getattr(run.splits, split).images
        objective, backbone = objective.to(device), run.model(epoch).to(device)

        def scores(part: fewshot.Episodes) -> Tensor:
            rows = torch.cat([part.support, part.query], 2)
            pixels = as_input(images[rows.flatten()].to(device)).unflatten(0, rows.shape)
            with reproducible(device):
                return objective.episode_scores(backbone, pixels, shot).cpu()
    else:
        features = run.features(split, epoch)[0]

        def scores(part: fewshot.Episodes) -> Tensor:
            return objective.scores(features[part.support], features[part.query].flatten(1, 2))

    places = torch.arange(way).repeat_interleave(query).expand(episodes, -1)
    parts = [drawn[first : first + _AT_ONCE] for first in range(0, episodes, _AT_ONCE)]
    right = _leads(torch.cat([scores(part) for part in parts]), places).mean(1)
    return OwnAccuracy(float(right.mean()), half_width(right), episodes)
