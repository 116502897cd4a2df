"""Learning rates over training. Called by the trainer at every step."""

import math

from ncbook import catalog
from ncbook._checks import check_choice


def learning_rate_factor(schedule: str, progress: float, epoch: int = 0) -> float:
    """Learning rate over its peak, with a fraction ``progress`` in [0, 1] of all steps and ``epoch`` epochs behind us.

    "one_cycle" (Smith & Topin 2018): from 1/25 up to 1 over the first 30 %, then down to 0, along cosines. "cosine":
    down to 0 along a cosine. "step": a tenth from 60 % on and a hundredth from 80 % on, as in the public recipe of Tian
    et al. (2020, RFS). "halving": halved after every 20 epochs, as prototypical networks are trained. "constant": 1.

    Raises:
        ValueError: an unknown schedule.

    Example:
        >>> [round(learning_rate_factor("one_cycle", p), 2) for p in (0.0, 0.3, 0.65, 1.0)]
        [0.04, 1.0, 0.5, 0.0]
    """
    match check_choice("schedule", schedule, catalog.SCHEDULES):
        case "constant":
            return 1.0
        case "step":
            return 1.0 if progress < 0.6 else 0.1 if progress < 0.8 else 0.01
        case "halving":
            return 0.5 ** (epoch // 20)
        case "cosine":
            return _falling(progress)
        case "one_cycle" if progress < 0.3:
            return 1 - (1 - 1 / 25) * _falling(progress / 0.3)
        case "one_cycle":
            return _falling((progress - 0.3) / 0.7)


def _falling(progress: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))
