"""Cross-entropy with a penalty on the CDNV of the batch: what the theory asks to be small is made small.

Built by `ncbook.objectives.build`; the CDNV and its gradient are those of `ncbook.collapse`.
"""

import math

import torch
from torch import Tensor

from ncbook import collapse
from ncbook.experiment import Experiment
from ncbook.objectives.contract import UndefinedLoss
from ncbook.objectives.cross_entropy import CrossEntropy

LEAST = 2  # samples of a class for its variance


class CdnvPenalty(CrossEntropy):
    """Cross-entropy plus ``penalty`` times the CDNV of the features of a batch; ``directional=True``: its other form.

    loss = CE + p mean_{i≠j} (v_i + v_j) / (2 |μ_i - μ_j|²), the first term in nats, the second without units; means and
    variances are those of the classes in the batch, as `ncbook.collapse.cdnv` (or `directional_cdnv`) takes them.

    A class needs two samples in a batch to have a variance, and a plain batch of 64 samples of 64 classes has two or
    more of some 17 classes only, mostly just two: a variance of two samples is noise, and the plug-in CDNV of n samples
    saturates near (n - 1)/2. Hence batches of ``per_class`` samples of each of batch_size / per_class classes, see
    `class_batches`. ``penalty=0`` is cross-entropy on the same batches: what to compare with. A class with a single
    sample in a batch is no part of the penalty, and a batch with fewer than two others has none.

    Reference:
        Galanti, György, Hutter, arXiv:2112.15121, for the CDNV; Luthra, Yang, Galanti, arXiv:2506.04411, for its
        directional form. As a penalty it is this package's.
    """

    def __init__(self, experiment: Experiment, feature_dim: int):
        super().__init__(experiment, feature_dim)
        self.measure = collapse.directional_cdnv if experiment.directional else collapse.cdnv
        # of features that know nothing: E tr S_k = v (n - 1)/n and E |μ_i - μ_j|² = 2 v/n for n samples per class
        self.chance_loss += experiment.penalty * (experiment.per_class - 1) / 2

    def batches(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Every row once per epoch, ``per_class`` of a class together."""
        return class_batches(labels, self.experiment.batch_size, self.experiment.per_class, generator)

    def criterion(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean over the samples, and the penalty of all of them together."""
        loss, penalty = super().criterion(features, labels), self.experiment.penalty
        return loss + penalty * self.batch_cdnv(features, labels) if penalty else loss

    def batch_cdnv(self, features: Tensor, labels: Tensor) -> Tensor:
        """(Directional) CDNV of the classes that have two samples or more in the batch; 0 if fewer than two have.

        Example:
            Means 1 and 11, variances 1, as V = (1 + 1) / (2 · 10²); a third class with a single sample.

            >>> objective = CdnvPenalty(Experiment(objective="cdnv_penalty", n_source=3), 1)
            >>> features = torch.tensor([[0.0], [2.0], [10.0], [12.0], [99.0]])
            >>> objective.batch_cdnv(features, torch.tensor([0, 0, 1, 1, 2]))
            tensor(0.0100)
        """
        counts = labels.bincount()
        if (counts >= LEAST).sum() < 2:
            return features.new_zeros((), dtype=torch.float32)
        enough = counts[labels] >= LEAST
        try:
            return self.measure(features[enough], labels[enough]).float()
        except ValueError as error:  # features that are not finite, or class means that coincide: a dead network
            raise UndefinedLoss(str(error)) from error


def class_batches(labels: Tensor, batch_size: int, per_class: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """All rows in random order, in batches of groups: at most ``per_class`` rows of a class to a group.

    The rows of each class are shuffled and cut into equal groups, give or take one row; the groups of a class are
    spread evenly over the epoch. Classes of one size thus come in rounds, each class once in a round.

    Args:
        labels: int64 [N].
        batch_size: largest number of rows per batch, at least ``per_class``.
        per_class: largest number of rows per group.
        generator: decides the order, not the number of batches.

    Example:
        >>> labels = torch.arange(4).repeat_interleave(6)
        >>> [labels[rows].bincount().tolist() for rows in class_batches(labels, 8, 2, torch.Generator())]
        [[2, 2, 2, 2], [2, 2, 2, 2], [2, 2, 2, 2]]
    """
    sizes = labels.unique(return_counts=True)[1].tolist()
    places = []  # (when in the epoch, rows) of each group
    for rows in labels.cpu().argsort(stable=True).split(sizes):
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        groups = shuffled.tensor_split(math.ceil(len(rows) / per_class))
        places += [((k + 0.5) / len(groups), group) for k, group in enumerate(groups)]
    order = torch.randperm(len(places), generator=generator).tolist()  # of groups whose turn is the same
    groups = [places[k][1] for k in sorted(order, key=lambda k: places[k][0])]
    count = math.ceil(len(groups) / (batch_size // per_class))
    cuts = [len(groups) * k // count for k in range(count + 1)]
    return tuple(torch.cat(groups[a:b]).to(labels.device) for a, b in zip(cuts, cuts[1:], strict=False))
