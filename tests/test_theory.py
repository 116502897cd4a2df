import importlib.util
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ncbook import collapse, fewshot, theory
from ncbook.theory import PairMoments, constant, distributions, gaussian_error


def enumerate_margins(first, second, shot):
    """Exact distribution of Z = |x - m2|^2 - |x - m1|^2: x of class 1, `shot` i.i.d. shots of each class."""
    margins = []
    for x in first:
        for one in itertools.product(first, repeat=shot):
            for two in itertools.product(second, repeat=shot):
                m1, m2 = np.mean(one, axis=0), np.mean(two, axis=0)
                margins.append(((x - m2) ** 2).sum() - ((x - m1) ** 2).sum())
    return np.array(margins)


def two_classes(seed, points=3, dim=2, gap=1.0):
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((2, points, dim)) * rng.uniform(0.05, 1, (2, 1, 1))
    second = second + gap * rng.standard_normal(dim)
    x = torch.tensor(np.concatenate([first, second]))
    return first, second, x, torch.arange(2).repeat_interleave(points)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shot", [1, 2])
def test_directional_bound_is_cantelli_with_the_exact_moments(seed, shot):
    first, second, x, y = two_classes(seed, gap=2.0)
    sides = []
    for a, b in ((first, second), (second, first)):
        z = enumerate_margins(a, b, shot)
        sides.append(z.var() / (z.var() + z.mean() ** 2) if z.mean() > 0 else 1.0)
    assert float(theory.directional_bound(x, y, shot)[0, 1]) == pytest.approx(np.mean(sides), rel=1e-10)


def bounds(moments, shot):
    """Every two-class bound of the pair (0, 1), by name."""
    one_shot = {"T3": theory.one_shot_bound(moments.cdnv)[..., 0, 1]} if shot == 1 else {}
    return one_shot | {
        "T1": theory.sharp_bound(moments.cdnv, shot)[..., 0, 1],
        "T2": theory.leave_one_out_bound(moments.cdnv, shot)[..., 0, 1],
        "best": theory.best_bound(moments.cdnv, shot)[..., 0, 1],
        "B1": theory.cdnv_bound(moments.cdnv, shot)[..., 0, 1],
        "B2": theory.second_moment_bound(moments, shot=shot)[..., 0, 1],
        "B3": theory.directional_bound(moments, shot=shot)[..., 0, 1],
        "B5": theory.quadratic_bound(moments.cdnv, shot)[..., 0, 1],
        "B5 directional": theory.directional_quadratic_bound(moments, shot=shot)[..., 0, 1],
        "2026": theory.published_bound_2026(moments, shot=shot)[..., 0, 1],
    }


@pytest.mark.parametrize("shot", [1, 2, 3, 5])
@pytest.mark.parametrize(("points", "dim"), [(2, 1), (3, 2), (4, 3)])
def test_no_discrete_distribution_exceeds_a_bound(points, dim, shot):
    """Exact errors: nothing is allowed for Monte-Carlo."""
    generator = torch.Generator().manual_seed(100 * points + shot)
    batch = distributions.random_distributions(1000, points, dim, generator=generator)
    error = distributions.errors(batch, shot)
    assert float((error > 0.1).double().mean()) > 0.05, "the distributions are too easy to say anything"
    found = bounds(batch.moments, shot)
    for name, bound in found.items():
        assert bool((error <= bound + 1e-12).all()), name
    assert bool((found["B3"] <= found["2026"] + 1e-12).all())
    assert bool((found["B5"] <= found["B1"] + 1e-5).all())
    assert bool((found["B5 directional"] <= torch.minimum(found["B5"], found["B2"]) + 1e-12).all())
    # not proved, and no violation is known
    assert bool((error <= theory.mean_mismatch_bound(batch.moments.cdnv[:, 0, 1]) + 1e-12).all())
    assert bool((found["B1"] <= 4 * (1 + 1 / shot) * batch.moments.cdnv[:, 0, 1] + 1e-12).all())


@pytest.mark.parametrize("shot", [1, 3])
def test_no_heavy_tailed_distribution_exceeds_a_bound(shot):
    """Student's t with 2.1 degrees of freedom on nine quantiles: fourth moments are large."""
    from scipy.stats import t

    generator = torch.Generator().manual_seed(shot)
    quantiles = torch.tensor(t.ppf((np.arange(9) + 0.5) / 9, df=2.1))
    scale = torch.rand(60, 2, 1, generator=generator, dtype=torch.float64) * 2
    points = (quantiles * scale)[..., None]
    points[:, 1] += 1.0
    batch = distributions.Distributions(points, torch.full((60, 2, 9), 1 / 9, dtype=torch.float64))
    error = distributions.errors(batch, shot)
    for name, bound in bounds(batch.moments, shot).items():
        assert bool((error <= bound + 1e-12).all()), name


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), dim=st.sampled_from([1, 2, 5, 20]), shot=st.sampled_from([1, 2, 5, 20]))
def test_no_pair_of_gaussians_exceeds_a_bound(seed, dim, shot):
    """Any covariances, unequal ones; the error is an integral, not a simulation."""
    generator = torch.Generator().manual_seed(seed)
    gap = torch.randn(dim, generator=generator, dtype=torch.float64)
    covariances = []
    for _ in range(2):
        spectrum = torch.arange(1, dim + 1, dtype=torch.float64) ** -float(3 * torch.rand((), generator=generator))
        a = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q * spectrum.sqrt()
        covariances.append(3 * torch.rand((), generator=generator, dtype=torch.float64) * a @ a.T)
    error = gaussian_error(gap, *covariances, shot)
    moments = PairMoments.of_gaussians(torch.stack([0 * gap, gap]), torch.stack(covariances))
    for name, bound in bounds(moments, shot).items():
        assert error <= float(bound) + 1e-9, name
    rank = min(float(c.trace() / torch.linalg.eigvalsh(c)[-1]) for c in covariances)
    assert error <= theory.spread_bound(float(moments.cdnv[0, 1]), shot, rank) + 1e-9


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), shot=st.sampled_from([1, 2]), gap=st.floats(0.2, 6))
def test_samples_as_the_population(seed, shot, gap):
    """Bounds from features, errors by listing every choice of shots and query."""
    first, second, x, y = two_classes(seed, gap=gap)
    error = np.mean([(enumerate_margins(a, b, shot) <= 0).mean() for a, b in ((first, second), (second, first))])
    equal = torch.full((1, 2, 3), 1 / 3, dtype=torch.float64)
    batch = distributions.Distributions(torch.tensor(np.stack([first, second]))[None], equal)
    assert float(distributions.errors(batch, shot)) == pytest.approx(error, abs=1e-12)
    for name, bound in bounds(PairMoments.of_features(x, y), shot).items():
        assert error <= float(bound) + 1e-12, name


