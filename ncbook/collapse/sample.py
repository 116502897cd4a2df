"""Features and labels, all at once, checked, as class means and moments: what every pure metric starts from."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ncbook._checks import check_features, describe_not_finite

from .moments import Moments, power_of_two, rows_at_a_time

_FAR = 16.0  # squared distance of an anchor from the mean, in variances: at most four binary digits are lost
_IN_CACHE, _AT_ONCE = 2**17, 2**20  # numbers of a block: what stays near a CPU's cores; few steps on other devices


class Sample:
    """Checked features; ``index`` [N] holds 0 ... C - 1 in place of labels; counts, means and variances are accurate.

    One pass: sums of z = x - a and of its squares, with the first sample of each class as its anchor a. The variance
    is E|z|² - |E z|², which loses digits where an anchor is far from its class mean (an outlier that comes first); then
    a second pass takes the means as anchors. No copy of the features in the accurate dtype is made: a block of rows is
    worked on at a time, while it is near the cores. Only features of a size whose squares overflow or vanish are
    copied, multiplied by ``unit``, a power of two; means and variances, too, are then those of the copy.
    """

    def __init__(self, features: Tensor, labels: Tensor, *, least: int = 1):
        check_features(features, labels)
        self.features, self.dtype = features, accurate_dtype(features)
        self.classes, self.index, counts = labels.to(features.device).unique(return_inverse=True, return_counts=True)
        check_two_classes(self.classes)
        self.counts = counts.to(self.dtype)  # [C]
        far = self._about(self._first_samples())
        # Sums are finite only if every term is: no scan of the features, and one synchronization for all checks.
        means = self.means.detach()
        measured = [(means - means.mean(0)).abs().max(), means.abs().max(), counts.min().to(self.dtype), far]
        between, largest, smallest, far = torch.stack(measured).tolist()
        if not between + largest < float("inf"):
            raise ValueError(describe_not_finite(features))
        if smallest < least:
            raise ValueError(describe_single_samples(self.classes, counts))
        self.unit = power_of_two(between or largest, self.dtype)
        if self.unit != 1:
            self.features, self.means = features.to(self.dtype) * self.unit, self.means * self.unit
        if self.unit != 1 or far:
            self._about(self.means.detach())

    def _first_samples(self) -> Tensor:
        """[C, D] one sample of each class, in the accurate dtype."""
        rows = torch.arange(len(self.index), device=self.index.device)
        first = rows.new_zeros(len(self.counts)).scatter_reduce(0, self.index, rows, "amin", include_self=False)
        return self.features.detach()[first].to(self.dtype)

    def _about(self, anchors: Tensor) -> Tensor:
        """Set means [C, D] and variances [C] by sums about anchors [C, D]; whether one is too far from its mean."""
        sums, squares = torch.zeros_like(anchors), torch.zeros_like(self.counts)
        for x, index in self._blocks():
            z = x - anchors[index]
            sums.index_add_(0, index, z)
            squares.index_add_(0, index, z.square().sum(1))
        offsets = sums / self.counts[:, None]
        lengths = offsets.square().sum(1)
        self.means, self.variances = anchors + offsets, squares / self.counts - lengths
        self.variances = self.variances.clamp(min=0)
        return (lengths.detach() > _FAR * self.variances.detach()).any().to(self.dtype)

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(Rows [n, D] in the accurate dtype, their index [n]), block after block."""
        size = _IN_CACHE if self.features.device.type == "cpu" else _AT_ONCE
        rows = rows_at_a_time(self.features.shape[1], size)
        for x, index in zip(self.features.split(rows), self.index.split(rows), strict=True):
            yield x.to(self.dtype), index

    def residuals(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(x - mu_y [n, D], index y [n]), block after block."""
        for x, index in self._blocks():
            yield x - self.means[index], index

    def moments(self) -> Moments:
        """The sufficient statistics."""
        return Moments(self.classes, self.counts, self.means, self.variances, self._within, self.unit)

    def _within(self, directions: Tensor | None) -> Tensor:
        total = 0
        for r, _ in self.residuals():
            along = r if directions is None else r @ directions.T  # [n, k]
            total = total + along.T @ along
        return total / len(self.features)


def accurate_dtype(features: Tensor) -> torch.dtype:
    """Float64, but on MPS, which has none."""
    return torch.float32 if features.device.type == "mps" else torch.float64


def check_two_classes(classes: Tensor) -> None:
    """Raise unless there are two classes or more."""
    if len(classes) < 2:
        raise ValueError(f"labels hold the classes {classes.tolist()}; allowed: at least two classes")


def describe_single_samples(classes: Tensor, counts: Tensor) -> str:
    """Name the classes that have too few samples for a variance."""
    single = name_a_few(classes[counts < 2].tolist())
    return (
        f"labels hold a single sample of classes {single}; allowed: two samples or more of each class, for its variance"
    )


def name_a_few(items: list) -> str:
    """The first five items, and how many more there are."""
    return ", ".join(map(str, items[:5])) + (f" and {len(items) - 5} more" if len(items) > 5 else "")
