"""From what was gathered to tables: every number with its interval and what it is an interval over. No formulas.

Intervals, all at 95 %:

- over *classes*: by the jackknife with Student's t. Averages over pairs leave out one class at a time, medians over
  pairs and metrics of all classes one of at most ten groups of classes (values are of all samples, replicates of the
  reservoirs). They say what other classes of the same kind would give.
- few-shot accuracies: bootstrap of the classes (`FewShotResult.class_interval`) where there are at least twice as many
  classes as ways and its replicates hold enough episodes (of few ways); else over *episodes*, which says nothing about
  other classes.

Called by `reports`; pure.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from ncbook import collapse, fewshot, theory
from ncbook.collapse.covariance import nc1_of, variability_collapse_index_of
from ncbook.collapse.geometry import gram_to_etf, nc3_of_means
from ncbook.collapse.jackknife import (
    classes_without_each,
    means_without_each,
    moments_without_each,
    part_of,
    standard_error,
)
from ncbook.collapse.moments import Moments
from ncbook.collapse.overview import median
from ncbook.collapse.pairs import cdnv_matrix_of
from ncbook.collapse.sample import Sample
from ncbook.collapse.transferability import class_separation_of, transferability_of
from ncbook.datasets._images import place_in_class
from ncbook.fewshot import FewShotResult

from .gather import Gathered

PAIR_CLASSES, PAIR_SAMPLES = 100, 50  # at most, that errors of pairs and directional bounds are measured on
HARDEST = 12  # pairs, and classes, that are looked at
QUERY = 15  # per class and episode, fewer where classes are small
GROWTH_EPISODES = 4000
LEAST_EPISODES = 100  # that a bootstrap replicate is to have
_LARGEST_BOUND = {"cdnv": 2.0}  # of two classes; the others are capped at 1


def interval(value: float, replicates: Tensor, low: float = -math.inf, high: float = math.inf) -> tuple[float, float]:
    """Jackknife interval by Student's t, within what is possible; NaN of fewer than 4 classes."""
    if len(replicates) < 4 or not replicates.isfinite().all():
        return math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(replicates) - 1)) * float(standard_error(replicates))
    return max(low, value - half), min(high, value + half)


def _of_pairs(metric: str, matrix: Tensor, high: float = math.inf) -> dict:
    """A row of the mean over pairs, with its interval over classes."""
    value = float(matrix[~torch.eye(len(matrix), dtype=torch.bool)].mean())
    return _row(metric, value, interval(value, means_without_each(matrix), 0, high), len(matrix))


