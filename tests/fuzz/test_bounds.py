"""`theory`: no exact error above a bound, bounds in their range and monotone, bad numbers refused."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from inputs import anything, classes, right_or_refused

from ncbook import collapse, theory
from ncbook.theory import PairMoments, distributions

cdnvs = st.one_of(st.floats(0, 1e300), st.floats(0, 3), st.sampled_from([0.0, 5e-324, math.inf]))
shots = st.one_of(st.integers(1, 40), st.integers(1, 10**9))


@given(
    st.integers(0, 2**31),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.floats(0.01, 1),
)
def test_no_discrete_distribution_exceeds_a_bound(seed, points, dim, shot, shrink):
    """40 random pairs of classes per input, from almost collapsed ones to such that cannot be told apart."""
    generator = torch.Generator().manual_seed(seed)
    drawn = distributions.random_distributions(40, points + 1, dim, generator=generator)
    means = (drawn.weights[..., None] * drawn.points).sum(-2, keepdim=True)
    drawn = distributions.Distributions(means + shrink * (drawn.points - means), drawn.weights)
    errors = distributions.errors(drawn, shot)
    moments = drawn.moments
    v = moments.cdnv[:, 0, 1]
    directional = moments.along[:, [0, 1], [1, 0]] / moments.squared_distance[:, [0, 1], [1, 0]].square()
    found = {
        "B1": theory.cdnv_bound(v, shot),
        "B5": theory.quadratic_bound(v, shot),
        "B2": theory.second_moment_bound(moments, shot=shot)[:, 0, 1],
        "B3": theory.directional_bound(moments, shot=shot)[:, 0, 1],
        "directional B5": theory.directional_quadratic_bound(moments, shot=shot)[:, 0, 1],
        "2026": theory.published_bound_2026(moments, shot=shot)[:, 0, 1],
        "T1": theory.sharp_bound(v, shot),
        "T2": theory.leave_one_out_bound(v, shot),
        "best": theory.best_bound(v, shot),
    }
    if shot == 1:
        found["T3"] = theory.one_shot_bound(v)
    assert ((errors >= 0) & (errors <= 1)).all() and (directional <= 2 * v[:, None] * (1 + 1e-9)).all()
    for name, bound in found.items():
        assert (errors <= bound + 1e-9).all(), (name, (errors - bound).max())
    assert (found["B5"] <= found["B1"] * (1 + 1e-9) + 1e-12).all()


@given(cdnvs, cdnvs, shots)
def test_bounds_rise_with_the_cdnv_and_fall_with_shots(first, second, shot):
    low, high = sorted([first, second])
    bounds = (
        (theory.cdnv_bound, 1e-9),
        (lambda v, n: theory.spread_bound(v, n, 3.0), 1e-9),
        (theory.quadratic_bound, 1e-3),
    )
    for bound, rel in bounds:  # the quadratics that B5 is the least of are not the same ones for another n
        with right_or_refused() as refusal:
            values = [bound(low, shot), bound(high, shot), bound(high, 2 * shot)]
        assert not refusal and all(value >= 0 for value in values)
        assert values[0] <= values[1] * (1 + 1e-9) + 1e-12 and values[2] <= values[1] * (1 + rel) + 1e-12
    assert theory.mean_mismatch_bound(low) <= theory.mean_mismatch_bound(high) <= 1
    assert theory.quadratic_bound(high, shot) <= 1 + 1e-12
    rising = (theory.best_bound, theory.sharp_bound, theory.leave_one_out_bound)  # in V; not falling with every shot
    for bound in (*rising, lambda v, _: theory.one_shot_bound(v), lambda v, _: theory.fixed_center_bound(v)):
        assert 0 <= bound(low, shot) <= bound(high, shot) * (1 + 1e-9) + 1e-12
    assert theory.best_bound(high, shot) <= min(1, 4 * high * (1 + 1e-9))


@given(
    st.integers(1, 4),
    st.integers(0, 2**31),
    st.floats(1e-3, 1e3),
    st.sampled_from([1, 2, 5, 100]),
    st.floats(0.01, 5),
)
def test_exact_error_of_gaussians_is_below_every_bound(dim, seed, scale, shot, distance):
    generator = torch.Generator().manual_seed(seed)
    roots = torch.randn(2, dim, dim, generator=generator, dtype=torch.float64)
    first, second = scale**2 * (roots @ roots.mT + 1e-3 * torch.eye(dim))
    gap = scale * distance * torch.randn(dim, generator=generator, dtype=torch.float64)
    error = theory.gaussian_error(gap, first, second, shot)
    moments = PairMoments.of_gaussians(
        torch.stack([torch.zeros(dim, dtype=torch.float64), gap]), torch.stack([first, second])
    )
    assert 0 <= error <= 1
    for bound in (theory.directional_bound, theory.second_moment_bound, theory.directional_quadratic_bound):
        assert error <= bound(moments, shot=shot)[0, 1].item() + 1e-8
    assert error <= theory.quadratic_bound(moments.cdnv[0, 1].item(), shot) + 1e-8
    swapped = theory.gaussian_error(-gap, second, first, shot)
    assert abs(error - swapped) <= 1e-6


@given(classes(least_classes=2, least=2), st.integers(1, 20))
def test_bounds_of_samples_are_fractions_or_refused_as_the_metrics_are(sample, shot):
    x, y = sample
    with right_or_refused() as of_metrics:
        collapse.directional_cdnv_matrix(x, y)
    for bound in (theory.directional_bound, theory.second_moment_bound, theory.directional_quadratic_bound):
        with right_or_refused() as refusal:
            values = bound(x, y, shot=shot)
        assert bool(refusal) == bool(of_metrics), (bound.__name__, refusal, of_metrics)
        if not refusal:
            off = ~torch.eye(len(values), dtype=torch.bool)
            assert values.isnan().equal(~off) and ((values[off] >= 0) & (values[off] <= 1)).all()


CALLS = {
    "cdnv_bound": lambda a, b: theory.cdnv_bound(a, b),
    "cdnv_bound of a pool": lambda a, b: theory.cdnv_bound(0.1, 2, pool=a),
    "spread_bound": lambda a, b: theory.spread_bound(0.1, a, b),
    "mean_mismatch_bound": lambda a, b: theory.mean_mismatch_bound(a),
    "quadratic_bound": lambda a, b: theory.quadratic_bound(a, b),
    "sharp_bound": lambda a, b: theory.sharp_bound(a, b),
    "leave_one_out_bound": lambda a, b: theory.leave_one_out_bound(a, b),
    "one_shot_bound": lambda a, b: theory.one_shot_bound(a, b),
    "fixed_center_bound": lambda a, b: theory.fixed_center_bound(a),
    "best_bound": lambda a, b: theory.best_bound(a, b),
    "published_bound_2025": lambda a, b: theory.published_bound_2025(a, 0.1, 0.1, shot=b),
    "new_classes_half_width": lambda a, b: theory.new_classes_half_width(a, confidence=b),
    "without_replacement_factor": lambda a, b: theory.without_replacement_factor(a, b),
    "iid_shots_factor": lambda a, b: theory.iid_shots_factor(a, b),
    "multiclass_bound": lambda a, b: theory.multiclass_bound(a),
    "gaussian_error": lambda a, b: theory.gaussian_error(torch.ones(2), torch.ones(2), torch.ones(2), a),
    "directional_bound": lambda a, b: theory.directional_bound(a, b, 1),
    "effective_rank": lambda a, b: theory.effective_rank(a, b),
}


@given(st.sampled_from(list(CALLS)), anything, anything)
def test_any_argument_is_taken_or_refused(name, first, second):
    if name == "iid_shots_factor" and isinstance(second, int) and second > 10**6:
        return
    with right_or_refused():
        value = torch.as_tensor(CALLS[name](first, second))
        nan = any(isinstance(a, float) and math.isnan(a) for a in (first, second))
        assert nan or not value.isnan().any(), "NaN that came from no NaN"
