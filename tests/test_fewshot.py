"""Few-shot evaluation against scikit-learn, easyfsl, closed forms and counting."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression, Ridge

from ncbook import fewshot
from ncbook.fewshot import heads, routes


def gaussian_classes(classes=20, per_class=40, dim=16, spread=0.6, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    means = spread * torch.randn(classes, 1, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(classes, per_class, dim, generator=generator, dtype=torch.float64)
    return (means + noise).flatten(0, 1).to(dtype), torch.arange(classes).repeat_interleave(per_class)


def chi_square_p(counts, expected):
    counts = np.asarray(counts, dtype=float)
    return chi2.sf(((counts - expected) ** 2 / expected).sum(), counts.size - 1)


# ---------------------------------------------------------------------------------------------- episodes


UNEVEN = torch.tensor([9] * 7 + [2] * 4 + [5] * 12 + [30] * 5 + [31] * 4)[
    torch.randperm(32, generator=torch.Generator().manual_seed(1))
]


def test_episodes_are_well_formed():
    episodes = fewshot.sample_episodes(UNEVEN, way=3, shot=2, query=2, episodes=3000)
    assert episodes.support.shape == (3000, 3, 2) and episodes.query.shape == (3000, 3, 2)
    assert episodes.support.dtype == episodes.query.dtype == torch.int64
    rows = torch.cat([episodes.support, episodes.query], 2)
    classes = UNEVEN[rows]
    assert (classes == classes[:, :, :1]).all()
    assert (UNEVEN.unique()[episodes.classes] == classes[:, :, 0]).all()
    distinct = rows.flatten(1).sort(1).values
    assert (distinct[:, 1:] != distinct[:, :-1]).all()
    distinct = classes[:, :, 0].sort(1).values
    assert (distinct[:, 1:] != distinct[:, :-1]).all()


@pytest.mark.parametrize("few, many", [(1, 5000), (1024, 1025), (1500, 4096)])
def test_first_episodes_do_not_depend_on_how_many(few, many):
    a, b = (fewshot.sample_episodes(UNEVEN, way=3, shot=1, query=2, episodes=n, seed=3) for n in (few, many))
    assert torch.equal(a.support, b.support[:few]) and torch.equal(a.query, b.query[:few])


def test_seeds():
    a, b, c = (fewshot.sample_episodes(UNEVEN, way=3, shot=1, query=2, episodes=50, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.support, b.support) and torch.equal(a.query, b.query)
    assert not torch.equal(a.support, c.support)


def test_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    fewshot.sample_episodes(UNEVEN, way=3, shot=1, query=2, episodes=50)
    assert torch.equal(before, torch.random.get_rng_state())


def test_class_frequencies_and_pairs():
    n = 60_000
    classes = fewshot.sample_episodes(UNEVEN, way=3, shot=1, query=1, episodes=n, seed=5).classes
    # every ordered triple of the five classes is equally likely, which implies singles and pairs
    ordered = (classes * torch.tensor([25, 5, 1])).sum(1).bincount(minlength=125)
    assert (ordered > 0).sum() == 60
    assert chi_square_p(ordered[ordered > 0], n / 60) > 1e-4
    # one place at a time, and pairs of places
    for place in range(3):
        assert chi_square_p(classes[:, place].bincount(minlength=5), n / 5) > 1e-4
    pair = (classes[:, 0] * 5 + classes[:, 2]).bincount(minlength=25)
    assert chi_square_p(pair[pair > 0], n / 20) > 1e-4


def test_sample_frequencies():
    n = 60_000
    labels = torch.tensor([0] * 4 + [1] * 5)
    episodes = fewshot.sample_episodes(labels, way=2, shot=2, query=2, episodes=n, seed=6)
    rows = torch.cat([episodes.support, episodes.query], 2)
    for k, size in ((0, 4), (1, 5)):
        of_class = rows[episodes.classes == k] - 4 * k  # [n, 4], ordered samples without repetition
        ordered = (of_class * torch.tensor([125, 25, 5, 1])).sum(1).bincount()
        assert (ordered > 0).sum() == math.perm(size, 4)
        assert chi_square_p(ordered[ordered > 0], n / math.perm(size, 4)) > 1e-4
    # samples of one class are independent of those of the other
    first = rows[torch.arange(n)[:, None], episodes.classes.argsort(1)][:, :, 0]  # [n, class]
    table = (first[:, 0] * 5 + first[:, 1] - 4).bincount(minlength=20)
    assert chi_square_p(table, n / 20) > 1e-4


def test_neighboring_episodes_are_independent():
    classes = fewshot.sample_episodes(UNEVEN, way=2, shot=1, query=1, episodes=50_001, seed=7).classes[:, 0]
    table = (classes[:-1] * 5 + classes[1:]).bincount(minlength=25)
    assert chi_square_p(table, 2000) > 1e-4


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(4, 9), min_size=2, max_size=6),
    way=st.integers(2, 6),
    shot=st.integers(1, 3),
    query=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_any_sizes(sizes, way, shot, query, seed):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)) * 3 - 2
    call = dict(way=way, shot=shot, query=query, episodes=20, seed=seed)
    if way > len(sizes) or shot + query > min(sizes):
        with pytest.raises(ValueError):
            fewshot.sample_episodes(labels, **call)
        return
    episodes = fewshot.sample_episodes(labels, **call)
    rows = torch.cat([episodes.support, episodes.query], 2).flatten(1)
    assert all(len(set(row)) == len(row) for row in rows.tolist())


def test_queries_from_another_set():
    labels, other = torch.tensor([4, 4, 8, 8, 8]), torch.tensor([8, 4, 8, 4, 4, 8])
    episodes = fewshot.sample_episodes(labels, way=2, shot=2, query=3, episodes=200, query_labels=other)
    expected = torch.tensor([4, 8])[episodes.classes][:, :, None]
    assert (labels[episodes.support] == expected).all() and (other[episodes.query] == expected).all()


def test_episodes_are_a_sequence():
    episodes = fewshot.sample_episodes(UNEVEN, way=3, shot=2, query=1, episodes=7)
    assert len(episodes) == 7 and len(episodes[2:5]) == 3
    one = episodes[-1]
    assert one.support.shape == (3, 2) and one.query.shape == (3, 1) and one.classes.shape == (3,)
    assert torch.equal(one.support, episodes.support[6])
    assert [episode.classes.tolist() for episode in episodes] == episodes.classes.tolist()
    for wrong in (7, -8):
        with pytest.raises(IndexError):
            episodes[wrong]
    with pytest.raises(TypeError, match="single episode"):
        len(one)


def test_sampler_draws_the_same_episodes_epoch_after_epoch():
    sampler = fewshot.EpisodeSampler(UNEVEN, way=3, shot=2, query=2)
    generator = torch.Generator().manual_seed(3)
    first, second = sampler.draw(20, generator), sampler.draw(20, generator)
    plain = fewshot.sample_episodes(UNEVEN, way=3, shot=2, query=2, episodes=20, seed=3)
    assert torch.equal(first.support, plain.support) and torch.equal(first.query, plain.query)
    assert not torch.equal(first.support, second.support)
    state = generator.get_state()
    again = sampler.draw(20, generator)
    generator.set_state(state)
    assert torch.equal(again.support, sampler.draw(20, generator).support)
    with pytest.raises(ValueError, match="episodes=0; allowed: a whole number of at least 1"):
        sampler.draw(0, generator)
    with pytest.raises(TypeError, match="generator is of type int; allowed: a torch.Generator"):
        sampler.draw(1, 0)
    with pytest.raises(ValueError, match="class 2 has 4 samples; allowed: at least shot . query = 5"):
        fewshot.EpisodeSampler(UNEVEN, way=3, shot=2, query=3)


# ---------------------------------------------------------------------------------------------- heads


def products_of(x, episodes, kernels=9):
    return routes.Gather(x, x).products(episodes, kernels=kernels, means=True)


def episode_scores(head, x, episodes, ridge=1.0):
    """Scores [E, Q, way] of a head through its public tables."""
    return heads.scores_of(head, ridge, episodes.support.shape[1], products_of(x, episodes)).values.mT


def kernel_alone(K, Kq):
    """Products of which a kernel head needs nothing else."""
    norms = K.diagonal(dim1=1, dim2=2).sqrt()
    return heads.Products(norms.amax(1), norms, 1, K=K, Kq=Kq)


@pytest.mark.parametrize("shot", [1, 5])
@pytest.mark.parametrize("ridge", [0.1, 1.0, 30.0])
def test_ridge_scores_are_those_of_sklearn(shot, ridge):
    x, y = gaussian_classes(dim=64)
    episodes = fewshot.sample_episodes(y, shot=shot, episodes=25)
    scores = episode_scores("ridge", x, episodes, ridge)
    exact = episode_scores("ridge", x.double(), episodes, ridge)
    for s, q, ours, ours_exact in zip(episodes.support, episodes.query, scores, exact, strict=True):
        model = Ridge(alpha=ridge).fit(x[s.flatten()].double(), np.repeat(np.eye(5), shot, 0))
        theirs = model.predict(x[q.flatten()].double()) - 1 / 5  # ours leave out the constant of all classes
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        np.testing.assert_allclose(ours_exact, theirs, atol=1e-10)


@pytest.mark.parametrize("head", heads.KERNEL_HEADS)
def test_scores_by_way_of_weights_are_those_of_inner_products(head):
    """One head alone needs no single inner product with a query: w = sum_s a_s x_s takes fewer operations."""
    x, y = gaussian_classes(dim=64)
    episodes = fewshot.sample_episodes(y, shot=5, episodes=5)
    few, many = products_of(x.double(), episodes, kernels=1), products_of(x.double(), episodes)
    assert few.Kq is None and many.rows is None
    torch.testing.assert_close(few.mq, many.mq)
    one, other = (heads.scores_of(head, 1.0, 5, products) for products in (few, many))
    torch.testing.assert_close(one.values, other.values, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shot", [1, 5])
@pytest.mark.parametrize("ridge", [0.1, 1.0])
def test_logistic_scores_are_those_of_sklearn(shot, ridge):
    x, y = gaussian_classes(dim=24)
    episodes = fewshot.sample_episodes(y, shot=shot, episodes=10)
    scores = episode_scores("logistic", x.double(), episodes, ridge)
    for s, q, ours in zip(episodes.support, episodes.query, scores, strict=True):
        model = LogisticRegression(C=1 / ridge, tol=1e-12, max_iter=10_000)
        model.fit(x[s.flatten()].double(), np.repeat(np.arange(5), shot))
        theirs = model.decision_function(x[q.flatten()].double())
        ours = ours - ours.mean(1, keepdim=True)  # scores are equal up to one shift for all classes
        np.testing.assert_allclose(ours, theirs - theirs.mean(1, keepdims=True), atol=2e-4)


@pytest.mark.parametrize("scale", [0.01, 1, 30])
def test_logistic_reaches_the_optimum(scale):
    """At the optimum w = X'(Y - P) / ridge and the residuals sum to zero: nearer than scikit-learn stops."""
    x, y = gaussian_classes(dim=24)
    x = scale * x
    episodes = fewshot.sample_episodes(y, shot=5, episodes=50)
    shots = x[episodes.support.flatten(1)].double()
    ours = heads.logistic_scores(
        kernel_alone(*(2 * (shots @ shots.mT,))), 5, 1.0
    ).values  # the shots as queries: [E, way, S]
    residual = torch.eye(5).repeat_interleave(5, 1) - ours.softmax(1)
    assert residual.sum(-1).abs().max() < 1e-6
    rebuilt = residual @ shots @ shots.mT
    shift = (ours - rebuilt).mean(-1, keepdim=True)
    torch.testing.assert_close(rebuilt + shift, ours, atol=1e-4, rtol=1e-4)
    single = heads.logistic_scores(kernel_alone(*(2 * ((shots @ shots.mT).float(),))), 5, 1.0).values
    torch.testing.assert_close(single.double(), ours, atol=1e-3, rtol=1e-3)


