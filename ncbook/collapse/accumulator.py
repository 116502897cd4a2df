r"""The accumulator of `collapse`: the same numbers in one pass over batches, in memory that does not grow.

Shifted sums. The one-pass formula E[x xᵀ] - μ μᵀ loses everything to cancellation when features collapse: a
within-class variance of 1e-8 between means of size 1 is below the rounding of E[x xᵀ]. So every class is shifted by
a reference r near its mean, and what is summed is z = x - r: in float64 over all samples, except that one GEMM zᵀz per
block of rows may run in float32, twice as fast on a CPU and much faster on most GPUs.

When float32 is enough. A float32 sum over n rows, in whatever order, has an error E with, for every direction a,

    |aᵀ E a| ≤ γ |a|² Σ |z|²  over the rows of the sum,   γ ≈ √n 2⁻²⁴ (at worst n 2⁻²⁴),

while NC1 and VCI need aᵀ S a itself, relative to its size, in the directions where it is *smallest*. So one far sample
may spoil them, as does one direction in which samples vary far more than in another; no reference and no order of
summation helps. Hence, with n ≤ 2048 (8192 on a GPU), a block is summed in float32 only after it is known that

- the scatter S of the samples so far, per sample, has a Cholesky factor L with L_jj² ≥ 10⁻³ of the mean of z_j² of
  typical samples, for every unit j: in no direction do samples vary much less than their units lead to expect (a unit
  that is a near-linear function of others: a linear map of the features cannot be seen through float32);
- a row's |z|² is at most 64 times the typical one (the lower quartile). Rows beyond are summed in float64.

S only grows with more samples, so what was once precise enough stays so. The float32 error of a variance along any
direction is about γ · 10³ of it at the worst, some 10⁻⁷ for units that vary by themselves, and it does not depend on
how far the far samples are, when they come, or in which batches. Everything else is summed in float64: small blocks,
the first block, blocks of features outside float32's range of squares, and all samples where units are near-linear
functions of each other. Then the error is that of the functions of `ncbook.collapse`, at twice the time on a CPU.

References are set at a class's first samples, and renewed by a block with many more samples of the class than came
before and whenever the rows seen have multiplied (by the mean, or, should far samples have drawn the mean away, by
the mean of the typical ones). Poor references cost time, not precision.

States that are merged (of processes, or by `merge_state`) have different references, hence merging goes
through counts, means and scatter about the means, in float64, by the formula of Chan, Golub, LeVeque (1983).
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from ncbook._checks import check_whole, describe_not_finite, warn

from .batches import FixedPrecision, check_batch, float32_is_precise, rounded_to_float32
from .covariance import nc1_of, separation_fuzziness_of, trace_ratio_of, variability_collapse_index_of
from .geometry import check_weight, gram_to_etf, nc3_of_means
from .moments import Moments, power_of_two, projected
from .pairs import cdnv_of_pairs
from .sample import check_two_classes, describe_single_samples
from .second_pass import SecondPass

_FIRST_ROWS = 1024  # rows worked on at a time before float32 is known to do
_BLOCK_ROWS = 4096  # and after, of a larger batch: they stay near a CPU's cores
_BLOCK_ROWS_GPU = 8192  # fewer and larger steps
_LEAST_BANDED = 512  # units from which a CPU is as fast on bands of a product as on the whole
_LEAST_ROWS = 512  # of a block for which float32 pays: its product [D, D] has to be added to the float64 one
_FAR = 64.0  # a row is summed in float64 if |z|² is above this many times the typical one
_LEAST_PIVOT = 1e-3  # of the scatter's Cholesky factor, in typical variances of the unit, for sums in float32
_FLOAT32_SQUARES = (1e-25, 1e30)  # typical |z|² whose products float32 holds
_MOST = 100_000  # classes or units: their matrices [K, K] and [D, D] of more would fill any machine
_FORMULAS = {  # of the moments
    "cdnv": lambda moments: cdnv_of_pairs(moments).mean(),
    "nc1": nc1_of,
    "nc2": lambda moments: gram_to_etf(moments.gram),
    "min_distance": lambda moments: moments.distances.min() / moments.unit,
    "trace_ratio": trace_ratio_of,
    "variability_collapse_index": variability_collapse_index_of,
    "separation_fuzziness": separation_fuzziness_of,
}


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
    fraction = b.counts / counts.clamp(min=1)
    weight = a.counts * fraction  # n_a n_b / (n_a + n_b)
    return _Totals(
        counts,
        a.means + fraction[:, None] * gap,
        a.squares + b.squares + weight * gap.square().sum(1),
        a.scatter + b.scatter + (weight[:, None] * gap).T @ gap,
    )


def _class_means(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """[K, D] of rows [n, D] of which counts [K] are of each class; of classes without a row: 0."""
    sums = x.new_zeros(len(counts), x.shape[1]).index_add_(0, y, x)
    return sums / counts.clamp(min=1)[:, None]


def _squares(z: Tensor, dim: int = 1) -> Tensor:
    """Sums of squares along a dimension, in float64 and without a copy of z."""
    return torch.linalg.vector_norm(z, dim=dim).double().square()


def _lower_quartile(values: Tensor) -> Tensor:
    return values.kthvalue(max(1, len(values) // 4)).values


class CollapseMetrics(FixedPrecision):
    """CDNV, NC1, NC2 and their relatives in one pass over batches of features.

    ``update(features, labels)`` takes features [B, D] of any float dtype (half and bfloat16 count as float32) and
    integer labels [B] in 0 ... n_classes - 1, in any order, the labels on any device; features lie where the metric is
    (``metric.to(device)``). ``compute()`` gives a dict of 0-d float64 tensors: cdnv, nc1, nc2, min_distance,
    trace_ratio, variability_collapse_index, separation_fuzziness, each defined in `ncbook.collapse` under its name; and
    nc3 by ``compute(weight=W)``, W [n_classes, D]. Classes without a sample so far are left out, with a warning; a
    class with a single sample is an error there, as in the functions.

    Directional CDNV and NC4 need the final means: ``second_pass()`` gives a metric for them.

    ``forward`` returns the values of the batch alone, each NaN where the batch has too few samples of some class.
    Processes are synchronized in ``compute`` and ``second_pass`` as with every torchmetrics metric; states are in the
    ``state_dict``. MPS has no float64: keep the metric on the CPU there.

    Args:
        n_classes: Number of classes, at least 2.
        dim: D, dimension of the features.
        **kwargs: Of `torchmetrics.Metric` (``process_group``, ``sync_on_compute``, ...).

    Raises:
        TypeError, ValueError: From ``update``, which then leaves the metric as it was: features not finite or not
            [B, dim], labels not [B] or out of range. From ``compute``: as from the functions of `ncbook.collapse`.

    Reference:
        Chan, Golub, LeVeque, "Algorithms for computing the sample variance", The American Statistician 1983, for sums
        about references and for merging; the metrics' sources stand with the functions.

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

    # torchmetrics states, float64. References hold float32 numbers, so that z = x - r is the same shift in every dtype.
    counts: Tensor  # [K]
    references: Tensor  # [K, D]
    sums: Tensor  # [K, D] sum over a class of z = x - r
    squares: Tensor  # [K] sum over a class of |z|²
    moment: Tensor  # [D, D] sum over all of z zᵀ

    def __init__(self, n_classes: int, dim: int, **kwargs: Any):
        check_whole("n_classes", n_classes, 2, _MOST)
        check_whole("dim", dim, 1, _MOST)
        if kwargs.get("dist_sync_on_step"):
            raise ValueError("dist_sync_on_step=True; allowed: False, since forward looks at this process's batch")
        super().__init__(compute_with_cache=False, **kwargs)  # compute depends on the weight that it is given
        self.n_classes, self.dim = n_classes, dim
        for name, shape in (
            ("counts", (n_classes,)),
            ("references", (n_classes, dim)),
            ("sums", (n_classes, dim)),
            ("squares", (n_classes,)),
            ("moment", (dim, dim)),
        ):
            # "sum" is right for none of them alone: _reduce_states and _sync_dist merge all of them together.
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum", persistent=True)
        self._forget_schedule()

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch of features [B, D] with labels [B]."""
        labels = check_batch(features, labels, self.n_classes, self.dim, self.counts.device)
        most = _BLOCK_ROWS if features.device.type == "cpu" else _BLOCK_ROWS_GPU
        several = len(features) > (_FIRST_ROWS if self._far is None else most)
        before = (self._copy_state_dict(), self._rows, self._next_look, self._far) if several else None
        try:
            self._add_blocks(features.detach(), labels, most)
        except BaseException as error:
            if before is not None:
                state, self._rows, self._next_look, self._far = before
                self.__dict__.update(state)
            if isinstance(error, ValueError):  # of a block, whose rows are counted from its beginning
                raise ValueError(describe_not_finite(features)) from None
            raise

    def _add_blocks(self, features: Tensor, labels: Tensor, most: int) -> None:
        start = 0
        while start < len(features):
            rest = len(features) - start
            rows = -(-rest // -(-rest // (_FIRST_ROWS if self._far is None else most)))  # blocks of nearly equal size
            block = slice(start, start + rows)
            x = features[block]
            self._add(x if x.dtype == torch.float64 else x.float(), labels[block])
            start += rows

    def _add(self, x: Tensor, y: Tensor) -> None:
        references, moved = self._references_for(x, y)
        in_float32 = (
            x.dtype == torch.float32 and len(x) >= _LEAST_ROWS and self._far is not None and float32_is_precise()
        )
        z = self._shifted(x, y, references, torch.float32 if in_float32 else torch.float64)
        squares = _squares(z)
        far = squares > self._far if in_float32 else squares.new_zeros(())
        largest = torch.finfo(x.dtype).max
        accepted, n_far = torch.stack([squares.sum() <= largest, far.sum()]).tolist()  # the only synchronization
        if not accepted:
            raise ValueError(describe_not_finite(x))
        if 2 * n_far > len(x):
            in_float32, n_far = False, 0
            z = self._shifted(x, y, references, torch.float64)
            squares = _squares(z)
        if moved:
            self._load(self._totals(), references)
        self.references = references
        if n_far:
            rows = far.nonzero().flatten()
            z_far = self._shifted(x[rows], y[rows], references, torch.float64)
            squares[rows] = _squares(z_far)
            self.sums.index_add_(0, y[rows], z_far)
            self.moment.addmm_(z_far.T, z_far)
            z.index_fill_(0, rows, 0)
        self.counts.index_add_(0, y, torch.ones_like(squares))
        self.squares.index_add_(0, y, squares)
        if in_float32:
            self.sums += torch.zeros_like(self.sums, dtype=torch.float32).index_add_(0, y, z)
            self.moment += self._float32_product(z)
        else:
            self.sums.index_add_(0, y, z)
            self.moment.addmm_(z.T, z)
        self._rows += len(x)
        if self._rows >= self._next_look:
            self._look(x, y)

    def _references_for(self, x: Tensor, y: Tensor) -> tuple[Tensor, bool]:
        """([K, D] with the means here of classes new to this block, or nearly so; whether sums must follow)."""
        here = torch.bincount(y, minlength=self.n_classes)
        new = here > torch.where(self.counts > 0, 8 * self.counts + 8, 0)
        some_new, moved = torch.stack([new.any(), (new & (self.counts > 0)).any()]).tolist()
        if not some_new:
            return self.references, False
        of_new = new[y]
        means = _class_means(x[of_new].double(), y[of_new], here)
        return torch.where(new[:, None], rounded_to_float32(means), self.references), moved

    def _shifted(self, x: Tensor, y: Tensor, references: Tensor, dtype: torch.dtype) -> Tensor:
        """Return z = x - r [n, D]; float32 in memory that is kept: fresh memory costs more than what is written."""
        if dtype == torch.float64:
            return x.double() - references[y]
        if self._references32 is None or self._references32[0] is not references:
            self._references32 = references, references.float()
        z = self._workspace_for(x)
        torch.index_select(self._references32[1], 0, y, out=z)
        return torch.sub(x, z, out=z)

    def _workspace_for(self, x: Tensor) -> Tensor:
        """Memory for a block of z in float32."""
        old = self._workspace
        if old is None or len(old) < len(x) or old.device != x.device:
            self._workspace = x.new_empty(x.shape, dtype=torch.float32)
        return self._workspace[: len(x)]

    @staticmethod
    def _float32_product(z: Tensor) -> Tensor:
        """Return zᵀz [D, D] in float32, under autocast too: it leaves out= alone.

        It is symmetric: of four bands of rows each begins at its diagonal block, 5/8 of the work of the whole matrix.
        """
        dim = z.shape[1]
        product = z.new_empty(dim, dim)
        bands = 4 if dim >= _LEAST_BANDED and z.device.type == "cpu" else 1
        width = -(-dim // bands)
        for first in range(0, dim, width):
            end = min(first + width, dim)
            torch.mm(z[:, first:end].T, z[:, first:], out=product[first:end, first:])
            product[end:, first:end] = product[first:end, end:].T
        return product

    def _look(self, x: Tensor, y: Tensor) -> None:
        """Renew the references, and find from this block whether the next ones may be summed in float32."""
        totals = self._totals()
        self._far, self._next_look = None, 2 * self._rows
        if len(x) < _LEAST_ROWS:
            return self._load(totals)
        x, y = x[:_FIRST_ROWS], y[:_FIRST_ROWS]
        z = self._shifted(x, y, self.references, torch.float64)
        typical = _squares(z)
        typical = typical <= _FAR * _lower_quartile(typical)
        z, y = z[typical], y[typical]
        # Far samples may have drawn a mean away, further than the mean of 8 or more typical ones varies by chance.
        here = torch.bincount(y, minlength=self.n_classes)
        offsets = _class_means(z, y, here)
        spread = _lower_quartile(_squares(z - offsets[y]))
        away = (totals.means - self.references - offsets).square().sum(1) > 16 * spread / here.clamp(min=1)
        centers = torch.where((away & (here >= 8))[:, None], self.references + offsets, totals.means)
        references = rounded_to_float32(centers)
        z += (self.references - references)[y]
        self._load(totals, references)
        squares = _lower_quartile(_squares(z))
        scatter = totals.scatter / totals.counts.sum()
        dead = scatter.diagonal() == 0
        factor, failed = torch.linalg.cholesky_ex(scatter + dead.double().diag())
        pivots = factor.diagonal().square().masked_fill(dead, 0)
        lowest, highest = _FLOAT32_SQUARES
        enough = (
            (failed == 0)
            & (pivots >= _LEAST_PIVOT * _squares(z, 0) / len(z)).all()
            & (squares > lowest)
            & (squares < highest)
            & (references.abs().max() < highest)
        )
        enough, squares = torch.stack([enough, squares]).tolist()
        if enough:
            self._far, self._next_look = _FAR * squares, 16 * self._rows
            self._workspace_for(x)

    def _totals(self, state: dict[str, Tensor] | None = None) -> _Totals:
        state = state or self.metric_state
        counts = state["counts"]
        sums = state["sums"]
        offsets = sums / counts.clamp(min=1)[:, None]  # of the means from the references
        return _Totals(
            counts,
            state["references"] + offsets,
            # Differences of rounded sums: at complete collapse both are rounding, of either sign.
            (state["squares"] - (sums * offsets).sum(1)).clamp(min=0),
            state["moment"] - sums.T @ offsets,
        )

    def _load(self, totals: _Totals, references: Tensor | None = None) -> None:
        """Set the state to these totals, about these references, or else about the means."""
        self.counts = totals.counts
        self.references = rounded_to_float32(totals.means) if references is None else references
        offsets = totals.means - self.references
        self.sums = totals.counts[:, None] * offsets
        self.squares = totals.squares + (self.sums * offsets).sum(1)
        self.moment = totals.scatter + self.sums.T @ offsets

    def _moments(self) -> Moments:
        counts, means, squares, scatter = self._totals()
        classes = torch.arange(self.n_classes, device=counts.device)
        seen = counts > 0
        missing, single = torch.stack([(~seen).sum(), (counts == 1).sum()]).tolist()
        check_two_classes(classes[seen])
        if missing:
            warn(f"{missing} of {self.n_classes} classes have no sample: left out")
            classes, counts, means, squares = (v[seen] for v in (classes, counts, means, squares))
        if single:
            raise ValueError(describe_single_samples(classes, counts))
        between, total = torch.stack([(means - means.mean(0)).abs().max(), squares.sum()]).tolist()
        if not between + total < math.inf or (0 < between < 2.0**-400 and total < 1e-300):
            raise ValueError(
                f"features have class means up to {between:g} apart and a sum of squares about them of {total:g}; "
                "allowed: a scale at which squares are numbers of full precision"
            )
        unit = power_of_two(between, torch.float64)
        within = scatter / counts.sum() * unit * unit
        return Moments(
            classes,
            counts,
            means * unit,
            squares / counts * unit * unit,
            projected(within),
            unit=unit,
            resolution=torch.finfo(torch.float32).eps,
        )

    def moments(self) -> Moments:
        """The sufficient statistics of all samples (of all processes) so far, for formulas of `ncbook.collapse`."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute):
            return self._moments()

    def renamed(self, names: Tensor, n_classes: int) -> "CollapseMetrics":
        """A metric of the same samples with ``n_classes`` classes, where class k is called ``names[k]``, all different.

        For streams whose labels are not known before, and for processes that have met different ones.
        """
        new = CollapseMetrics(n_classes, self.dim, process_group=self.process_group).to(self.counts.device)
        for name in ("counts", "references", "sums", "squares"):
            getattr(new, name)[names] = getattr(self, name)[: len(names)]
        new.moment = self.moment.clone()
        new._update_count = self._update_count
        return new

    def compute(self, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Metrics of all samples so far, 0-d float64 tensors; with nc3 if W [n_classes, D] is given."""
        moments = self._moments()
        values = {name: formula(moments) for name, formula in _FORMULAS.items()}
        if weight is not None:
            check_weight(weight, (self.n_classes, self.dim))
            weight = weight.detach().to(moments.means.device)[moments.classes]
            values["nc3"] = nc3_of_means(moments.means, weight)
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
                self._forward_cache = dict.fromkeys(_FORMULAS, torch.full_like(self.counts[0], torch.nan))
        return self._forward_cache

    def second_pass(self, *, directional: bool = True) -> "SecondPass":
        """A metric of directional CDNV and NC4 about the means of all samples (of all processes) so far."""
        return SecondPass(self.moments(), self.n_classes, directional=directional, process_group=self.process_group)

    def reset(self) -> None:
        """Forget all samples."""
        super().reset()
        self._forget_schedule()

    def _forget_schedule(self) -> None:
        # When to look is no part of the state: any schedule gives the same totals.
        self._rows = self._next_look = 0
        self._far: float | None = None  # |z|² above which a row is summed in float64; None: all rows are
        self._workspace: Tensor | None = None  # z
        self._references32: tuple[Tensor, Tensor] | None = None  # the references, and their float32 copy

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_workspace": None, "_references32": None}

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load a state, of which is not known whether sums in float32 are precise enough."""
        self._forget_schedule()
        return super().load_state_dict(*args, **kwargs)

    # torchmetrics' own hooks for `merge_state` and for synchronization between processes

    def _reduce_states(self, incoming_state: dict[str, Tensor]) -> None:
        incoming = {name: value.to(self.counts.device) for name, value in incoming_state.items()}
        if incoming["sums"].shape != self.sums.shape:
            mine, other = list(self.sums.shape), list(incoming["sums"].shape)
            raise ValueError(f"incoming_state is of [n_classes, dim] = {other}; allowed: {mine}")
        self._load(_merge(self._totals(), self._totals(incoming)))

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any = None) -> None:
        group = process_group or self.process_group
        gathered = [dist_sync_fn(part.contiguous(), group=group) for part in self._totals()]  # [4][processes]
        self._load(functools.reduce(_merge, map(_Totals, *gathered)))
