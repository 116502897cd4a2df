"""R2D2 and MetaOptNet with ridge regression: a classifier in closed form, and the gradient through it.

Bertinetto et al. (2019); Lee et al. (2019). Built by `ncbook.objectives.build`; its algebra is that of the ridge head.
"""

import math

import torch
from torch import Tensor, nn

from ncbook import fewshot
from ncbook.experiment import Experiment
from ncbook.objectives.episodic import Episodic


class Ridge(Episodic):
    """Cross-entropy of the softmax over ridge regression on the one-hot labels of the shots.

    scores = s · w(λ)' f(x), in which w(λ) minimizes |X w - Y|² + λ |w|² over the shots X with labels Y, with an
    intercept that is not penalized (R2D2 and MetaOptNet have none). λ and the scale s are trained, unless
    ``learn_ridge=False`` (MetaOptNet: λ = 50) or ``learn_scale=False``.
    """

    def __init__(self, experiment: Experiment, feature_dim: int):
        super().__init__(experiment, feature_dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(experiment.scale)), requires_grad=experiment.learn_scale)
        self.log_ridge = nn.Parameter(torch.tensor(math.log(experiment.ridge)), requires_grad=experiment.learn_ridge)

    def scores(self, support: Tensor, queries: Tensor) -> Tensor:
        """Scaled predictions of the regression, up to a constant."""
        return self.log_scale.exp() * fewshot.ridge_predictions(support, queries, self.log_ridge.exp())
