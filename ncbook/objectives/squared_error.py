"""Squared error of the scores against one-hot labels (Hui and Belkin 2021): no softmax at all.

Built by `ncbook.objectives.build`.
"""

from torch import Tensor
from torch.nn import functional as F

from ncbook.experiment import Experiment
from ncbook.objectives.cross_entropy import CrossEntropy


class SquaredError(CrossEntropy):
    """Squared error of a linear classifier's scores against one-hot labels.

    loss = mean_i sum_c (w_c . f(x_i) + b_c - [c = y_i])², without units; the scores of guessing are 1/C each, and its
    loss 1 - 1/C. This is the plain form: Hui and Belkin, and Kornblith et al., rescale it from some 40 classes on (the
    right class counts k times, with target M), which the networks of this package did not need. The loss in a run's
    history is, as for every objective, the cross-entropy of the scores: high here even where all is learned, as these
    end near 0 and 1.

    Reference:
        Hui, Belkin, "Evaluation of neural architectures trained with square loss vs cross-entropy", ICLR 2021;
        Kornblith et al., "Why do better loss functions lead to less transferable features?", arXiv:2010.16402.

    Example:
        Scores 3 and 1 of a sample of class 0: (3 - 1)² + (1 - 0)².

        >>> import torch
        >>> objective = SquaredError(Experiment(objective="squared_error", n_source=2), 2)
        >>> _ = objective.linear.weight.data.copy_(torch.eye(2)), objective.linear.bias.data.zero_()
        >>> objective.criterion(torch.tensor([[3.0, 1.0]]), torch.tensor([0])).item()
        5.0
    """

    def __init__(self, experiment: Experiment, feature_dim: int):
        super().__init__(experiment, feature_dim)
        self.chance_loss = 1 - 1 / experiment.n_source

    def criterion(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean over the samples of the sum over the classes."""
        scores = self.logits(features).float()
        return (scores - F.one_hot(labels, scores.shape[1])).square().sum(1).mean()
