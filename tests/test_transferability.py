"""LogME, class separation, RankMe, effective rank: by brute force, what must not change them, bad input."""

import math

import pytest
import torch
from scipy import optimize
from test_collapse import isotropic_around, sample, simplex
from torch.distributions import MultivariateNormal
from torch.nn.functional import cosine_similarity

from ncbook import collapse
from ncbook.collapse import jackknife
from ncbook.collapse.covariance import nc1_of
from ncbook.collapse.sample import Sample
from ncbook.collapse.transferability import transferability_of

RANKS = [collapse.rankme, collapse.effective_rank]
LABELED = [collapse.logme, collapse.class_separation]


def call(metric, x, y):
    return metric(x) if metric in RANKS else metric(x, y)


def evidence(x, target, alpha, beta):
    """ln N(y; 0, I / beta + F Fᵀ / alpha), from the Gaussian density itself."""
    covariance = torch.eye(len(x), dtype=x.dtype) / beta + x @ x.T / alpha
    return float(MultivariateNormal(torch.zeros(len(x), dtype=x.dtype), covariance).log_prob(target))


def logme_by_brute_force(x, y):
    """Mean over classes of the evidence's maximum, found by a simplex search."""
    total = 0.0
    for c in y.unique():
        target = (y == c).double()
        start = [0.0, math.log(10)]
        found = optimize.minimize(
            lambda logs, target=target: -evidence(x, target, *map(math.exp, logs)), start, method="Nelder-Mead",
            options={"xatol": 1e-6, "fatol": 1e-10, "maxiter": 4000},
        )  # fmt: skip
        total -= found.fun / len(x)
    return total / len(y.unique())


@pytest.mark.parametrize(("n_classes", "dim", "spread"), [(2, 1, 1.0), (3, 6, 0.3), (5, 8, 1.0), (5, 20, 2.0)])
def test_logme_is_the_largest_evidence(n_classes, dim, spread):
    x, y = sample(n_classes, per_class=10, dim=dim, spread=spread, seed=1)
    assert float(collapse.logme(x, y)) == pytest.approx(logme_by_brute_force(x, y), abs=1e-4)


def test_logme_by_the_published_rounds():
    """Algorithm 1 class by class, with inverses of [D, D] matrices in place of singular values; not all settle."""
    x, y = sample(4, per_class=9, dim=7, spread=1.5)
    x = x / x.square().mean().sqrt()
    n, dim = x.shape
    eye, logs = torch.eye(dim, dtype=x.dtype), []
    for c in y.unique():
        target, alpha, beta = (y == c).double(), 1.0, 1.0
        for _ in range(11):
            posterior = torch.linalg.inv(alpha * eye + beta * x.T @ x)
            m = beta * posterior @ x.T @ target
            gamma = float(dim - alpha * posterior.trace())
            before, alpha = alpha / beta, gamma / float(m @ m)
            beta = (n - gamma) / float((target - x @ m).square().sum())
            if abs(alpha / beta / before - 1) <= 1e-3:
                break
        logs.append(evidence(x, target, alpha, beta) / n)
    assert float(collapse.logme(x, y)) == pytest.approx(sum(logs) / len(logs), rel=1e-9)


@pytest.mark.parametrize(("per_class", "dim"), [(6, 100), (2, 30), (40, 3)])
def test_logme_is_finite_and_orders_features_with_few_and_many_samples(per_class, dim):
    values = [float(collapse.logme(*sample(5, per_class, dim, spread=s))) for s in (1e-6, 0.1, 1.0, 10.0)]
    assert all(map(math.isfinite, values)) and values == sorted(values, reverse=True)
    x = simplex(5, 6)[torch.arange(5).repeat(4)]
    assert math.isfinite(collapse.logme(x, torch.arange(5).repeat(4)))  # complete collapse


@pytest.mark.parametrize("dim", [1, 4, 30])
def test_class_separation_over_all_pairs_of_samples(dim):
    x, y = sample(4, dim=dim, spread=1.0)
    distance = 1 - cosine_similarity(x[:, None], x[None], dim=2)
    classes = y.unique()
    block = torch.stack([torch.stack([distance[y == a][:, y == b].mean() for b in classes]) for a in classes])
    expected = 1 - block.diagonal().mean() / block.mean()
    torch.testing.assert_close(collapse.class_separation(x, y), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variance", [1e-4, 1e-10, 1e-20])
def test_class_separation_does_not_cancel_near_collapse(variance):
    x, y = isotropic_around(simplex(4, 6) + torch.eye(6, dtype=torch.float64)[5], variance)
    unit = x / x.norm(dim=1, keepdim=True)
    means = torch.stack([unit[y == c].mean(0) for c in range(4)])
    within = (unit - means[y]).square().sum(1).mean()
    total = within + (means - means.mean(0)).square().sum(1).mean()
    assert float(1 - collapse.class_separation(x, y)) == pytest.approx(float(within / total), rel=1e-6, abs=2e-16)


def by_entropy(p):
    return math.exp(-sum(v * math.log(v) for v in p.tolist() if v > 0))


@pytest.mark.parametrize("shape", [(50, 7), (7, 50), (1, 4), (30, 1)])
def test_ranks_by_their_definitions(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    singular = torch.linalg.svdvals(x)
    assert float(collapse.rankme(x)) == pytest.approx(by_entropy(singular / singular.sum() + 1e-7), rel=1e-10)
    if len(x) > 1:
        values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0).reshape(shape[1], shape[1])).clamp(min=0)
        assert float(collapse.effective_rank(x)) == pytest.approx(by_entropy(values / values.sum()), rel=1e-9)


