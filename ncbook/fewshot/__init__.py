"""Few-shot evaluation: episodes, classifiers on top of features, and accuracies with their intervals.

Works on anybody's features and depends on torch alone.
"""

from .episodes import Episodes, sample_episodes
from .evaluation import RidgeSelection, compare, evaluate, recalled_ridge, select_ridge
from .heads import HEADS
from .pairs import pair_errors
from .results import FewShotResult
from .transforms import TRANSFORMS

__all__ = [
    "HEADS",
    "TRANSFORMS",
    "Episodes",
    "FewShotResult",
    "RidgeSelection",
    "compare",
    "evaluate",
    "pair_errors",
    "recalled_ridge",
    "sample_episodes",
    "select_ridge",
]
