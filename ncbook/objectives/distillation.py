"""Distillation of RFS (Tian et al. 2020): a network learns from the labels and from a trained network like itself.

Built by `ncbook.objectives.build`; the teacher is handed over by `training`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncbook.experiment import Experiment
from ncbook.objectives.contract import SourceImages
from ncbook.objectives.cross_entropy import CrossEntropy


class Distillation(CrossEntropy):
    """Cross-entropy, and the divergence from the teacher's softened probabilities.

    loss = (1 - a) CE(labels, p) + a T² KL(p_teacher^T, p^T), in nats, with p^T the softmax of the scores over the
    temperature T and a the ``teacher_weight``. The teacher sees the same augmented images, in evaluation mode.
    """

    def __init__(self, experiment: Experiment, feature_dim: int):
        super().__init__(experiment, feature_dim)
        self._teacher: tuple[nn.Module, ...] = ()  # in a tuple, so that it is no part of what is trained and saved

    def learn_from(self, backbone: nn.Module, objective: CrossEntropy) -> None:
        """Take a trained network with its head as the teacher."""
        self._teacher = (nn.Sequential(backbone, objective.linear).eval().requires_grad_(False),)

    def loss(self, backbone: nn.Module, images: SourceImages, batch: Tensor) -> Tensor:
        """Mean over the rows of a batch; computed in float32 also under autocast."""
        if not self._teacher:
            raise ValueError("distillation has no teacher; allowed: ncbook.train, which trains one, or learn_from")
        pixels = images(batch)
        scores = self.logits(backbone(pixels)).float()
        with torch.no_grad():
            taught = self._teacher[0](pixels).float()
        temperature, weight = self.experiment.temperature, self.experiment.teacher_weight
        divergence = F.kl_div(
            F.log_softmax(scores / temperature, 1),
            F.log_softmax(taught / temperature, 1),
            log_target=True,
            reduction="batchmean",
        )
        labels = F.cross_entropy(scores, images.labels[batch])
        return (1 - weight) * labels + weight * temperature**2 * divergence
