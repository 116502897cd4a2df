"""The contract between an objective and the trainer, and batches of rows. Imported by every objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ncbook.experiment import Experiment
    from ncbook.fewshot import Episodes


class UndefinedLoss(ValueError):
    """The features of a batch are such that the loss is not defined: what training reports as a diverged run."""


class SourceImages(Protocol):
    """The source training images as an objective sees them; made by the trainer, on its device.

    Attributes:
        labels: int64 [N], 0 ... C-1: rows of the head.
    """

    labels: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Network input float32 [B, channels, H, W] of rows [B], augmented again at each call."""


class Objective(nn.Module):
    """What is minimized. The only one that knows whether a step takes a batch of rows or an episode.

    A subclass is built from (experiment, feature_dim); its parameters are trained with those of the backbone.

    Attributes:
        experiment: the parameters of the run.
        weight: rows of a linear head [C, D], or None.
        chance_loss: loss of guessing, in the units of `loss`: what "diverged" is measured against.
    """

    weight: Tensor | None = None
    chance_loss: float

    def __init__(self, experiment: Experiment):
        super().__init__()
        self.experiment = experiment

    def batches(self, labels: Tensor, generator: torch.Generator) -> Sequence[Tensor] | Sequence[Episodes]:
        """Batches of one epoch, one per step.

        Args:
            labels: int64 [N] of the source training samples, on the device.
            generator: on the CPU, so that every kind of device steps on the same batches; its state decides them.
                Their number must not depend on it.

        Returns:
            A sequence of row numbers int64 [B], or of `ncbook.fewshot.Episodes`.
        """
        raise TypeError(f"{type(self).__name__} must define batches")

    def loss(self, backbone: nn.Module, images: SourceImages, batch) -> Tensor:
        """Loss of one step, a 0-d float32 tensor with gradients; an inner loop lives here.

        Args:
            backbone: network input [B, channels, H, W] -> features [B, D]. Under autocast where the run's precision is
                below float32.
            images: rows -> network input, and the labels.
            batch: one of `batches`.
        """
        raise TypeError(f"{type(self).__name__} must define loss")

    def logits(self, features: Tensor) -> Tensor | None:
        """Source-class scores [B, C] of features [B, D], or None without a head."""
        return None


def row_batches(labels: Tensor, batch_size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """All rows in random order, cut into equal batches, give or take one row, of at most ``batch_size``.

    Drawn where the generator is, used where the labels are.

    Example:
        >>> [len(rows) for rows in row_batches(torch.zeros(120), 64, torch.Generator())]
        [60, 60]
    """
    order = torch.randperm(len(labels), generator=generator, device=generator.device).to(labels.device)
    return order.tensor_split(math.ceil(len(labels) / batch_size))