def test_moments_agree_however_they_are_made():
    generator = torch.Generator().manual_seed(0)
    batch = distributions.random_distributions(1, 4, 3, generator=generator)
    batch = distributions.Distributions(
        batch.points, torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.4, 0.4, 0.1, 0.1]]]).double()
    )
    counts = (batch.weights * 10).round().long()[0]  # ten samples a class in the same shares
    x = torch.cat([batch.points[0, c].repeat_interleave(counts[c], 0) for c in range(2)])
    y = torch.tensor([7] * 10 + [3] * 10)  # gaps, and the second class has the smaller label
    of_features, of_points = PairMoments.of_features(x, y), batch.moments
    for name, a, b in zip(PairMoments._fields, of_features, of_points, strict=True):
        torch.testing.assert_close(a.flip(tuple(range(a.ndim))), b[0], msg=name)
    torch.testing.assert_close(of_features.cdnv, collapse.cdnv_matrix(x, y), equal_nan=True)

    # a Gaussian's moments against many samples of it
    mean = torch.tensor([[0.0, 0.0], [2.0, 1.0]], dtype=torch.float64)
    spread = torch.tensor([[1.0, 0.3], [0.2, 0.5]], dtype=torch.float64)
    z = torch.randn(2, 200_000, 2, generator=generator, dtype=torch.float64)
    x, y = (mean[:, None] + spread.sqrt()[:, None] * z).flatten(0, 1), torch.arange(2).repeat_interleave(200_000)
    for a, b in zip(PairMoments.of_features(x, y), PairMoments.of_gaussians(mean, spread), strict=True):
        torch.testing.assert_close(a, b, rtol=0.03, atol=0.05)


def test_products_of_covariances_in_blocks(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 7, generator=generator).double(), torch.arange(4).repeat(10)
    whole = PairMoments.of_features(x, y).products
    monkeypatch.setattr("ncbook.theory.moments._NUMBERS_AT_ONCE", 60)
    torch.testing.assert_close(PairMoments.of_features(x, y).products, whole)
    covariances = torch.stack([torch.cov(x[y == c].T, correction=0) for c in range(4)])
    torch.testing.assert_close(whole, torch.einsum("ipq,jqp->ij", covariances, covariances))


# dimension, shots, V: B1, B2's first form, B3, the theorem of 2026 as listed with v1 = v2 and isotropic noise
TABLE = [
    (64, 1, 0.1, 0.571, 0.201, 0.014, 1.42),
    (64, 1, 0.5, 1.33, 0.771, 0.099, 15.7),
    (64, 5, 0.5, 1.09, 0.224, 0.042, 2.95),
    (64, 5, 2.0, 1.66, 0.712, 0.206, 31.8),
    (512, 1, 2.0, 1.78, 1.0, 0.111, 171),
    (512, 5, 2.0, 1.66, 0.651, 0.031, 31.7),
]


@pytest.mark.parametrize(("dim", "shot", "v", "b1", "b2_first", "b3", "published"), TABLE)
def test_bounds_of_isotropic_gaussians(dim, shot, v, b1, b2_first, b3, published):
    gap = torch.zeros(dim, dtype=torch.float64)
    gap[0] = 1.0
    noise = torch.full((2, dim), v / dim, dtype=torch.float64)
    found = bounds(PairMoments.of_gaussians(torch.stack([0 * gap, gap]), noise), shot)
    assert float(found["B1"]) == pytest.approx(b1, rel=0.01)
    assert float(found["B3"]) == pytest.approx(b3, rel=0.03)
    assert float(found["2026"]) == pytest.approx(published, rel=0.01)
    assert float(found["B2"]) <= b2_first + 5e-4
    assert gaussian_error(gap, *noise, shot) <= float(found["B3"])


@pytest.mark.parametrize(("dim", "shot"), [(1, 1), (2, 3), (6, 1), (20, 5)])
def test_gaussian_error_against_simulation(dim, shot):
    generator = torch.Generator().manual_seed(dim)
    draws = 200_000
    gap = torch.randn(dim, generator=generator, dtype=torch.float64)
    roots = [s * torch.randn(dim, dim, generator=generator, dtype=torch.float64) / dim**0.5 for s in (0.7, 0.4)]

    def sample(c, count):
        z = torch.randn(draws, count, dim, generator=generator, dtype=torch.float64)
        return z @ roots[c].T + (gap if c else 0 * gap)

    means = [sample(c, shot).mean(1) for c in range(2)]
    wrong = [
        (x - means[own]).square().sum(1) >= (x - means[1 - own]).square().sum(1)
        for own, x in ((c, sample(c, 1)[:, 0]) for c in range(2))
    ]
    simulated = torch.stack(wrong).double().mean()
    exact = gaussian_error(gap, *(r @ r.T for r in roots), shot)
    assert abs(float(simulated) - exact) < 4 * (exact * (1 - exact) / draws / 2) ** 0.5


