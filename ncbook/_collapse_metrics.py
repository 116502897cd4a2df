r"""The accumulator of `collapse`: the same numbers in one pass over batches, in memory that does not grow.

Why shifted sums. The one-pass formula E[x xᵀ] - μ μᵀ loses everything to cancellation when features collapse:
a within-class variance of 1e-8 between means of size 1 is below float32's rounding of E[x xᵀ]. So every class
is shifted by a reference r near its mean, and what is summed is z = x - r: the difference is exact when x is
close to r, the sums are of the size of the within-class scatter, and one float32 GEMM zᵀz a batch is all the
work.

A reference is the mean of the samples of a class in the first block that has any. Should that be one sample,
and an outlier at distance L from the mean, it inflates the sum of n squares by n L², against which the
rounding is relative. But the outlier is itself a sample of the class and adds L² to the true scatter; so the
inflation is at most n-fold. References are renewed before n is large: by a block with many more samples of
the class than came before; and, looked at whenever the rows seen have doubled and every 16,384 rows, if a
class's offset makes up most of its sum of squares.

States that are merged (of processes, or by `merge_state`) have different references, hence merging goes
through counts, means and scatter about the means, in float64, by the formula of Chan, Golub, LeVeque (1983).
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from ncbook import collapse
from ncbook._collapse_moments import Moments, check_batch, check_logits, raise_not_finite, raise_single_samples

_BLOCK = 8192  # rows worked on at a time, of a larger batch
_RECENT = 16384  # rows that float32 sums run over before they are added to the float64 ones
_NAMES = (
    "cdnv",
    "nc1",
    "nc2",
    "min_distance",
    "trace_ratio",
    "variability_collapse_index",
    "separation_fuzziness",
)


class _Totals(NamedTuple):
    """What two states have in common whatever their references are; float64."""

    counts: Tensor  # [K]
    means: Tensor  # [K, D], of classes not seen: 0
    squares: Tensor  # [K] sum over a class of |x - mean|²
    scatter: Tensor  # [D, D] sum over all of (x - mean)(x - mean)ᵀ


def _merge(a: _Totals, b: _Totals) -> _Totals:
    """Chan, Golub, LeVeque: totals of two sets of samples together."""
    counts = a.counts + b.counts
    gap = b.means - a.means
    share = b.counts / counts.clamp(min=1)
    weight = a.counts * share  # n_a n_b / (n_a + n_b)
    return _Totals(
        counts,
        a.means + share[:, None] * gap,
        a.squares + b.squares + weight * gap.square().sum(1),
        a.scatter + b.scatter + (weight[:, None] * gap).T @ gap,
    )


class CollapseMetrics(Metric):
    """CDNV, NC1, NC2 and their relatives in one pass over batches of features.

    ``update(features, labels)`` takes features [B, D] of any float dtype (half and bfloat16 are summed in
    float32, float64 in float64) and integer labels [B] in 0 ... n_classes - 1, in any order, on any device
    the labels; features lie where the metric is (``metric.to(device)``). ``compute()`` gives a dict of 0-d
    float64 tensors: cdnv, nc1, nc2, min_distance, trace_ratio, variability_collapse_index,
    separation_fuzziness, each defined in `ncbook.collapse` under its name; and nc3 by ``compute(weight=W)``,
    W [n_classes, D]. Classes without a sample so far are left out, with a warning; a class with a single
    sample is an error there, as in the functions.

    Directional CDNV and NC4 need the final means: ``second_pass()`` gives a metric for them.

    ``forward`` returns the values of the batch alone, each NaN where the batch has too few samples of some
    class. Processes are synchronised in ``compute`` and ``second_pass`` as with every torchmetrics metric;
    states are in the ``state_dict``. MPS has no float64: keep the metric on the CPU there.

    Args:
        n_classes: Number of classes, at least 2.
        dim: D, dimension of the features.
        **kwargs: Of `torchmetrics.Metric` (``process_group``, ``sync_on_compute``, ...).

    Raises:
        TypeError, ValueError: From ``update``, which then leaves the metric as it was (or, in a batch of more
        than
            8192 rows, adds the blocks before the faulty one): features not finite or not [B, dim], labels not
            [B] or out of range. From ``compute``: as from the functions of `ncbook.collapse`.

    Example:
        >>> metrics = CollapseMetrics(n_classes=2, dim=1)
        >>> metrics.update(torch.tensor([[0.0], [12.0], [2.0]]), torch.tensor([0, 1, 0]))
        >>> metrics.update(torch.tensor([[10.0]]), torch.tensor([1]))
        >>> metrics.compute()["cdnv"]  # means 1 and 11, variances 1
        tensor(0.0100, dtype=torch.float64)
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    # torchmetrics states. References are float32 so that z = x - r is the same shift in every dtype of
    # features.
    counts: Tensor  # [K] float64
    references: Tensor  # [K, D] float32
    sums: Tensor  # [K, D] float64, sum over a class of z = x - r
    squares: Tensor  # [K] float64, sum over a class of |z|²
    moment: Tensor  # [D, D] float64, sum over all of z zᵀ
    recent_sums: Tensor  # [K, D] float32, to be added to sums
    recent_moment: Tensor  # [D, D] float32, to be added to moment

    def __init__(self, n_classes: int, dim: int, **kwargs: Any):
        for name, value, least in (("n_classes", n_classes, 2), ("dim", dim, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if kwargs.get("dist_sync_on_step"):
            raise ValueError("dist_sync_on_step must be False: forward looks at this process's batch")
        super().__init__(compute_with_cache=False, **kwargs)  # compute depends on the weight that it is given
        self.n_classes, self.dim = n_classes, dim
        for name, shape, dtype in (
            ("counts", (n_classes,), torch.float64),
            ("references", (n_classes, dim), torch.float32),
            ("sums", (n_classes, dim), torch.float64),
            ("squares", (n_classes,), torch.float64),
            ("moment", (dim, dim), torch.float64),
            ("recent_sums", (n_classes, dim), torch.float32),
            ("recent_moment", (dim, dim), torch.float32),
        ):
            # "sum" is right for none of them alone: _reduce_states and _sync_dist merge all of them together.
            self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum", persistent=True)
        self._forget_schedule()

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch of features [B, D] with labels [B]."""
        labels = _check(features, labels, self.n_classes, self.dim, self.counts.device)
        for x, y in zip(features.detach().split(_BLOCK), labels.split(_BLOCK), strict=True):
            self._add(x if x.dtype == torch.float64 else x.float(), y)

    def _add(self, x: Tensor, y: Tensor) -> None:
        references, moved = self._references_for(x, y)
        z = self._workspace_like(x)
        torch.index_select(references.to(x.dtype), 0, y, out=z)
        torch.sub(x, z, out=z)
        squares = torch.linalg.vector_norm(z, dim=1).double().square()
        if not squares.sum().isfinite():
            raise_not_finite(x)
        if moved:
            self._load(self._totals(), references)
        self.references = references
        self.counts.index_add_(0, y, torch.ones_like(squares))
        self.squares.index_add_(0, y, squares)
        in_float64 = z.dtype == torch.float64
        (self.sums if in_float64 else self.recent_sums).index_add_(0, y, z)
        (self.moment if in_float64 else self.recent_moment).addmm_(z.T, z)
        self._rows += len(x)
        self._recent_rows += len(x)
        if self._recent_rows >= _RECENT or self._rows >= 2 * self._rows_at_check:
            self._settle()

    def _references_for(self, x: Tensor, y: Tensor) -> tuple[Tensor, bool]:
        """([K, D] with the means here of classes new to this block, or nearly so; whether sums must follow)."""
        here = torch.bincount(y, minlength=self.n_classes)
        new = here > torch.where(self.counts > 0, 8 * self.counts + 8, 0)
        if not new.any():
            return self.references, False
        of_new = new[y]
        x, y = x[of_new].double(), y[of_new]
        means = torch.zeros_like(self.sums).index_add_(0, y, x) / here.clamp(min=1)[:, None]
        references = torch.where(new[:, None], means.float(), self.references)
        return references, bool((self.counts[new] > 0).any())

    def _workspace_like(self, x: Tensor) -> Tensor:
        """Memory for a block of z, kept: a fresh one each time costs more than what is written to it."""
        old = self._workspace
        if old is None or len(old) < len(x) or (old.dtype, old.device) != (x.dtype, x.device):
            self._workspace = torch.empty_like(x, memory_format=torch.contiguous_format)
        return self._workspace[: len(x)]

    def _settle(self) -> None:
        """Add the recent sums to the float64 ones, and renew all references if one has become poor."""
        for recent, total in ((self.recent_sums, self.sums), (self.recent_moment, self.moment)):
            total += recent
            recent.zero_()
        self._recent_rows, self._rows_at_check = 0, self._rows
        # n |mean - reference|² of each class: by this much a reference at the mean would lower its sum of
        # squares
        offset = torch.linalg.vector_norm(self.sums, dim=1).square() / self.counts.clamp(min=1)
        if (offset > 0.9 * self.squares).any():
            self._load(self._totals())

    def _totals(self, state: dict[str, Tensor] | None = None) -> _Totals:
        state = state or self.metric_state
        counts = state["counts"]
        sums = state["sums"] + state["recent_sums"]
        offsets = sums / counts.clamp(min=1)[:, None]  # of the means from the references
        return _Totals(
            counts,
            state["references"] + offsets,
            # Differences of rounded sums: at complete collapse both are rounding, of either sign.
            (state["squares"] - (sums * offsets).sum(1)).clamp(min=0),
            state["moment"] + state["recent_moment"] - sums.T @ offsets,
        )

    def _load(self, totals: _Totals, references: Tensor | None = None) -> None:
        """Set the state to these totals, about these references, or else about the means in float32."""
        self.counts = totals.counts
        self.references = totals.means.float() if references is None else references
        offsets = totals.means - self.references
        self.sums = totals.counts[:, None] * offsets
        self.squares = totals.squares + (self.sums * offsets).sum(1)
        self.moment = totals.scatter + self.sums.T @ offsets
        self.recent_sums = torch.zeros_like(self.references)
        self.recent_moment = torch.zeros_like(self.moment, dtype=torch.float32)

    def _moments(self) -> Moments:
        counts, means, squares, scatter = self._totals()
        classes = torch.arange(self.n_classes, device=counts.device)
        seen = counts > 0
        missing, single = torch.stack([(~seen).sum(), (counts == 1).sum()]).tolist()
        if missing > self.n_classes - 2:
            raise ValueError(f"labels must hold at least two classes, got {classes[seen].tolist()}")
        if missing:
            warnings.warn(f"{missing} of {self.n_classes} classes have no sample: left out", stacklevel=2)
            classes, counts, means, squares = (v[seen] for v in (classes, counts, means, squares))
        if single:
            raise_single_samples(classes, counts)
        within = scatter / counts.sum()
        return Moments(
            classes,
            counts,
            means,
            squares / counts,
            lambda directions: within if directions is None else directions @ within @ directions.T,
            resolution=torch.finfo(torch.float32).eps,
        )

    def compute(self, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Metrics of all samples so far, 0-d float64 tensors; with nc3 if W [n_classes, D] is given."""
        moments = self._moments()
        values = {
            "cdnv": collapse.cdnv_of_pairs(moments).mean(),
            "nc1": collapse.nc1_of(moments),
            "nc2": collapse.gram_to_etf(moments.gram),
            "min_distance": moments.distances.min(),
            "trace_ratio": collapse.trace_ratio_of(moments),
            "variability_collapse_index": collapse.variability_collapse_index_of(moments),
            "separation_fuzziness": collapse.separation_fuzziness_of(moments),
        }
        if weight is not None:
            if weight.shape != (self.n_classes, self.dim):
                expected = [self.n_classes, self.dim]
                raise ValueError(f"weight must be [n_classes, dim] = {expected}, got {list(weight.shape)}")
            weight = weight.detach().to(moments.means.device)[moments.classes]
            values["nc3"] = collapse.nc3_of_means(moments.means, weight)
        return values

    def forward(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Add a batch, and return the metrics of this batch alone (NaN where it does not define them)."""
        self.update(features, labels)
        batch = CollapseMetrics(self.n_classes, self.dim, sync_on_compute=False).to(self.counts.device)
        batch.update(features, labels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that classes are missing is no news of a batch
            try:
                self._forward_cache = batch.compute()
            except ValueError:
                self._forward_cache = dict.fromkeys(_NAMES, torch.full_like(self.counts[0], torch.nan))
        return self._forward_cache

    def second_pass(self, *, directional: bool = True) -> "SecondPass":
        """A metric of directional CDNV and NC4 about the means of all samples (of all processes) so far."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute):
            return SecondPass(
                self._moments(), self.n_classes, directional=directional, process_group=self.process_group
            )

    def reset(self) -> None:
        """Forget all samples."""
        super().reset()
        self._forget_schedule()

    def _forget_schedule(self) -> None:
        # When to settle is no part of the state: any schedule gives the same totals.
        self._rows = self._recent_rows = self._rows_at_check = 0
        self._workspace: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_workspace": None}

    def set_dtype(self, dst_type: str | torch.dtype) -> "CollapseMetrics":
        """Do nothing: which sums are float64 is part of the method."""
        return self

    # torchmetrics' own hooks for `merge_state` and for synchronisation between processes

    def _reduce_states(self, incoming_state: dict[str, Tensor]) -> None:
        incoming = {name: value.to(self.counts.device) for name, value in incoming_state.items()}
        if incoming["sums"].shape != self.sums.shape:
            mine, other = list(self.sums.shape), list(incoming["sums"].shape)
            raise ValueError(f"incoming_state must be of [n_classes, dim] = {mine}, got {other}")
        self._load(_merge(self._totals(), self._totals(incoming)))

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any = None) -> None:
        group = process_group or self.process_group
        gathered = [dist_sync_fn(part.contiguous(), group=group) for part in self._totals()]  # [4][processes]
        self._load(functools.reduce(_merge, map(_Totals, *gathered)))


class SecondPass(Metric):
    """Directional CDNV and NC4 about fixed class means: made by `CollapseMetrics.second_pass`.

    ``update(features, labels, logits=None)`` takes the same samples again, in any batches, and for NC4 the
    logits [B, n_classes], of which only the columns of classes seen in the first pass count. ``compute()``
    gives a dict of 0-d float64 tensors: "directional_cdnv", unless switched off, and "nc4", a share of the
    samples that came with logits.

    Args:
        moments: Of the first pass.
        n_classes: Number of classes, seen or not.
        directional: Whether to measure the directional CDNV; NC4 alone takes less time.
        **kwargs: Of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: From ``update``: as in the first pass; if a label was not seen there; if logits
        are
            not [B, n_classes] or hold NaN. From ``compute``: if two classes have identical means.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    # The first pass, as buffers: they move with the metric.
    classes: Tensor  # [C] the labels seen
    class_counts: Tensor  # [C]
    means: Tensor  # [C, D] float64
    variances: Tensor  # [C]
    # States, sums over the samples.
    scatter: Tensor  # [C, C] float64, over class i the sum of ((x - reference_i) . (mean_j - mean_i))²
    counts: Tensor  # [C] float64
    decided: Tensor  # [] int64, samples that came with logits
    differing: Tensor  # [] int64, those of them that the nearest mean decides differently

    def __init__(self, moments: Moments, n_classes: int, *, directional: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.n_classes, self.directional = n_classes, directional
        for name, buffer in (
            ("classes", moments.classes),
            ("class_counts", moments.counts),
            ("means", moments.means),
            ("variances", moments.variances),
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
        labels = _check(features, labels, self.n_classes, self.means.shape[1], self.means.device)
        if logits is not None:
            check_logits(logits, len(features), self.n_classes)
            logits = logits.detach().to(features.device)
        if len(self.classes) < self.n_classes:
            known = torch.isin(labels, self.classes)
            if not known.all():
                unseen = labels[~known][0].item()
                raise ValueError(f"labels must be of classes seen in the first pass, got {unseen}")
            labels = torch.searchsorted(self.classes, labels)
            logits = logits[:, self.classes] if logits is not None else None
        for start in range(0, len(features), _BLOCK):
            block = slice(start, start + _BLOCK)
            x = features.detach()[block]
            x = x if x.dtype == torch.float64 else x.float()
            if logits is not None:
                centre = self.means.mean(0).float()
                centred = (self.means - centre).to(x.dtype)
                differing = collapse.disagreements(x, centred, centre.to(x.dtype), logits[block])
            if self.directional:
                y = labels[block]
                centred = (self.means - self.means.mean(0)).to(x.dtype)
                residuals = x - self.means.float().index_select(0, y)
                scatter = collapse.scatter_towards_means(residuals, y, centred)
                if not scatter.sum().isfinite():
                    raise_not_finite(x)
                self.scatter += scatter
                self.counts += torch.bincount(y, minlength=len(self.counts))
            if logits is not None:
                self.differing += differing
                self.decided += len(x)

    def compute(self) -> dict[str, Tensor]:
        """Directional CDNV and, if logits came, NC4 of all samples so far."""
        values = {}
        if self.directional:
            if (self.counts == 0).any():
                missing = self.classes[self.counts == 0].tolist()
                raise ValueError(f"features must be of all classes of the first pass, not yet seen: {missing}")
            moments = Moments(self.classes, self.class_counts, self.means, self.variances, within=None)
            # Residuals were taken from rounded means, so they have a mean: the rounding error.
            centred = self.means - self.means.mean(0)
            along = (self.means - self.means.float()) @ centred.T  # [C, C]
            bias = along - along.diagonal()[:, None]
            variances = (self.scatter / self.counts[:, None] - bias.square()).clamp(min=0)
            values["directional_cdnv"] = collapse.mean_off_diagonal(
                collapse.directional_cdnv_of_pairs(moments, variances)
            )
        if self.decided:
            values["nc4"] = self.differing.double() / self.decided
        return values


def _check(features: Tensor, labels: Tensor, n_classes: int, dim: int, device: torch.device) -> Tensor:
    """The labels, int64 and on the device of the features; raises if either is not what ``update`` takes."""
    check_batch(features, labels)
    if features.shape[1] != dim:
        raise ValueError(f"features must be [N, dim] = [N, {dim}], got {list(features.shape)}")
    if features.device != device:
        raise ValueError(f"features must be on the metric's device {device}, got {features.device}")
    labels = labels.to(features.device, torch.int64)
    if len(labels):
        lowest, highest = torch.stack(labels.aminmax()).tolist()
        if lowest < 0 or highest >= n_classes:
            raise ValueError(f"labels must be in 0 ... {n_classes - 1}, got {lowest} ... {highest}")
    return labels