def test_ncc_is_easyfsl_prototypical_networks():
    methods = pytest.importorskip("easyfsl.methods")
    x, y = gaussian_classes()
    for shot in (1, 5):
        result = fewshot.evaluate(x, y, shot=shot, episodes=200, head="ncc", seed=4)
        episodes = fewshot.sample_episodes(y, shot=shot, episodes=200, seed=4)
        model = methods.PrototypicalNetworks()
        for e in range(200):
            model.process_support_set(x[episodes.support[e].flatten()], torch.arange(5).repeat_interleave(shot))
            guess = model(x[episodes.query[e].flatten()]).argmax(1)
            right = (guess == torch.arange(5).repeat_interleave(15)).double().mean()
            assert abs(right - result.per_episode[e]) < 1e-9


def test_cosine_by_hand():
    x, y = gaussian_classes(spread=1.0)
    x = x + 1  # cosine depends on the origin
    result = fewshot.evaluate(x, y, episodes=100, head="cosine")
    episodes = fewshot.sample_episodes(y, episodes=100)
    means = x[episodes.support].mean(2)  # [E, way, D]
    cosines = torch.cosine_similarity(x[episodes.query][:, :, :, None], means[:, None, None], dim=-1)
    right = cosines.argmax(-1) == torch.arange(5)[:, None]
    torch.testing.assert_close(result.per_episode, right.double().mean((1, 2)))