def _debiased_median(features: Tensor, index: Tensor) -> dict:
    """A row of the median of the de-biased CDNV over pairs, with its interval over classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pairs that cannot be told apart: inf
        matrix = collapse.cdnv_matrix(features, index, debiased=True)
    n_classes, replicates = len(matrix), torch.empty(0)
    if n_classes > 3:
        replicates = torch.stack([_median_of_pairs(matrix[kept][:, kept]) for kept in classes_without_each(n_classes)])
    value = float(_median_of_pairs(matrix))
    return _row("cdnv_debiased", value, interval(value, replicates, 0), n_classes)


def _median_of_pairs(matrix: Tensor) -> Tensor:
    i, j = torch.triu_indices(*matrix.shape, 1)
    return median(matrix[i, j])


def _row(metric: str, value: float, ends: tuple[float, float], n: int, over: str = "classes") -> dict:
    return {"metric": metric, "value": value, "low": ends[0], "high": ends[1], "n": n, "over": over}


_HIGHEST = {"variability_collapse_index": 1.0, "class_separation": 1.0, "nc2": 2**0.5, "nc3": 2.0, "nc4": 1.0}
_LOWEST = {"logme": -math.inf, "rankme": 1.0, "effective_rank": 1.0}


def metrics(of: Gathered, directional: Tensor, weight: Tensor | None, bias: Tensor | None) -> list[dict]:
    """Rows of the collapse metrics and of what needs no head."""
    n_classes, dim = of.moments.means.shape
    rows = [_of_pairs("cdnv", cdnv_matrix_of(of.moments)), _of_pairs("directional_cdnv", directional)]
    features, moments = of.features, of.moments
    if len(features) < dim:  # turned into as many dimensions as there are samples: the same numbers, much faster
        features = torch.linalg.qr(features.double().T, mode="r").R.T
        moments = Sample(features, of.index).moments() if of.complete else moments
    units = of.units
    if units is not None:
        try:
            class_separation_of(units)
        except ValueError:  # one direction only
            units = None
    if weight is not None:
        weight = weight.to(of.moments.means)
        logits = of.features.double() @ weight.T + (0 if bias is None else bias.double())

    def numbers(kept: Tensor, moments: Moments) -> dict[str, Tensor]:
        """Of the classes ``kept`` bool [C], whose moments these are."""
        found = {
            "nc1": nc1_of(moments),
            "nc1_noise_floor": _noise_floor(moments),
            "nc2": gram_to_etf(moments.gram),
            "variability_collapse_index": variability_collapse_index_of(moments),
            **transferability_of(moments, dim),
        }
        if units is not None:
            found["class_separation"] = class_separation_of(part_of(units, kept))
        if weight is not None:
            rows = kept[of.index]
            found["nc3"] = nc3_of_means(of.moments.means[kept], weight[kept])
            found["nc4"] = collapse.nc4(of.features[rows], of.index[rows], logits[rows][:, kept])
        return found

    values = numbers(torch.ones(n_classes, dtype=torch.bool), moments)
    replicates = []
    if n_classes >= 4:
        replicates = [numbers(*left) for left in moments_without_each(features, of.index)]
    for name, value in values.items():
        found = torch.stack([each[name] for each in replicates]) if replicates else torch.empty(0)
        ends = interval(float(value), found, _LOWEST.get(name, 0.0), _HIGHEST.get(name, math.inf))
        rows.append(_row(name, float(value), ends, n_classes))
    return rows


def _noise_floor(of: Moments) -> Tensor:
    """NC1 of as many samples with the same covariance within classes and no classes at all."""
    spectrum = torch.linalg.eigvalsh(of.within(None)).clamp_min(0)
    n_classes, dim = of.means.shape
    spectrum = spectrum.where(spectrum > 1e-12 * spectrum.max(), 0)
    if not spectrum.any():  # complete collapse
        return torch.tensor(math.nan, dtype=torch.float64)
    per_class = max(2, round(float(of.counts.mean())))
    return collapse.nc1_noise_floor(n_classes, per_class, dim, spectrum=spectrum)


def few_shot(of: Gathered, *, ways, shots, heads, episodes: int, seed: int, notes: list[str]) -> list[FewShotResult]:
    """Few-shot accuracies of every way, number of shots and head that the classes are large enough for."""
    smallest, found = int(of.index.bincount().min()), []
    for way in ways:
        for shot in shots:
            query = min(QUERY, smallest - shot)
            if way > len(of.class_names):
                notes.append(f"{way}-way accuracy was left out: there are {len(of.class_names)} classes.")
                break
            if query < 1:
                notes.append(f"{shot}-shot accuracy was left out: the smallest class has {smallest} images.")
                continue
            setting = dict(heads=heads, shots=[shot], way=way, query=query, episodes=episodes, seed=seed)
            found += fewshot.compare(of.features, of.index, **setting).values()
    return found


def accuracy_row(result: FewShotResult) -> dict:
    """A row of one accuracy."""
    name = f"accuracy_{result.way}way_{result.shot}shot_{result.head}"
    low, high, n, over = _accuracy_interval(result)
    return _row(name, result.accuracy, (low, high), n, over)


def _accuracy_interval(result: FewShotResult) -> tuple[float, float, int, str]:
    n_classes = len(result.labels)
    # A replicate draws some 0.63 of the classes, and an episode counts if all of its ways are among them.
    if n_classes >= 2 * result.way and len(result.per_episode) * 0.63**result.way >= LEAST_EPISODES:
        return *result.class_interval(), n_classes, "classes"
    half = result.ci95
    return result.accuracy - half, result.accuracy + half, len(result.per_episode), "episodes"


def first_samples(of: Gathered, count: int, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A random sample of ``count`` per class: features and classes, of some classes or of all."""
    rows = place_in_class(of.index) < count
    if classes is not None:
        rows &= torch.isin(of.index, classes)
    return of.features[rows], of.index[rows]


