"""What is minimised: an objective has a head on top of the features and a loss of a batch. No loop.

`training` builds one by name and calls it with (features, labels) of each batch.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ncbook.experiment import OBJECTIVES, nearest


class CrossEntropy(nn.Module):
    """Softmax cross-entropy of a linear classifier g on the features: h = g o f of the source task.

    loss = mean_i [ log sum_c exp(w_c . f(x_i) + b_c) - (w_{y_i} . f(x_i) + b_{y_i}) ], in nats.
    """

    def __init__(self, feature_dim: int, n_classes: int):
        super().__init__()
        self.linear = nn.Linear(feature_dim, n_classes)  # rows of weight [C, D] are the classes

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Class scores [B, C] of features [B, D]."""
        return self.linear(features)

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch, a 0-d tensor; computed in float32 also under autocast."""
        return F.cross_entropy(self.logits(features).float(), labels)

    @property
    def weight(self) -> torch.Tensor:
        """Rows of the classifier, [C, D]."""
        return self.linear.weight


_BUILDERS = {"cross_entropy": CrossEntropy}


def build(name: str, feature_dim: int, n_classes: int) -> nn.Module:
    """Build an objective with fresh weights from torch's global generator.

    Raises:
        ValueError: unknown name.

    >>> build("cross_entropy", feature_dim=64, n_classes=5).weight.shape
    torch.Size([5, 64])
    """
    if name not in _BUILDERS:
        raise ValueError(f"objective={name!r} is unknown; {nearest(name, list(OBJECTIVES))}")
    return _BUILDERS[name](feature_dim, n_classes)