# ---------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("head", fewshot.HEADS)
@pytest.mark.parametrize("shot", [1, 5])
def test_routes_agree(head, shot):
    x, y = gaussian_classes()
    call = dict(shot=shot, episodes=1500, head=head, seed=2)
    gather, gram = (fewshot.evaluate(x, y, route=route, **call) for route in ("gather", "gram"))
    assert (gather.route, gram.route) == ("gather", "gram")
    # rounding may turn a near-tie of one query in tens of thousands
    assert (gather.per_episode - gram.per_episode).abs().sum() * 75 <= 3
    assert (gather.confusion - gram.confusion).abs().sum() <= 6


@pytest.mark.parametrize("head", fewshot.HEADS)
def test_float32_is_accurate_to_a_hundredth_of_a_point(head):
    x, y = gaussian_classes(dim=64, spread=0.3)
    x = x + 10  # a large common shift, as after a ReLU
    single, double = (fewshot.evaluate(z, y, episodes=1000, head=head) for z in (x, x.double()))
    assert abs(single.accuracy - double.accuracy) < 1e-4


@pytest.mark.parametrize("head", fewshot.HEADS)
def test_invariances(head):
    x, y = gaussian_classes(dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)).double()).Q
    base = fewshot.evaluate(x, y, episodes=300, head=head)
    rotated = fewshot.evaluate(x @ rotation, y, episodes=300, head=head)
    torch.testing.assert_close(base.per_episode, rotated.per_episode)
    if head != "cosine":
        shifted = fewshot.evaluate(x + 7, y, episodes=300, head=head)
        torch.testing.assert_close(base.per_episode, shifted.per_episode)
    renamed = fewshot.evaluate(x, 10 * y - 55, episodes=300, head=head)
    torch.testing.assert_close(base.per_episode, renamed.per_episode)
    assert renamed.labels.tolist() == [10 * k - 55 for k in range(20)]


def test_result():
    x, y = gaussian_classes(spread=0.4)
    result = fewshot.evaluate(x, y, episodes=2000, seed=1)
    again = fewshot.evaluate(x, y, episodes=2500, seed=1)
    assert torch.equal(result.per_episode, again.per_episode[:2000])
    assert result.per_episode.dtype == torch.float64 and result.per_episode.shape == (2000,)
    assert result.per_episode.min() >= 0 and result.per_episode.max() <= 1
    assert isinstance(result.accuracy, float) and result.accuracy == pytest.approx(float(result.per_episode.mean()))
    assert result.ci95 == pytest.approx(1.96 * float(result.per_episode.std()) / math.sqrt(2000))
    assert "5-way 5-shot" in repr(result)
    assert math.isnan(fewshot.evaluate(x, y, episodes=1).ci95)


def test_confusion_counts_every_query():
    x, y = gaussian_classes(classes=7, spread=0.4)
    y = 3 * y + 1
    result = fewshot.evaluate(x, y, episodes=1000)
    queries = result.classes.flatten().bincount(minlength=7) * 15
    assert torch.equal(result.confusion.sum(1), queries)
    assert result.confusion.diagonal().sum() == round(float(result.per_episode.sum()) * 75)
    without = fewshot.evaluate(x, y, episodes=1000, confusion=False)
    assert without.confusion is None and torch.equal(without.per_episode, result.per_episode)


def test_a_tie_is_an_error():
    x, y = torch.zeros(12, 3), torch.arange(3).repeat_interleave(4)
    for head in fewshot.HEADS:
        for route in ("gather", "gram"):
            result = fewshot.evaluate(x, y, way=3, shot=2, query=2, episodes=10, head=head, route=route)
            assert result.accuracy == 0 and result.confusion.diagonal().sum() == 0


@pytest.mark.parametrize("route", ["gather", "gram"])
def test_shots_of_one_mean_tie_with_next_to_no_penalty(route):
    """Shots 1, 1, 2 and 2, 1, 1: the true weight is 0, and what rounding makes of it is no sign of a small penalty."""
    x = torch.tensor([2.0, 1, 2, 0, 1, 1, 1, 2, 1, 1, 2])[:, None]
    y = torch.tensor([1, 0, 1, 0, 1, 1, 0, 0, 1, 1, 1])
    episodes = dict(way=2, shot=3, query=1, episodes=300)
    drawn = fewshot.sample_episodes(y, **episodes)
    means = x[drawn.support].mean((2, 3))  # [E, 2]
    result = fewshot.evaluate(x, y, head="ridge", ridge=1e-6, route=route, **episodes)
    same = means[:, 0] == means[:, 1]
    assert same.sum() > 20 and (result.per_episode[same] == 0).all() and result.accuracy > 0


@pytest.mark.parametrize("route", ["gather", "gram"])
@pytest.mark.parametrize("head", fewshot.HEADS)
@pytest.mark.parametrize("scale", [1e-8, 1, 1e8])
@pytest.mark.parametrize("shot", [1, 5])
def test_identical_classes_tie(head, route, scale, shot):
    """Class 1 repeats the samples of class 0: all of its shots are the other's shots, and so is every score."""
    generator = torch.Generator().manual_seed(0)
    far = torch.randn(1, 40, generator=generator) * 5
    x = torch.cat([torch.ones(20, 40), torch.ones(20, 40), far.expand(20, 40)]) + 0.3
    x[:40] += torch.linspace(0, 1, 40)
    y = torch.arange(3).repeat_interleave(20)
    call = dict(way=3, shot=shot, query=10, episodes=60, head=head, route=route)
    if head == "logistic" and scale == 1e8:  # squares of 1e18 beside a ridge of 1 and shots that are all the same
        with pytest.raises(ArithmeticError, match="ridge is too small"):
            fewshot.evaluate(scale * x, y, **call)
        return
    result = fewshot.evaluate(scale * x, y, **call)
    assert result.accuracy == pytest.approx(1 / 3)
    assert result.confusion[2, 2] == result.confusion[2].sum()


