"""What is minimized: a head, the loss of a step, and the batches that it needs. No loop, no files.

One family of objectives per file, each a subclass of `Objective`, found by name in `ncbook.catalog.OBJECTIVES`. Called
by `training`, which steps on what `Objective.batches` gives, and by `runs`, which reads heads back.
"""

import importlib

from ncbook import catalog
from ncbook._checks import check_choice, check_whole
from ncbook.experiment import Experiment
from ncbook.objectives.contract import Objective, SourceImages, UndefinedLoss, row_batches

__all__ = ["Objective", "SourceImages", "UndefinedLoss", "build", "row_batches"]
__dir__ = __all__.copy


def build(experiment: Experiment, feature_dim: int) -> Objective:
    """Build the objective of an experiment, its head with fresh weights from torch's global generator.

    Args:
        experiment: names the objective, its parameters and the number of source classes.
        feature_dim: D of the features.

    Example:
        >>> build(Experiment(n_source=5), feature_dim=64).weight.shape
        torch.Size([5, 64])
    """
    check_whole("feature_dim", feature_dim, 1)
    name = check_choice("objective", experiment.objective, catalog.OBJECTIVES)
    module, _, kind = catalog.OBJECTIVES[name][0].partition(":")
    return getattr(importlib.import_module(f"ncbook.objectives.{module}"), kind)(experiment, feature_dim)
