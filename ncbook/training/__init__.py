"""From an experiment to a finished run: the trainer, its schedule and augmentation, what is measured and when.

Metrics are `collapse` and `fewshot`, batches and losses are `objectives`, files are `runs`.
"""

from ncbook.training.fit import MOST_THREADS, DivergedError, train
from ncbook.training.measuring import measure, measured_epochs
from ncbook.training.schedules import learning_rate_factor
from ncbook.training.trainer import Trainer, derived_seed, resolve_precision

__all__ = [
    "MOST_THREADS",
    "DivergedError",
    "Trainer",
    "derived_seed",
    "learning_rate_factor",
    "measure",
    "measured_epochs",
    "resolve_precision",
    "train",
]
__dir__ = __all__.copy
