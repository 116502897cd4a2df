"""Objectives: their losses against formulas written out, their batches, the contract."""

import math

import pytest
import torch
from torch.nn import functional as F

from ncbook import Experiment, catalog, objectives
from ncbook.training import Trainer


class Images:
    """Source images as an objective sees them, here numbers that are their own features."""

    def __init__(self, features, labels):
        self.features, self.labels = features, labels

    def __call__(self, rows):
        return self.features[rows]


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(6).repeat_interleave(12)
    return Images(torch.randn(72, 3, generator=generator) + labels[:, None], labels)


def built(**parameters):
    """An objective on three features; a student with a teacher that guesses, to which features are images."""
    experiment = Experiment(n_source=6, **parameters)
    torch.manual_seed(0)
    objective = objectives.build(experiment, feature_dim=3)
    if experiment.teacher:
        teacher = objectives.build(experiment.teacher, feature_dim=3)
        for parameter in teacher.parameters():
            torch.nn.init.zeros_(parameter)
        objective.learn_from(torch.nn.Identity(), teacher)
    return objective


@pytest.mark.parametrize("name", catalog.OBJECTIVES)
def test_the_contract(name, images):
    objective = built(objective=name)
    batches = objective.batches(images.labels, torch.Generator().manual_seed(1))
    again = objective.batches(images.labels, torch.Generator().manual_seed(1))
    other = objective.batches(images.labels, torch.Generator().manual_seed(2))
    assert len(batches) == len(other) >= 1
    loss = objective.loss(torch.nn.Identity(), images, batches[0])
    assert loss.shape == () and loss.dtype == torch.float32 and loss.isfinite()
    assert loss == objective.loss(torch.nn.Identity(), images, again[0])
    logits = objective.logits(images.features)
    assert (logits is None) == (objective.weight is None)
    if logits is not None:
        assert logits.shape == (72, 6) and objective.weight.shape == (6, 3)
    assert objective.chance_loss > 0


@pytest.mark.parametrize("name", catalog.OBJECTIVES)
def test_guessing_costs_the_loss_of_chance(name, images):
    objective = built(objective=name, **({"teacher_weight": 0.0} if name == "distillation" else {}))
    for parameter in objective.parameters():
        torch.nn.init.zeros_(parameter)
    blind = torch.nn.Sequential(torch.nn.Linear(3, 3))
    torch.nn.init.zeros_(blind[0].weight), torch.nn.init.zeros_(blind[0].bias)
    batch = objective.batches(images.labels, torch.Generator())[0]
    assert objective.loss(blind, images, batch).item() == pytest.approx(objective.chance_loss, rel=1e-6)


def test_cross_entropy_is_its_formula(images):
    objective = objectives.build(Experiment(n_source=6, batch_size=20), feature_dim=3)
    batches = objective.batches(images.labels, torch.Generator())
    assert [len(rows) for rows in batches] == [18, 18, 18, 18] and torch.cat(batches).unique().numel() == 72
    logits = images.features[batches[0]] @ objective.weight.T + objective.linear.bias
    by_hand = (logits.logsumexp(1) - logits[torch.arange(18), images.labels[batches[0]]]).mean()
    torch.testing.assert_close(objective.loss(torch.nn.Identity(), images, batches[0]), by_hand)


def test_prototypical_is_its_formula(images):
    experiment = Experiment(
        objective="prototypical", n_source=6, train_way=4, train_shot=3, train_query=2, episodes_per_epoch=7
    )
    objective = objectives.build(experiment, feature_dim=3)
    assert list(objective.parameters()) == [] and objective.chance_loss == math.log(4)
    episodes = objective.batches(images.labels, torch.Generator().manual_seed(3))
    assert len(episodes) == 7
    episode = episodes[2]
    assert episode.support.shape == (1, 4, 3) and episode.query.shape == (1, 4, 2)
    assert (images.labels[episode.support] == images.labels[episode.query][..., :1]).all()
    means = images.features[episode.support[0]].mean(1)
    distances = torch.cdist(images.features[episode.query[0]].flatten(0, 1), means).square()  # [8, 4]
    by_hand = F.cross_entropy(-distances, torch.arange(4).repeat_interleave(2))
    torch.testing.assert_close(objective.loss(torch.nn.Identity(), images, episode), by_hand)


def test_the_loss_of_an_episode_reaches_the_backbone(images):
    objective = objectives.build(Experiment(objective="prototypical", n_source=6), feature_dim=3)
    backbone = torch.nn.Linear(3, 3)
    objective.loss(backbone, images, objective.batches(images.labels, torch.Generator())[0]).backward()
    assert backbone.weight.grad.norm() > 0


def test_an_objective_that_forgets_its_part_says_so(images):
    with pytest.raises(TypeError, match="Objective must define batches"):
        objectives.Objective().batches(images.labels, torch.Generator())


def test_too_few_samples_for_an_episode_are_refused_before_training():
    images = torch.zeros(20, 1, 28, 28, dtype=torch.uint8)
    experiment = Experiment(objective="prototypical", n_source=4, train_shot=4, train_query=2)
    with pytest.raises(ValueError, match=r"5 samples.*6"):
        Trainer(experiment, images, torch.arange(4).repeat_interleave(5))
