"""The right-hand side of each inequality: from CDNV and sample counts to few-shot error. Pure; torch and SciPy alone.

Called by notebooks and by what compares a bound with a measurement; touches tensors only. Measured sides are
`ncbook.fewshot.pair_errors`, `gaussian_error` (exact, Gaussian classes) and `distributions.errors` (exact, classes of a
few points); notebook 04 and its appendices put the two sides next to each other and prove every line.

Everywhere V is the CDNV, n (``shot``) the shots per class, k (``way``) the classes of a task, m (``samples``,
``pool``) the samples per class; Err is the error of the nearest-class-mean classifier, a tie counted as an error,
averaged over the classes with equal weight. A two-class matrix [C, C] has NaN on its diagonal. An infinite V, of a pair
that cannot be told apart, gives every bound its limit; NaN comes from NaN only.

- ``bounds``: from CDNV alone: B1, B2's corollary, B4.
- ``directional``: from the moments of a pair: B2, B3, and the directional bounds published in 2025 and 2026.
- ``constant``: Err < 4V for every n, and `best_bound`: the least of all from the CDNV alone.
- ``quadratic``: B5, the best that one quadratic function makes of second moments.
- ``transfer``: between samples, classes and ways: the steps around the two-class bound.
- ``moments``: what the directional bounds need of a pair: from samples, Gaussians or small discrete distributions.
- ``gaussian``: the error itself for Gaussian classes, by one integral.
- ``distributions``: the error itself for discrete classes, and the search for those that come near a bound.
"""

from . import distributions
from .bounds import cdnv_bound, effective_rank, mean_mismatch_bound, rank_bound, spread_bound
from .constant import best_bound, fixed_center_bound, leave_one_out_bound, one_shot_bound, sharp_bound
from .directional import directional_bound, published_bound_2025, published_bound_2026, second_moment_bound
from .gaussian import gaussian_error
from .moments import PairMoments
from .quadratic import directional_quadratic_bound, quadratic_bound
from .transfer import (
    CombinedBound,
    combined_bound,
    iid_shots_factor,
    multiclass_bound,
    new_classes_half_width,
    without_replacement_factor,
)

__all__ = [
    "CombinedBound", "PairMoments", "best_bound", "cdnv_bound", "combined_bound", "directional_bound",
    "directional_quadratic_bound", "distributions", "effective_rank", "fixed_center_bound", "gaussian_error",
    "iid_shots_factor", "leave_one_out_bound", "mean_mismatch_bound", "multiclass_bound", "new_classes_half_width",
    "one_shot_bound", "published_bound_2025", "published_bound_2026", "quadratic_bound", "rank_bound",
    "second_moment_bound", "sharp_bound", "spread_bound", "without_replacement_factor",
]  # fmt: skip
__dir__ = __all__.copy
