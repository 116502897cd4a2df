"""A classifier that is fixed in the shape of neural collapse: only the features are trained towards it.

Built by `ncbook.objectives.build`.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncbook.experiment import Experiment, ParameterError
from ncbook.objectives.cross_entropy import CrossEntropy


class FixedEtf(CrossEntropy):
    """Cross-entropy of s times the cosines between the features and fixed unit vectors m_c, one per class.

    loss = mean_i -log [ exp(s cos(f(x_i), m_{y_i})) / sum_c exp(s cos(f(x_i), m_c)) ], in nats, with s the ``scale``.
    The m_c are drawn from the seed, saved with the run and never trained: with ``frame="simplex"`` a simplex
    equiangular tight frame, cosines -1/(C - 1), which needs D >= C - 1 features; with "orthogonal" orthonormal, cosines
    0, D >= C. There is no bias, and the length of the features is free. With ``spare_rows`` = S the frame has C + S
    rows in place of C, and the loss sums over all of them: S directions that belong to no class are kept free.

    Reference:
        Zhu et al., "A geometric analysis of neural collapse with unconstrained features", NeurIPS 2021, and Yang et
        al., "Inducing neural collapse in imbalanced learning", NeurIPS 2022, fix the simplex; Hoffer, Hubara, Soudry,
        "Fix your classifier", ICLR 2018, an orthogonal one with cosines. Yang et al., "Neural collapse
        inspired feature-classifier alignment for few-shot class-incremental learning", ICLR 2023, keep rows for
        classes that are yet to come.

    Raises:
        ParameterError: too few features for so many classes; names both numbers.
    """

    def __init__(self, experiment: Experiment, feature_dim: int):
        n_source, spare = experiment.n_source, experiment.spare_rows
        rows, least = n_source + spare, n_source + spare - (experiment.frame == "simplex")
        if feature_dim < least:
            raise ParameterError(
                f"n_source={n_source} with frame={experiment.frame!r}"
                f"{f' and spare_rows={spare}' if spare else ''} "
                f"needs {least} features or more, and backbone={experiment.backbone!r} gives {feature_dim}; "
                f"allowed: {'together' if spare else 'n_source'} at most {rows + feature_dim - least}, "
                "or a wider backbone"
            )
        super().__init__(experiment, feature_dim)
        self.linear = Cosines(FRAMES[experiment.frame](rows, feature_dim), experiment.scale)
        self.chance_loss = math.log(rows)

    def criterion(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean over the samples; the softmax is over all rows of the frame."""
        return F.cross_entropy(self.linear(features).float(), labels)

    def logits(self, features: Tensor) -> Tensor:
        """Scores [B, C] of the classes alone."""
        return self.linear(features)[:, : self.experiment.n_source]

    @property
    def weight(self) -> Tensor:
        """Rows that belong to classes, [C, D]."""
        return self.linear.weight[: self.experiment.n_source]


class Cosines(nn.Module):
    """Scale times the cosine with each row of a fixed weight [C, D] of unit rows: features [B, D] -> scores [B, C]."""

    weight: Tensor

    def __init__(self, weight: Tensor, scale: float):
        super().__init__()
        self.register_buffer("weight", weight)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """Scores [B, C]; features of length 0 have none but 0."""
        return self.scale * F.linear(F.normalize(features, dim=1), self.weight)


def simplex(classes: int, dim: int) -> Tensor:
    """Simplex equiangular tight frame from torch's global generator: unit rows [C, D] with cosines -1/(C - 1).

    Example:
        >>> frame = simplex(3, 2)
        >>> (frame @ frame.T).round(decimals=4).abs()
        tensor([[1.0000, 0.5000, 0.5000],
                [0.5000, 1.0000, 0.5000],
                [0.5000, 0.5000, 1.0000]])
    """
    free = torch.randn(classes, classes - 1, dtype=torch.float64)
    centered = torch.linalg.qr(free - free.mean(0))[0]  # [C, C - 1]: all that is orthogonal to (1, ..., 1)
    return (math.sqrt(classes / (classes - 1)) * centered @ orthogonal(classes - 1, dim).double()).float()


def orthogonal(classes: int, dim: int) -> Tensor:
    """Orthonormal rows [C, D] from torch's global generator."""
    return torch.linalg.qr(torch.randn(dim, classes, dtype=torch.float64))[0].T.float().contiguous()


FRAMES = {"simplex": simplex, "orthogonal": orthogonal}