def accuracy_in_exact_fractions(x, y, episodes):
    """Nearest class mean on integers, by Python's fractions: a tie is an error."""
    accuracy = []
    for support, query in zip(episodes.support.tolist(), episodes.query.tolist(), strict=True):
        means = [[Fraction(int(c), len(rows)) for c in x[rows].sum(0)] for rows in support]
        right = 0
        for own, rows in enumerate(query):
            for row in rows:
                distance = [sum((int(a) - b) ** 2 for a, b in zip(x[row], m, strict=True)) for m in means]
                right += all(distance[own] < d for k, d in enumerate(distance) if k != own)
        accuracy.append(right / sum(len(rows) for rows in query))
    return torch.tensor(accuracy, dtype=torch.float64)


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("route", ["gather", "gram"])
def test_ties_of_integers_are_found_exactly(route, offset):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (60, 3), generator=generator).float() + offset
    y = torch.arange(6).repeat_interleave(10)
    episodes = fewshot.sample_episodes(y, shot=3, query=4, episodes=60)
    result = fewshot.evaluate(x, y, shot=3, query=4, episodes=60, head="ncc", route=route)
    torch.testing.assert_close(result.per_episode, accuracy_in_exact_fractions(x, y, episodes))


def test_cosine_with_a_mean_of_zero_is_zero_on_both_routes():
    """Two opposite shots: their mean is 0, its cosine with everything 0; the other class wins where it is above."""
    x = torch.tensor([[3.0, 0.1], [-3.0, -0.1], [1.0, 2.0], [1.1, 2.0]])
    y = torch.tensor([0, 0, 1, 1])
    queries, labels = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), torch.tensor([0, 1])
    for route in ("gather", "gram"):
        result = fewshot.evaluate(
            x,
            y,
            way=2,
            shot=2,
            query=1,
            episodes=10,
            head="cosine",
            route=route,
            query_features=queries,
            query_labels=labels,
        )
        assert result.accuracy == 1.0  # 0 beats a negative cosine


def ridge_in_float64(x, y, episodes, ridge):
    """Accuracy of each episode by scikit-learn, at a scale where its own arithmetic is sound."""
    scale = float(x.double().abs().max())
    x, way, shot = (x.double() / scale).numpy(), *episodes.support.shape[1:]
    accuracy = []
    for support, query in zip(episodes.support.numpy(), episodes.query.numpy(), strict=True):
        shots, queries = x[support.ravel()], x[query.ravel()]
        model = Ridge(alpha=ridge / scale**2, solver="svd").fit(shots, np.eye(way).repeat(shot, 0))
        scores = (queries - shots.mean(0)) @ model.coef_.T
        own = np.arange(way).repeat(query.shape[1])
        best = np.ma.masked_array(scores, np.eye(way)[own]).max(1)
        accuracy.append((scores[np.arange(len(own)), own] > best).mean())
    return torch.tensor(np.array(accuracy, dtype=float))


