"""`fewshot` against arithmetic in fractions and in float64: right, or refused in one sentence, at every scale."""

from fractions import Fraction

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from inputs import anything, classes, right_or_refused

from ncbook import fewshot

episode_sizes = st.fixed_dictionaries(
    {"way": st.integers(2, 5), "shot": st.integers(1, 4), "query": st.integers(1, 4), "seed": st.integers(0, 99)}
)


def fits(y, way, shot, query):
    counts = y.unique(return_counts=True)[1]
    return len(counts) >= way and int(counts.min()) >= shot + query


@given(classes(), episode_sizes, st.integers(1, 30))
def test_episodes_are_well_formed_or_refused(sample, sizes, episodes):
    y = sample[1]
    with right_or_refused() as refusal:
        drawn = fewshot.sample_episodes(y, episodes=episodes, **sizes)
    assert bool(refusal) != fits(y, *(sizes[name] for name in ("way", "shot", "query")))
    if refusal:
        return
    rows = torch.cat([drawn.support, drawn.query], 2)  # [E, way, shot + query]
    assert rows.shape == (episodes, sizes["way"], sizes["shot"] + sizes["query"])
    assert all(len(set(episode)) == len(episode) for episode in rows.flatten(1).tolist())  # no row twice
    of = y.long()[rows]
    assert (of == of[..., :1]).all()
    assert all(len(set(ways)) == sizes["way"] for ways in of[..., 0].tolist())
    assert of[..., 0].equal(y.unique().long()[drawn.classes])
    fewer = fewshot.sample_episodes(y, episodes=(episodes + 1) // 2, **sizes)
    assert fewer.support.equal(drawn.support[: len(fewer)])


def margins_of_means(x, support, query):
    """[way, query] distance² to the nearest rival mean less that to the own one, as exact fractions."""
    points = [[Fraction(v) for v in row] for row in x.detach().double().tolist()]
    means = [[sum(c) / len(rows) for c in zip(*(points[r] for r in rows), strict=True)] for rows in support.tolist()]
    found = []
    for own, rows in enumerate(query.tolist()):
        for row in rows:
            squared = [sum((a - b) ** 2 for a, b in zip(points[row], mean, strict=True)) for mean in means]
            found.append(min(d for k, d in enumerate(squared) if k != own) - squared[own])
    return found


def margins_of_ridge(x, support, query, ridge):
    """[way x query] score of the own class less the best rival's, by ordinary least squares on stacked equations."""
    x = x.detach().double().numpy()
    largest = max(np.abs(x).max(), 1e-300)
    x, ridge = x / largest, float(Fraction(ridge) / Fraction(float(largest)) ** 2)
    way, shot = support.shape
    shots = x[support.flatten().numpy()]
    targets = np.eye(way).repeat(shot, 0) - 1 / way
    center = shots.mean(0)
    weight = (shots - center).T @ targets
    if np.abs(weight).max() <= 1e-14 * len(shots):  # the classes' shots have one mean, and no weight tells them apart
        weight = np.zeros_like(weight)
    elif ridge <= 1e12:  # beyond it weights vanish as 1 / ridge, and are proportional to what stands there
        stacked = np.concatenate([shots - center, np.sqrt(ridge) * np.eye(x.shape[1])])
        weight = np.linalg.lstsq(stacked, np.concatenate([targets, np.zeros((x.shape[1], way))]), rcond=None)[0]
    scores = (x[query.flatten().numpy()] - center) @ weight
    own = np.arange(way).repeat(query.shape[1])
    rivals = np.where(np.eye(way, dtype=bool)[own], -np.inf, scores).max(1)
    scale = np.abs(weight).max() * max(np.abs(x - center).max(), 1e-300)
    return (scores[np.arange(len(own)), own] - rivals) / max(scale, 1e-300), ridge


@given(classes(least_classes=2, least=2), episode_sizes, st.sampled_from(["gather", "gram"]))
def test_nearest_class_mean_is_exact(sample, sizes, route):
    x, y = sample
    if not fits(y, sizes["way"], sizes["shot"], sizes["query"]):
        return
    with right_or_refused() as refusal:
        result = fewshot.evaluate(x, y, episodes=3, head="ncc", route=route, **sizes)
    assert not refusal
    episodes = fewshot.sample_episodes(y, episodes=3, **sizes)
    size = Fraction(x.detach().abs().max().item()) ** 2
    for k, found in enumerate(result.per_episode.tolist()):
        margins = margins_of_means(x, episodes.support[k], episodes.query[k])
        right = sum(margin > size * Fraction(1, 10**11) for margin in margins)  # a tie is an error
        doubtful = sum(0 < margin <= size * Fraction(1, 10**11) for margin in margins)
        assert right <= round(found * len(margins)) <= right + doubtful


@given(
    classes(least_classes=2, least=2),
    episode_sizes,
    st.sampled_from(["gather", "gram"]),
    st.sampled_from([1e-6, 1e-3, 1.0, 50.0, 1e6]),
)
def test_ridge_is_right_or_says_that_it_has_no_digits(sample, sizes, route, ridge):
    x, y = sample
    if not fits(y, sizes["way"], sizes["shot"], sizes["query"]):
        return
    with right_or_refused(ArithmeticError) as refusal:
        result = fewshot.evaluate(x, y, episodes=3, head="ridge", ridge=ridge, route=route, **sizes)
    episodes = fewshot.sample_episodes(y, episodes=3, **sizes)
    for k in range(3):
        margins, relative = margins_of_ridge(x, episodes.support[k], episodes.query[k], ridge)
        if refusal:
            assert relative < 1e-9  # next to no penalty, with shots that depend on each other
            continue
        if relative < 1e-9:
            continue  # the reference has no digits itself
        found = round(result.per_episode[k].item() * margins.size)
        right, doubtful = (margins > 1e-7).sum(), (np.abs(margins) <= 1e-7).sum()
        assert right <= found <= right + doubtful


@given(
    classes(),
    st.sampled_from(fewshot.HEADS),
    st.sampled_from(["none", "l2", "power", ("l2", "power")]),
    episode_sizes,
    st.sampled_from([1e-4, 1.0, 1e4]),
)
def test_every_head_gives_fractions_and_both_routes_agree(sample, head, transform, sizes, ridge):
    x, y = sample
    results = []
    for route in ("gather", "gram"):
        with right_or_refused(ArithmeticError, TypeError, ValueError) as refusal:
            results.append(
                fewshot.evaluate(x, y, episodes=4, head=head, ridge=ridge, transform=transform, route=route, **sizes)
            )
        if refusal and isinstance(refusal[0], ValueError):
            negative = "power" in transform and "negative" in str(refusal[0])
            assert negative or not fits(y, sizes["way"], sizes["shot"], sizes["query"])
            return
    for result in results:
        assert ((result.per_episode >= 0) & (result.per_episode <= 1)).all()
        assert result.confusion.sum() == 4 * sizes["way"] * sizes["query"]
        assert result.accuracy == result.per_episode.mean().item()
    if len(results) == 2 and head in ("ncc", "ridge"):
        # float64 decides what float32 cannot, so that only ties at its own rounding may differ
        differ = (results[0].per_episode - results[1].per_episode).abs().sum().item()
        assert differ * sizes["way"] * sizes["query"] <= 1.01


@given(classes(least_classes=2, least=2), st.integers(1, 4), st.booleans(), st.booleans(), st.integers(0, 9))
def test_pair_errors_are_errors(sample, shot, replacement, drawn_count, seed):
    x, y = sample
    queries = "undrawn" if drawn_count else "all"
    with right_or_refused() as refusal:
        errors, widths = fewshot.pair_errors(
            x, y, shot=shot, draws=5, seed=seed, replacement=replacement, queries=queries, intervals=True
        )
    counts = y.unique(return_counts=True)[1]
    needed = shot + 1 if queries == "undrawn" else 0 if replacement else shot
    assert bool(refusal) == (int(counts.min()) < needed)
    if refusal:
        return
    off = ~torch.eye(len(errors), dtype=torch.bool)
    assert errors.isnan().equal(~off) and errors[off].equal(errors.T[off])
    assert ((errors[off] >= 0) & (errors[off] <= 1)).all() and (widths[off] >= 0).all()


@given(classes(least_classes=2, least=2, exponents=False))
def test_pair_errors_with_all_samples_as_shots_are_exact(sample):
    x, y = sample
    counts = y.unique(return_counts=True)[1]
    shot = int(counts.min())
    keep = torch.cat([(y == k).nonzero().flatten()[:shot] for k in y.unique()])  # equal sizes: one draw there is
    x, y = x[keep], y[keep]
    errors = fewshot.pair_errors(x, y, shot=shot, draws=2, queries="all")
    rows = torch.stack([(y == k).nonzero().flatten() for k in y.unique()])  # [C, shot]
    size = Fraction(x.detach().abs().max().item()) ** 2
    for i in range(len(rows)):
        for j in range(i):
            pair = rows[[i, j]]
            margins = margins_of_means(x, pair, pair)
            wrong = sum(margin <= 0 for margin in margins)
            doubtful = sum(0 < margin <= size * Fraction(1, 10**11) for margin in margins)
            assert wrong <= round(errors[i, j].item() * len(margins)) <= wrong + doubtful


@given(anything, st.sampled_from(["way", "shot", "query", "episodes", "seed", "ridge", "head", "transform", "route"]))
def test_any_argument_is_taken_or_refused(value, name):
    x = torch.arange(24.0).view(12, 2)
    y = torch.arange(3).repeat_interleave(4)
    arguments = {"way": 2, "shot": 1, "query": 1, "episodes": 2} | {name: value}
    if name == "episodes" and isinstance(value, int) and value > 1000:
        return
    with right_or_refused():
        assert 0 <= fewshot.evaluate(x, y, **arguments).accuracy <= 1


@given(anything, anything)
def test_anything_in_place_of_features_is_refused(first, second):
    x, y = torch.arange(24.0).view(12, 2), torch.arange(3).repeat_interleave(4)
    for arguments in ((first, second), (x, second), (first, y)):
        for call in (
            lambda a=arguments: fewshot.evaluate(*a),
            lambda a=arguments: fewshot.compare(*a),
            lambda a=arguments: fewshot.select_ridge(*a),
            lambda a=arguments: fewshot.pair_errors(*a, shot=1),
            lambda a=arguments: fewshot.sample_episodes(a[1], episodes=2),
        ):
            with right_or_refused() as refusal:
                call()
            assert refusal
