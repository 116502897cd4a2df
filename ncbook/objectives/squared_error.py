"""Squared error of the scores against one-hot labels (Hui and Belkin 2021): no softmax at all.

Built by `ncbook.objectives.build`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncbook.experiment import Experiment
from ncbook.objectives.cross_entropy import CrossEntropy


class SquaredError(CrossEntropy):
    """Squared error of a linear classifier's scores against one-hot labels.

    loss = mean_i sum_c (w_c . f(x_i) + b_c - [c = y_i])², without units; the scores of guessing are 1/C each, and its
    loss 1 - 1/C. The classifier begins there, with weights of a hundredth of the usual size: with the usual ones the
    loss begins at several times that of guessing, and hardly falls in 300 steps of 64 classes. Its curvature grows with
    the squared length of the features, unlike that of cross-entropy: hence a smaller default learning rate.

    This is the plain form. From some 40 classes on Hui and Belkin, and Kornblith et al., let the right class count k
    times with a target M; without that it trains 64 classes, too, more slowly than cross-entropy.

    The loss in a run's history is, as for every objective, the cross-entropy of the scores: high here even where all is
    learned, as these end near 0 and 1.

    Reference:
        Hui, Belkin, "Evaluation of neural architectures trained with square loss vs cross-entropy", ICLR 2021;
        Kornblith et al., "Why do better loss functions lead to less transferable features?", arXiv:2010.16402.

    Example:
        Scores 3 and 1 of a sample of class 0: (3 - 1)² + (1 - 0)².

        >>> objective = SquaredError(Experiment(objective="squared_error", n_source=2), 2)
        >>> _ = objective.linear.weight.data.copy_(torch.eye(2)), objective.linear.bias.data.zero_()
        >>> objective.criterion(torch.tensor([[3.0, 1.0]]), torch.tensor([0])).item()
        5.0
    """

    def __init__(self, experiment: Experiment, feature_dim: int):
        super().__init__(experiment, feature_dim)
        nn.init.constant_(self.linear.bias, 1 / experiment.n_source)
        with torch.no_grad():
            self.linear.weight.mul_(0.01)
        self.chance_loss = 1 - 1 / experiment.n_source

    def criterion(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean over the samples of the sum over the classes."""
        scores = self.logits(features).float()
        return (scores - F.one_hot(labels, scores.shape[1])).square().sum(1).mean()