def test_gaussian_error_of_special_cases():
    one = torch.tensor([1.0])
    # equal variances on a line, many shots: the midpoint is known, error = Phi(-d / (2 sigma))
    phi = (1 + math.erf(-1 / (2 * 0.3 * math.sqrt(2)))) / 2
    assert gaussian_error(one, one * 0.09, one * 0.09, 10**7) == pytest.approx(phi, rel=1e-5)
    # diagonal or full covariance, whichever basis
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()).Q
    gap, first, second = torch.tensor([1.0, 0.5, 0.2]), torch.tensor([0.2, 0.5, 0.1]), torch.tensor([0.1, 0.0, 0.4])
    turned = [rotation @ torch.diag(c.double()) @ rotation.T for c in (first, second)]
    plain = gaussian_error(gap, first, second, 2)
    assert gaussian_error(rotation @ gap.double(), *turned, 2) == pytest.approx(plain, rel=1e-8)
    # noise across the gap only, where exp(s d^2) does not die away on a straight contour: |b|^2 - |a|^2 - 2<xi, b - a>
    across = torch.tensor([0.0, 0.5])
    z = torch.randn(3, 10**6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.5**0.5
    simulated = float(((z[0] - z[1]).square() >= 1 + (z[0] - z[2]).square()).double().mean())
    assert gaussian_error(torch.tensor([1.0, 0.0]), across, across, 1) == pytest.approx(simulated, abs=2e-3)
    # far apart: small numbers keep their digits. Many shots, so Phi(-5 sqrt 2)
    tiny = gaussian_error(torch.tensor([1.0]), one * 0.005, one * 0.005, 10**9)
    assert tiny == pytest.approx(math.erfc(5.0) / 2, rel=1e-4)
    # noise in one class only
    assert gaussian_error(one, one * 0.0, one * 0.2, 1) > 0.0


def test_distribution_errors_by_hand_and_with_many_shots():
    distribution = distributions.two_point(0.2)
    # p = 0.2, n = 1, t just past (1 + 0.2 t) / 2: class 1 errs iff x = t, m_1 = 0; class 2 iff never (|1 - t| > 0)
    assert float(distributions.errors(distribution, 1)) == pytest.approx(0.2 * 0.8 / 2)
    simulated = fewshot.pair_errors(
        torch.cat([torch.zeros(80, 1), torch.full((20, 1), float(distribution.points[0, 0, 1])), torch.ones(100, 1)]),
        torch.arange(2).repeat_interleave(100),
        shot=3,
        draws=4000,
        replacement=True,
    )
    assert float(distributions.errors(distribution, 3)) == pytest.approx(float(simulated[0, 1]), abs=0.004)


def test_constant_four_is_reached():
    """A point that jumps just past the midpoint, many shots: Err / V -> 4 as V -> 0, so no smaller constant."""
    ratios = []
    for p, shot, beyond in ((0.1, 200, 0.1), (0.01, 2000, 0.01), (0.001, 20_000, 0.001)):
        distribution = distributions.two_point(p, beyond=beyond)
        ratios.append(float(distributions.errors(distribution, shot) / distribution.moments.cdnv[0, 0, 1]))
    assert ratios[0] < ratios[1] < ratios[2] < 4
    assert ratios[2] > 3.98


@pytest.mark.parametrize(("shot", "pool", "queries"), [(1, None, ""), (5, None, ""), (1, 2, "undrawn"), (2, 5, "all")])
def test_every_quadratic_is_a_certificate(shot, pool, queries, monkeypatch):
    """Q >= 0 and Q >= R: each is recomputed where it is made. So q >= 0, and q >= 1 wherever an error is made."""
    from ncbook.theory import quadratic

    kept, made = [], quadratic._least_Q
    monkeypatch.setattr(quadratic, "_least_Q", lambda R, root: kept.append((R, made(R, root))) or kept[-1][1])
    quadratic._parabolas.__wrapped__(float(shot), pool, queries)
    assert kept
    for R, Q in kept:
        size = Q.abs().amax((1, 2))
        assert bool((torch.linalg.eigvalsh(Q)[:, 0] >= -1e-9 * size).all())
        assert bool((torch.linalg.eigvalsh(Q - R)[:, 0] >= -1e-9 * size).all())
    # R is 1 + lambda F: at any query and shots, g = <xi, a - b>
    generator = torch.Generator().manual_seed(0)
    xi, a, b = torch.randn(3, 200, generator=generator, dtype=torch.float64)  # on a line, D = 1: mu_1 = 1, mu_2 = 0
    z = torch.stack([torch.ones_like(xi), xi, a, b, xi * (a - b)], -1)
    F = (xi - a).square() - (1 + xi - b).square()
    for theta in (0.0, 0.35, 1.0):
        R = quadratic._R(torch.tensor(0.7, dtype=torch.float64), theta)
        torch.testing.assert_close(((z @ R) * z).sum(1), 1 + 0.7 * F)


def test_quadratic_bound_in_known_cases():
    v = torch.tensor([0.01, 0.1, 1.0, 10.0], dtype=torch.float64)
    torch.testing.assert_close(theory.quadratic_bound(v, 10**8), theory.mean_mismatch_bound(v), rtol=1e-3, atol=0)
    assert bool((theory.quadratic_bound(v, 1) <= 6 * v / (1 + 3 * v)).all())
    assert theory.quadratic_bound(100.0, 1) == pytest.approx(1, abs=0.01)
    assert theory.quadratic_bound(0.0, 3) == pytest.approx(0, abs=1e-6)
    by_shot = [theory.quadratic_bound(0.2, n) for n in (1, 2, 3, 5, 10, 100)]
    assert by_shot == sorted(by_shot, reverse=True)
    matrix = torch.tensor([[torch.nan, 0.1], [0.1, torch.nan]])
    assert theory.quadratic_bound(matrix, 2).isnan().equal(matrix.isnan())
    # in a pool: not above B1's, and a pool without end is none
    for queries in ("undrawn", "all"):
        for m in (2, 3, 20):
            assert theory.quadratic_bound(0.1, 1, pool=m, queries=queries) <= theory.cdnv_bound(
                0.1, 1, pool=m, queries=queries
            ) * (1 + 1e-5)
    assert theory.quadratic_bound(0.1, 5, pool=10**9) == pytest.approx(theory.quadratic_bound(0.1, 5), rel=0.02)


def test_shared_point_distribution_is_the_worst_known_for_one_shot():
    distribution = distributions.shared_point(torch.linspace(0.01, 0.95, 40))
    v = distribution.moments.cdnv[:, 0, 1]
    torch.testing.assert_close(distributions.errors(distribution, 1), theory.mean_mismatch_bound(v))


def test_search_comes_near_the_bounds_and_never_above():
    for name, least, bound in (
        ("B1", 0.45, lambda m: theory.cdnv_bound(m.cdnv, 1)),
        ("B3", 0.9, lambda m: theory.directional_bound(m, shot=1)),
    ):
        found = distributions.search(bound, shot=1, dim=2, rounds=500, seed=1)
        ratio = found.error / found.level
        assert least < float(ratio.max()) <= 1 + 1e-9, name
    again = distributions.search(bound, shot=1, dim=2, rounds=500, seed=1)
    assert again.error.equal(found.error)
    torch.testing.assert_close(distributions.errors(found.distributions, 1), found.error)


def test_mean_mismatch_bound_holds_without_probability():
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(200):
        x = torch.randn(20, 2, generator=generator, dtype=torch.float64)
        x[10:] = 0.3 * x[10:] + torch.randn(2, generator=generator, dtype=torch.float64)
        y = torch.arange(2).repeat_interleave(10)
        means = torch.stack([x[:10].mean(0), x[10:].mean(0)])
        nearer = torch.cdist(x, means)
        wrong = nearer.gather(1, y[:, None])[:, 0] >= nearer.gather(1, 1 - y[:, None])[:, 0]
        mismatch = float(wrong.double().mean())
        assert mismatch <= theory.mean_mismatch_bound(float(collapse.cdnv(x, y))) + 1e-12
        directional = collapse.directional_cdnv_matrix(x, y)
        for c in range(2):
            bound = theory.mean_mismatch_bound(float(directional[c, 1 - c]))
            fraction = float(wrong[y == c].double().mean())
            assert fraction <= bound + 1e-12
            worst = max(worst, fraction / bound)
    assert worst > 0.5
    # attained: a sample exactly on the midpoint, the rest where Cantelli wants them
    x = torch.tensor([[0.0]] * 99 + [[1.0]] + [[1.99]] * 100, dtype=torch.float64)  # means 0.01 and 1.99, midpoint 1
    y = torch.arange(2).repeat_interleave(100)
    v = float(collapse.directional_cdnv_matrix(x, y)[0, 1])
    assert theory.mean_mismatch_bound(v) == pytest.approx(0.01)


@pytest.mark.parametrize(("pool", "shot"), [(3, 1), (4, 2), (4, 3)])
@pytest.mark.parametrize("queries", ["undrawn", "all"])
def test_cdnv_bound_of_finite_pools(pool, shot, queries):
    """Shots without replacement, by listing every choice; the second moments are those of the proof, exactly."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        classes = [rng.standard_normal((pool, 2)), rng.standard_normal((pool, 2)) * 0.7 + rng.standard_normal(2) * 2]
        x, y = torch.tensor(np.concatenate(classes)), torch.arange(2).repeat_interleave(pool)
        v, errors, moment = float(collapse.cdnv(x, y)), [], []
        d2 = ((classes[0].mean(0) - classes[1].mean(0)) ** 2).sum()
        for own, rival in (classes, classes[::-1]):
            for a in itertools.combinations(range(pool), shot):
                rest = [i for i in range(pool) if i not in a] if queries == "undrawn" else range(pool)
                for b in itertools.combinations(range(pool), shot):
                    for i in rest:
                        to_own, to_rival = own[i] - own[list(a)].mean(0), own[i] - rival[list(b)].mean(0)
                        errors.append((to_own**2).sum() >= (to_rival**2).sum())
                        noise = to_rival - own.mean(0) + rival.mean(0)
                        moment.append(((to_own**2).sum() + (noise**2).sum()) / d2)
        c = 1 + (pool if queries == "undrawn" else pool - shot) / (shot * (pool - 1))
        assert np.mean(moment) == pytest.approx(2 * c * v)  # (S_1 + S_2) / 2
        bound = theory.cdnv_bound(v, shot, pool=pool, queries=queries)
        assert bound == pytest.approx(4 * c * v / (1 + 2 * c * v))
        assert np.mean(errors) <= bound
        assert np.mean(errors) <= theory.quadratic_bound(v, shot, pool=pool, queries=queries) + 1e-12


def test_spread_bound_needs_spread_not_dimension():
    """Noise in one direction breaks the spherical form with p dimensions, and obeys it with its effective rank, 1."""
    p, shot = 512, 100
    gap = torch.zeros(p, dtype=torch.float64)
    gap[0] = 1.0
    spread, flat = torch.full((p,), 0.3 / p, dtype=torch.float64), torch.zeros(p, dtype=torch.float64)
    flat[0] = 0.3
    v = 0.3
    assert gaussian_error(gap, spread, spread, shot) <= theory.spread_bound(v, shot, p)
    error = gaussian_error(gap, flat, flat, shot)
    assert error > 3 * theory.spread_bound(v, shot, p)
    assert error <= theory.spread_bound(v, shot, 1)


def test_spread_bound_follows_from_the_second_moment_bound():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 12, generator=generator, dtype=torch.float64)
    y = torch.arange(3).repeat_interleave(20)
    x += 4 * torch.randn(3, 12, generator=generator, dtype=torch.float64)[y]
    rank = float(theory.effective_rank(x, y).min())
    for shot in (1, 5, 100):
        tighter = theory.second_moment_bound(x, y, shot=shot)
        spread = theory.spread_bound(theory.PairMoments.of_features(x, y).cdnv, shot, rank)
        off = ~torch.eye(3, dtype=torch.bool)
        assert bool((tighter[off] <= spread[off]).all())


def test_rank_bound_is_the_decks_form_with_the_smallest_constant():
    """Between what B2 gives for the worst covariances of rank r and 4(1/r + 1/n)V, which a jump attains."""
    generator = torch.Generator().manual_seed(0)
    v = (4 * torch.randn(20_000, 2, generator=generator, dtype=torch.float64)).exp()  # of both classes, d = 1
    rank, shot = (1 + (3 * torch.randn(2, 20_000, generator=generator, dtype=torch.float64)).exp()).unbind()
    total = v.sum(1)
    least = torch.zeros_like(total)
    for own, rival in (v.unbind(1), v.flip(1).unbind(1)):
        w, rho = 4 * (own + (rival + own * total) / shot) / rank, own / shot
        least += torch.where(rho < 1, 1 - (1 - rho).square() / (1 + w), 1.0) / 2
    rows = list(zip(v.mean(1), shot.tolist(), rank.tolist(), strict=True))
    bound = torch.stack([theory.rank_bound(c, n, r) for c, n, r in rows])
    assert bool((least <= bound * (1 + 1e-12)).all()) and float((least / bound).max()) > 0.99
    deck = (1 / rank + 1 / shot) * v.mean(1)
    assert bool((bound[rank >= 2] <= 4 * deck[rank >= 2] * (1 + 1e-12)).all())
    # class 2 a point, class 1 jumps just past the midpoint with probability p: r p / 8 is V, p / 2 the error
    assert theory.rank_bound(3.0 * 1e-6 / 8, 10**9, 3.0) == pytest.approx(1e-6 / 2)
    assert bool((bound <= torch.stack([theory.spread_bound(c, n, r) for c, n, r in rows])).all())


def test_published_bound_of_2025_holds_where_it_is_stated():
    generator = torch.Generator().manual_seed(0)
    batch = distributions.random_distributions(2000, 2, 1, generator=generator)
    moments = batch.moments
    for shot in (1, 5):
        d2 = moments.squared_distance
        one_sided = moments.variance[:, :, None] / d2
        off = ~torch.eye(2, dtype=torch.bool)
        v, directional, root = (q[:, off].mean(1) for q in (one_sided, moments.along / d2**2, one_sided.sqrt()))
        bound = theory.published_bound_2025(v, directional, root, shot=shot, a=16)
        assert bool((distributions.errors(batch, shot) <= bound + 1e-12).all())


def test_k_way_error_stays_below_the_union_bound():
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(8).repeat_interleave(60)
    x = torch.randn(8, 5, generator=generator)[y] + 0.8 * torch.randn(480, 5, generator=generator)
    result = fewshot.evaluate(x, y, way=5, shot=1, query=10, episodes=4000, head="ncc")
    bound = float(theory.multiclass_bound(fewshot.pair_errors(x, y, shot=1, draws=200)) / 7 * 4)
    assert 1 - result.accuracy <= bound + result.ci95


def test_left_over_error_needs_the_factor():
    """Without replacement the error over the left-over samples exceeds that over all m, by at most m / (m - n)."""
    generator = torch.Generator().manual_seed(2)
    y = torch.arange(2).repeat_interleave(6)
    x = torch.randn(12, 3, generator=generator) + 0.5 * y[:, None]
    left = fewshot.pair_errors(x, y, shot=2, draws=3000)[0, 1]
    over_all = fewshot.pair_errors(x, y, shot=2, draws=3000, queries="all")[0, 1]
    assert over_all < left <= over_all * theory.without_replacement_factor(6, 2) + 1e-9


@pytest.mark.parametrize("way", [2, 5, 20])
def test_k_way_error_of_many_classes(way):
    """k up to 20, k-way tasks on the same pool; the mean over tasks of (k - 1) x mean pair error is that over all."""
    generator = torch.Generator().manual_seed(way)
    y = torch.arange(20).repeat_interleave(30)
    x = torch.randn(20, 8, generator=generator)[y] + 0.5 * torch.randn(600, 8, generator=generator)
    result = fewshot.evaluate(x, y, way=way, shot=2, query=5, episodes=3000, head="ncc")
    pairs, half = fewshot.pair_errors(x, y, shot=2, draws=200, intervals=True)
    off = ~torch.eye(20, dtype=torch.bool)
    bound = (way - 1) * float(pairs[off].mean())
    assert 1 - result.accuracy <= bound + result.ci95 + (way - 1) * float(half[off].mean())
    if way == 2:  # the same thing, but for the sampling
        assert 1 - result.accuracy == pytest.approx(bound, abs=4 * result.ci95)


def test_iid_shots_need_the_larger_factor():
    """E over samples S of the error on S, shots drawn with replacement, at least the population's over the factor."""
    weights = torch.tensor([[0.7, 0.3], [0.5, 0.5]], dtype=torch.float64)
    points = torch.tensor([[[0.0], [1.2]], [[1.0], [2.5]]], dtype=torch.float64)
    m, tightest = 4, 0.0
    for shot in (1, 2, 3):
        population = float(distributions.errors(distributions.Distributions(points[None], weights[None]), shot))
        counts = torch.arange(m + 1, dtype=torch.float64)
        seen, chance = [], []
        for i, j in itertools.product(range(m + 1), repeat=2):
            shares = torch.stack([torch.stack([counts[c], m - counts[c]]) / m for c in (i, j)])
            seen.append(shares)
            chance.append(
                math.prod(
                    math.comb(m, c) * float(weights[k, 0]) ** c * float(weights[k, 1]) ** (m - c)
                    for k, c in enumerate((i, j))
                )
            )
        on_samples = distributions.errors(
            distributions.Distributions(points.expand(len(seen), -1, -1, -1), torch.stack(seen)), shot
        )
        mean = float((on_samples * torch.tensor(chance, dtype=torch.float64)).sum())
        assert population <= mean * theory.iid_shots_factor(m, shot) + 1e-12
        tightest = max(tightest, population / mean)
        assert theory.iid_shots_factor(m, shot) >= theory.without_replacement_factor(m, shot) - 1e-12
    assert tightest > 1, "then no factor would be needed at all"


def test_new_classes_interval_covers():
    """Classes on a line; phi(i, j) = 1 where they are nearer than one: its mean over all pairs is known."""
    generator = torch.Generator().manual_seed(0)
    centers = 3 * torch.rand(4000, 16, generator=generator, dtype=torch.float64)  # 4,000 trials of 16 classes
    near = ((centers[:, :, None] - centers[:, None]).abs() < 1).double()
    average = (near.sum((1, 2)) - 16) / (16 * 15)
    expected = 1 - (2 / 3) ** 2  # P[|U - U'| < 1] on [0, 3]
    for confidence in (0.5, 0.95):
        missed = ((average - expected).abs() > theory.new_classes_half_width(16, confidence=confidence)).double().mean()
        assert float(missed) <= 1 - confidence


def test_combined_bound_is_a_number_times_what_is_unknown():
    v = torch.tensor([[torch.nan, 0.01, 0.03], [0.01, torch.nan, 0.02], [0.03, 0.02, torch.nan]])
    call = dict(shot=5, way=5, samples=500, n_classes=64, depth=28, min_distance=2.0)
    bound = theory.combined_bound(v, **call)
    assert bound.leading == pytest.approx(4 * 500 / 495 * 1.2 * 0.02)
    assert bound.class_term == pytest.approx(4 * math.sqrt(28 * math.log(64)) / (8 * 2))
    assert bound.sample_term == pytest.approx(5 * math.sqrt(28) / (math.sqrt(500) * 2))
    assert bound.later_leading == pytest.approx(5 * 0.02)
    assert bound.later_term == pytest.approx(5 * (25 / math.sqrt(500) + 1 / 8) / 2)
    assert bound.proved < 4 * bound.leading


def test_combined_bound_prints_both_versions_and_what_is_unknown():
    v = torch.tensor([[torch.nan, 0.02], [0.02, torch.nan]])
    bound = theory.combined_bound(v, shot=5, way=5, samples=500, n_classes=64, depth=28, min_distance=2.0)
    slides, later, rest = str(bound).splitlines()
    assert slides.startswith("slides:") and all(f"c{i} *" in slides for i in (1, 2, 3))
    assert later.startswith("later page:") and "c4 * 0.1 " in later and "c5 * C(f) * 3.11" in later
    assert "unknown" in rest and any("n^2" in words for words in bound.unknown)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: theory.cdnv_bound(-0.1, 1), "cdnv"),
        (lambda: theory.cdnv_bound(0.1, 0), "shot=0"),
        (lambda: theory.spread_bound(0.1, 1, 0.5), "rank=0.5"),
        (lambda: theory.directional_bound(torch.randn(4, 2), torch.tensor([0, 0, 1, 1]), 0), "shot=0"),
        (
            lambda: theory.directional_bound(torch.randn(4, 2), torch.tensor([0, 0, 1, 1])),
            "shot=None; allowed: a finite number of at least 1",
        ),
        (lambda: theory.second_moment_bound(torch.randn(4, 2), shot=1), "labels=None beside features"),
        (lambda: theory.published_bound_2025(0.1, 0.1, 0.1, shot=1, a=8), "above 9.657"),
        (lambda: theory.cdnv_bound(0.1, 5, pool=5), "more samples than shots"),
        (lambda: theory.cdnv_bound(0.1, 5, pool=6, queries="some"), "queries='some' is unknown; allowed: undrawn, all"),
        (lambda: theory.mean_mismatch_bound(-1.0), "cdnv=-1.0"),
        (lambda: theory.sharp_bound(-0.1, 1), "cdnv=-0.1"),
        (lambda: theory.leave_one_out_bound(torch.tensor([0.1, -0.5]), 1), "cdnv=-0.5"),
        (lambda: theory.one_shot_bound(0.1, 2), "shot=2; allowed: a whole number of at least 1 and at most 1"),
        (lambda: theory.fixed_center_bound(-0.5), "ratio=-0.5"),
        (lambda: theory.best_bound(-0.1, 1), "cdnv=-0.1"),
        (lambda: distributions.search(lambda m: m.cdnv, shot=1, points=1), "points=1; allowed: .* at least 2"),
        (lambda: theory.new_classes_half_width(1), "n_classes=1"),
        (lambda: theory.new_classes_half_width(8, confidence=1.0), "confidence=1.0"),
        (lambda: gaussian_error(torch.ones(2), torch.ones(3), torch.ones(2), 1), r"first has shape \[3\]"),
        (lambda: gaussian_error(torch.ones(2), torch.zeros(2), torch.zeros(2), 1), "no noise|noise in at least"),
        (lambda: gaussian_error(torch.ones(2), torch.tensor([1.0, -1.0]), torch.ones(2), 1), "smallest eigenvalue"),
        (lambda: distributions.two_point(1.5), "jump=1.5"),
        (
            lambda: distributions.errors(distributions.random_distributions(1, 6, 1, generator=torch.Generator()), 40),
            "placements",
        ),
        (lambda: theory.multiclass_bound(torch.zeros(3, 2)), r"pair_errors.*\[3, 2\]"),
        (lambda: theory.without_replacement_factor(5, 5), "more samples than shots"),
    ],
)
def test_refuses(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_keeps_the_diagonal_and_gradients():
    v = torch.tensor([[torch.nan, 0.1], [0.1, torch.nan]], requires_grad=True)
    bound = theory.cdnv_bound(v, 5)
    assert bound.isnan().equal(torch.eye(2, dtype=torch.bool))
    bound[0, 1].backward()
    assert v.grad[0, 1] > 0


def test_an_infinite_cdnv_gives_the_limit_of_every_bound():
    """The worst pairs must not vanish from means: NaN comes from NaN only."""
    endless, large = math.inf, 1e15
    functions = [
        (lambda v: theory.cdnv_bound(v, 5), 2.0),
        (lambda v: theory.cdnv_bound(v, 2, pool=7), 2.0),
        (theory.mean_mismatch_bound, 1.0),
        (lambda v: theory.sharp_bound(v, 5), math.inf),
        (lambda v: theory.leave_one_out_bound(v, 5), 1 + 5 / 49),
        (theory.one_shot_bound, 1.0),
        (theory.fixed_center_bound, 2.0),
        (lambda v: theory.best_bound(v, 1), 1.0),
        (lambda v: theory.best_bound(v, 5), 1.0),
        (lambda v: theory.quadratic_bound(v, 1), 1.0),
        (lambda v: theory.quadratic_bound(v, 5), 1.0),
        (lambda v: theory.spread_bound(v, 5, 3.0), math.inf),
        (lambda v: theory.spread_bound(v, 5, math.inf), math.inf),
        (lambda v: theory.rank_bound(v, 5, math.inf), math.inf),
        (lambda v: theory.published_bound_2025(v, v, v, shot=5), math.inf),
    ]
    for bound, limit in functions:
        assert bound(endless) == limit
        assert limit == math.inf or bound(large) == pytest.approx(limit, rel=1e-9)
        row = torch.tensor([0.0, 0.1, endless, torch.nan], dtype=torch.float64)
        strided = torch.stack([row, row], 1)[:, 0].requires_grad_()  # not contiguous
        values = bound(strided)
        assert values.dtype == torch.float64 and values[2] == limit and values.isnan().tolist() == [False] * 3 + [True]
        assert float(values[1].detach()) == pytest.approx(bound(0.1), rel=1e-9)
        (slope,) = torch.autograd.grad(values[1], strided)
        assert slope[1] > 0 and slope[[0, 2, 3]].nan_to_num(0.0).eq(0).all()
    pairs = torch.tensor([[torch.nan, endless], [endless, torch.nan]])
    combined = theory.combined_bound(pairs, shot=1, way=2, samples=9, n_classes=2, depth=4, min_distance=1.0)
    assert combined.leading == math.inf and combined.proved == pytest.approx(1.0)


def test_classes_with_equal_means_have_vacuous_bounds_not_nan():
    mean = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 1.0]], dtype=torch.float64)
    moments = PairMoments.of_gaussians(mean, torch.tensor([[1.0, 0.5], [0.0, 0.0], [0.2, 0.3]]))
    points = PairMoments.of_points(mean[None, :, None].expand(1, 3, 2, 2), torch.full((1, 3, 2), 0.5))
    for of in (moments, points):
        assert bool((of.cdnv[..., 0, 1] == math.inf).all())
        for bound in (theory.second_moment_bound, theory.directional_bound, theory.directional_quadratic_bound):
            found = bound(of, shot=2)
            assert bool((found[..., 0, 1] == 1).all()), bound.__name__
            assert bool((found[..., 0, 2] < 1).all() and (found.isnan().sum((-1, -2)) == 3).all()), bound.__name__
        assert bool((theory.published_bound_2026(of, shot=2)[..., 0, 1] == math.inf).all())


