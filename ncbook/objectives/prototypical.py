"""Prototypical networks (Snell et al. 2017): queries classified by their distance from the means of the shots.

Built by `ncbook.objectives.build`; the second source of the workbook (Medepalli and Doraiswamy) trains by it.
"""

from torch import Tensor

from ncbook.objectives.episodic import Episodic, squared_distances

SMALLEST = 1e-12  # squared distance below which the root is flat: it has no gradient at 0


class Prototypical(Episodic):
    """Cross-entropy of the softmax over negative (squared) distances from the class means of the shots.

    loss = mean over queries x of class k of -log [ exp(-|f(x) - m_k|²) / sum_j exp(-|f(x) - m_j|²) ], in nats, with m_j
    the mean of the shots of class j. There is no head: the classifier of an episode is made of its shots. With
    ``distance="euclidean"`` the distances are not squared, as the report prints them (its code squares them).
    """

    def scores(self, support: Tensor, queries: Tensor) -> Tensor:
        """Negative distances from the class means."""
        distances = squared_distances(queries, support.mean(2))
        if self.experiment.distance == "squared_euclidean":
            return -distances
        return -(distances + queries.square().sum(-1, keepdim=True)).clamp_min(SMALLEST).sqrt()
