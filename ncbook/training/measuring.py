"""What a history holds of one split, and at which epochs. Formulas are those of `collapse` and `fewshot`."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ncbook import collapse, fewshot
from ncbook.objectives import Objective

EPISODES, WAY, QUERY, SHOTS = 2_000, 5, 15, (1, 5)
HEADS = {"ncc": "accuracy", "ridge": "ridge_accuracy"}  # head -> name in the history


def measured_epochs(epochs: int, measurements: int) -> list[int]:
    """Epochs at which a run is measured: 0, the last, and evenly spread ones between; with one measurement, the last.

    Example:
        >>> measured_epochs(40, 5)
        [0, 10, 20, 30, 40]
        >>> measured_epochs(2, 5)
        [0, 1, 2]
        >>> measured_epochs(40, 1)
        [40]
    """
    if measurements == 1:
        return [epochs]
    return sorted({round(i * epochs / (measurements - 1)) for i in range(measurements)})


@torch.no_grad()
def measure(features: Tensor, labels: Tensor, objective: Objective | None = None) -> dict[str, float]:
    """Every number that a history keeps of one split.

    Args:
        features: [N, D].
        labels: [N], 0 ... C-1; on the source splits the rows of the objective's head.
        objective: on the source splits; None on classes that it does not know.

    Returns:
        metric -> value: collapse metrics; loss (cross-entropy in nats), accuracy, nc3 and nc4 where there are
        source-class scores; few-shot accuracies (5-way, 15 queries, 2,000 episodes) where each class has enough
        samples.
    """
    logits = None if objective is None else objective.logits(features)
    weight = None if objective is None else objective.weight
    values = collapse.summary(features, labels, weight=weight, logits=logits)
    if logits is not None:
        values["loss"] = F.cross_entropy(logits.float(), labels)
        values["accuracy"] = (logits.argmax(1) == labels).double().mean()
    counts = labels.bincount()
    shots = [shot for shot in SHOTS if len(counts) >= WAY and int(counts.min()) >= shot + QUERY]
    if shots:
        results = fewshot.compare(
            features,
            labels,
            heads=list(HEADS),
            shots=shots,
            way=WAY,
            query=QUERY,
            episodes=EPISODES,
            confusion=False,
        )
        values |= {f"{HEADS[head]}_{shot}shot": result.accuracy for (head, shot), result in results.items()}
    return {name: float(value) for name, value in values.items()}