@pytest.mark.parametrize("exponent", [-300, -60, 60, 300])
def test_the_scale_of_features_changes_no_bound(exponent):
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(3).repeat(4)
    x += y[:, None]
    scale = 2.0**exponent
    eye = torch.eye(3, dtype=torch.float64)
    made = {
        "features": lambda s: PairMoments.of_features(s * x, y),
        "Gaussians": lambda s: PairMoments.of_gaussians(s * x[:3], (s * s * eye).expand(3, 3, 3)),
        "points": lambda s: PairMoments.of_points(s * x.view(3, 4, 3), torch.full((3, 4), 0.25)),
    }
    for moments in made.values():
        for bound in (theory.directional_bound, theory.second_moment_bound, theory.directional_quadratic_bound):
            plain = bound(moments(1.0), shot=2)
            torch.testing.assert_close(bound(moments(scale), shot=2), plain, rtol=1e-12, atol=0, equal_nan=True)
            assert not plain[~eye.bool()].isnan().any()


def test_numbers_at_the_end_of_their_range():
    one = torch.ones(2, dtype=torch.float64)
    assert theory.gaussian_error(one, one, one, 2.0**60) == theory.gaussian_error(one, one, one, 1e12)
    assert theory.quadratic_bound(2**70, 3) == pytest.approx(1)
    assert theory.cdnv_bound(2**64, torch.tensor(1)) == pytest.approx(2)  # torch has no whole number that large
    assert theory.without_replacement_factor(2**64, torch.tensor(1)) == 1
    points = torch.zeros(1, 2, 2, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="shot"):
        theory.distributions.errors(theory.distributions.Distributions(points, torch.full((1, 2, 2), 0.5)), shot=2**64)
    with pytest.raises(ValueError, match=r"shot=tensor\(\[1, 2\]\); allowed: a finite number of at least 1"):
        theory.cdnv_bound(0.1, torch.tensor([1, 2]))


