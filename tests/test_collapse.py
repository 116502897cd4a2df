"""Collapse metrics: against closed forms, an independent NumPy reference, and what must not change them."""

import subprocess
import sys

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ncbook import collapse

VARIANCE_METRICS = [
    collapse.cdnv,
    collapse.cdnv_matrix,
    collapse.directional_cdnv,
    collapse.directional_cdnv_matrix,
    collapse.nc1,
    collapse.trace_ratio,
    collapse.variability_collapse_index,
    collapse.separation_fuzziness,
]
MEAN_METRICS = [collapse.nc2, collapse.min_distance]
PLAIN_METRICS = VARIANCE_METRICS + MEAN_METRICS  # of features and labels alone
examples = settings(max_examples=15, deadline=None, derandomize=True)


def sample(n_classes=5, per_class=12, dim=8, spread=0.3, seed=0, dtype=torch.float64):
    """Classes of different sizes and shapes, labels shuffled and with gaps."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    sizes = per_class + torch.arange(n_classes) % 3
    index = torch.repeat_interleave(torch.arange(n_classes), sizes)
    index = index[torch.randperm(len(index), generator=generator)]
    scale = normal(n_classes, dim).abs() + 0.1
    x = normal(n_classes, dim)[index] + spread * scale[index] * normal(len(index), dim)
    return x.to(dtype), 3 * index + 7


def reference(x, y, weight=None, logits=None):
    """Every metric by its definition, with loops, in NumPy float64."""
    x, y = x.double().numpy(), y.numpy()
    classes = np.unique(y)
    n_classes, n, dim = len(classes), len(x), x.shape[1]
    means = np.stack([x[y == c].mean(0) for c in classes])
    covariances = [np.cov(x[y == c].T, bias=True).reshape(dim, dim) for c in classes]
    sizes = np.array([(y == c).sum() for c in classes])
    variances = np.array([np.trace(s) for s in covariances])
    centered = means - means.mean(0)
    s_w = sum(m * s for m, s in zip(sizes, covariances, strict=True)) / n
    s_b = centered.T @ centered / n_classes
    weighted = means - sizes @ means / n
    ss_b = (weighted.T * sizes) @ weighted / n

    def pinv(matrix, rank=dim):
        values, vectors = np.linalg.eigh(matrix)
        return (vectors[:, -rank:] / values[-rank:]) @ vectors[:, -rank:].T

    rank = min(n_classes - 1, dim)
    cdnv, directional, de_biased = np.full((3, n_classes, n_classes), np.nan)
    for i in range(n_classes):
        for j in range(n_classes):
            if i != j:
                gap = means[j] - means[i]
                d2 = gap @ gap
                cdnv[i, j] = (variances[i] + variances[j]) / 2 / d2
                directional[i, j] = gap @ covariances[i] @ gap / d2**2
                s2 = variances[[i, j]] * sizes[[i, j]] / (sizes[[i, j]] - 1)
                de_biased[i, j] = s2.sum() / 2 / (d2 - (s2 / sizes[[i, j]]).sum())
    distances = [np.linalg.norm(a - b) for k, a in enumerate(means) for b in means[:k]]
    etf = (np.eye(n_classes) - 1 / n_classes) / np.sqrt(n_classes - 1)
    lengths = np.linalg.norm(centered, axis=1)
    directions = centered / lengths[:, None]

    def to_etf(h):
        return np.linalg.norm(h @ h.T / np.linalg.norm(h @ h.T) - etf)

    cosines = (directions @ directions.T)[~np.eye(n_classes, dtype=bool)]
    values = {
        "cdnv_matrix": cdnv,
        "cdnv": np.nanmean(cdnv),
        "debiased": de_biased,
        "directional_cdnv_matrix": directional,
        "directional_cdnv": np.nanmean(directional),
        "nc1": np.trace(s_w @ pinv(s_b, rank)) / n_classes,
        "trace_ratio": np.trace(s_w) / np.trace(s_b),
        "variability_collapse_index": 1 - np.trace(pinv(s_w + s_b) @ s_b) / rank,
        "separation_fuzziness": np.trace(s_w @ pinv(ss_b, rank)),
        "min_distance": min(distances),
        "min_distance_normalized": min(distances) / lengths.mean(),
        "nc2": to_etf(centered),
        "nc2_uncentered": to_etf(means),
        "nc2_normalized": to_etf(directions),
        "nc2_equinorm": lengths.std() / lengths.mean(),
        "nc2_equiangularity": np.abs(cosines + 1 / (n_classes - 1)).mean(),
    }
    if weight is not None:
        w = weight.double().numpy()
        values["nc3"] = np.linalg.norm(w / np.linalg.norm(w) - centered / np.linalg.norm(centered))
    if logits is not None:
        nearest = np.linalg.norm(x[:, None] - means, axis=2).argmin(1)
        values["nc4"] = (logits.numpy().argmax(1) != nearest).mean()
    return values


def simplex(n_classes, dim, gap=1.0, seed=0):
    """[C, dim] an ETF: centered, at distance gap from each other, turned at random."""
    rotation, _ = torch.linalg.qr(
        torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )
    corners = torch.eye(n_classes, dim, dtype=torch.float64) if dim >= n_classes else None
    assert corners is not None
    return gap / 2**0.5 * (corners - corners.mean(0)) @ rotation


def isotropic_around(means, variance):
    """Each class has the points mean ± e_k for all k: covariance exactly (variance / dim) I."""
    dim = means.shape[1]
    steps = variance**0.5 * torch.cat([torch.eye(dim), -torch.eye(dim)]).double()
    return (means[:, None] + steps).flatten(0, 1), torch.arange(len(means)).repeat_interleave(2 * dim)


# The independent reference


@pytest.mark.parametrize("dim", [1, 2, 4, 5, 6, 20, 100], ids="D={}".format)
@pytest.mark.parametrize("n_classes", [2, 5])
def test_numpy_reference(n_classes, dim):
    x, y = sample(n_classes, dim=dim)
    if dim >= len(x) - 1:
        x, y = sample(n_classes, per_class=60, dim=dim)
    weight = torch.randn(n_classes, dim, generator=torch.Generator().manual_seed(1))
    logits = torch.randn(len(x), n_classes, generator=torch.Generator().manual_seed(2))
    expected = reference(x, y, weight, logits)
    ours = {f.__name__: f(x, y) for f in PLAIN_METRICS}
    ours |= {f"nc2_{v}": collapse.nc2(x, y, variant=v) for v in collapse.NC2_VARIANTS[1:]}
    ours["nc3"], ours["nc4"] = collapse.nc3(x, y, weight), collapse.nc4(x, y, logits)
    ours["min_distance_normalized"] = collapse.min_distance(x, y, normalized=True)
    for name, value in ours.items():
        assert value.dtype == torch.float64
        np.testing.assert_allclose(value, expected[name], rtol=1e-9, atol=1e-10, err_msg=name)
    if (expected["debiased"][~np.eye(n_classes, dtype=bool)] > 0).all():
        de_biased = collapse.cdnv_matrix(x, y, debiased=True)
        np.testing.assert_allclose(de_biased, expected["debiased"], rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes_are_upcast(dtype):
    x, y = sample(dtype=dtype)
    for metric in PLAIN_METRICS:
        torch.testing.assert_close(metric(x, y), metric(x.double(), y.int()), equal_nan=True, rtol=0, atol=0)


# Closed forms


@pytest.mark.parametrize(("n_classes", "dim"), [(2, 2), (3, 5), (10, 12)])
def test_identities_of_equidistant_classes(n_classes, dim):
    gap, variance = 3.0, 0.7
    x, y = isotropic_around(simplex(n_classes, dim, gap), variance)
    v = variance / gap**2
    expected = {
        "cdnv": v,
        "trace_ratio": v * 2 * n_classes / (n_classes - 1),
        "nc1": 2 * (n_classes - 1) * v / dim,
        "separation_fuzziness": 2 * n_classes * (n_classes - 1) * v / dim,
        "variability_collapse_index": (v / dim) / (v / dim + 1 / (2 * n_classes)),
        "directional_cdnv": v / dim,
        "min_distance": gap,
        "nc2": 0.0,
    }
    for name, value in expected.items():
        assert float(getattr(collapse, name)(x, y)) == pytest.approx(value, rel=1e-10, abs=1e-14), name
    for variant in collapse.NC2_VARIANTS:
        assert collapse.nc2(x, y, variant=variant) < 1e-7, variant
    etf_ratio = (2 * n_classes / (n_classes - 1)) ** 0.5
    assert float(collapse.min_distance(x, y, normalized=True)) == pytest.approx(etf_ratio)
    assert collapse.nc3(x, y, 5 * simplex(n_classes, dim)) < 1e-12


def test_complete_collapse_is_exactly_zero():
    x = simplex(4, 6)[torch.arange(4).repeat(5)] + 1000
    y = torch.arange(4).repeat(5)
    for metric in (collapse.cdnv, collapse.nc1, collapse.trace_ratio, collapse.directional_cdnv):
        assert 0 <= metric(x, y) < 1e-20
    assert collapse.variability_collapse_index(x, y).abs() < 1e-12
    assert collapse.nc4(x, y, torch.eye(4)[y]) == 0


@pytest.mark.parametrize("cosine", [-0.2, 0.0, 0.5, 0.9])
def test_nc2_of_means_with_one_cosine(cosine):
    n = 6  # THEORY: NC2² = 2 - 2 (1 - c) sqrt(N - 1) / sqrt(N (1 + (N - 1) c²)), zero at c = -1/(N - 1)
    gram = (1 - cosine) * torch.eye(n, dtype=torch.float64) + cosine
    values, vectors = torch.linalg.eigh(gram)
    means = vectors * values.clamp(min=0).sqrt()
    squared = 2 - 2 * (1 - cosine) * (n - 1) ** 0.5 / (n * (1 + (n - 1) * cosine**2)) ** 0.5
    ours = collapse.nc2(means, torch.arange(n), variant="uncentered")
    assert float(ours) == pytest.approx(max(squared, 0) ** 0.5, abs=1e-7)
    assert collapse.nc2(means, torch.arange(n)) < 1e-7  # once centered, equal angles are an ETF


def test_dead_units_take_no_part():
    x, y = sample(n_classes=12, dim=5)
    dead = torch.cat([x, torch.zeros(len(x), 3), torch.full((len(x), 1), 7.0)], 1)
    for metric in (
        collapse.nc1,
        collapse.separation_fuzziness,
        collapse.variability_collapse_index,
        collapse.cdnv,
    ):
        torch.testing.assert_close(metric(dead, y), metric(x, y), rtol=1e-9, atol=0)


def test_linearly_dependent_means_keep_the_rank_that_there_is():
    x, y = isotropic_around(torch.tensor([[-1.0, 0, 0], [0, 0, 0], [1, 0, 0]], dtype=torch.float64), 0.3)
    assert float(collapse.nc1(x, y)) == pytest.approx(0.1 / (2 / 3) / 3)  # one direction of S_B, variance 2/3
    assert float(collapse.variability_collapse_index(x, y)) == pytest.approx(1 - (2 / 3) / (2 / 3 + 0.1))


# What must not change a metric

seeds = st.integers(0, 2**31)
shapes = st.tuples(st.integers(2, 7), st.integers(2, 9), seeds)


def assert_same(metrics, one, other, rtol=1e-8):
    for metric in metrics:
        a, b = metric(*one), metric(*other)
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-10, equal_nan=True, msg=lambda m, f=metric: f"{f}: {m}")


@examples
@given(shapes)
def test_rotation_translation_and_order_of_samples_change_nothing(shape):
    n_classes, dim, seed = shape
    x, y = sample(n_classes, dim=dim, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    order = torch.randperm(len(x), generator=generator)
    shift = 5 * torch.randn(dim, generator=generator, dtype=torch.float64)
    assert_same(PLAIN_METRICS, (x, y), ((x @ rotation + shift)[order], y[order]))


@examples
@given(shapes, st.sampled_from([1e-6, 1e-2, 7.0, 1e6]))
def test_scale_changes_the_distance_alone(shape, scale):
    n_classes, dim, seed = shape
    x, y = sample(n_classes, dim=dim, seed=seed)
    assert_same([*VARIANCE_METRICS, collapse.nc2], (x, y), (scale * x, y))
    torch.testing.assert_close(collapse.min_distance(scale * x, y), scale * collapse.min_distance(x, y))
    assert_same([lambda a, b: collapse.min_distance(a, b, normalized=True)], (x, y), (scale * x, y))


@examples
@given(shapes)
def test_names_of_classes_change_the_order_of_rows_alone(shape):
    n_classes, dim, seed = shape
    x, y = sample(n_classes, dim=dim, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    index = y.unique(return_inverse=True)[1]
    order = torch.randperm(n_classes, generator=generator)  # class k is renamed order[k]
    weight = torch.randn(n_classes, dim, generator=generator)
    logits = torch.randn(len(x), n_classes, generator=generator)
    renamed = (x, order[index])
    scalars = [f for f in PLAIN_METRICS if not f.__name__.endswith("matrix")]
    assert_same(scalars, (x, y), renamed)
    back = order.argsort()
    assert_same([lambda a, b: collapse.nc3(a, b, weight if b is y else weight[back])], (x, y), renamed)
    assert_same([lambda a, b: collapse.nc4(a, b, logits if b is y else logits[:, back])], (x, y), renamed)
    for matrix in (collapse.cdnv_matrix, collapse.directional_cdnv_matrix):
        torch.testing.assert_close(matrix(*renamed)[order][:, order], matrix(x, y), equal_nan=True)


@examples
@given(shapes)
def test_invertible_linear_maps(shape):
    n_classes, dim, seed = shape
    x, y = sample(n_classes, per_class=20, dim=dim, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(dim, dim, generator=generator, dtype=torch.float64) + 3 * torch.eye(dim)
    metrics = [collapse.variability_collapse_index]
    if dim < n_classes:
        metrics += [collapse.nc1, collapse.separation_fuzziness]
    assert_same(metrics, (x, y), (x @ a, y), rtol=1e-6)


@examples
@given(shapes)
def test_ranges(shape):
    n_classes, dim, seed = shape
    x, y = sample(n_classes, dim=dim, seed=seed, spread=2.0)
    assert 0 <= collapse.variability_collapse_index(x, y) <= 1
    assert collapse.min_distance(x, y, normalized=True) <= (2 * n_classes / (n_classes - 1)) ** 0.5 + 1e-9
    for variant in ("centered", "uncentered", "normalized"):
        assert 0 <= collapse.nc2(x, y, variant=variant) <= 2**0.5 + 1e-9
    assert collapse.nc2(x, y, variant="equiangularity") <= n_classes / (n_classes - 1)
    matrix, directional = collapse.cdnv_matrix(x, y), collapse.directional_cdnv_matrix(x, y)
    off = ~torch.eye(n_classes, dtype=torch.bool)
    assert (directional[off] <= 2 * matrix[off] + 1e-12).all()
    assert matrix.diagonal().isnan().all() and torch.equal(matrix[off], matrix.T[off])


# Extreme collapse, bias, noise


@pytest.mark.parametrize("ratio", [1.0, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10])
def test_extreme_collapse_with_a_large_offset(ratio):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(6).repeat_interleave(50)
    means = torch.randn(6, 16, generator=generator)
    x = means[y] + 100 + ratio**0.5 * torch.randn(len(y), 16, generator=generator)  # float32
    expected = reference(x, y)
    for metric in (collapse.cdnv, collapse.nc1, collapse.trace_ratio):
        assert float(metric(x, y)) == pytest.approx(expected[metric.__name__], rel=1e-6), metric
    assert (collapse.cdnv_matrix(x, y)[0, 1:] > 0).all()


@pytest.mark.parametrize("variance", [1e-4, 1e-8, 1e-12])
def test_variability_collapse_index_does_not_cancel(variance):
    for means in (simplex(4, 9), simplex(4, 4)[:, :3] * 2 + 1):
        x, y = isotropic_around(means, variance)
        n_classes, dim = means.shape
        centered = means - means.mean(0)
        between = torch.linalg.eigvalsh(centered.T @ centered / n_classes)[-3:]  # rank 3
        expected = (variance / dim / (variance / dim + between)).mean()
        torch.testing.assert_close(collapse.variability_collapse_index(x, y), expected, rtol=1e-6, atol=0)


def exact(x, y):
    """VCI and NC1 by their definitions, in 60 digits; units that do not vary at all are left out."""
    mpmath.mp.dps = 60
    rows = [[mpmath.mpf(float(v)) for v in row] for row in x[:, (x != x[0]).any(0)]]
    dim, classes = len(rows[0]), y.unique().tolist()

    def mean(vectors):
        return [mpmath.fsum(column) / len(vectors) for column in zip(*vectors, strict=True)]

    def covariance(vectors):
        return mpmath.matrix([[mpmath.fsum(v[a] * v[b] for v in vectors) for b in range(dim)] for a in range(dim)])

    of_class = [[row for row, label in zip(rows, y.tolist(), strict=True) if label == c] for c in classes]
    means = [mean(members) for members in of_class]
    residuals = [
        [a - b for a, b in zip(row, m, strict=True)] for m, part in zip(means, of_class, strict=True) for row in part
    ]
    center = mean(means)
    between = covariance([[a - b for a, b in zip(m, center, strict=True)] for m in means]) / len(classes)
    within = covariance(residuals) / len(rows)
    values, vectors = mpmath.eigsy(between)
    kept = [k for k in range(dim) if values[k] > 1e-25 * max(values)]
    explained = mpmath.inverse(within + between) * between
    vci = 1 - sum(explained[k, k] for k in range(dim)) / len(kept)
    along = vectors.T * within * vectors
    return float(vci), float(sum(along[k, k] / values[k] for k in kept) / len(classes))


@pytest.mark.parametrize("dead", [0, 3])
@pytest.mark.parametrize("n_classes", [3, 8], ids="C={}".format)
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6, 1e-8])
def test_variability_collapse_index_near_collapse_with_dead_units(spread, n_classes, dead):
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(n_classes).repeat(12)
    means = torch.randn(n_classes, 5, generator=generator, dtype=torch.float64)
    x = means[y] + spread * torch.randn(len(y), 5, generator=generator, dtype=torch.float64)
    x = torch.cat([torch.full((len(y), dead), 0.3, dtype=x.dtype), x], 1)
    expected = pytest.approx(exact(x, y)[0], rel=1e-5, abs=1e-22)
    assert float(collapse.variability_collapse_index(x, y)) == expected
    metrics = collapse.CollapseMetrics(n_classes, x.shape[1])
    metrics.update(x, y)
    assert float(metrics.compute()["variability_collapse_index"]) == pytest.approx(exact(x, y)[0], rel=1e-2, abs=1e-14)


@pytest.mark.parametrize("dim", [2, 3, 5])
@pytest.mark.parametrize("distance", [1e3, 1e4, 1e5])
def test_one_far_sample_takes_no_digits_from_the_others(distance, dim):
    """It makes one direction as large as itself, beside which NC1 asks for the variance along the small ones."""
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(3).repeat(4)
    x = torch.randn(3, dim, generator=generator, dtype=torch.float64)[y]
    x += 0.1 * torch.randn(12, dim, generator=generator, dtype=torch.float64)
    x[0] += distance
    vci, nc1 = exact(x, y)
    assert float(collapse.nc1(x, y)) == pytest.approx(nc1, rel=1e-7)
    assert float(collapse.separation_fuzziness(x, y)) == pytest.approx(3 * nc1, rel=1e-7)
    assert float(collapse.variability_collapse_index(x, y)) == pytest.approx(vci, rel=1e-4)


@pytest.mark.parametrize(("n_classes", "dim", "distance"), [(5, 8, 1e6), (10, 32, 1e5)])
def test_far_samples_along_one_line_take_no_digits_from_vci(n_classes, dim, distance):
    """The row of S_W that they fill stands beside variances of 1, where Σ_T must not be inverted."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n_classes).repeat(200)
    x = torch.randn(n_classes, dim, generator=generator, dtype=torch.float64)[y]
    x += torch.randn(len(y), dim, generator=generator, dtype=torch.float64)
    x[:n_classes] += distance
    means = torch.stack([x[y == c].mean(0) for c in range(n_classes)])
    between = (means - means.mean(0)) / n_classes**0.5
    rows = torch.cat([(x - means[y]) / len(y) ** 0.5, between])  # rows.T @ rows = Σ_T, never formed
    explained = torch.linalg.qr(rows).Q[len(y) :].square().sum()  # tr(Σ_T^-1 S_B)
    expected = 1 - float(explained) / (n_classes - 1)
    assert float(collapse.variability_collapse_index(x, y)) == pytest.approx(expected, rel=1e-5)
    metrics = collapse.CollapseMetrics(n_classes, dim)
    metrics.update(x, y)
    assert float(metrics.compute()["variability_collapse_index"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dead", [0, 2])
@pytest.mark.parametrize("n_classes", [4, 9], ids="C={}".format)
@pytest.mark.parametrize("spread", [1.0, 1e-4, 1e-7])
def test_class_means_on_a_line(spread, n_classes, dead):
    generator = torch.Generator().manual_seed(4)
    steps = torch.randn(20, 6, generator=generator, dtype=torch.float64).mul(64).round() / 64 * spread
    steps = torch.cat([steps, -steps])  # the mean of a class is where it is put
    places = torch.arange(n_classes, dtype=torch.float64)
    x = (places[:, None] * torch.tensor([1.0, 2, 0, -1, 0.5, 0]))[:, None] + steps
    x, y = x.flatten(0, 1), places.long().repeat_interleave(len(steps))
    x = torch.cat([x, torch.full((len(x), dead), 0.25, dtype=x.dtype)], 1)
    expected = exact(x, y)[0]
    assert float(collapse.variability_collapse_index(x, y)) == pytest.approx(expected, rel=1e-5, abs=1e-18)
    metrics = collapse.CollapseMetrics(n_classes, x.shape[1])
    metrics.update(x, y)
    values = metrics.compute()
    assert float(values["variability_collapse_index"]) == pytest.approx(expected, rel=1e-2, abs=1e-14)
    assert float(values["nc1"]) == pytest.approx(float(collapse.nc1(x, y)), rel=1e-6)
    line = x[:, :6] @ torch.tensor([1.0, 2, 0, -1, 0.5, 0], dtype=x.dtype)[:, None]
    assert float(collapse.nc1(x, y)) == pytest.approx(float(collapse.nc1(line, y)), rel=1e-9)


@pytest.mark.parametrize("n_classes", [4, 7, 12], ids="C={}".format)
@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6, 1e-7])
def test_class_means_nearly_on_a_line(spread, n_classes):
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(n_classes).repeat(10)
    direction = torch.randn(8, generator=generator, dtype=torch.float64)
    x = torch.randn(n_classes, 1, generator=generator, dtype=torch.float64)[y] * direction + 3
    x += spread * torch.randn(len(y), 8, generator=generator, dtype=torch.float64)
    vci, nc1 = exact(x, y)
    assert float(collapse.nc1(x, y)) == pytest.approx(nc1, rel=1e-6)
    assert float(collapse.separation_fuzziness(x, y)) == pytest.approx(n_classes * nc1, rel=1e-6)
    assert float(collapse.variability_collapse_index(x, y)) == pytest.approx(vci, rel=1e-5)
    metrics = collapse.CollapseMetrics(n_classes, 8)
    metrics.update(x, y)
    assert float(metrics.compute()["nc1"]) == pytest.approx(nc1, rel=1e-5)
    assert float(metrics.compute()["variability_collapse_index"]) == pytest.approx(vci, rel=1e-4)


