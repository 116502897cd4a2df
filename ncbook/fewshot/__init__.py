"""Few-shot evaluation: episodes, classifiers on top of features, and accuracies with their intervals.

Works on anybody's features; depends on torch and ``ncbook._checks`` alone. Called by the trainer (episodes), by what
measures a run, and by readers with features of their own.
"""

from .episodes import Episodes, EpisodeSampler, sample_episodes
from .evaluation import RidgeSelection, compare, evaluate, predict, select_ridge
from .heads import HEADS, ridge_predictions
from .pairs import pair_errors
from .results import FewShotResult
from .transforms import TRANSFORMS

__all__ = [
    "HEADS", "TRANSFORMS", "EpisodeSampler", "Episodes", "FewShotResult", "RidgeSelection", "compare", "evaluate",
    "pair_errors", "predict", "ridge_predictions", "sample_episodes", "select_ridge",
]  # fmt: skip
__dir__ = __all__.copy
