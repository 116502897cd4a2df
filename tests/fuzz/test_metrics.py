"""`collapse` against its definitions in fifty digits: right, or refused in one sentence; never NaN, never a warning."""

import mpmath
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from inputs import anything, classes, right_or_refused

from ncbook import collapse

mpmath.mp.dps = 50
OF_VARIANCES = {
    "cdnv": collapse.cdnv,
    "directional_cdnv": collapse.directional_cdnv,
    "nc1": collapse.nc1,
    "trace_ratio": collapse.trace_ratio,
    "variability_collapse_index": collapse.variability_collapse_index,
    "separation_fuzziness": collapse.separation_fuzziness,
}
OF_MEANS = {"nc2": collapse.nc2, "min_distance": collapse.min_distance}
ROUNDED_AWAY = mpmath.mpf("1e-26")  # eigenvalues below this fraction of the largest are what rounding leaves of 0 ...
CERTAIN = mpmath.mpf("1e-16")  # ... and above this one they are numbers


class Truth:
    """Every metric by its definition; ``rank_known`` and ``apart`` say where the definition decides."""

    def __init__(self, x, y):
        rows = [[mpmath.mpf(v) for v in row] for row in x.detach().double().tolist()]
        of_class = [[r for r, k in zip(rows, y.tolist(), strict=True) if k == c] for c in sorted(set(y.tolist()))]
        self.counts = [len(members) for members in of_class]
        n, k, dim = len(rows), len(of_class), len(rows[0])
        means = [self.mean(members) for members in of_class]
        residuals = [[self.minus(r, m) for r in members] for m, members in zip(means, of_class, strict=True)]
        v = [mpmath.fsum(self.dot(r, r) for r in part) / len(part) for part in residuals]
        pairs = [(i, j) for i in range(k) for j in range(i)]
        gaps = {(i, j): self.minus(means[i], means[j]) for i, j in pairs}
        squared = {pair: self.dot(gap, gap) for pair, gap in gaps.items()}
        self.spread = mpmath.sqrt(max(v))
        self.size = max([abs(value) for row in rows for value in row], default=0)
        self.nearest = mpmath.sqrt(min(squared.values(), default=0))
        self.farthest = mpmath.sqrt(max(squared.values(), default=0))
        if k < 2 or not self.farthest:
            return
        center = self.mean(means)
        centered = [self.minus(m, center) for m in means]
        within = self.scatter([r for part in residuals for r in part], dim) / n
        variances = mpmath.eigsy(within, eigvals_only=True)
        self.degenerate = min(variances) <= CERTAIN * max(variances)
        self.values = {"min_distance": self.nearest, "nc2": self.to_etf(centered)}
        if self.nearest:
            self.values["cdnv"] = mpmath.fsum((v[i] + v[j]) / 2 / squared[i, j] for i, j in pairs) / len(pairs)
            along = [
                mpmath.fsum(self.dot(r, gaps[i, j]) ** 2 for r in residuals[c]) / len(residuals[c]) / squared[i, j] ** 2
                for i, j in pairs
                for c in (i, j)
            ]
            self.values["directional_cdnv"] = mpmath.fsum(along) / len(along)
        self.values["trace_ratio"] = (
            mpmath.fsum(len(part) * value for part, value in zip(residuals, v, strict=True))
            / n
            / (mpmath.fsum(self.dot(m, m) for m in centered) / k)
        )
        inverse, between, least, rank = self.pseudo_inverse(self.scatter(centered, dim) / k)
        self.rank_known = least > CERTAIN
        self.values["nc1"] = self.trace(within, inverse) / k
        grand = self.mean(rows)
        heavy = [[mpmath.sqrt(c) * a for a in self.minus(m, grand)] for c, m in zip(self.counts, means, strict=True)]
        inverse, _, least, _ = self.pseudo_inverse(self.scatter(heavy, dim) / n)
        self.rank_known &= least > CERTAIN
        self.values["separation_fuzziness"] = self.trace(within, inverse)
        inverse, _, self.least_of_total, _ = self.pseudo_inverse(within + between)
        self.values["variability_collapse_index"] = 1 - self.trace(inverse, between) / rank

    @staticmethod
    def mean(vectors):
        return [mpmath.fsum(column) / len(vectors) for column in zip(*vectors, strict=True)]

    @staticmethod
    def minus(a, b):
        return [p - q for p, q in zip(a, b, strict=True)]

    @staticmethod
    def dot(a, b):
        return mpmath.fsum(p * q for p, q in zip(a, b, strict=True))

    @staticmethod
    def scatter(vectors, dim):
        return mpmath.matrix([[mpmath.fsum(v[a] * v[b] for v in vectors) for b in range(dim)] for a in range(dim)])

    @staticmethod
    def trace(a, b):
        return mpmath.fsum(a[i, j] * b[j, i] for i in range(a.rows) for j in range(a.rows))

    def to_etf(self, centered):
        k = len(centered)
        gram = mpmath.matrix([[self.dot(a, b) for b in centered] for a in centered])
        norm = mpmath.mnorm(gram, "f")
        etf = (mpmath.eye(k) - mpmath.ones(k) / k) / mpmath.sqrt(k - 1)
        return mpmath.mnorm(gram / norm - etf, "f")

    @staticmethod
    def pseudo_inverse(matrix):
        """(Pseudo-inverse, the matrix without what rounding left of 0, its least eigenvalue over the largest, rank)."""
        values, vectors = mpmath.eigsy(matrix)
        largest = max(values)
        kept = [i for i in range(len(values)) if values[i] > ROUNDED_AWAY * largest]
        columns = {i: vectors[:, i] for i in kept}
        zero = mpmath.zeros(matrix.rows)
        inverse = sum((columns[i] * columns[i].T / values[i] for i in kept), zero)
        clean = sum((columns[i] * columns[i].T * values[i] for i in kept), zero)
        return inverse, clean, min((values[i] / largest for i in kept), default=mpmath.inf), len(kept)


