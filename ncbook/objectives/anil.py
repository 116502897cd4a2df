"""ANIL (Raghu et al. 2020): MAML in which only the linear head adapts to an episode.

Built by `ncbook.objectives.build`. As the features do not adapt, all episodes of a step share one forward pass, and
with it its batch statistics.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncbook.experiment import Experiment
from ncbook.objectives.episodic import Episodic, places


class Adapting(Episodic):
    """A linear head, at least, that starts from learned parameters and adapts to the shots by gradient steps.

    The head starts at zero, so that no class is preferred: their order in an episode is random. From random weights the
    same steps on the shots lead less far (Kao et al., "MAML is a noisy contrastive learner in classification", ICLR
    2022).
    """

    def __init__(self, experiment: Experiment, feature_dim: int):
        super().__init__(experiment, feature_dim)
        self.head = nn.Linear(feature_dim, self.way)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self.steps, self.rate = experiment.inner_steps, experiment.inner_rate
        self.second_order, self.tasks_per_step = experiment.second_order, experiment.tasks_per_step

    def check_way(self, way: int) -> None:
        """Refuse episodes of another number of classes than the head has rows."""
        if way != self.way:
            raise ValueError(f"way={way}; allowed: {self.way}, the train_way of this run, for which its head has rows")


class Anil(Adapting):
    """Cross-entropy of the queries under a linear head after some gradient steps on the shots.

    (w, b) starts as the learned (w_0, b_0), 0 at first, and each step takes inner_rate times the gradient of the mean
    cross-entropy of the shots; with ``second_order=False`` these gradients count as constants. The head has as many
    rows as the episodes of training have classes, and classifies only episodes of that many.
    """

    def scores(self, support: Tensor, queries: Tensor) -> Tensor:
        """Logits of the adapted head."""
        tasks, way, shot, _ = support.shape
        self.check_way(way)
        shots, labels = support.flatten(1, 2), places(way, shot, support.device).repeat(tasks)

        def logits(head, features):
            return features @ head["weight"].mT + head["bias"][:, None]

        def error(head):  # summed over episodes: each has a head of its own, and no part in another's gradient
            return tasks * F.cross_entropy(logits(head, shots).flatten(0, 1), labels)

        heads = {name: value.expand(tasks, *value.shape) for name, value in self.head.named_parameters()}
        return logits(descend(error, heads, self.steps, self.rate, self.second_order), queries)


Error = Callable[[dict[str, Tensor]], Tensor]  # of parameters by name


def _slopes(error: Error, parameters: dict[str, Tensor], second_order: bool) -> dict[str, Tensor]:
    """Gradient of ``error(parameters)``, by name; a constant unless ``second_order``, and where nothing is trained."""
    second_order = second_order and torch.is_grad_enabled()
    with torch.enable_grad():
        if not second_order:
            parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        slopes = torch.autograd.grad(error(parameters), list(parameters.values()), create_graph=second_order)
    return dict(zip(parameters, slopes, strict=True))


def descend(
    error: Error, parameters: dict[str, Tensor], steps: int, rate: float, second_order: bool
) -> dict[str, Tensor]:
    """Parameters, by name, after gradient steps on ``error(parameters)``."""
    for _ in range(steps):
        slopes = _slopes(error, parameters, second_order)
        parameters = {name: value - rate * slopes[name] for name, value in parameters.items()}
    return parameters