def test_quadratic_bound_is_never_above_the_first_one_not_even_by_rounding():
    v = torch.logspace(-12, 3, 2000, dtype=torch.float64)
    for shot in (1, 2, 3, 100):
        assert (theory.quadratic_bound(v, shot) <= theory.cdnv_bound(v, shot)).all()
    assert theory.quadratic_bound(0.0, 2) == 0


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 0, -1, "5", None, True])
def test_shots_that_are_none(wrong):
    one = torch.ones(1)
    x, y = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 1, 1])
    for call in (
        lambda: theory.cdnv_bound(0.1, wrong),
        lambda: theory.quadratic_bound(0.1, wrong),
        lambda: theory.sharp_bound(0.1, wrong),
        lambda: theory.leave_one_out_bound(0.1, wrong),
        lambda: theory.one_shot_bound(0.1, wrong),
        lambda: theory.best_bound(0.1, wrong),
        lambda: theory.spread_bound(0.1, wrong, 2),
        lambda: theory.directional_bound(x, y, wrong),
        lambda: theory.second_moment_bound(x, y, shot=wrong),
        lambda: theory.published_bound_2025(0.1, 0.1, 0.1, shot=wrong),
        lambda: theory.published_bound_2026(x, y, shot=wrong),
        lambda: gaussian_error(one, one, one, wrong),
        lambda: theory.without_replacement_factor(5, wrong),
        lambda: theory.iid_shots_factor(5, wrong),
    ):
        with pytest.raises((TypeError, ValueError), match="shot=.*; allowed:|shot=.* is of type .*; allowed:"):
            call()


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused(broken):
    one, two = torch.ones(1), torch.ones(2)
    for name, call in {
        "gap": lambda: gaussian_error(one * broken, one, one, 1),
        "first": lambda: gaussian_error(two, torch.tensor([broken, 1.0]), two, 1),
        "second": lambda: gaussian_error(two, two, torch.eye(2) * broken, 1),
        "samples": lambda: theory.without_replacement_factor(broken, 1),
        "pool": lambda: theory.cdnv_bound(0.1, 1, pool=broken),
        "a=": lambda: theory.published_bound_2025(0.1, 0.1, 0.1, shot=1, a=broken),
        "confidence": lambda: theory.new_classes_half_width(9, confidence=broken),
        "min_distance": lambda: theory.combined_bound(
            torch.eye(2), shot=1, way=2, samples=9, n_classes=2, depth=4, min_distance=broken
        ),
    }.items():
        with pytest.raises(ValueError, match=f"{name}.*allowed:"):
            call()
    with pytest.raises(ValueError, match="pair_errors=nan; allowed"):
        theory.multiclass_bound(torch.full((3, 3), math.nan))


