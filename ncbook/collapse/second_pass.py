"""The accumulator's second pass, for what needs the final class means: directional CDNV and NC4.

Made by `CollapseMetrics.second_pass`; the formulas are those of `pairs` and `decisions`.
"""

from typing import Any

import torch
from torch import Tensor

from ncbook._checks import describe_not_finite

from .batches import FixedPrecision, check_batch, float32_is_precise, rounded_to_float32
from .decisions import check_logits, disagreements
from .moments import Moments, mean_off_diagonal, power_of_two
from .pairs import directional_cdnv_of_pairs, scatter_towards_means
from .sample import name_a_few

_BLOCK_ROWS = 8192  # rows of a larger batch that are worked on at a time
_NEAREST = 2**-8  # distance of two means, as a fraction of the largest from the center, below which float64 computes


class SecondPass(FixedPrecision):
    """Directional CDNV and NC4 about fixed class means: made by `CollapseMetrics.second_pass`.

    ``update(features, labels, logits=None)`` takes the same samples again, in any batches, and for NC4 the
    logits [B, n_classes], of which only the columns of classes seen in the first pass count. ``compute()`` gives a dict
    of 0-d float64 tensors: "directional_cdnv", unless switched off, and "nc4", a fraction of the samples that came
    with logits.

    Args:
        moments: Of the first pass.
        n_classes: Number of classes, seen or not.
        directional: Whether to measure the directional CDNV; NC4 alone takes less time.
        **kwargs: Of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: From ``update``: as in the first pass; if a label was not seen there; if logits are not
            [B, n_classes] or hold NaN. From ``compute``: if two classes have identical means.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    # The first pass, as buffers: they move with the metric. Of features multiplied by `unit`, a power of two, so that
    # fourth powers of distances are numbers in float32, too.
    classes: Tensor  # [C] the labels seen
    class_counts: Tensor  # [C]
    means: Tensor  # [C, D] float64
    variances: Tensor  # [C]
    # States, sums over the samples.
    scatter: Tensor  # [C, C] float64, over class i the sum of ((x - reference_i) . (mean_j - mean_i))², in units
    counts: Tensor  # [C] float64
    decided: Tensor  # [] int64, samples that came with logits
    differing: Tensor  # [] int64, those of them that the nearest mean decides differently

    def __init__(self, moments: Moments, n_classes: int, *, directional: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.n_classes, self.directional = n_classes, directional
        centered = moments.means - moments.means.mean(0)
        factor = power_of_two(float(centered.abs().max()), torch.float32)
        # a mean far from the others takes float32's digits from what lies between these
        self._far_means = bool(moments.distances.min() < _NEAREST * torch.linalg.vector_norm(centered, dim=1).max())
        self.unit = moments.unit * factor
        for name, buffer in (
            ("classes", moments.classes),
            ("class_counts", moments.counts),
            ("means", moments.means * factor),
            ("variances", moments.variances * factor * factor),
        ):
            self.register_buffer(name, buffer.clone())
        n_seen = len(moments.classes)
        for name, shape, dtype in (
            ("scatter", (n_seen, n_seen), torch.float64),
            ("counts", (n_seen,), torch.float64),
            ("decided", (), torch.int64),
            ("differing", (), torch.int64),
        ):
            zeros = torch.zeros(shape, dtype=dtype, device=moments.means.device)
            self.add_state(name, zeros, dist_reduce_fx="sum", persistent=True)

    def update(self, features: Tensor, labels: Tensor, logits: Tensor | None = None) -> None:
        """Add a batch of features [B, D] with labels [B], and for NC4 with logits [B, n_classes]."""
        labels = check_batch(features, labels, self.n_classes, self.means.shape[1], self.means.device)
        if logits is not None:
            check_logits(logits, len(features), self.n_classes)
            logits = logits.detach().to(features.device)
        if len(self.classes) < self.n_classes:
            known = torch.isin(labels, self.classes)
            if not known.all():
                unseen = labels[~known][0].item()
                raise ValueError(f"labels hold {unseen}; allowed: classes seen in the first pass")
            labels = torch.searchsorted(self.classes, labels)
            logits = logits[:, self.classes] if logits is not None else None
        means = self.means / self.unit
        in_float32 = float32_is_precise() and 2.0**-110 < self.unit < 2.0**110 and not self._far_means
        scatter, differing = torch.zeros_like(self.scatter), torch.zeros_like(self.differing)
        for start in range(0, len(features), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            x = features.detach()[block]
            x = x.float() if in_float32 and x.dtype != torch.float64 else x.double()
            if logits is not None:
                differing += disagreements(x, self.means, logits[block], unit=self.unit, dtype=x.dtype)
            if self.directional:
                y = labels[block]
                residuals = x - rounded_to_float32(means).to(x.dtype).index_select(0, y)
                towards = ((self.means - self.means.mean(0)) * self.unit).to(x.dtype)
                with torch.autocast(x.device.type, enabled=False):
                    scatter += scatter_towards_means([(residuals, y)], towards)
        if not scatter.sum().isfinite():
            raise ValueError(describe_not_finite(features))
        if self.directional:
            self.scatter += scatter
            self.counts += torch.bincount(labels, minlength=len(self.counts))
        if logits is not None:
            self.differing += differing
            self.decided += len(features)

    def compute(self) -> dict[str, Tensor]:
        """Directional CDNV and, if logits came, NC4 of all samples so far."""
        values = {}
        if self.directional:
            if (self.counts == 0).any():
                missing = name_a_few(self.classes[self.counts == 0].tolist())
                raise ValueError(
                    f"features of the classes {missing} have not come again; allowed: all classes of the first pass"
                )
            moments = Moments(self.classes, self.class_counts, self.means, self.variances, within=None)
            # Residuals were taken from rounded means, so they have a mean: the rounding error.
            centered = self.means - self.means.mean(0)
            along = (self.means - rounded_to_float32(self.means / self.unit) * self.unit) @ centered.T  # [C, C]
            bias = along - along.diagonal()[:, None]
            variances = (self.scatter / self.counts[:, None] - bias.square()).clamp(min=0)
            values["directional_cdnv"] = mean_off_diagonal(directional_cdnv_of_pairs(moments, variances))
        if self.decided:
            values["nc4"] = self.differing.double() / self.decided
        return values
