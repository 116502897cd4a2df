"""What all objectives that train on episodes have in common. Their files hold what differs: the scores of queries."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncbook.experiment import Experiment
from ncbook.fewshot import Episodes, EpisodeSampler
from ncbook.objectives.contract import Objective, SourceImages


class Episodic(Objective):
    """Trained on episodes: the shots of an episode make a classifier, its queries are what the loss is taken of.

    A subclass defines `scores`; or `episode_scores`, where the classifier needs the images (MAML).
    """

    tasks_per_step = 1  # episodes
    needs_images = False  # whether the classifier is made of images rather than of features

    def __init__(self, experiment: Experiment, feature_dim: int):
        super().__init__(experiment)
        self.way, self.shot, self.query = experiment.train_way, experiment.train_shot, experiment.train_query
        self.episodes = experiment.episodes_per_epoch
        self.chance_loss = math.log(self.way)

    def batches(self, labels: Tensor, generator: torch.Generator) -> list[Episodes]:
        """Episodes of an epoch, drawn where the generator is, used where the labels are; `tasks_per_step` in each."""
        sampler = EpisodeSampler(labels.to(generator.device), way=self.way, shot=self.shot, query=self.query)
        drawn = sampler.draw(self.episodes, generator)
        drawn = Episodes(*(rows.to(labels.device) for rows in (drawn.support, drawn.query, drawn.classes)))
        return [drawn[first : first + self.tasks_per_step] for first in range(0, self.episodes, self.tasks_per_step)]

    def loss(self, backbone: nn.Module, images: SourceImages, batch: Episodes) -> Tensor:
        """Mean over the queries of T episodes, support [T, way, shot] and query [T, way, query]."""
        rows = torch.cat([batch.support, batch.query], 2)  # [T, way, shot + query]
        pixels = images(rows.flatten()).unflatten(0, rows.shape)
        return self.criterion(self.episode_scores(backbone, pixels, self.shot), self.query)

    def criterion(self, scores: Tensor, query: int) -> Tensor:
        """Cross-entropy in nats of scores [T, way * query, way], queries of class after class."""
        way = scores.shape[2]
        return F.cross_entropy(scores.flatten(0, 1), places(way, query, scores.device).repeat(len(scores)))

    def episode_scores(self, backbone: nn.Module, pixels: Tensor, shot: int) -> Tensor:
        """Scores of the queries of T episodes by the classifier that this objective trains.

        Shots and queries share one forward pass.

        Args:
            backbone: network input -> features [B, D], in the mode that its caller wants.
            pixels: network input [T, way, shot + query, channels, H, W].
            shot: samples of each class, the first ones, that are labeled.

        Returns:
            float32 [T, way * query, way], queries of class after class; the largest wins.
        """
        features = backbone(pixels.flatten(0, 2)).float().unflatten(0, pixels.shape[:3])  # [T, way, shot + query, D]
        with torch.autocast(features.device.type, enabled=False):
            return self.scores(features[:, :, :shot], features[:, :, shot:].flatten(1, 2))

    def scores(self, support: Tensor, queries: Tensor) -> Tensor:
        """Scores [T, Q, way] of queries [T, Q, D] by a classifier of the shots [T, way, shot, D]."""
        raise TypeError(f"{type(self).__name__} must define scores")


def places(way: int, samples: int, device: torch.device) -> Tensor:
    """Places in an episode of the classes of its shots, or of its queries, class after class: [way * samples]."""
    return torch.arange(way, device=device).repeat_interleave(samples)


def squared_distances(queries: Tensor, points: Tensor) -> Tensor:
    """|q - p|² [T, Q, P], less |q|², which changes no softmax and no winner."""
    return points.square().sum(-1)[:, None] - 2 * queries @ points.mT