def test_the_constant_is_four_values_in_closed_form():
    v = 0.1
    assert [round(theory.best_bound(v, n), 3) for n in (1, 2, 5, 20)] == [0.346, 0.351, 0.313, 0.293]
    assert [round(theory.quadratic_bound(v, n), 3) for n in (1, 2, 5, 20)] == [0.462, 0.415, 0.341, 0.300]
    assert [round(constant.second_order(n), 4) for n in (1, 4, 7, 8)] == [5, 7.53, 7.4406, 7.3102]
    assert theory.sharp_bound(v, 1) == pytest.approx((0.4 + 2 * 5 * 0.01) / 1.4)
    assert theory.leave_one_out_bound(v, 1) == pytest.approx(6 * v / (1 + 3 * v))
    assert theory.leave_one_out_bound(v, 10**9) == pytest.approx(theory.mean_mismatch_bound(v))
    for v in (0.05, 0.3, 0.5, 0.9, 2.0):  # the best z by trying many
        z = torch.linspace(3, 5000, 200_001, dtype=torch.float64)
        tried = float((z**2 * v / ((z - 1) * (1 + z * v))).min())
        assert theory.one_shot_bound(v) <= tried + 1e-12 and theory.one_shot_bound(v) == pytest.approx(tried, abs=1e-3)