def test_ranks_of_a_collapsed_simplex():
    x = simplex(5, 9)[torch.arange(5).repeat(6)]
    assert float(collapse.effective_rank(x + 100)) == pytest.approx(4)
    assert float(collapse.rankme(x)) == pytest.approx(4, rel=1e-5)
    assert 1 < float(collapse.rankme(x + 100)) < 1.1  # the mean is one direction, far larger than the others
    torch.manual_seed(0)
    centered = torch.randn(40, 12) * torch.arange(1, 13)
    centered -= centered.mean(0)
    assert 1 <= collapse.effective_rank(centered) <= collapse.rankme(centered) <= 12


@pytest.mark.parametrize("metric", RANKS + LABELED)
def test_rotation_order_and_scale_change_nothing(metric):
    x, y = sample(n_classes=4, dim=6, spread=1.0)
    generator = torch.Generator().manual_seed(3)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    order = torch.randperm(len(x), generator=generator)
    expected = call(metric, x, y)
    assert expected.dtype == torch.float64 and expected.ndim == 0
    for scale in (1.0, 1e-6, 1e6, 2.0**-300, 2.0**300):
        torch.testing.assert_close(call(metric, (scale * x @ rotation)[order], y[order]), expected, rtol=1e-9, atol=0)
    if metric in LABELED:
        torch.testing.assert_close(metric(x, -5 * y), expected)  # names of classes


def test_what_a_translation_changes():
    x, y = sample(n_classes=4, dim=6)
    torch.testing.assert_close(collapse.effective_rank(x + 1e3), collapse.effective_rank(x), rtol=1e-9, atol=0)
    for metric in (collapse.rankme, *LABELED):
        assert abs(float(call(metric, x + 5, y) / call(metric, x, y)) - 1) > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("metric", RANKS + LABELED)
def test_other_dtypes_are_upcast(metric, offset, dtype):
    x, y = sample()
    x = (x + offset).to(dtype)
    torch.testing.assert_close(call(metric, x, y), call(metric, x.double(), y.int()), rtol=1e-10, atol=0)