@pytest.mark.parametrize(("dtype", "exponent"), [(torch.float32, 99), (torch.float64, 260), (torch.float64, 498)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_scales(dtype, exponent, sign):
    scale = 2.0 ** (sign * exponent)
    x, y = sample(dtype=dtype)
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = torch.randn(len(x), 5, generator=torch.Generator().manual_seed(2))
    metrics = [*VARIANCE_METRICS, collapse.class_mean_mismatch]
    metrics += [lambda x, y, v=v: collapse.nc2(x, y, variant=v) for v in collapse.NC2_VARIANTS]
    metrics += [
        lambda x, y: collapse.min_distance(x, y, normalized=True),
        lambda x, y: collapse.cdnv(x, y, debiased=True),
        lambda x, y: collapse.nc3(x, y, weight),
        lambda x, y: collapse.nc4(x, y, logits),
    ]
    assert_same(metrics, (x, y), (scale * x, y), rtol=1e-12)
    torch.testing.assert_close(collapse.min_distance(scale * x, y) / scale, collapse.min_distance(x, y))
    torch.testing.assert_close(collapse.nc3(x, y, scale * weight), collapse.nc3(x, y, weight))
    found, expected = collapse.summary(scale * x, y), collapse.summary(x, y)
    for name, value in expected.items():
        torch.testing.assert_close(found[name] / (scale if name == "min_distance" else 1), value)


def test_gradients_at_extreme_scales():
    x, y = sample()
    for scale in (2.0**-400, 2.0**400):
        far = (scale * x).requires_grad_()
        near = x.clone().requires_grad_()
        for metric in (collapse.cdnv, collapse.nc1, collapse.nc2, collapse.variability_collapse_index):
            (gradient,), (expected,) = (torch.autograd.grad(metric(v, y), v) for v in (far, near))
            torch.testing.assert_close(gradient * scale, expected)


def test_debiased_cdnv_removes_the_bias_of_few_samples():
    true = 40 / 30  # variance 40 a class, squared distance 30
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(2).repeat_interleave(10)
    plain, de_biased = [], []
    for _ in range(300):
        x = torch.randn(20, 40, generator=generator, dtype=torch.float64)
        x[y == 1, 0] += 30**0.5
        plain.append(collapse.cdnv(x, y))
        de_biased.append(collapse.cdnv(x, y, debiased=True))
    assert abs(torch.stack(de_biased).median() / true - 1) < 0.05
    assert torch.stack(plain).median() / true < 0.9


def test_debiased_cdnv_flags_classes_that_cannot_be_told_apart():
    x = torch.tensor([[0.0], [2.0], [0.1], [2.1], [50.0], [52.0]])
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    with pytest.warns(RuntimeWarning, match="1 of 3 pairs"):
        matrix = collapse.cdnv_matrix(x, y, debiased=True)
    assert matrix[0, 1] == torch.inf and 0 < matrix[0, 2] < 1
    with pytest.warns(RuntimeWarning):
        assert collapse.cdnv(x, y, debiased=True) == torch.inf


# THEORY, part 1 and A9: (N, K, p) and what a simulation gave
@pytest.mark.parametrize(
    ("n_classes", "per_class", "dim", "power", "simulated", "rel"),
    [
        (5, 5, 64, None, 0.274, 0.02),
        (5, 15, 64, None, 0.946, 0.01),
        (60, 5, 512, None, 0.521, 0.01),
        (60, 5, 40, None, 8.70, 0.03),
        (60, 5, 512, 1, 1.54, 0.01),
        (5, 15, 512, 1, 1.31, 0.05),
        (5, 5, 64, 1, 0.81, 0.05),
        (60, 5, 512, 2, 4.39, 0.01),
        (5, 15, 64, 2, 12.1, 0.05),
    ],
)
def test_noise_floor_against_recorded_simulations(n_classes, per_class, dim, power, simulated, rel):
    spectrum = None if power is None else torch.arange(1, dim + 1) ** -float(power)
    floor = collapse.nc1_noise_floor(n_classes, per_class, dim, spectrum=spectrum)
    assert floor.dtype == torch.float64 and floor.ndim == 0
    assert float(floor) == pytest.approx(simulated, rel=rel)


def test_noise_floor_is_the_mean_nc1_of_noise():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(5).repeat_interleave(6)
    scale = torch.arange(1, 65) ** -0.5
    for spectrum in (None, scale**2):
        draws = torch.stack(
            [collapse.nc1(torch.randn(30, 64, generator=generator) * (1 if spectrum is None else scale), y)
             for _ in range(200)]
        )  # fmt: skip
        assert float(draws.mean()) == pytest.approx(
            float(collapse.nc1_noise_floor(5, 6, 64, spectrum=spectrum)), rel=0.06
        )


def test_noise_floor_special_cases():
    floor = collapse.nc1_noise_floor
    assert [floor(10, 5, d).isinf().item() for d in (7, 8, 9, 10, 11)] == [False, True, True, True, False]
    spectrum = torch.arange(1, 31) ** -1.0
    torch.testing.assert_close(floor(60, 5, 30, spectrum=spectrum), floor(60, 5, 30))  # same for all if D < C
    dead = torch.cat([spectrum, torch.zeros(100)])
    torch.testing.assert_close(floor(10, 5, 130, spectrum=dead), floor(10, 5, 30, spectrum=spectrum))
    equal = floor(10, 5, 64, spectrum=torch.full((64,), 3.0))
    assert float(equal) == pytest.approx(4 * 9 / (64 - 9))
    for arguments in ((1, 5, 8), (5, 1, 8), (5, 5, 0)):
        with pytest.raises(ValueError, match="allowed: a whole number of at least"):
            floor(*arguments)
    for bad in (torch.ones(7), -torch.ones(8), torch.zeros(8), torch.full((8,), torch.nan)):
        with pytest.raises(ValueError, match="spectrum h(as|olds) .*; allowed"):
            floor(3, 5, 8, spectrum=bad)


# Gradients


@pytest.mark.parametrize("dim", [3, 9], ids="D={}".format)
@pytest.mark.parametrize(
    "metric",
    [
        *PLAIN_METRICS[:1],
        collapse.directional_cdnv,
        collapse.nc1,
        collapse.trace_ratio,
        collapse.variability_collapse_index,
        collapse.separation_fuzziness,
        collapse.min_distance,
        *(lambda x, y, v=v: collapse.nc2(x, y, variant=v) for v in collapse.NC2_VARIANTS),
        lambda x, y: collapse.nc3(x, y, torch.arange(4.0 * x.shape[1]).reshape(4, -1).sin()),
        lambda x, y: collapse.cdnv(x, y, debiased=True),
    ],
)
def test_gradient(metric, dim):
    x, y = sample(n_classes=4, per_class=3, dim=dim, spread=0.1)
    assert torch.autograd.gradcheck(lambda x: metric(x, y), x.requires_grad_(), fast_mode=True)


def test_gradient_is_finite_where_eigenvalues_coincide_and_units_are_dead():
    x, y = isotropic_around(simplex(4, 6), 0.1)
    x = torch.cat([x, torch.zeros(len(x), 2, dtype=x.dtype)], 1).requires_grad_()
    for metric in (collapse.nc1, collapse.variability_collapse_index, collapse.separation_fuzziness):
        (gradient,) = torch.autograd.grad(metric(x, y), x)
        assert gradient.isfinite().all()


def test_cdnv_as_a_loss():
    x, y = sample(dtype=torch.float32, spread=2.0)
    x.requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.1)
    first = collapse.cdnv(x, y).item()
    for _ in range(20):
        optimizer.zero_grad()
        collapse.cdnv(x, y).backward()
        optimizer.step()
    assert collapse.cdnv(x, y) < first / 2


# Bad input


@pytest.mark.parametrize("metric", PLAIN_METRICS)
def test_bad_features_and_labels(metric):
    x, y = sample(dtype=torch.float32)
    for bad in (torch.nan, torch.inf, -torch.inf):
        broken = x.clone()
        broken[3, 2] = bad
        with pytest.raises(ValueError, match=r"features holds NaN or infinity in 1 of \d+ rows, first in row 3"):
            metric(broken, y)
    with pytest.raises(ValueError, match=r"labels has shape \[\d+\]; allowed: \[\d+\], one entry per row of features"):
        metric(x, y[:-1])
    with pytest.raises(ValueError, match=r"labels has shape \[\d+, 1\]; allowed: \[N\]"):
        metric(x, y[:, None])
    with pytest.raises(ValueError, match=r"features has shape .*; allowed: \[N, D\].*flatten"):
        metric(x[:, :, None], y)
    with pytest.raises(ValueError, match="at least two classes"):
        metric(x, torch.zeros_like(y))
    with pytest.raises(ValueError, match="at least two classes"):
        metric(x[:0], y[:0])
    with pytest.raises(TypeError, match="features has dtype torch.int64; allowed: a float dtype"):
        metric(x.long(), y)
    with pytest.raises(TypeError, match="labels has dtype torch.float32; allowed: an integer dtype"):
        metric(x, y.float())
    with pytest.raises(TypeError, match="features is of type ndarray; allowed: a torch.Tensor"):
        metric(x.numpy(), y)


def test_overflow_is_not_blamed_on_nan():
    x = torch.full((4, 2), 1e308, dtype=torch.float64)
    with pytest.raises(ValueError, match="small enough"):
        collapse.nc2(x, torch.tensor([0, 0, 0, 1]))


def test_single_samples_have_means_but_no_variance():
    x, y = torch.tensor([[0.0, 0], [1, 0], [5, 5]]), torch.tensor([4, 4, 9])
    for metric in VARIANCE_METRICS:
        with pytest.raises(ValueError, match="single sample of classes 9; allowed: two samples or more of each class"):
            metric(x, y)
    assert float(collapse.min_distance(x, y)) == pytest.approx((4.5**2 + 5**2) ** 0.5)
    assert collapse.nc2(x, y) < 1e-7
    assert collapse.nc3(x, y, torch.tensor([[-4.5, -5], [4.5, 5]])) < 1e-7
    assert collapse.nc4(x, y, torch.tensor([[1.0, 0], [1, 0], [0, 1]])) == 0


def test_identical_means():
    x = torch.tensor([[0.1], [0.3], [0.3], [0.1], [5.0], [6.0]])
    y = torch.tensor([2, 2, 5, 5, 8, 8])
    for metric in (collapse.cdnv, collapse.cdnv_matrix, collapse.directional_cdnv):
        with pytest.raises(ValueError, match="identical class means for classes 2 and 5"):
            metric(x, y)
    assert collapse.min_distance(x, y) < 1e-15
    assert collapse.nc1(x, y).isfinite()  # the other direction is there
    for metric in (
        collapse.nc1,
        collapse.nc2,
        collapse.trace_ratio,
        collapse.variability_collapse_index,
        collapse.separation_fuzziness,
        lambda x, y: collapse.min_distance(x, y, normalized=True),
        lambda x, y: collapse.nc3(x, y, torch.ones(2, 1)),
    ):
        with pytest.raises(ValueError, match="identical class means for all classes; allowed"):
            metric(x[:4], y[:4])


def test_bad_arguments():
    x, y = sample()
    weight, logits = torch.ones(5, 8), torch.ones(len(x), 5)
    for bad in (weight.T, weight[:4], weight[0]):
        with pytest.raises(ValueError, match=r"weight has shape .*; allowed: \[C, D\] = \[5, 8\]"):
            collapse.nc3(x, y, bad)
    for bad in (0 * weight, weight * torch.nan, weight / 0):
        with pytest.raises(
            ValueError, match="weight has entries up to .*; allowed: finite numbers that are not all zero"
        ):
            collapse.nc3(x, y, bad)
    with pytest.raises(TypeError, match=r"weight is of type list; allowed: .*\[C, D\] of floats"):
        collapse.nc3(x, y, weight.tolist())
    with pytest.raises(TypeError, match=r"weight has dtype torch.int64; allowed: a float dtype"):
        collapse.nc3(x, y, weight.long())
    for bad in (logits.T, logits[:-1], logits[:, :4]):
        with pytest.raises(ValueError, match=r"logits has shape .*; allowed: \[N, C\]"):
            collapse.nc4(x, y, bad)
    with pytest.raises(ValueError, match="logits hold NaN"):
        collapse.nc4(x, y, logits * torch.nan)
    with pytest.raises(TypeError, match="logits has dtype torch.int64; allowed: a float dtype"):
        collapse.nc4(x, y, logits.long())
    with pytest.raises(
        ValueError, match="variant='center' is unknown; did you mean 'centered'. allowed: centered, uncentered"
    ):
        collapse.nc2(x, y, variant="center")
    three = torch.tensor([[-1.0], [0.0], [1.0]])
    with pytest.raises(ValueError, match="distance of class means from the global mean, which is zero for 1; allowed"):
        collapse.nc2(three, torch.arange(3), variant="normalized")
    with pytest.raises(ValueError, match="not all zero"):
        collapse.nc2(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]), variant="uncentered")