@pytest.mark.parametrize("shot", [1, 2, 3, 5, 7, 8, 1000, 10**12])
def test_below_4v_for_every_number_of_shots(shot):
    assert constant.second_order(shot) < 8
    v = torch.logspace(-9, 6, 3001, dtype=torch.float64)
    best = theory.best_bound(v, shot)
    assert (theory.sharp_bound(v, shot) < 4 * v).all() and (best < 4 * v).all() and (best <= 1).all()
    for bound in (theory.sharp_bound, theory.leave_one_out_bound, theory.best_bound):
        assert (bound(v, shot).diff() >= -1e-15).all()
    assert (best >= theory.mean_mismatch_bound(v) - 1e-15).all(), "attained at n = 1: too good to be true"


@pytest.mark.parametrize("shot", [1, 2, 5])
def test_no_constant_below_four_serves_any_number_of_shots(shot):
    pair = distributions.two_point([1e-2, 1e-3, 1e-4, 1e-5])
    v, error = pair.moments.cdnv[:, 0, 1], distributions.errors(pair, shot)
    assert (error <= theory.best_bound(v, shot) + 1e-15).all()
    torch.testing.assert_close(error / (4 * v), 1 - shot * pair.weights[:, 0, 1], rtol=0, atol=0.03)
    assert 0.9999 < float(error[-1] / (4 * v[-1])) < 1 and float(error[-1] / theory.sharp_bound(v[-1], shot)) > 0.9999


@pytest.mark.parametrize("shot", [1, 2, 3])
def test_a_search_for_the_worst_distributions_stays_below_the_best_bound(shot):
    found = distributions.search(lambda m: m.cdnv, shot=shot, points=3, dim=2, rounds=60, seed=shot)
    ratio = found.error / theory.best_bound(found.level, shot)
    assert 0.9 < float(ratio.max()) <= 1 + 1e-12, "the search is too weak to say anything" if ratio.max() < 1 else ratio


@pytest.mark.parametrize("shot", [1, 2, 5])
def test_a_fixed_rival_center(shot):
    """Class 2 is a point that no mean of class 1 hits: its own error is 0."""
    batch = distributions.random_distributions(1000, 3, 2, generator=torch.Generator().manual_seed(shot))
    fixed = distributions.Distributions(batch.points.clone(), batch.weights)
    fixed.points[:, 1] = fixed.points[:, 1, :1]
    moments = fixed.moments
    bound = theory.fixed_center_bound(moments.variance[:, 0] / moments.squared_distance[:, 0, 1])
    one_sided = 2 * distributions.errors(fixed, shot)
    assert (one_sided <= bound + 1e-12).all() and (one_sided > 0.5 * bound).any()


