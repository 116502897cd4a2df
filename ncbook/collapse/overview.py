"""The metrics of one split of a run, in one pass over its features: what training measures and a report prints."""

import warnings

from torch import Tensor

from ncbook._checks import named_arguments

from .covariance import nc1_of
from .decisions import nc4_of
from .geometry import gram_to_etf, nc3_of_means
from .pairs import cdnv_of_pairs, min_distance_of_means
from .sample import Sample


@named_arguments
def summary(
    features: Tensor, labels: Tensor, *, weight: Tensor | None = None, logits: Tensor | None = None
) -> dict[str, Tensor]:
    """The metrics that describe one split of a run, from one pass over the features.

    The numbers of the functions of the same names, by the same formulas; several times faster than one call per metric.

    Args:
        features: [N, D].
        labels: [N].
        weight: [C, D], the classifier's: gives "nc3".
        logits: [N, C]: gives "nc4".

    Returns:
        "cdnv", "cdnv_debiased" (the *median* over pairs, since a pair that cannot be told apart is ``inf``),
        "cdnv_debiased_mean" (over all pairs but the largest hundredth: a few that can hardly be told apart would
        outweigh all others), "nc1", "nc2", "min_distance", "min_distance_normalized", and "nc3" and "nc4" where their
        arguments are given.

    Raises:
        ValueError: As those functions.

    Example:
        >>> import torch
        >>> features, labels = torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1])
        >>> [round(float(value), 4) for value in summary(features, labels).values()]
        [0.01, 0.0204, 0.0204, 0.02, 0.0, 10.0, 2.0]
    """
    sample = Sample(features, labels, least=2)
    moments, means = sample.moments(), sample.means
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pairs that cannot be told apart
        debiased = cdnv_of_pairs(moments, debiased=True)
    values = {
        "cdnv": cdnv_of_pairs(moments).mean(),
        "cdnv_debiased": median(debiased),
        "cdnv_debiased_mean": debiased.sort().values[: len(debiased) - len(debiased) // 100].mean(),
        "nc1": nc1_of(moments),
        "nc2": gram_to_etf(moments.gram),
        "min_distance": min_distance_of_means(means) / sample.unit,
        "min_distance_normalized": min_distance_of_means(means, normalized=True),
    }
    if weight is not None:
        values["nc3"] = nc3_of_means(means, weight)
    if logits is not None:
        values["nc4"] = nc4_of(sample, logits)
    return values


def median(values: Tensor) -> Tensor:
    """The mean of the two in the middle where their number is even (torch takes the lower one); infinite ones count."""
    ascending = values.sort().values
    return (ascending[(len(values) - 1) // 2] + ascending[len(values) // 2]) / 2