def test_nc4_with_masked_logits_and_ties():
    x, y = torch.tensor([[0.0], [4.0], [2.0]]), torch.tensor([0, 1, 1])  # means 0 and 3
    masked = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0], [1, 1]])
    assert float(collapse.nc4(x, y, masked)) == pytest.approx(1 / 3)  # a tie of logits is decided for class 0


# Module


def test_importing_collapse_does_not_import_torchmetrics():
    code = "import sys; from ncbook import collapse; collapse.cdnv; sys.exit('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_former_spellings_are_accepted():
    x, y = sample()
    for former, variant in (("centred", "centered"), ("uncentred", "uncentered"), ("normalised", "normalized")):
        assert torch.equal(collapse.nc2(x, y, variant=former), collapse.nc2(x, y, variant=variant))
    assert torch.equal(collapse.min_distance(x, y, normalised=True), collapse.min_distance(x, y, normalized=True))


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="nc5"):
        collapse.nc5  # noqa: B018


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    x, y = sample(n_classes=12, dim=30, dtype=torch.float32)
    for metric in PLAIN_METRICS:
        result = metric(x.cuda(), y)  # labels may lie elsewhere
        assert result.is_cuda
        torch.testing.assert_close(result.cpu(), metric(x, y), equal_nan=True)


@pytest.mark.parametrize(("n_classes", "cosine"), [(2, -1.0), (5, -0.25), (5, 0.0), (7, 0.4), (60, 0.9)])
def test_nc2_of_equal_cosines_is_that_of_such_means(n_classes, cosine):
    gram = torch.full((n_classes, n_classes), cosine, dtype=torch.float64).fill_diagonal_(1.0)
    values, vectors = torch.linalg.eigh(gram)
    means = 3 * vectors * values.clamp_min(0).sqrt()
    measured = collapse.nc2(means, torch.arange(n_classes), variant="uncentered")
    torch.testing.assert_close(collapse.nc2_of_equal_cosines(n_classes, cosine), measured, atol=1e-7, rtol=1e-7)