def some_classes(n_classes: int, count: int, seed: int) -> Tensor:
    """At most ``count`` of the classes, in ascending order; nested as ``count`` grows."""
    order = torch.randperm(n_classes, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values


def bounds(of: Gathered, *, ways, shots, accuracies: list[FewShotResult], seed: int) -> pd.DataFrame:
    """Bounds on the error of the nearest class mean beside what is measured, where the samples are the population.

    Returns:
        One row per way, shot and bound: way, shot, bound ("cdnv", "quadratic", "directional"), value (mean over pairs;
        of more ways the union bound), low, high (over classes), n (classes), vacuous (fraction of pairs whose bound is
        1 or more; of more ways whether the union bound is), measured (the error).
    """
    classes = some_classes(len(of.class_names), PAIR_CLASSES, seed)
    features, index = first_samples(of, PAIR_SAMPLES, classes)
    matrix = collapse.cdnv_matrix(features, index)
    measured_error = {(r.way, r.shot): 1 - r.accuracy for r in accuracies if r.head == "ncc"}
    rows = []
    for shot in shots:
        error = fewshot.pair_errors(features, index, shot=shot, seed=seed, replacement=True)
        of_bound = {
            "cdnv": theory.cdnv_bound(matrix, shot),
            "quadratic": theory.quadratic_bound(matrix, shot),
            "directional": theory.directional_bound(features, index, shot),
        }
        off = ~torch.eye(len(matrix), dtype=torch.bool)
        for name, pairs in of_bound.items():
            row = _of_pairs(name, pairs, _LARGEST_BOUND.get(name, 1.0))
            vacuous = float((pairs[off] >= 1).double().mean())
            rows.append({"way": 2, "shot": shot, **row, "vacuous": vacuous, "measured": float(error[off].mean())})
            for way in ways:
                if (way, shot) in measured_error and way > 2:
                    union = {key: (way - 1) * row[key] for key in ("value", "low", "high")}
                    flags = {"vacuous": float(union["value"] >= 1), "measured": measured_error[way, shot]}
                    rows.append({"way": way, "shot": shot, **row, **union, **flags})
    table = pd.DataFrame(rows).rename(columns={"metric": "bound"}).drop(columns="over")
    return table.sort_values(["way", "shot"], kind="stable", ignore_index=True)


def directional_matrix(of: Gathered) -> Tensor:
    """Directional CDNV of all pairs, the mean of both directions, on the reservoirs."""
    matrix = collapse.directional_cdnv_matrix(of.features, of.index)
    return (matrix + matrix.T) / 2


def pairs(of: Gathered, directional: Tensor, *, shot: int, seed: int) -> pd.DataFrame:
    """A row per unordered pair, the hardest (by CDNV) first; errors where they were measured."""
    n_classes = len(of.class_names)
    matrix = cdnv_matrix_of(of.moments)
    error = torch.full_like(matrix, torch.nan)
    i, j = torch.triu_indices(n_classes, n_classes, 1)
    smallest = int(of.index.bincount().min())
    if smallest > shot:
        classes = some_classes(n_classes, PAIR_CLASSES, seed)
        features, index = first_samples(of, PAIR_SAMPLES, classes)
        error[classes[:, None], classes] = fewshot.pair_errors(features, index, shot=shot, seed=seed)
        hardest = matrix[i, j].argsort(descending=True)[:HARDEST]
        for a, b in torch.stack([i[hardest], j[hardest]], 1).tolist():
            if error[a, b].isnan():
                features, index = first_samples(of, PAIR_SAMPLES, torch.tensor([a, b]))
                error[a, b] = fewshot.pair_errors(features, index, shot=shot, seed=seed)[0, 1]
    names = np.array(of.class_names, dtype=object)
    table = pd.DataFrame(
        {
            "class_a": names[i.numpy()],
            "class_b": names[j.numpy()],
            "cdnv": matrix[i, j].numpy(),
            "directional_cdnv": directional[i, j].numpy(),
            "error": error[i, j].numpy(),
        }
    )
    return table.sort_values("cdnv", ascending=False, kind="stable", ignore_index=True)


def classes(of: Gathered, accuracies: list[FewShotResult]) -> pd.DataFrame:
    """A row per class, the hardest first: class, n, cdnv (mean to the others), nearest, accuracy, taken_for."""
    matrix = cdnv_matrix_of(of.moments)
    names = np.array(of.class_names, dtype=object)
    n_classes = len(names)
    table = pd.DataFrame(
        {
            "class": names,
            "n": of.moments.counts.long().numpy(),
            "cdnv": (matrix.nansum(1) / (n_classes - 1)).numpy(),
            "nearest": names[matrix.nan_to_num(-1).argmax(1).numpy()],
        }
    )
    if accuracies:
        result = max(accuracies, key=lambda r: (r.head == "ncc", r.shot, -r.way))
        fraction = result.confusion.double() / result.confusion.sum(1, keepdim=True)
        table["accuracy"] = fraction.diagonal().numpy()
        others = fraction.clone().fill_diagonal_(-1)
        table["taken_for"] = names[others.argmax(1).numpy()]
        table.loc[~(others.amax(1).numpy() > 0), "taken_for"] = ""  # always right, or in no task
        return table.sort_values("accuracy", kind="stable", ignore_index=True)
    return table.sort_values("cdnv", ascending=False, kind="stable", ignore_index=True)


def growth(of: Gathered, *, episodes: int, seed: int) -> pd.DataFrame:
    """How numbers move with samples, classes, shots and ways: along, count, metric, value, low, high, n, over."""
    n_classes, sizes = len(of.class_names), of.index.bincount()
    smallest, episodes, rows = int(sizes.min()), min(episodes, GROWTH_EPISODES), []

    def add(along: str, count: int, row: dict) -> None:
        if math.isfinite(row["value"]):
            rows.append({"along": along, "count": count, **row})

    for count in _steps(2, smallest):
        few = first_samples(of, count)
        add("samples", count, _of_pairs("cdnv", collapse.cdnv_matrix(*few)))
        add("samples", count, _debiased_median(*few))
    for count in _steps(4, n_classes):
        chosen = some_classes(n_classes, count, seed)
        features, index = first_samples(of, int(sizes.max()), chosen)
        add("classes", count, _of_pairs("cdnv", collapse.cdnv_matrix(features, index)))
    way, query = min(5, n_classes), min(QUERY, max(1, smallest // 2))
    shots = _steps(1, smallest - query)
    if shots:
        setting = dict(heads=("ncc",), way=way, query=query, episodes=episodes, seed=seed, confusion=False)
        for result in fewshot.compare(of.features, of.index, shots=shots, **setting).values():
            add("shots", result.shot, accuracy_row(result))
    shot = max((s for s in (1, 5) if s < smallest), default=0)
    for count in _steps(2, n_classes) if shot else []:
        setting = dict(way=count, shot=shot, query=min(QUERY, smallest - shot), seed=seed, confusion=False)
        fewer = max(200, episodes * 5 // max(5, count))  # as many queries, whatever the number of classes
        add("ways", count, accuracy_row(fewshot.evaluate(of.features, of.index, head="ncc", episodes=fewer, **setting)))
    return pd.DataFrame(rows, columns=["along", "count", "metric", "value", "low", "high", "n", "over"])


def _steps(first: int, last: int) -> list[int]:
    """1, 2, 5, 10, … from ``first`` on, those that are not near ``last``, and ``last``, which is 100 at most."""
    last = min(last, 100)
    found = [m * 10**e for e in range(3) for m in (1, 2, 5) if first <= m * 10**e <= last]
    found = [first, *found] if found and found[0] != first else found
    if last >= first:
        found = [step for step in found if 1.3 * step < last] + [last]
    return found


def layers(of: Gathered) -> pd.DataFrame:
    """CDNV, NC1, VCI of each layer that was asked for, in order: layer, dim, cdnv, low, high, nc1, vci."""
    rows = []
    for name, moments in of.layers.items():
        cdnv, dim = _of_pairs("cdnv", cdnv_matrix_of(moments)), moments.means.shape[1]
        collapsed = float(nc1_of(moments)), float(variability_collapse_index_of(moments))
        rows.append((name, dim, cdnv["value"], cdnv["low"], cdnv["high"], *collapsed))
    return pd.DataFrame(rows, columns=["layer", "dim", "cdnv", "low", "high", "nc1", "variability_collapse_index"])
