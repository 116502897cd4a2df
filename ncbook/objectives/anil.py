"""ANIL (Raghu et al. 2020): MAML in which only the linear head adapts to an episode.

Built by `ncbook.objectives.build`. As the features do not adapt, all episodes of a step share one forward pass, and
with it its batch statistics.
"""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncbook.experiment import Experiment
from ncbook.objectives.episodic import Episodic


class Anil(Episodic):
    """Cross-entropy of the queries under a linear head after some gradient steps on the shots.

    (w, b) starts as the learned (w_0, b_0), and each step takes inner_rate times the gradient of the mean
    cross-entropy of the shots; with ``second_order=False`` these gradients count as constants. The head has as many
    rows as the episodes of training have classes, and classifies only episodes of that many.
    """

    def __init__(self, experiment: Experiment, feature_dim: int):
        super().__init__(experiment, feature_dim)
        self.head = nn.Linear(feature_dim, self.way)
        self.steps, self.rate = experiment.inner_steps, experiment.inner_rate
        self.second_order, self.tasks_per_step = experiment.second_order, experiment.tasks_per_step

    def scores(self, support: Tensor, queries: Tensor) -> Tensor:
        """Logits of the adapted head."""
        check_way(self.way, support.shape[1])
        head = torch.func.vmap(self.adapted)(support)  # weight [T, way, D] and bias [T, way]
        return queries @ head["weight"].mT + head["bias"][:, None]

    def adapted(self, support: Tensor) -> dict[str, Tensor]:
        """Weight [way, D] and bias [way] after the steps on the shots [way, shot, D] of one episode."""
        shots, labels = support.flatten(0, 1), shot_labels(*support.shape[:2], support.device)

        def error(head):
            return F.cross_entropy(F.linear(shots, **head), labels)

        return descend(error, dict(self.head.named_parameters()), self.steps, self.rate, self.second_order)


def shot_labels(way: int, shot: int, device: torch.device) -> Tensor:
    """Places of the classes of shots, class after class, [way * shot]."""
    return torch.arange(way, device=device).repeat_interleave(shot)


def descend(
    error: Callable[[dict[str, Tensor]], Tensor],
    parameters: dict[str, Tensor],
    steps: int,
    rate: float,
    second_order: bool,
) -> dict[str, Tensor]:
    """Parameters, by name, after gradient steps on ``error(parameters)``."""
    for _ in range(steps):
        with contextlib.nullcontext() if second_order else torch.no_grad():  # which leaves this gradient what it is
            slopes = torch.func.grad(error)(parameters)
        parameters = {name: value - rate * slopes[name] for name, value in parameters.items()}
    return parameters


def check_way(rows: int, way: int) -> None:
    """Refuse episodes of another number of classes than the head has rows."""
    if way != rows:
        raise ValueError(f"way={way}; allowed: {rows}, the train_way of this run, for which its head has rows")
