"""Prototypical networks (Snell et al. 2017): queries classified by their distance from the means of the shots.

Built by `ncbook.objectives.build`; the second source of the workbook (Medepalli and Doraiswamy) trains by it.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncbook.experiment import Experiment
from ncbook.fewshot import Episodes, EpisodeSampler
from ncbook.objectives.contract import Objective, SourceImages


class Prototypical(Objective):
    """Cross-entropy of the softmax over negative squared distances from the class means of the shots.

    loss = mean over queries x of class k of -log [ exp(-|f(x) - m_k|²) / sum_j exp(-|f(x) - m_j|²) ], in nats, with m_j
    the mean of the shots of class j. There is no head: the classifier of an episode is made of its shots.
    """

    def __init__(self, experiment: Experiment, feature_dim: int):
        super().__init__()
        self.way, self.shot, self.query = experiment.train_way, experiment.train_shot, experiment.train_query
        self.episodes = experiment.episodes_per_epoch
        self.chance_loss = math.log(self.way)

    def batches(self, labels: Tensor, generator: torch.Generator) -> Episodes:
        """Episodes of an epoch, drawn where the generator is, used where the labels are."""
        sampler = EpisodeSampler(labels.to(generator.device), way=self.way, shot=self.shot, query=self.query)
        drawn = sampler.draw(self.episodes, generator)
        return Episodes(*(rows.to(labels.device) for rows in (drawn.support, drawn.query, drawn.classes)))

    def loss(self, backbone: nn.Module, images: SourceImages, batch: Episodes) -> Tensor:
        """Loss of one episode, support [way, shot] and query [way, query]; shots and queries share one forward pass."""
        rows = torch.cat([batch.support, batch.query], 1)  # [way, shot + query]
        features = backbone(images(rows.flatten())).float().view(*rows.shape, -1)
        with torch.autocast(features.device.type, enabled=False):
            means = features[:, : self.shot].mean(1)  # [way, D]
            queries = features[:, self.shot :].flatten(0, 1)  # [way * query, D]
            scores = 2 * queries @ means.T - means.square().sum(1)  # -|q - m|² + |q|², which changes no softmax
            return F.cross_entropy(scores, torch.arange(self.way, device=scores.device).repeat_interleave(self.query))