def check(name, value, truth, rel):
    """Compare with the truth."""
    least = 1e-12 if name == "nc2" else 1e-13 * float(truth.size / truth.nearest) if truth.degenerate else 1e-24
    if name == "variability_collapse_index":  # a fraction: where S_W is nearly singular, its last digits are rounding
        # S_W enters as a matrix, whose least eigenvalue keeps the digits that rounding of its largest one leaves
        least = max(1e-6 if truth.degenerate else 1e-9, 1e-15 / float(truth.least_of_total))
        rel = max(rel, 1e-13 * float(truth.size / truth.nearest) ** 2)  # one far sample takes digits from the others
    assert value == pytest.approx(float(truth.values[name]), rel=rel, abs=least), name


def decided(name, truth):
    """Whether the definition decides, and not rounding: which directions there are, which means differ."""
    if name in ("nc1", "separation_fuzziness"):
        return truth.rank_known
    if name == "variability_collapse_index":
        return truth.rank_known and truth.least_of_total > CERTAIN
    return True


@given(classes())
def test_functions_are_right_or_refuse(sample):
    x, y = sample
    truth = Truth(x, y)
    for name, function in (OF_VARIANCES | OF_MEANS).items():
        with right_or_refused() as refusal:
            value = function(x, y).item()
        single = name in OF_VARIANCES and min(truth.counts) < 2
        same = truth.farthest == 0 and name != "min_distance" or "cdnv" in name and truth.nearest == 0
        if len(truth.counts) < 2 or single or same:
            assert refusal, name
            continue
        floor = 1e-12 * (truth.spread + truth.size)  # closer than this, means may count as identical
        if refusal:
            assert (truth.nearest if "cdnv" in name else truth.farthest) < floor, (name, refusal)
        elif decided(name, truth) and truth.nearest > floor:
            # digits that are lost where means are much nearer to each other than to 0
            check(name, value, truth, 1e-6 + 1e-14 * float(truth.size / truth.nearest))


@given(classes(least_classes=2, least=2), st.lists(st.integers(1, 20), min_size=1, max_size=4), st.booleans())
def test_accumulator_is_right_or_refuses(sample, sizes, second_pass):
    x, y = sample
    truth = Truth(x, y)
    assume(truth.nearest > 1e-6 * (truth.spread + truth.size))
    index = y.unique(return_inverse=True)[1]
    metrics = collapse.CollapseMetrics(len(truth.counts), x.shape[1])
    starts = torch.tensor(sizes * len(x)).cumsum(0)
    batches = list(zip(*(t.tensor_split(starts[starts < len(x)]) for t in (x, index)), strict=True))
    with right_or_refused() as refusal:
        for batch in batches:
            metrics.update(*batch)
        values = metrics.compute()
        if second_pass:
            second = metrics.second_pass()
            for batch in batches:
                second.update(*batch)
            values |= second.compute()
    if refusal:  # a scale beyond squares
        assert x.dtype == torch.float64 and not 1e-60 < truth.size < 1e60, refusal
        return
    for name, value in values.items():
        if decided(name, truth):
            check(name, value.item(), truth, 1e-4)


