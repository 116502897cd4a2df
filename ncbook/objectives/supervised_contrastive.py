"""Supervised contrastive learning (Khosla et al. 2020): views of one class attract each other, all others repel.

Built by `ncbook.objectives.build`.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncbook.experiment import Experiment
from ncbook.objectives.contract import SourceImages
from ncbook.objectives.cross_entropy import CrossEntropy

PROJECTED = 128  # features after the projector, at most


class SupervisedContrastive(CrossEntropy):
    """The supervised contrastive loss of two views per image, and a linear classifier that only listens.

    loss = mean_i 1/|P(i)| sum_{p in P(i)} -log [ exp(z_i . z_p / T) / sum_{a≠i} exp(z_i . z_a / T) ] + CE, in nats,
    over the 2B views of a batch; P(i) are the other views of the class of view i, T the ``temperature``, and z the unit
    vectors after a projector: a perceptron with one hidden layer, on the features f. Features of this package are those
    before the projector; `project` gives the others.

    The contrastive loss has no classifier. For its accuracy, NC3 and NC4 a linear one is trained beside it, by
    cross-entropy (CE) on features that are cut off from the gradient: the network learns nothing from it.

    Reference:
        Khosla et al., "Supervised contrastive learning", NeurIPS 2020, its L_out.
    """

    def __init__(self, experiment: Experiment, feature_dim: int):
        super().__init__(experiment, feature_dim)
        self.projector = nn.Sequential(
            nn.Linear(feature_dim, feature_dim),
            nn.ReLU(),
            nn.Linear(feature_dim, min(PROJECTED, feature_dim)),
        )
        self.chance_loss += math.log(2 * experiment.batch_size - 1)  # all views alike

    def loss(self, backbone: nn.Module, images: SourceImages, batch: Tensor) -> Tensor:
        """Mean over two views of each row of a batch, which share one forward pass."""
        return self.criterion(backbone(torch.cat([images(batch), images(batch)])), images.labels[batch].repeat(2))

    def criterion(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean over views."""
        with torch.autocast(features.device.type, enabled=False):
            contrast = supervised_contrast(self.project(features.float()), labels, self.experiment.temperature)
        return contrast + super().criterion(features.detach(), labels)

    def project(self, features: Tensor) -> Tensor:
        """Unit vectors [N, P] after the projector, of features [N, D]; P = 128, or D if that is less."""
        return F.normalize(self.projector(features), dim=1)


def supervised_contrast(views: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss in nats, averaged over the views that have another of their class.

    Args:
        views: [N, P], of unit length.
        labels: int64 [N].
        temperature: above 0.

    Example:
        Views (1, 0), (1, 0), (0, 1) of classes 0, 0, 1 at T = 1: both of class 0 lose -log(e / (e + 1)).

        >>> supervised_contrast(torch.eye(2)[[0, 0, 1]], torch.tensor([0, 0, 1]), 1.0)
        tensor(0.3133)
    """
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    log_p = (views @ views.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1)
    positive = (labels[:, None] == labels) & ~itself
    others = positive.sum(1)
    losses = -log_p.masked_fill(~positive, 0).sum(1) / others.clamp_min(1)
    return losses.sum() / (others > 0).sum()
