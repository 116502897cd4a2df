r"""Neural-collapse metrics: tensors in, numbers out.

Every metric is a pure function of ``features`` [N, D] (any float dtype, any device, any layer: a convolution's maps are
flattened by ``features.flatten(1)``) and ``labels`` [N] (integers, gaps allowed: "class k" is the k-th label in
ascending order). It computes in float64 (float32 on MPS, which has no float64) on the features' device, is
differentiable in the features, and returns a 0-d tensor unless its docstring says otherwise.

Symbols: C classes of n_k samples, N in all; class means :math:`\mu_k`; their mean :math:`\mu_G`; centered means
:math:`\tilde\mu_k = \mu_k - \mu_G`; class variances :math:`v_k = \frac{1}{n_k} \sum \|x - \mu_k\|^2` (the trace of the
covariance: divided by the number of samples, never by D);
:math:`S_W = \frac1N \sum_x (x - \mu_{y(x)})(x - \mu_{y(x)})^\top` over samples;
:math:`S_B = \frac1C \sum_k \tilde\mu_k \tilde\mu_k^\top` over classes with equal weight.

Every metric raises, before any number is computed,

- TypeError if ``features`` is not a float tensor or ``labels`` not an integer one;
- ValueError if ``features`` is not [N, D] or not finite, if ``labels`` is not [N], if fewer than two classes are
  present; and, where variances are needed, if a class has a single sample, whose variance about its own mean is 0
  whatever the class is. Metrics of the means alone (`nc2`, `nc3`, `nc4`, `min_distance`) and `logme` accept such a
  class.

`rankme` and `effective_rank` take features alone: everything else needs labels.

`CollapseMetrics` computes the same numbers, with the same formulas, in one pass over batches.

A file imports only from files above it: `moments`, `sample`, then `pairs`, `covariance`, `geometry`, `decisions`
and `transferability` beside each other, `jackknife`, `overview`; and for batches `batches`, `second_pass`,
`accumulator`.
"""

import lazy_loader

from .covariance import nc1, separation_fuzziness, trace_ratio, variability_collapse_index
from .decisions import class_mean_mismatch, nc4
from .geometry import NC2_VARIANTS, nc2, nc2_of_equal_cosines, nc3
from .noise_floor import nc1_noise_floor
from .overview import summary
from .pairs import cdnv, cdnv_matrix, directional_cdnv, directional_cdnv_matrix, min_distance
from .transferability import class_separation, effective_rank, logme, rankme

__all__ = [
    "NC2_VARIANTS", "CollapseMetrics", "SecondPass", "cdnv", "cdnv_matrix", "class_mean_mismatch", "class_separation",
    "directional_cdnv", "directional_cdnv_matrix", "effective_rank", "logme", "min_distance", "nc1",
    "nc1_noise_floor", "nc2", "nc2_of_equal_cosines", "nc3", "nc4", "rankme", "separation_fuzziness", "summary",
    "trace_ratio", "variability_collapse_index",
]  # fmt: skip
__dir__ = __all__.copy

# torchmetrics takes seconds to import: only those who ask for the accumulator wait for it.
__getattr__, _, _ = lazy_loader.attach(
    __name__, submod_attrs={"accumulator": ["CollapseMetrics"], "second_pass": ["SecondPass"]}
)
