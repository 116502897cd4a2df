import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ncbook import collapse, fewshot, theory


def enumerate_margins(first, second, shot):
    """Exact law of Z = |x - m2|^2 - |x - m1|^2: x of class 1, `shot` i.i.d. shots of each class."""
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


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), shot=st.sampled_from([1, 2]), gap=st.floats(0.2, 6))
def test_no_law_exceeds_its_bounds(seed, shot, gap):
    first, second, x, y = two_classes(seed, gap=gap)
    errors = [(enumerate_margins(a, b, shot) <= 0).mean() for a, b in ((first, second), (second, first))]
    error = np.mean(errors)
    v = float(collapse.cdnv(x, y))
    assert error <= theory.cdnv_bound(v, shot) + 1e-12
    assert error <= float(theory.directional_bound(x, y, shot)[0, 1]) + 1e-12


def test_constant_four_is_reached():
    """A two-point law that jumps just past the midpoint, many shots: err / V -> 4 as V -> 0."""
    ratios = []
    for p in (0.1, 0.01, 0.001):
        # class 1 at 0 (probability 1-p) or at t, class 2 at 1; its mean is p t, the midpoint (1 + p t) / 2
        t = (1 + 1e-9) / (2 - p)  # just past the midpoint
        v = p * (1 - p) * t**2 / (2 * (1 - p * t) ** 2)
        ratios.append(p / 2 / v)
    assert ratios[0] < ratios[1] < ratios[2] < 4
    assert ratios[2] > 3.98


def test_spread_bound_needs_spread_not_dimension():
    """Isotropic noise obeys it with rank p; noise in one direction breaks it with p and obeys it with rank 1."""
    p, n, m = 64, 20, 4000
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(2).repeat_interleave(m)
    centre = torch.zeros(2 * m, p)
    centre[m:, 0] = 1.0
    flat = centre.clone()
    flat[:, 0] += 0.6 * torch.randn(2 * m, generator=generator)
    round_ = centre + 0.6 / p**0.5 * torch.randn(2 * m, p, generator=generator)
    error = {name: float(fewshot.pair_errors(x, y, shot=n, draws=20)[0, 1]) for name, x in
             [("flat", flat), ("round", round_)]}  # fmt: skip
    v = {"flat": float(collapse.cdnv(flat, y)), "round": float(collapse.cdnv(round_, y))}
    assert error["round"] <= theory.spread_bound(v["round"], n, p)
    assert error["flat"] > theory.spread_bound(v["flat"], n, p)
    assert error["flat"] <= theory.spread_bound(v["flat"], n, 1)


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


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: theory.cdnv_bound(-0.1, 1), "cdnv"),
        (lambda: theory.cdnv_bound(0.1, 0), "shot=0"),
        (lambda: theory.spread_bound(0.1, 1, 0.5), "rank=0.5"),
        (lambda: theory.directional_bound(torch.randn(4, 2), torch.tensor([0, 0, 1, 1]), 0), "shot=0"),
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
