"""Cross-entropy with smoothed labels (Szegedy et al. 2016): classes are not pushed apart without end.

Built by `ncbook.objectives.build`.
"""

from torch import Tensor
from torch.nn import functional as F

from ncbook.objectives.cross_entropy import CrossEntropy


class LabelSmoothing(CrossEntropy):
    """Cross-entropy against (1 - s) one-hot labels + s times the uniform distribution over the C classes.

    loss = mean_i [ -(1 - s) log p_{y_i}(x_i) - s/C sum_c log p_c(x_i) ], in nats, with p the softmax of the scores of a
    linear classifier and s the ``smoothing``. Its smallest value is the entropy of the smoothed label, above 0, at a
    finite gap log(1 + C (1 - s)/s) between the scores of the right and of the other classes. The loss in a run's
    history is the cross-entropy against the labels as they are.

    Reference:
        Szegedy et al., "Rethinking the Inception architecture", CVPR 2016; Müller, Kornblith, Hinton, "When does label
        smoothing help?", 2019, for the tighter classes that it makes.

    Example:
        One sample, two classes, scores log 3 and 0: p = (3/4, 1/4), and -(3/4) log(3/4) - (1/4) log(1/4) at s = 1/2.

        >>> import torch
        >>> from ncbook import Experiment
        >>> objective = LabelSmoothing(Experiment(objective="label_smoothing", n_source=2, smoothing=0.5), 2)
        >>> _ = objective.linear.weight.data.copy_(torch.eye(2)), objective.linear.bias.data.zero_()
        >>> round(objective.criterion(torch.tensor([[3.0, 1.0]]).log(), torch.tensor([0])).item(), 4)
        0.5623
    """

    def criterion(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean over the samples."""
        return F.cross_entropy(self.logits(features).float(), labels, label_smoothing=self.experiment.smoothing)