@given(classes(least_classes=2, least=2))
def test_matrices_and_summary_agree_with_the_functions(sample):
    x, y = sample
    truth = Truth(x, y)
    assume(truth.nearest > 1e-6 * (truth.spread + truth.size))
    with right_or_refused() as refusal:
        pairs, directed = collapse.cdnv_matrix(x, y), collapse.directional_cdnv_matrix(x, y)
    assert not refusal
    off = ~torch.eye(len(pairs), dtype=torch.bool)
    for matrix, name in ((pairs, "cdnv"), (directed, "directional_cdnv")):
        assert matrix.isnan().equal(~off) and (matrix[off] >= 0).all()
        assert matrix[off].mean().item() == pytest.approx(float(truth.values[name]), rel=1e-6, abs=1e-24)
    assert pairs[off].equal(pairs.T[off]) and (directed[off] <= 2 * pairs[off] * (1 + 1e-9)).all()
    try:
        found = collapse.summary(x, y)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert found["cdnv"].item() == pytest.approx(float(truth.values["cdnv"]), rel=1e-6, abs=1e-24)


BREAKS = {
    "NaN": lambda x, y: (torch.cat([x[:-1], torch.full_like(x[-1:], torch.nan)]), y),
    "infinity": lambda x, y: (torch.cat([x[:-1], torch.full_like(x[-1:], -torch.inf)]), y),
    "fewer labels": lambda x, y: (x, y[:-1]),
    "labels of floats": lambda x, y: (x, y.float()),
    "labels of booleans": lambda x, y: (x, y > 0),
    "labels in a column": lambda x, y: (x, y[:, None]),
    "features of one dimension": lambda x, y: (x[:, 0], y),
    "features of three": lambda x, y: (x[..., None], y),
    "features without columns": lambda x, y: (x[:, :0], y),
    "no rows": lambda x, y: (x[:0], y[:0]),
    "integers": lambda x, y: (torch.ones(x.shape, dtype=torch.int64), y),
    "complex": lambda x, y: (x.to(torch.complex64), y),
}


@given(classes(exponents=False), st.sampled_from(list(BREAKS)))
def test_broken_input_is_refused(sample, broken):
    x, y = BREAKS[broken](*sample)
    weight = torch.ones(len(y.unique()), 2)
    calls = [lambda f=f: f(x, y) for f in (OF_VARIANCES | OF_MEANS).values()]
    calls += [
        lambda: collapse.nc3(x, y, weight),
        lambda: collapse.nc4(x, y, torch.ones(len(x), 3)),
        lambda: collapse.class_mean_mismatch(x, y),
        lambda: collapse.summary(x, y),
        lambda: collapse.cdnv(x, y, debiased=True),
        lambda: collapse.CollapseMetrics(64, sample[0].shape[1]).update(x, y) if len(x) else collapse.cdnv(x, y),
    ]
    for call in calls:
        with right_or_refused() as refusal:
            call()
        assert refusal, broken


@given(anything, anything, classes())
def test_anything_else_is_refused(first, second, sample):
    x, y = sample
    for function in [*OF_VARIANCES.values(), *OF_MEANS.values(), collapse.class_mean_mismatch, collapse.summary]:
        labels = isinstance(second, torch.Tensor) and second.dtype == torch.int64 and second.shape == y.shape
        for arguments in ((first, second), (x, second), (first, y)):
            with right_or_refused() as refusal:
                function(*arguments)
            assert refusal or labels
    for call in (
        lambda: collapse.CollapseMetrics(first, second),
        lambda: collapse.nc1_noise_floor(first, second, 4),
        lambda: collapse.nc2(x, y, variant=first),
        lambda: collapse.nc3(x, y, first),
        lambda: collapse.nc4(x, y, second),
    ):
        with right_or_refused():
            call()
