"""Center loss (Wen et al. 2016): cross-entropy, and every feature is drawn to the center of its class.

Built by `ncbook.objectives.build`.
"""

import torch
from torch import Tensor, nn

from ncbook.experiment import Experiment
from ncbook.objectives.cross_entropy import CrossEntropy


class CenterLoss(CrossEntropy):
    """Cross-entropy plus half the ``penalty`` times the mean squared distance of a feature from its class's center.

    loss = CE + p/2 mean_i |f(x_i) - c_{y_i}|², the first term in nats, the second in squared units of the features:
    unlike the CDNV it also falls when all features shrink, and a p of 1 or more can draw all of them to one point.

    The centers c_k are parameters, trained by the optimizer of the run, where the original updates a running mean by a
    rule of its own. As there, how fast they follow the features does not depend on p, with which they would hardly
    move: their gradient is that of C/2 mean_i |f(x_i) - c_{y_i}|².

    Reference:
        Wen et al., "A discriminative feature learning approach for deep face recognition", ECCV 2016.

    Example:
        A sample at (3, 1), its center at 0, penalty 2, a head that guesses: log 2 + 9 + 1.

        >>> objective = CenterLoss(Experiment(objective="center_loss", n_source=2, penalty=2), 2)
        >>> _ = objective.linear.weight.data.zero_(), objective.linear.bias.data.zero_()
        >>> round(objective.criterion(torch.tensor([[3.0, 1.0]]), torch.tensor([0])).item(), 4)
        10.6931
    """

    def __init__(self, experiment: Experiment, feature_dim: int):
        super().__init__(experiment, feature_dim)
        self.centers = nn.Parameter(torch.zeros(experiment.n_source, feature_dim))

    def criterion(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean over the samples."""
        own, features = self.centers[labels], features.float()
        drawn = self.experiment.penalty / 2 * (features - own.detach()).square().sum(1).mean()
        following = len(self.centers) / 2 * (features.detach() - own).square().sum(1).mean()
        # the last two terms are 0 together: a gradient for the centers alone
        return super().criterion(features, labels) + drawn + following - following.detach()