@pytest.mark.parametrize("ridge", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("scale", [1e-8, 1e-5, 1e-3, 300.0, 1e8])
@pytest.mark.parametrize("dim", [1, 8, 640])
def test_ridge_is_right_at_every_scale(dim, scale, ridge):
    x, y = gaussian_classes(classes=6, per_class=20, dim=dim)
    x = scale * x
    for shot in (1, 5):
        truth = ridge_in_float64(x, y, fewshot.sample_episodes(y, shot=shot, episodes=6), ridge)
        for route in ("gather", "gram"):
            result = fewshot.evaluate(x, y, shot=shot, episodes=6, ridge=ridge, route=route)
            torch.testing.assert_close(result.per_episode, truth, rtol=0, atol=1e-9)


@pytest.mark.parametrize("transform", ["none", "l2"])
@pytest.mark.parametrize("head", fewshot.HEADS)
@pytest.mark.parametrize("scale", [2.0**-90, 2.0**90])
def test_float32_neither_overflows_nor_vanishes(head, scale, transform):
    """A power of two changes no digit: with the ridge that goes with it, no accuracy either."""
    x, y = gaussian_classes(spread=0.4)
    call = dict(episodes=100, head=head, transform=transform)
    ridge = scale**2 if transform == "none" else 1.0
    scaled = fewshot.evaluate(scale * x, y, ridge=ridge, **call)
    assert torch.equal(scaled.per_episode, fewshot.evaluate(x, y, ridge=1.0, **call).per_episode)


@pytest.mark.parametrize("head", ["ridge", "ncc", "cosine"])
def test_a_far_class_takes_no_digits(head):
    """One class at a distance of 10^7: episodes without it are what they are without it."""
    x, y = gaussian_classes(classes=6, spread=0.4)
    far = x.clone()
    far[y == 0] += 1e7
    for route in ("gather", "gram"):
        call = dict(episodes=100, head=head, ridge=1.0, route=route)
        plain, shifted = fewshot.evaluate(x, y, **call), fewshot.evaluate(far, y, **call)
        without = ~(plain.classes == 0).any(1)
        assert without.any() and torch.equal(plain.per_episode[without], shifted.per_episode[without])


def test_gaussian_error_in_closed_form():
    """Two classes N(0, I), N(d e1, I), n shots, isotropic in p dimensions.

    The query errs if |x - m1| >= |x - m2|. With u = (m1 + m2) / 2 - x and g = m2 - m1 that is 2 g'u <= 0,
    where u and g are jointly Gaussian and independent (equal shots): given the positions, g ~ N(d e1, 2/n I)
    and u ~ N(d/2 e1, (1 + 1/(2n)) I). In one dimension both signs must agree, so P(right) = Phi(a) Phi(b) +
    Phi(-a) Phi(-b), a = d / sqrt(2/n), b = (d/2) / sqrt(1 + 1/(2n)).
    """
    generator = torch.Generator().manual_seed(0)
    per_class, d = 20_000, 2.0
    x = torch.randn(2 * per_class, 1, generator=generator)
    y = torch.arange(2).repeat_interleave(per_class)
    x[y == 1] += d
    phi = lambda z: 0.5 * math.erfc(-z / math.sqrt(2))  # noqa: E731
    for shot in (1, 5):
        a, b = d / math.sqrt(2 / shot), (d / 2) / math.sqrt(1 + 1 / (2 * shot))
        exact = phi(a) * phi(b) + phi(-a) * phi(-b)
        result = fewshot.evaluate(x, y, way=2, shot=shot, episodes=20_000, head="ncc", route="gather")
        assert abs(result.accuracy - exact) < 3 * result.ci95 / 1.96 + 0.006  # the pool is a sample too
        errors, widths = fewshot.pair_errors(x, y, shot=shot, draws=400, intervals=True)
        assert abs(float(errors[0, 1]) - (1 - exact)) < 3 * float(widths[0, 1]) / 1.96 + 0.006


def test_interval_over_episodes_covers():
    x, y = gaussian_classes(spread=0.4)
    truth = fewshot.evaluate(x, y, episodes=20_000, head="ncc", seed=99, confusion=False).accuracy
    covered = 0
    for seed in range(60):
        result = fewshot.evaluate(x, y, episodes=200, head="ncc", seed=seed, confusion=False)
        covered += abs(result.accuracy - truth) < result.ci95
    assert covered >= 51  # 57 expected; P(< 51) is about 0.002


def test_interval_over_classes_has_the_right_width():
    """Accuracies of fresh sets of 20 classes spread as far as the bootstrap of one set says."""
    accuracies, widths, inside = [], [], 0
    sets = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(1000 + seed)
        x, y = gaussian_classes(classes=20, per_class=30, dim=8, spread=1.0, seed=seed)
        x = x * (0.5 + 1.5 * torch.rand(20, generator=generator)).repeat_interleave(30)[:, None]
        result = fewshot.evaluate(x, y, episodes=1000, head="ncc", query=10, confusion=False)
        low, high = result.class_interval(replicates=200)
        accuracies.append(result.accuracy)
        widths.append((high - low) / 2 / 1.96)
        sets.append((low, high))
    truth = np.mean(accuracies)
    inside = sum(low <= truth <= high for low, high in sets)
    assert 0.7 < np.mean(widths) / np.std(accuracies, ddof=1) < 1.6
    assert inside >= 33  # 38 expected
    assert np.mean(widths) > 1.5 * result.ci95 / 1.96


def test_compare_equals_evaluate():
    x, y = gaussian_classes()
    results = fewshot.compare(x, y, heads=fewshot.HEADS, shots=(1, 5), episodes=300, seed=3)
    assert list(results) == [(head, shot) for head in fewshot.HEADS for shot in (1, 5)]
    for (head, shot), result in results.items():
        alone = fewshot.evaluate(x, y, head=head, shot=shot, episodes=300, seed=3)
        assert (alone.per_episode - result.per_episode).abs().sum() * 75 <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_head_leaves_the_shared_kernel_as_it_was(dtype):
    """Candidates see the same inner products: none may add its ridge to them."""
    x, y = gaussian_classes(dim=16)
    x = x.to(dtype)
    together = fewshot.select_ridge(x, y, ridges=(1000.0, 0.01, 1000.0, 0.1), episodes=300)
    for ridge, result in together.results.items():
        alone = fewshot.evaluate(x, y, ridge=ridge, episodes=300)
        assert (alone.per_episode - result.per_episode).abs().sum() * 75 <= 2


def test_transforms():
    x, y = gaussian_classes()
    x = x.relu() + 0.1
    mean = x.mean(0)
    by_hand = {
        "l2": x / x.norm(dim=1, keepdim=True),
        "power": x.sqrt(),
        ("power", "l2"): x.sqrt() / x.sqrt().norm(dim=1, keepdim=True),
        ("centered", "l2"): (x - mean) / (x - mean).norm(dim=1, keepdim=True),
    }
    for transform, expected in by_hand.items():
        call = dict(episodes=200, head="cosine")
        ours = fewshot.evaluate(
            x, y, transform=transform, source_mean=mean if "centered" in transform else None, **call
        )
        theirs = fewshot.evaluate(expected, y, **call)
        assert (ours.per_episode - theirs.per_episode).abs().sum() * 75 <= 2


def test_domain_shift():
    x, y = gaussian_classes(spread=1.0)
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    clean = fewshot.evaluate(x, y, episodes=500, query_features=x[shuffled], query_labels=y[shuffled])
    noisy_x = x + 2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    for route in ("gather", "gram"):
        noisy = fewshot.evaluate(x, y, episodes=500, query_features=noisy_x, query_labels=y, route=route)
        assert noisy.accuracy < clean.accuracy - 0.1
    # by hand
    noisy = fewshot.evaluate(x, y, episodes=50, head="ncc", query_features=noisy_x, query_labels=y)
    episodes = fewshot.sample_episodes(y, episodes=50, query_labels=y)
    distance = torch.cdist(noisy_x[episodes.query.flatten(1)], x[episodes.support].mean(2))
    right = distance.argmin(-1) == torch.arange(5).repeat_interleave(15)
    torch.testing.assert_close(noisy.per_episode, right.double().mean(1))


def test_select_ridge():
    x, y = gaussian_classes(spread=0.3, dim=32)
    found = fewshot.select_ridge(x, y, ridges=(0.01, 1.0, 100.0), episodes=500)
    assert list(found.results) == [0.01, 1.0, 100.0]
    best = max(found.results.values(), key=lambda result: result.accuracy)
    assert found.ridge == best.ridge
    alone = fewshot.evaluate(x, y, ridge=1.0, episodes=500)
    assert (alone.per_episode - found.results[1.0].per_episode).abs().sum() * 75 <= 2


def test_precision_setting_and_autocast_do_not_leak_in():
    x, y = gaussian_classes(dim=64)
    plain = fewshot.evaluate(x, y, episodes=300, route="gram")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            guarded = fewshot.evaluate(x, y, episodes=300, route="gram")
            errors = fewshot.pair_errors(x, y, shot=1, draws=3)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(plain.per_episode, guarded.per_episode)
    torch.testing.assert_close(errors, fewshot.pair_errors(x, y, shot=1, draws=3), equal_nan=True, rtol=0, atol=0)


def test_half_precision_features_are_widened():
    x, y = gaussian_classes()
    half = x.half()
    assert torch.equal(
        fewshot.evaluate(half, y, episodes=100).per_episode,
        fewshot.evaluate(half.float(), y, episodes=100).per_episode,
    )


def test_no_gradient_is_kept():
    x, y = gaussian_classes()
    assert not fewshot.evaluate(x.requires_grad_(), y, episodes=10).per_episode.requires_grad


def test_whole_numbers_of_any_type():
    x, y = gaussian_classes(classes=4, per_class=8)
    plain = fewshot.evaluate(x, y, way=3, shot=2, query=2, episodes=5, seed=1)
    for kind in (np.int64, np.uint8, torch.tensor):
        found = fewshot.evaluate(x, y, way=kind(3), shot=kind(2), query=kind(2), episodes=kind(5), seed=kind(1))
        assert torch.equal(found.per_episode, plain.per_episode)
        assert [type(getattr(found, name)) for name in ("way", "shot", "query", "seed")] == [int] * 4


def test_cost_model():
    small, large = torch.zeros(400, 64), torch.zeros(12_000, 640)
    assert routes.choose(small, small, [(10_000, 5, 75)], 1, 5) == "gram"
    assert routes.choose(large, large, [(1_000, 25, 75)], 1, 5) == "gather"
    assert routes.choose(large, large, [(1_000_000, 5, 75)], 1, 5) == "gram"
    huge = torch.empty(100_000, 640, device="meta")
    assert routes.choose(huge, huge, [(10**9, 5, 75)], 1, 5) == "gather"  # 40 GB


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda():
    x, y = gaussian_classes(dim=64)
    for head in fewshot.HEADS:
        for route in ("gather", "gram"):
            result = fewshot.evaluate(x.cuda(), y.cuda(), episodes=2000, head=head, route=route)
            assert result.per_episode.is_cuda
            cpu = fewshot.evaluate(x, y, episodes=2000, head=head)
            assert abs(result.accuracy - cpu.accuracy) < 3 * (result.ci95 + cpu.ci95)
    assert fewshot.pair_errors(x.cuda(), y.cuda(), shot=1).is_cuda


# ---------------------------------------------------------------------------------------------- pairs


def pair_errors_by_hand(x, y, support):
    """Errors of one draw, support [C, shot] row numbers, queries all other rows."""
    classes = y.unique()
    means = x[support].mean(1)
    errors = torch.full((len(classes), len(classes)), torch.nan, dtype=torch.float64)
    for i in range(len(classes)):
        for j in range(len(classes)):
            if i == j:
                continue
            parts = []
            for own, other in ((i, j), (j, i)):
                rows = [r for r in (y == classes[own]).nonzero().flatten().tolist() if r not in support[own].tolist()]
                wrong = (x[rows] - means[own]).norm(dim=1) >= (x[rows] - means[other]).norm(dim=1)
                parts.append(wrong.double().mean())
            errors[i, j] = sum(parts) / 2
    return errors


def test_pair_errors_by_enumeration():
    """Three classes of three samples, one shot: 27 equally likely draws, all of them by hand."""
    x = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x += torch.tensor([[0.0, 0], [2, 0], [0, 1]]).repeat_interleave(3, 0)
    y = torch.tensor([5, 5, 5, 7, 7, 7, 8, 8, 8])
    exact = torch.zeros(3, 3, dtype=torch.float64)
    for a in range(3):
        for b in range(3):
            for c in range(3):
                exact += pair_errors_by_hand(x, y, torch.tensor([[a], [3 + b], [6 + c]])) / 27
    shuffle = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    errors, widths = fewshot.pair_errors(x[shuffle], y[shuffle], shot=1, draws=20_000, intervals=True)
    assert errors.dtype == torch.float64 and errors.diagonal().isnan().all()
    torch.testing.assert_close(errors, errors.T, equal_nan=True, rtol=0, atol=0)
    off = ~torch.eye(3, dtype=torch.bool)
    assert ((errors - exact)[off].abs() < 4 * widths[off] / 1.96 + 1e-12).all()
    assert (widths[off] < 0.01).all()


def test_pair_errors_of_integers_and_at_every_scale():
    """Ties are many, and neither an offset nor a scale may decide them; the draws of a seed are the same."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (200, 3), generator=generator).double()
    y = torch.arange(40).repeat_interleave(5)
    from ncbook.fewshot.episodes import Groups, draw_distinct, seeded_generator

    groups = Groups(y)
    drawn = draw_distinct(groups.size.expand(1, 40), 2, seeded_generator(0, y.device))[:, 0]  # [shot, C]
    support = (groups.start + drawn).T
    scaled = x.long()
    sums = scaled[support].sum(1)  # 2 m
    square = (2 * scaled[:, None] - sums).square().sum(-1)  # 4 |x - m|^2, [N, C], exact
    wrong = (square <= square.gather(1, y[:, None])).double()
    wrong[support.flatten()] = 0
    fraction = torch.zeros(40, 40, dtype=torch.float64).index_add_(0, y, wrong) / 3
    truth = ((fraction + fraction.T) / 2).fill_diagonal_(torch.nan)
    for features in (x, x.float(), x.float() + 1000, x.float() * 1e19, x.float() * 1e-19, x * 1e-200, 1e200 * x):
        errors = fewshot.pair_errors(features, y, shot=2, draws=1)
        torch.testing.assert_close(errors, truth, equal_nan=True, rtol=0, atol=1e-12)


def test_pair_errors_uneven_classes_and_chunks(monkeypatch):
    x, y = gaussian_classes(classes=6, per_class=12, dim=4)
    keep = torch.arange(72)[(torch.arange(72) % 5 != 0) | (y > 3)]
    x, y = x[keep], y[keep]
    whole = fewshot.pair_errors(x, y, shot=2, draws=1)
    assert whole.shape == (6, 6)
    monkeypatch.setattr("ncbook.fewshot.pairs._SCORES_AT_ONCE", 1)
    a = fewshot.pair_errors(x, y, shot=2, draws=3000)
    monkeypatch.undo()
    b, width = fewshot.pair_errors(x, y, shot=2, draws=3000, seed=1, intervals=True)
    off = ~torch.eye(6, dtype=torch.bool)
    assert ((a - b)[off].abs() < 4 * math.sqrt(2) * width[off] / 1.96 + 1e-9).all()


def test_pair_errors_agree_with_two_way_episodes():
    x, y = gaussian_classes(classes=2, per_class=20, spread=0.5)
    errors, width = fewshot.pair_errors(x, y, shot=5, draws=4000, intervals=True)
    result = fewshot.evaluate(x, y, way=2, shot=5, query=15, episodes=4000, head="ncc")
    assert abs(1 - result.accuracy - float(errors[0, 1])) < 2 * (result.ci95 + float(width[0, 1]))


def test_pair_errors_with_replacement_obey_the_bound():
    """The samples as population: error <= 4 c V / (1 + 2 c V), c = 1 + 1/n, for every pair (THEORY B1)."""
    x, y = gaussian_classes(classes=8, per_class=10, dim=2, spread=1.5, dtype=torch.float64)
    grouped = x.view(8, 10, 2)
    variance = grouped.var(1, correction=0).sum(1)
    distance = torch.cdist(grouped.mean(1), grouped.mean(1)).square()
    cdnv = (variance[:, None] + variance) / (2 * distance)
    off = ~torch.eye(8, dtype=torch.bool)
    for shot in (1, 2, 5):
        errors = fewshot.pair_errors(x, y, shot=shot, replacement=True, draws=2000)
        c = 1 + 1 / shot
        assert (errors <= 4 * c * cdnv / (1 + 2 * c * cdnv))[off].all()
    one = fewshot.pair_errors(x, y, shot=1, replacement=True, draws=2000)
    left_over = fewshot.pair_errors(x, y, shot=1, draws=2000)
    # with one shot, a query that is the shot itself is never wrong: exactly 9 of 10 queries count
    assert ((one - 0.9 * left_over)[off].abs() < 0.02).all()
    assert fewshot.pair_errors(x, y, shot=20, replacement=True, draws=5).shape == (8, 8)


# ---------------------------------------------------------------------------------------------- bad input

X, Y = gaussian_classes(classes=6, per_class=20, dim=4)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(way=7), ValueError, "way=7; allowed: at most the number of classes, 6"),
        (dict(way=1), ValueError, "way=1; allowed: a whole number of at least 2"),
        (dict(shot=0), ValueError, "shot=0; allowed: a whole number of at least 1"),
        (dict(shot=2.0), TypeError, "shot=2.0 is of type float; allowed: a whole number of at least 1"),
        (dict(shot=True), TypeError, "shot=True is of type bool; allowed: a whole number"),
        (dict(query=-1), ValueError, "query=-1; allowed: a whole number of at least 1"),
        (dict(episodes=0), ValueError, "episodes=0; allowed: a whole number of at least 1"),
        (dict(episodes="10"), TypeError, "episodes='10' is of type str; allowed: a whole number of at least 1"),
        (dict(seed=-1), ValueError, "seed=-1; allowed: a whole number of at least 0"),
        (dict(query=16), ValueError, "class 0 has 20 samples; allowed: at least shot . query = 21"),
        (dict(head="rigde"), ValueError, "head='rigde' is unknown; did you mean 'ridge'. allowed: ridge, ncc"),
        (dict(route="gramm"), ValueError, "route='gramm' is unknown; did you mean 'gram'. allowed: auto, gather"),
        (dict(ridge=0), ValueError, "ridge=0; allowed: a finite number above 0"),
        (dict(ridge=-1.0), ValueError, "ridge=-1.0; allowed: a finite number above 0"),
        (dict(ridge=math.nan), ValueError, "ridge=nan; allowed: a finite number above 0"),
        (dict(ridge="1"), TypeError, "ridge='1' is of type str; allowed: a finite number above 0"),
        (
            dict(transform="center"),
            ValueError,
            "transform='center' is unknown; did you mean 'centered'. allowed: none, l2, centered, power",
        ),
        (dict(transform="centered"), ValueError, r"source_mean=None; allowed: \[4\]"),
        (dict(transform="centered", source_mean=torch.zeros(3)), ValueError, r"has shape \[3\]; allowed: \[4\]"),
        (
            dict(transform="centered", source_mean=[0.0] * 4),
            TypeError,
            r"source_mean is of type list; allowed: .*\[4\]",
        ),
        (dict(transform="centered", source_mean=X[0] / 0), ValueError, "source_mean holds NaN or infinity"),
        (dict(source_mean=torch.zeros(4)), ValueError, "source_mean with .*; allowed: with transform 'centered' only"),
        (dict(transform="power"), ValueError, "features holds negative numbers; allowed with .*: 0 and more"),
        (dict(features=X.where(X[17, 2] != X, torch.nan)), ValueError, "features holds NaN .* row 17; allowed: finite"),
        (dict(features=X / 0), ValueError, "features holds NaN or infinity in 120 of 120 rows"),
        (dict(features=X[:, 0]), ValueError, r"features has shape \[120\]; allowed: \[N, D\]"),
        (
            dict(features=X[:-1]),
            ValueError,
            r"labels has shape \[120\]; allowed: \[119\], one entry per row of features",
        ),
        (
            dict(features=X[:0], labels=Y[:0]),
            ValueError,
            r"labels has shape \[0\]; allowed: \[N\] with N of at least 1",
        ),
        (dict(features=X.long()), TypeError, "features has dtype torch.int64; allowed: a float dtype"),
        (dict(features=X.tolist()), TypeError, r"features is of type list; allowed: a torch.Tensor \[N, D\]"),
        (dict(labels=Y.float()), TypeError, "labels has dtype torch.float32; allowed: an integer dtype"),
        (dict(labels=Y[:, None]), ValueError, r"labels has shape \[120, 1\]; allowed: \[N\]"),
        (dict(labels=Y.tolist()), TypeError, r"labels is of type list; allowed: a torch.Tensor \[N\] of integers"),
        (dict(query_features=X), ValueError, "query_features and query_labels: one is None; allowed: both or neither"),
        (dict(query_features=X[:, :2], query_labels=Y), ValueError, "query_features has 2 columns.*allowed: 4 columns"),
        (dict(query_features=X, query_labels=Y + 1), ValueError, r"missing \[0\], unknown \[6\]"),
        (
            dict(query_features=X[::2], query_labels=Y[::2]),
            ValueError,
            "query_labels: class 0 has 10 samples; allowed: at least query = 15",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_bad_input(change, error, message):
    call = dict(features=X, labels=Y) | change
    with pytest.raises(error, match=message):
        fewshot.evaluate(call.pop("features"), call.pop("labels"), **call)


def test_short_class_is_named():
    labels = torch.tensor([3] * 6 + [11] * 4 + [40] * 6)
    with pytest.raises(ValueError, match="class 11 has 4 samples; allowed: at least shot . query = 5"):
        fewshot.sample_episodes(labels, way=2, shot=2, query=3, episodes=1)
    with pytest.raises(ValueError, match="class 11 has 4 samples; allowed: at least shot . 1 = 5"):
        fewshot.pair_errors(torch.zeros(16, 2), labels, shot=4)


def nearly_dependent():
    """Float64 features of which one direction is 10^-12 of the other, and its noise decides all."""
    x, y = gaussian_classes(dim=2, dtype=torch.float64)
    return x * torch.tensor([1.0, 1e-12], dtype=torch.float64), y


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: fewshot.pair_errors(X, Y, shot=0), ValueError, "shot=0; allowed: a whole number of at least 1"),
        (
            lambda: fewshot.pair_errors(X, Y, shot=1, draws=0),
            ValueError,
            "draws=0; allowed: a whole number of at least 1",
        ),
        (
            lambda: fewshot.pair_errors(X, Y, shot=1, draws=1, intervals=True),
            ValueError,
            "draws=1; allowed: a whole number of at least 2",
        ),
        (lambda: fewshot.pair_errors(X, Y, shot=1, queries="al"), ValueError, "did you mean 'all'"),
        (
            lambda: fewshot.pair_errors(X, Y * 0, shot=1),
            ValueError,
            "labels holds 1 class; allowed: at least 2 classes",
        ),
        (lambda: fewshot.compare(X, Y, heads="ncc"), ValueError, "heads='ncc'; allowed: a non-empty sequence of names"),
        (lambda: fewshot.compare(X, Y, shots=5), ValueError, "shots=5; allowed: a non-empty sequence of integers"),
        (
            lambda: fewshot.select_ridge(X, Y, ridges=()),
            ValueError,
            "ridges=.*; allowed: a non-empty sequence of numbers above 0",
        ),
        (lambda: fewshot.select_ridge(X, Y, ridges=(1, -1)), ValueError, "ridges=-1; allowed: a finite number above 0"),
        (
            lambda: fewshot.select_ridge(X, Y, head="ncc"),
            ValueError,
            "head='ncc' is unknown; allowed: ridge, logistic",
        ),
        (
            lambda: fewshot.evaluate(X, Y, way=6, episodes=5).class_interval(),
            ValueError,
            "class_interval of 6 classes; allowed: more classes than way = 6",
        ),
        (
            lambda: fewshot.evaluate(X, Y, way=2, episodes=1).class_interval(),
            ValueError,
            "class_interval of 1 episode; allowed: at least 2 episodes",
        ),
        (
            lambda: fewshot.evaluate(*nearly_dependent(), ridge=1e-30, episodes=50),
            ArithmeticError,
            "ridge is too small",
        ),
    ],
)
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
@pytest.mark.parametrize("head", fewshot.HEADS)
def test_predictions_are_what_the_evaluation_counts(head, scale):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(6).repeat_interleave(12)
    features = torch.randn(72, 5, generator=generator) + 0.7 * torch.randn(6, 5, generator=generator)[labels]
    features[1] = features[20]  # ties now and then
    features = features * scale
    setting = dict(way=4, shot=2, query=3, episodes=200, seed=1)
    drawn = fewshot.sample_episodes(labels, **setting)
    ridge = scale**2
    found = fewshot.predict(features[drawn.support], features[drawn.query.flatten(1)], head=head, ridge=ridge)
    right = found.view(200, 4, 3) == torch.arange(4)[:, None]
    expected = fewshot.evaluate(features, labels, head=head, ridge=ridge, **setting)
    assert torch.equal(right.double().mean((1, 2)), expected.per_episode) and 0.3 < expected.accuracy < 0.95


def test_ties_are_predicted_as_ties():
    support = torch.tensor([[[[0.0], [0.0]], [[0.0], [0.0]]]])
    assert fewshot.predict(support, torch.tensor([[[1.0]]]), head="ncc").tolist() == [[-1]]


@pytest.mark.parametrize(
    ("support", "queries", "message"),
    [
        (
            torch.zeros(2, 3, 4),
            torch.zeros(2, 3, 4),
            r"support is torch.float32 \[2, 3, 4\]; allowed: .* \[E, way, shot",
        ),
        (torch.zeros(1, 2, 1, 4, dtype=torch.int64), torch.zeros(1, 3, 4), "support is torch.int64"),
        (torch.zeros(1, 1, 1, 4), torch.zeros(1, 3, 4), "at least 2 classes"),
        (torch.zeros(1, 2, 1, 4), torch.zeros(1, 3, 5), r"queries \[1, 3, 5\]"),
        (torch.zeros(1, 2, 1, 4), torch.full((1, 3, 4), torch.nan), "queries holds NaN"),
        (None, torch.zeros(1, 3, 4), "support is NoneType"),
    ],
)
def test_predictions_refuse_what_is_no_episode(support, queries, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fewshot.predict(support, queries)


def test_compare_takes_queries_from_another_set():
    x, y = gaussian_classes(classes=8)
    other, theirs = gaussian_classes(classes=8, spread=0.6, per_class=17, seed=0)
    setting = dict(way=4, query=6, episodes=200, query_features=other + 0.3, query_labels=theirs)
    together = fewshot.compare(x, y, heads=("ncc", "ridge"), shots=(1, 3), **setting)
    for (head, shot), result in together.items():
        assert torch.equal(result.per_episode, fewshot.evaluate(x, y, head=head, shot=shot, **setting).per_episode)
    own = fewshot.compare(x, y, heads=("ncc",), shots=(1,), way=4, query=6, episodes=200)
    assert not torch.equal(own["ncc", 1].per_episode, together["ncc", 1].per_episode)


def test_a_result_says_what_it_is_the_accuracy_of():
    x, y = gaussian_classes(classes=8)
    result = fewshot.evaluate(
        x, y, way=4, shot=3, query=6, episodes=50, head="logistic", ridge=2.0, seed=7, transform="l2"
    )
    found = {name: getattr(result, name) for name in ("head", "way", "shot", "query", "ridge", "seed", "transform")}
    assert found == dict(head="logistic", way=4, shot=3, query=6, ridge=2.0, seed=7, transform=("l2",))
    assert f"({100 * result.accuracy:.2f} ± {100 * result.ci95:.2f} %, 50 episodes, 4-way 3-shot" in repr(result)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(way=2, shot=0, query=2), "shot=0; allowed"),
        (dict(way=2, shot=1, query=0), "query=0; allowed"),
        (
            dict(way=2, shot=1, query=2, query_labels=torch.zeros(0, dtype=torch.int64)),
            r"^query_labels has shape \[0\]",
        ),
    ],
)
def test_a_sampler_names_the_parameter_that_is_wrong(options, words):
    with pytest.raises(ValueError, match=words):
        fewshot.EpisodeSampler(UNEVEN, **options)
