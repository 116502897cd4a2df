"""Relation networks (Sung et al. 2018): a small network says how much a query resembles the shots of a class.

Built by `ncbook.objectives.build`. The paper's relation module convolves feature maps; here f(x) is a vector, as for
every other objective, and so the module is a perceptron on pairs of vectors.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ncbook.experiment import Experiment
from ncbook.objectives.episodic import Episodic, places


class Relation(Episodic):
    """Mean squared error of relation scores r(m_j, f(x)) in (0, 1) against 1 for the query's class and 0 for others.

    r = sigmoid of a perceptron with two hidden layers, each with batch norm over all pairs, on the pair of the mean m_j
    of a class's shots and the features of the query.
    """

    HIDDEN = (256, 64)

    def __init__(self, experiment: Experiment, feature_dim: int):
        super().__init__(experiment, feature_dim)
        wide, narrow = self.HIDDEN
        self.of_mean = nn.Linear(feature_dim, wide)  # the first layer, in two parts: A [m; f] = A_1 m + A_2 f
        self.of_query = nn.Linear(feature_dim, wide, bias=False)
        self.rest = nn.Sequential(
            nn.BatchNorm1d(wide),
            nn.ReLU(),
            nn.Linear(wide, narrow),
            nn.BatchNorm1d(narrow),
            nn.ReLU(),
            nn.Linear(narrow, 1),
        )
        self.chance_loss = 0.25  # of r = 1/2

    def scores(self, support: Tensor, queries: Tensor) -> Tensor:
        """Logits of the relation scores."""
        pairs = self.of_query(queries)[:, :, None] + self.of_mean(support.mean(2))[:, None]  # [T, Q, way, wide]
        return self.rest(pairs.flatten(0, 2)).view(pairs.shape[:3])

    def criterion(self, scores: Tensor, query: int) -> Tensor:
        """Mean squared error over all pairs of a query and a class."""
        way = scores.shape[2]
        same = F.one_hot(places(way, query, scores.device), way).to(scores)  # [way * query, way]
        return F.mse_loss(scores.sigmoid(), same.expand_as(scores))
