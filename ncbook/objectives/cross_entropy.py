"""Softmax cross-entropy of a linear classifier on the features. Built by `ncbook.objectives.build`."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncbook.experiment import Experiment
from ncbook.objectives.contract import Objective, SourceImages, row_batches


class CrossEntropy(Objective):
    """Softmax cross-entropy of a linear classifier g on the features: h = g ∘ f of the source task.

    loss = mean_i [ log sum_c exp(w_c . f(x_i) + b_c) - (w_{y_i} . f(x_i) + b_{y_i}) ], in nats. An objective that asks
    something else of the same features and scores is a subclass with another `criterion`.
    """

    def __init__(self, experiment: Experiment, feature_dim: int):
        super().__init__(experiment)
        self.linear = nn.Linear(feature_dim, experiment.n_source)  # rows of weight [C, D] are the classes
        self.chance_loss = math.log(experiment.n_source)

    def batches(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Every row once per epoch."""
        return row_batches(labels, self.experiment.batch_size, generator)

    def loss(self, backbone: nn.Module, images: SourceImages, batch: Tensor) -> Tensor:
        """Mean over the rows of a batch; computed in float32 also under autocast."""
        return self.criterion(backbone(images(batch)), images.labels[batch])

    def criterion(self, features: Tensor, labels: Tensor) -> Tensor:
        """Loss of features [B, D] of samples with labels [B]."""
        return F.cross_entropy(self.logits(features).float(), labels)

    def logits(self, features: Tensor) -> Tensor:
        """Class scores [B, C] of features [B, D]."""
        return self.linear(features)

    @property
    def weight(self) -> Tensor:
        """Rows of the classifier, [C, D]."""
        return self.linear.weight
