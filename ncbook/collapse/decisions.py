"""Decisions by the nearest class mean: NC4, against the network's; `class_mean_mismatch`, against the labels.

Called by the reader of a notebook, by `overview`, and batch after batch by the accumulator's second pass.
"""

import torch
from torch import Tensor

from ncbook._checks import check_floats, describe_not_finite

from .moments import rows_at_a_time
from .sample import Sample


def nc4(features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
    r"""NC4: fraction of samples for which the network and the nearest class mean decide differently.

    .. math:: \frac1N \#\{x : \arg\max_k \mathrm{logits}_k(x) \ne \arg\min_k \|x - \mu_k\|\}

    At a tie each decides for the first class. A count: no gradient flows.

    Args:
        features: [N, D].
        labels: [N], of which the class means are made; a class with a single sample is accepted.
        logits: [N, C], of any float dtype; column k belongs to the k-th label in ascending order.

    Returns:
        0-d tensor, a fraction in [0, 1]; 0 at collapse.

    Raises:
        ValueError: As every metric; and if ``logits`` is not [N, C] or holds NaN.

    Reference:
        Papyan, Han, Donoho, PNAS 2020, figure 7.

    Example:
        The means are 1 and 11, and the network decides otherwise on the last of four samples.

        >>> features, labels = torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1])
        >>> nc4(features, labels, torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0]]))
        tensor(0.2500, dtype=torch.float64)
    """
    return nc4_of(Sample(features, labels), logits)


def nc4_of(sample: Sample, logits: Tensor) -> Tensor:
    """Formula of `nc4`."""
    check_logits(logits, len(sample.features), len(sample.counts))
    with torch.no_grad():
        differ = disagreements(sample.features, sample.means, logits.to(sample.means.device))
    return differ.to(sample.dtype) / len(sample.features)


def class_mean_mismatch(features: Tensor, labels: Tensor) -> Tensor:
    r"""Fraction of samples that are nearest to the mean of another class than their own.

    .. math:: \frac1N \#\{x : \arg\min_k \|x - \mu_k\| \ne y(x)\}

    `nc4` with the labels in place of the network's decisions.

    Args:
        features: [N, D].
        labels: [N]; a class with a single sample is accepted.

    Returns:
        0-d tensor, a fraction in [0, 1]; 0 where every sample is nearest to its own mean. No gradient flows.

    Raises:
        ValueError: As every metric.

    Reference:
        Galanti, Galanti, Ben-Shaul, "On the implicit bias towards minimal depth of deep neural networks", 2022, whose
        effective depth is the first layer where this is small (recalled).

    Example:
        Means 1 and 3: the sample at 4 of the first class is nearer to the second one's mean.

        >>> features, labels = torch.tensor([[-1.0], [0.0], [4.0], [3.0]]), torch.tensor([0, 0, 0, 1])
        >>> class_mean_mismatch(features, labels)
        tensor(0.2500, dtype=torch.float64)
    """
    sample = Sample(features, labels)
    decisions = torch.nn.functional.one_hot(sample.index, len(sample.classes)).to(sample.dtype)
    return nc4_of(sample, decisions)


def disagreements(
    x: Tensor, means: Tensor, logits: Tensor, *, unit: float = 1.0, dtype: torch.dtype | None = None
) -> Tensor:
    """How many rows of x are nearest to another class mean than that of argmax(logits).

    Args:
        x: [n, D].
        means: [C, D], of features multiplied by ``unit``, by which x is not.
        logits: [n, C].
        unit: A power of two: that of `Moments`.
        dtype: What to compute in; None: in that of the means.
    """
    dtype = dtype or means.dtype
    center = (means.mean(0) / unit).to(dtype)
    centered = means - center.to(means.dtype) * unit
    # argmin |x - mu|² = argmax (x - center) . (mu - center) - |mu - center|² / 2: both are small, and times unit²
    towards, minus_half_norms = (centered * unit).to(dtype), (-centered.square().sum(1) / 2).to(dtype)  # [C, D], [C]
    rows = min(len(x), rows_at_a_time(max(means.shape)))
    shifted, scores = towards.new_empty(rows, x.shape[1]), towards.new_empty(rows, len(towards))
    count, checksum = towards.new_zeros((), dtype=torch.int64), towards.new_zeros(())
    worst = logits.new_full((), -torch.inf)
    for part, decision in zip(x.split(rows), logits.split(rows), strict=True):
        n = len(part)
        torch.sub(part, center, out=shifted[:n])
        torch.addmm(minus_half_norms, shifted[:n], towards.T, out=scores[:n])
        highest, nearest = scores[:n].max(1)
        best, predicted = decision.max(1)
        count += (nearest != predicted).sum()
        # Not finite if any feature is not, NaN if any logit is: checks that cost nothing.
        checksum += highest.sum()
        worst = torch.maximum(worst, best.max())
    finite, nan = torch.stack([checksum.isfinite(), worst.isnan()]).tolist()
    if not finite:
        raise ValueError(describe_not_finite(x))
    if nan:
        raise ValueError("logits hold NaN; allowed: numbers, among them -inf")
    return count


def check_logits(logits: Tensor, n: int, n_classes: int) -> None:
    """Raise unless logits are [n, n_classes] floats."""
    check_floats("logits", logits, "[N, C]")
    if logits.shape != (n, n_classes):
        raise ValueError(f"logits has shape {list(logits.shape)}; allowed: [N, C] = [{n}, {n_classes}]")