@pytest.mark.parametrize("metric", [*RANKS, collapse.class_separation])
def test_gradients(metric):
    x, y = sample(n_classes=3, per_class=3, dim=4)
    assert torch.autograd.gradcheck(lambda x: call(metric, x, y), x.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("metric", RANKS + LABELED)
def test_bad_features(metric):
    x, y = sample(dtype=torch.float32)
    for bad in (torch.nan, torch.inf):
        broken = x.clone()
        broken[3, 2] = bad
        with pytest.raises(ValueError, match=r"features holds NaN or infinity in 1 of \d+ rows, first in row 3"):
            call(metric, broken, y)
    with pytest.raises(ValueError, match=r"features has shape .*; allowed: \[N, D\].*flatten"):
        call(metric, x[:, :, None], y)
    with pytest.raises(TypeError, match="features has dtype torch.int64; allowed: a float dtype"):
        call(metric, x.long(), y)
    with pytest.raises(TypeError, match="features is of type ndarray; allowed: a torch.Tensor"):
        call(metric, x.numpy(), y)
    with pytest.raises(ValueError, match=r"features (are|has|hold)|labels hold the classes"):
        call(metric, x[:0], y[:0])
    with pytest.raises(ValueError, match="features are (zero|the same) in"):
        call(metric, torch.zeros_like(x), y)


def test_what_each_metric_is_not_defined_for():
    x, y = sample()
    for constant in (torch.full((9, 3), 0.1), torch.full((999, 3), 1e8 / 3)):
        with pytest.raises(ValueError, match="features are the same in all rows; allowed: features that vary"):
            collapse.effective_rank(constant)
        assert float(collapse.rankme(constant)) == pytest.approx(1, abs=1e-5)
    for metric in LABELED:
        with pytest.raises(ValueError, match="at least two classes"):
            metric(x, torch.zeros_like(y))
        with pytest.raises(TypeError, match="labels has dtype torch.float32"):
            metric(x, y.float())
        with pytest.raises(ValueError, match=r"labels has shape \[\d+\]; allowed"):
            metric(x, y[1:])
    single = torch.cat([y[:-1], torch.tensor([99])])
    assert collapse.logme(x, single).isfinite()
    with pytest.raises(ValueError, match="single sample of classes 99"):
        collapse.class_separation(x, single)
    one_zero = x.clone()
    one_zero[[4, 6]] = 0
    with pytest.raises(ValueError, match=r"zero in 2 of \d+ rows, first in row 4; allowed: vectors with a direction"):
        collapse.class_separation(one_zero, y)
    for dtype in (torch.float32, torch.float64):
        same = (torch.rand(len(x), 1) + 1) * torch.tensor([1.0, 0.3, -7.1])
        with pytest.raises(ValueError, match="same direction in all rows; allowed: directions that differ"):
            collapse.class_separation((same if dtype == torch.float32 else same[:1].double().expand(len(x), 3)), y)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("metric", RANKS + LABELED)
def test_cuda_equals_cpu(metric):
    x, y = sample(n_classes=6, dim=20, dtype=torch.float32)
    result = call(metric, x.cuda(), y)
    assert result.is_cuda
    torch.testing.assert_close(result.cpu(), call(metric, x, y))


# Moments in place of features, and without classes


@pytest.mark.parametrize(("n_classes", "per_class", "dim"), [(5, 12, 8), (3, 4, 40), (6, 30, 1)])
def test_moments_give_what_features_give(n_classes, per_class, dim):
    x, y = sample(n_classes, per_class, dim, spread=1.0)
    metrics = collapse.CollapseMetrics(n_classes, dim)
    metrics.update(x, (y - 7) // 3)
    for moments in (Sample(x, y).moments(), metrics.moments()):
        found = transferability_of(moments)
        for name in ("logme", "rankme", "effective_rank"):
            expected = call(getattr(collapse, name), x, y)
            torch.testing.assert_close(found[name], expected, rtol=2e-6, atol=1e-8)


def test_renamed_metrics_are_those_of_the_renamed_labels():
    x, y = sample(4)
    y = (y - 7) // 3
    names = torch.tensor([6, 0, 2, 3])
    one, other = collapse.CollapseMetrics(4, 8), collapse.CollapseMetrics(7, 8)
    one.update(x[:20], y[:20])
    one = one.renamed(names, 7)
    one.update(x[20:], names[y[20:]])
    other.update(x, names[y])
    with pytest.warns(UserWarning, match="3 of 7 classes"):
        ours, expected = one.moments(), other.moments()
    assert ours.classes.tolist() == [0, 2, 3, 6]
    for name in ("counts", "means", "variances"):
        torch.testing.assert_close(getattr(ours, name), getattr(expected, name))
    torch.testing.assert_close(ours.within(None), expected.within(None))


def test_leaving_classes_out_is_measuring_the_others():
    x, y = sample(7, dim=5)
    classes = y.unique()
    matrix = collapse.cdnv_matrix(x, y)
    for k, mean in enumerate(jackknife.means_without_each(matrix)):
        torch.testing.assert_close(mean, collapse.cdnv(x[y != classes[k]], y[y != classes[k]]))
    for groups in (3, 50):
        parts = list(jackknife.moments_without_each(x, y, groups))
        assert len(parts) == min(groups, 7)
        for number, (kept, moments) in enumerate(parts):
            assert (kept == (torch.arange(7) % len(parts) != number)).all()
            rows = torch.isin(y, classes[kept])
            torch.testing.assert_close(nc1_of(moments), collapse.nc1(x[rows], y[rows]), rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match="labels hold 2 classes; allowed: at least 3"):
        next(jackknife.moments_without_each(*sample(2)))
    assert len(list(jackknife.moments_without_each(*sample(3)))) == 3  # two classes are left, which have a CDNV


def test_the_jackknife_covers_as_often_as_it_says():
    """CDNV of 20 classes of one distribution over classes: the interval holds the mean over all classes."""
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(20, 6, generator=generator, dtype=torch.float64) for _ in range(200)]
    gaps = [((m[:, None] - m[None]).square().sum(2) + 1).reciprocal() for m in draws]  # bounded, and of pairs
    off = ~torch.eye(20, dtype=torch.bool)
    truth = torch.stack([g[off].mean() for g in gaps]).mean()
    inside = [
        abs(g[off].mean() - truth) <= 2.093 * jackknife.standard_error(jackknife.means_without_each(g)) for g in gaps
    ]
    assert 0.9 <= sum(inside) / len(inside) <= 0.99