def test_whole_numbers_as_cdnv_give_no_truncated_bound():
    for bound in (theory.quadratic_bound, theory.best_bound, theory.leave_one_out_bound):
        assert float(bound(torch.tensor([1]), 1)) == pytest.approx(bound(1.0, 1), rel=1e-6)
    assert theory.best_bound(torch.tensor([0.1], dtype=torch.float16), 1).dtype == torch.float16


def test_shots_of_the_constant_are_whole():
    for bound in (theory.sharp_bound, theory.leave_one_out_bound, theory.one_shot_bound, theory.best_bound):
        with pytest.raises(TypeError, match="shot=1.5 is of type float; allowed: a whole number"):
            bound(0.1, 1.5)
        assert bound(0.1, torch.tensor(1)) == bound(0.1, 1) and bound(2**70, torch.tensor(1)) >= 1
        for wrong in (torch.tensor(1.5), torch.tensor([1, 2])):
            with pytest.raises(TypeError, match="shot=.* is of type .*; allowed: a whole number"):
                bound(0.1, wrong)


@pytest.fixture(scope="module")
def branch_and_bound(root):
    spec = importlib.util.spec_from_file_location(
        "branch_and_bound", root / "notebooks" / "appendix" / "branch_and_bound.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_computed_part_of_the_proof_with_one_shot(branch_and_bound):
    for row in branch_and_bound.ROWS:
        assert branch_and_bound.one_shot(row, constant.coefficients(1)).proved
        assert not branch_and_bound.one_shot(row, (0, 0, 0, 0)).proved, "L alone is not enough"


@pytest.mark.parametrize("shot", range(2, 8))
def test_the_computed_part_of_the_proof_with_several_shots(branch_and_bound, shot):
    assert branch_and_bound.several_shots(shot, constant.coefficients(shot)).proved


def test_the_computed_part_of_the_proof_with_many_shots(branch_and_bound):
    assert branch_and_bound.several_shots(8, constant.coefficients(8), or_more=True).proved
    assert branch_and_bound.small_variances().proved


def test_what_is_not_true_is_not_proved(branch_and_bound):
    """Controls: half the coefficients, or none, do not pass; nor a statement that is wrong at one point."""
    assert not branch_and_bound.several_shots(2, (4, 4, 8, 0)).proved
    assert not branch_and_bound.several_shots(5, (0, 0, 0, 0)).proved
    assert not branch_and_bound.several_shots(8, (0, 0, 0, 0), or_more=True).proved
    assert branch_and_bound.settle([0], [1], lambda low, high: low[:, 0] * 0 + 1e-300).proved
    assert not branch_and_bound.settle([0], [1], lambda low, high: np.maximum(1 / 3 - high, low - 1 / 3)[:, 0]).proved


def test_intervals_hold_the_exact_values(branch_and_bound):
    rng = np.random.default_rng(0)
    x, y = rng.random(2000) * 10.0 ** rng.integers(-9, 9, 2000), rng.random(2000)
    a, b = branch_and_bound.Interval(x), branch_and_bound.Interval(y)
    found = {"sum": a + b, "difference": a - b, "product": a * b, "quotient": a / b}
    for i in range(2000):
        p, q = Fraction(x[i]), Fraction(y[i])
        exact = {"sum": p + q, "difference": max(p - q, Fraction(0)), "product": p * q, "quotient": p / q}
        for name, value in exact.items():
            low, high = float(found[name].low[i]), float(found[name].high[i])
            assert Fraction(low) <= value <= Fraction(high), name
            assert high - low <= 2**-50 * high + 1e-15, "no wider than rounding asks for"
        low, high = (Fraction(float(end)) for end in (a.root().low[i], a.root().high[i]))
        assert low**2 <= p <= high**2
    by_zero = branch_and_bound.Interval(np.ones(1)) / branch_and_bound.Interval(np.zeros(1), np.ones(1))
    assert by_zero.high[0] == np.inf and by_zero.low[0] <= 1


def test_theta_is_the_largest_value_of_its_cubic_in_exact_arithmetic():
    """theta_n = max over d in [0, 1] of d (C0 d^2 + X s d + Y s^2), s = (1 - d) / 2, is attained at d = 1."""
    for n in range(1, 8):
        c1, c2, c3, c4 = (Fraction(c) for c in constant.coefficients(n))
        m = Fraction(1, n + 1)
        e = 2 - m
        C0 = max((c1 * e**2 + 2 * c2 * e * m + c3 * m**2) / 4 + c4 * m / n, 2 * c4 * m / n)
        X, Y = c2 * e + (c3 + 4 * c4) * m, c3 + 2 * c4
        assert constant.second_order(n) == pytest.approx(float(C0), rel=1e-15) and C0 < 8
        linear, square = C0 - Y / 4, C0 - X / 2 + Y / 4  # C0 - f(d) = (1 - d)(C0 + linear d + square d^2)
        at = min(max(-linear / (2 * square), Fraction(0)), Fraction(1)) if square > 0 else Fraction(1)
        assert C0 + linear * at + square * at**2 > 0


def test_the_bound_of_2025_by_hand():
    bracket = 0.5 - 0.125 - 2 * 2**0.5 / 64  # a = 16, four shots
    assert theory.published_bound_2025(0.0, 0.01, 0.0, shot=4, a=16) == pytest.approx(0.01 / bracket**2)


@pytest.mark.parametrize("bound", [theory.spread_bound, theory.rank_bound])
def test_ranks_of_pairs_count_one_by_one(bound):
    ranks = torch.tensor([[1.0, 4.0], [1 - 1e-10, math.inf]], dtype=torch.float64)
    found = bound(0.1, 5, ranks)
    assert found[0].tolist() == pytest.approx([bound(0.1, 5, 1.0), bound(0.1, 5, 4.0)])
    assert found[1].tolist() == pytest.approx([bound(0.1, 5, 1.0), bound(0.1, 5, math.inf)])
    assert bound(0.1, 5, 1.0) > bound(0.1, 5, 4.0) > bound(0.1, 5, math.inf)


def test_means_that_coincide_are_refused_by_name():
    v = torch.full((3, 3), 0.1)
    with pytest.raises(ValueError, match=r"min_distance=0\.0; allowed: a finite number above 0"):
        theory.combined_bound(v, shot=5, way=2, samples=50, n_classes=3, depth=4, min_distance=0.0)


def test_a_pool_that_is_too_small_is_named():
    with pytest.raises(ValueError, match=r"samples=5 with shot=5"):
        theory.iid_shots_factor(5, 5)


def test_a_covariance_that_is_not_symmetric_is_refused():
    lopsided = torch.tensor([[1.0, 0.5], [0.3, 1.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="not symmetric"):
        theory.gaussian_error(torch.tensor([1.0, 0.0]), lopsided, torch.eye(2), shot=1)
