"""Matching networks (Vinyals et al. 2016): a query has the classes of the shots that it resembles.

Built by `ncbook.objectives.build`. Without the paper's recurrent "full context embeddings", which make the features of
one image depend on the other images of the episode: features of this workbook belong to an image alone.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncbook.experiment import Experiment
from ncbook.objectives.episodic import Episodic, squared_distances


class Matching(Episodic):
    """Cross-entropy of a softmax over all shots, summed over those of a class.

    loss = mean over queries x of class k of -log [ sum_{i of class k} exp(c(x, x_i)) / sum_i exp(c(x, x_i)) ], in nats.
    c is the scale times the cosine of the features; with ``distance="dot"`` times their inner product, shots alone at
    length 1; with "squared_euclidean" minus the scale times their squared distance. A cosine lies in [-1, 1], where a
    softmax over many shots stays nearly flat: hence the scale, which is trained unless ``learn_scale=False``.
    """

    def __init__(self, experiment: Experiment, feature_dim: int):
        super().__init__(experiment, feature_dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(experiment.scale)), requires_grad=experiment.learn_scale)

    def scores(self, support: Tensor, queries: Tensor) -> Tensor:
        """Log-probabilities of the classes, up to a constant per query."""
        shots = support.flatten(1, 2)  # [T, way * shot, D]
        if self.experiment.distance == "squared_euclidean":
            similarity = -squared_distances(queries, shots)
        else:
            queries = F.normalize(queries, dim=-1) if self.experiment.distance == "cosine" else queries
            similarity = queries @ F.normalize(shots, dim=-1).mT
        return (self.log_scale.exp() * similarity).unflatten(2, support.shape[1:3]).logsumexp(3)
