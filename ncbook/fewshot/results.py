"""What an evaluation gives back: accuracies with their intervals. Made by the protocol."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ncbook._checks import check_whole

_REPLICATES_AT_ONCE = 8_000_000  # weights [replicates, episodes] held at once


@dataclass(frozen=True, repr=False)
class FewShotResult:
    """Accuracy of one head over episodes.

    Attributes:
        accuracy: mean over episodes, a fraction in [0, 1].
        ci95: 1.96 standard errors over episodes, the half width of a 95 % interval (NaN for one episode). It
            says how well the episodes determine the accuracy on *these classes and samples*, and shrinks to 0
            with their number. Other classes would give another accuracy: see ``class_interval``.
        per_episode: float64 [E], fraction of correct queries of each episode.
        classes: int64 [E, way], classes of each episode; entry k means ``labels[k]``.
        labels: [C], the labels in ascending order.
        confusion: int64 [C, C], queries of class i that were classified as j; None without
            ``confusion=True``.
        head, way, shot, query, ridge, seed, transform: the setting.
        route: "gather" or "gram", the route that was taken.
    """

    accuracy: float
    ci95: float
    per_episode: Tensor
    classes: Tensor
    labels: Tensor
    confusion: Tensor | None
    head: str
    way: int
    shot: int
    query: int
    ridge: float
    seed: int
    transform: tuple[str, ...]
    route: str

    def __repr__(self) -> str:
        return (
            f"FewShotResult({100 * self.accuracy:.2f} ± {100 * self.ci95:.2f} %, "
            f"{len(self.per_episode):,} episodes, {self.way}-way {self.shot}-shot, "
            f"head={self.head!r}, route={self.route!r})"
        )

    def class_interval(self, *, replicates: int = 1000, seed: int = 0) -> tuple[float, float]:
        """95 % interval over classes, by a bootstrap of the classes.

        The accuracy is a U-statistic of degree ``way`` in the classes. A replicate draws C classes with
        replacement, class c coming up w_c times, and weights each episode by the product of w_c over its
        classes. Twenty novel classes are few: this interval says what to expect of other classes of the same
        kind, while ``ci95`` speaks of these classes alone. Replicates in which no episode has weight (few
        classes) are left out.

        Args:
            replicates: bootstrap replicates.
            seed: their seed.

        Returns:
            The 2.5 % and the 97.5 % quantile of the replicates.

        Raises:
            TypeError, ValueError: for bad input, and for a single episode or fewer than ``way`` + 1 classes, from which
                nothing follows about others.
        """
        check_whole("replicates", replicates, 2)
        check_whole("seed", seed, 0)
        n_classes, device = len(self.labels), self.classes.device
        if n_classes <= self.way:
            raise ValueError(f"class_interval of {n_classes} classes; allowed: more classes than way = {self.way}")
        if len(self.classes) < 2:
            raise ValueError("class_interval of 1 episode; allowed: at least 2 episodes")
        generator = torch.Generator(device).manual_seed(seed)
        drawn = torch.randint(n_classes, (replicates, n_classes), generator=generator, device=device)
        times = torch.zeros(n_classes, replicates, device=device)
        times.scatter_add_(0, drawn.T, torch.ones_like(times))
        accuracy = self.per_episode.float()
        means = []
        for part in times.split(max(1, _REPLICATES_AT_ONCE // len(accuracy)), dim=1):
            weight = torch.ones(len(accuracy), part.shape[1], device=device)  # [E, replicates]
            for k in range(self.way):
                weight *= part[self.classes[:, k]]
            means.append((accuracy @ weight) / weight.sum(0))
        means = torch.cat(means).double()
        if not torch.isfinite(means).any():
            raise ValueError(
                f"class_interval of {len(accuracy)} episodes of {self.way} ways: no replicate holds all classes of an "
                "episode; allowed: more episodes, or fewer ways"
            )
        low, high = torch.quantile(means[torch.isfinite(means)], torch.tensor([0.025, 0.975]).to(means)).tolist()
        return low, high


def half_width(values: Tensor) -> float:
    """1.96 standard errors of the mean."""
    return 1.96 * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