def test_nc2_of_equal_cosines_refuses():
    with pytest.raises(ValueError, match="cosine=-0.5; allowed for 5 classes: -0.25 to 1"):
        collapse.nc2_of_equal_cosines(5, -0.5)
    with pytest.raises(ValueError, match="n_classes=1; allowed: a whole number of at least 2"):
        collapse.nc2_of_equal_cosines(1, 0.0)


def test_summary_is_the_functions_of_the_same_names():
    torch.manual_seed(0)
    labels = torch.arange(6).repeat_interleave(8)
    features = torch.randn(48, 12) + 2 * torch.randn(6, 12)[labels]
    weight, logits = torch.randn(6, 12), torch.randn(48, 6)
    found = collapse.summary(features, labels, weight=weight, logits=logits)
    pairs = collapse.cdnv_matrix(features, labels, debiased=True)
    expected = {
        "cdnv": collapse.cdnv(features, labels),
        "cdnv_debiased": pairs.nanmedian(),
        "cdnv_debiased_mean": pairs[tuple(torch.triu_indices(6, 6, 1))].sort().values.mean(),
        "nc1": collapse.nc1(features, labels),
        "nc2": collapse.nc2(features, labels),
        "min_distance": collapse.min_distance(features, labels),
        "min_distance_normalized": collapse.min_distance(features, labels, normalized=True),
        "nc3": collapse.nc3(features, labels, weight),
        "nc4": collapse.nc4(features, labels, logits),
    }
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert "nc3" not in collapse.summary(features, labels)


def test_the_debiased_mean_leaves_out_the_largest_hundredth():
    x, y = sample(n_classes=15)  # 105 pairs
    ascending = collapse.cdnv_matrix(x, y, debiased=True)[tuple(torch.triu_indices(15, 15, 1))].sort().values
    found = collapse.summary(x, y)["cdnv_debiased_mean"]
    torch.testing.assert_close(found, ascending[:-1].mean())
    assert found < ascending.mean()


def test_the_median_of_an_even_number_of_pairs_is_between_the_two_in_the_middle():
    x, y = sample(n_classes=4)
    pairs = collapse.cdnv_matrix(x, y, debiased=True)[tuple(torch.triu_indices(4, 4, 1))]
    found = collapse.summary(x, y)["cdnv_debiased"]
    assert float(found) == pytest.approx(float(np.median(pairs.numpy())), rel=1e-12)
    assert float(found) != float(pairs.median())  # torch takes the lower one
    noise = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    assert collapse.summary(noise, torch.arange(4).repeat(15))["cdnv_debiased"] == torch.inf


def test_class_mean_mismatch_counts_samples_near_other_means():
    torch.manual_seed(1)
    labels = torch.arange(4).repeat_interleave(10) * 3 + 5  # gaps
    features = torch.randn(40, 3, dtype=torch.float64) + torch.randn(4, 3, dtype=torch.float64)[(labels - 5) // 3]
    means = torch.stack([features[labels == c].mean(0) for c in labels.unique()])
    wrong = (torch.cdist(features, means).argmin(1) != (labels - 5) // 3).double().mean()
    assert 0 < wrong == collapse.class_mean_mismatch(features, labels)
    assert collapse.class_mean_mismatch(means.repeat_interleave(2, 0), torch.arange(4).repeat_interleave(2)) == 0


@pytest.mark.parametrize("distance", [0.0, 10.0, 1e6, 1e9])
@pytest.mark.parametrize("first", [True, False])
def test_a_far_sample_costs_no_digits_wherever_it_comes(distance, first):
    """Sums are taken about a sample of each class; if that is a far one, about the means once more."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(4, 1, 6, generator=generator, dtype=torch.float64) + 100
    groups = groups + 1e-3 * torch.randn(4, 40, 6, generator=generator, dtype=torch.float64)
    groups[1, 0 if first else 17] += distance
    x, y = groups.flatten(0, 1).requires_grad_(), torch.arange(4).repeat_interleave(40)
    exact = groups.numpy().astype(np.longdouble)
    means = exact.mean(1)
    variances = ((exact - means[:, None]) ** 2).sum(2).mean(1)
    pairs = [(variances[i] + variances[j]) / 2 / ((means[i] - means[j]) ** 2).sum() for i in range(4) for j in range(i)]
    value = collapse.cdnv(x, y)
    assert value.item() == pytest.approx(float(sum(pairs) / 6), rel=1e-11)
    value.backward()
    if distance < 1e3:  # where a step of a size that can be measured is small beside what it changes
        small = 1e-6 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            difference = collapse.cdnv(x + small, y) - collapse.cdnv(x - small, y)
        assert float(difference / 2) == pytest.approx(float((x.grad * small).sum()), rel=1e-4)
