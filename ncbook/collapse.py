r"""Neural-collapse metrics: tensors in, numbers out.

Every metric is a pure function of ``features`` [N, D] (any float dtype, any device, any layer: a
convolution's maps are flattened by ``features.flatten(1)``) and ``labels`` [N] (integers, gaps allowed:
"class k" is the k-th label in ascending order). It computes in float64 (float32 on MPS, which has no float64)
on the features' device, is differentiable in the features, and returns a 0-d tensor unless its docstring says
otherwise.

Symbols: C classes of n_k samples, N in all; class means :math:`\mu_k`; their mean :math:`\mu_G`; centred
    means
:math:`\tilde\mu_k = \mu_k - \mu_G`; class variances :math:`v_k = \frac{1}{n_k} \sum \|x - \mu_k\|^2` (the
trace of the covariance: divided by the number of samples, never by D);
:math:`S_W = \frac1N \sum_x (x - \mu_{y(x)})(x - \mu_{y(x)})^\top` over samples;
:math:`S_B = \frac1C \sum_k \tilde\mu_k \tilde\mu_k^\top` over classes with equal weight.

Every metric raises, before any number is computed,

- TypeError if ``features`` is not a float tensor or ``labels`` not an integer one;
- ValueError if ``features`` is not [N, D] or not finite, if ``labels`` is not [N], if fewer than two classes
  are present; and, where variances are needed, if a class has a single sample, whose variance about its own
  mean is 0 and says nothing. Metrics of the means alone (`nc2`, `nc3`, `nc4`, `min_distance`) accept such a
  class.

`CollapseMetrics` computes the same numbers, with the formulas below, in one pass over batches.
"""

import math
import warnings

import torch
from torch import Tensor

from ncbook._collapse_moments import (
    Between,
    Moments,
    Sample,
    check_logits,
    negligible,
    pair_indices,
    pseudo_inverse,
    raise_if_centred_means_vanish,
    raise_not_finite,
    rows_at_a_time,
    some,
    sum_of_pairs,
)

NC2_VARIANTS = ("centred", "uncentred", "normalised", "equinorm", "equiangularity")


def __getattr__(name: str):
    # torchmetrics takes seconds to import: only those who ask for the accumulator wait for it.
    if name == "CollapseMetrics":
        from ncbook._collapse_metrics import CollapseMetrics

        return CollapseMetrics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# ------------------------------------------------------------------------------------------------------------
# Pairs of classes: CDNV, directional CDNV, distance


def cdnv_matrix(features: Tensor, labels: Tensor, *, debiased: bool = False) -> Tensor:
    r"""Class-distance normalised variance (CDNV) of every pair of classes.

    .. math:: V_{ij} = \frac{v_i + v_j}{2 \|\mu_i - \mu_j\|^2}

    The plug-in estimate is biased: the squared distance of two sample means exceeds the true one by
    :math:`v_i/n_i + v_j/n_j` on average, so that V saturates near (n - 1)/2 for classes that do not differ.
    ``debiased=True`` takes :math:`s_k^2 = v_k n_k/(n_k - 1)` for the variances and
    :math:`\hat d^2 = \|\mu_i - \mu_j\|^2 - s_i^2/n_i - s_j^2/n_j` for the squared distance (their ratio stays
    slightly biased). A pair with :math:`\hat d^2 \le 0` cannot be told from coinciding classes: its entry is
    ``inf``, and a RuntimeWarning counts such pairs.

    Args:
        features: [N, D].
        labels: [N].
        debiased: Correct the plug-in bias.

    Returns:
        [C, C], symmetric, NaN on the diagonal; entries in [0, inf), 0 at collapse.

    Raises:
        ValueError: As every metric; and if a class has a single sample or two classes have identical means.

    Reference:
        Galanti, György, Hutter, "On the role of neural collapse in transfer learning", arXiv:2112.15121, the
        definition of the CDNV. The de-biased form is this package's.

    Example:
        Means 1 and 11, variances 1: V = (1 + 1) / (2 · 10²).

        >>> features = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
        >>> cdnv_matrix(features, torch.tensor([0, 0, 1, 1]))
        tensor([[   nan, 0.0100],
                [0.0100,    nan]], dtype=torch.float64)
    """
    sample = Sample(features, labels, least=2)
    return _square(cdnv_of_pairs(sample.moments(), debiased=debiased), len(sample.counts))


def cdnv(features: Tensor, labels: Tensor, *, debiased: bool = False) -> Tensor:
    """CDNV, averaged over the C(C - 1)/2 unordered pairs of classes.

    Formula, arguments, errors and source as for `cdnv_matrix`. In [0, inf); 0 at collapse. ``debiased=True``
    gives ``inf``, with a warning, if any pair of classes cannot be told apart.

    Example:
        >>> features, labels = torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1])
        >>> cdnv(features, labels)
        tensor(0.0100, dtype=torch.float64)
        >>> (cdnv(features, labels, debiased=True) * 98).round(decimals=12)  # (2 + 2) / (2 (100 - 1 - 1))
        tensor(2., dtype=torch.float64)
    """
    return cdnv_of_pairs(Sample(features, labels, least=2).moments(), debiased=debiased).mean()


def cdnv_of_pairs(moments: Moments, *, debiased: bool = False) -> Tensor:
    """[C (C - 1) / 2] CDNV of the unordered pairs."""
    squared, variances = _squared_distances(moments), moments.sums_of_variances
    if not debiased:
        return variances / (2 * squared)
    unbiased = moments.variances * moments.counts / (moments.counts - 1)
    squared = squared - sum_of_pairs(unbiased / moments.counts)
    lost = squared <= 0
    if lost.any():
        warnings.warn(
            f"{lost.sum().item()} of {len(lost)} pairs of classes cannot be told apart: their de-biased squared"
            " distance is not positive, their CDNV inf",
            RuntimeWarning,
            stacklevel=3,
        )
    return (sum_of_pairs(unbiased) / (2 * squared.masked_fill(lost, 1.0))).masked_fill(lost, torch.inf)


def directional_cdnv_matrix(features: Tensor, labels: Tensor) -> Tensor:
    r"""Variance of each class along the line to another class, over their squared distance.

    .. math:: \tilde V_{ij} = \frac{u_{ij}^\top \Sigma_i u_{ij}}{\|\mu_j - \mu_i\|^2}, \qquad
              u_{ij} = \frac{\mu_j - \mu_i}{\|\mu_j - \mu_i\|}

    Args:
        features: [N, D].
        labels: [N].

    Returns:
        [C, C], row i for the variance of class i: not symmetric; NaN on the diagonal; entries in [0, inf), 0
        at collapse, at most twice the entry of `cdnv_matrix`.

    Raises:
        ValueError: As every metric; and if a class has a single sample or two classes have identical means.

    Reference:
        Luthra, Yang, Galanti, arXiv:2506.04411, the definition of the directional CDNV.

    Example:
        Both classes vary by 1 along the line of the means (0, 0) and (10, 0), and class 1 by 4 across it.

        >>> features = torch.tensor([[-1.0, 0], [1, 0], [9, 2], [11, -2]])
        >>> directional_cdnv_matrix(features, torch.tensor([0, 0, 1, 1]))
        tensor([[   nan, 0.0100],
                [0.0100,    nan]], dtype=torch.float64)
    """
    sample = Sample(features, labels, least=2)
    moments = sample.moments()
    centred = moments.means - moments.means.mean(0)
    scatter = sum(scatter_towards_means(r, index, centred) for r, index in sample.residuals())
    return directional_cdnv_of_pairs(moments, scatter / moments.counts[:, None])


def directional_cdnv(features: Tensor, labels: Tensor) -> Tensor:
    """Directional CDNV, averaged over the C(C - 1) ordered pairs of classes.

    Formula, arguments, errors and source as for `directional_cdnv_matrix`. In [0, inf); 0 at collapse.

    Example:
        >>> features = torch.tensor([[-1.0, 0], [1, 0], [9, 2], [11, -2]])
        >>> directional_cdnv(features, torch.tensor([0, 0, 1, 1]))
        tensor(0.0100, dtype=torch.float64)
    """
    return mean_off_diagonal(directional_cdnv_matrix(features, labels))


def directional_cdnv_of_pairs(moments: Moments, variances: Tensor) -> Tensor:
    """[C, C], given the variance of class i along mu_j - mu_i (a direction not of unit length)."""
    diagonal = torch.eye(len(variances), dtype=torch.bool, device=variances.device)
    squared = _square(_squared_distances(moments), len(variances)).masked_fill(diagonal, 1.0)
    return (variances / squared.square()).masked_fill(diagonal, torch.nan)


def scatter_towards_means(residuals: Tensor, index: Tensor, means: Tensor) -> Tensor:
    """[C, C]: sum of ((x - mu_i) . (mu_j - mu_i))² over samples x of class i, whose residuals are given."""
    scatter = means.new_zeros(len(means), len(means))
    rows = rows_at_a_time(len(means))
    for r, y in zip(residuals.split(rows), index.split(rows), strict=True):
        along = r @ means.T  # [rows, C]
        scatter = scatter.index_add(0, y, (along - along.gather(1, y[:, None])).square())
    return scatter


def min_distance(features: Tensor, labels: Tensor, *, normalised: bool = False) -> Tensor:
    r"""Smallest distance between two class means.

    .. math:: \min_{i \ne j} \|\mu_i - \mu_j\|, \qquad
              \text{normalised: divided by } \frac1C \sum_k \|\tilde\mu_k\|

    Args:
        features: [N, D].
        labels: [N]; a class with a single sample is accepted.
        normalised: Divide by the mean distance of class means from the global mean, to be free of scale.

    Returns:
        0-d tensor in [0, inf). Normalised it is at most sqrt(2C/(C - 1)), the value of a simplex ETF.

    Raises:
        ValueError: As every metric; and, if ``normalised``, if all class means are identical.

    Reference:
        Galanti, György, Hutter, arXiv:2112.15121 (their evidence that class means stay apart).

    Example:
        >>> features, labels = torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1])
        >>> min_distance(features, labels)
        tensor(10., dtype=torch.float64)
        >>> min_distance(features, labels, normalised=True)
        tensor(2., dtype=torch.float64)
    """
    return min_distance_of_means(Sample(features, labels).means, normalised=normalised)


def min_distance_of_means(means: Tensor, *, normalised: bool = False) -> Tensor:
    """Formula of `min_distance`."""
    smallest = torch.pdist(means).min()
    if not normalised:
        return smallest
    centred = means - means.mean(0)
    raise_if_centred_means_vanish(centred, means)
    return smallest / centred.norm(dim=1).mean()


def _squared_distances(moments: Moments) -> Tensor:
    """[C (C - 1) / 2] between class means; raises if two of these are equal up to rounding."""
    # Both are cached, hence taken before gradients are switched off.
    distances, variances = moments.distances, moments.sums_of_variances
    with torch.no_grad():
        spread = variances.sqrt()
        equal = (distances <= 16 * moments.resolution * spread) | negligible(distances, moments.means)
        if equal.any():
            i, j = (moments.classes[k[equal][0]].item() for k in pair_indices(len(moments.means), equal.device))
            raise ValueError(
                f"features must have distinct class means, got identical ones for classes {i} and {j} "
                f"({equal.sum().item()} such pairs)"
            )
    return distances.square()


def _square(pairs: Tensor, n_classes: int) -> Tensor:
    """Values of the unordered pairs as [C, C], NaN on the diagonal."""
    i, j = pair_indices(n_classes, pairs.device)
    return pairs.new_full((n_classes, n_classes), torch.nan).index_put((i, j), pairs).index_put((j, i), pairs)


def mean_off_diagonal(matrix: Tensor) -> Tensor:
    """Mean over i != j of a square matrix."""
    return matrix[~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)].mean()


# ------------------------------------------------------------------------------------------------------------
# Within-class against between-class covariance: NC1 and its relatives


def nc1(features: Tensor, labels: Tensor) -> Tensor:
    r"""NC1: within-class against between-class covariance.

    .. math:: \mathrm{NC1} = \frac1C \operatorname{tr}(S_W S_B^+)

    The pseudo-inverse keeps min(C - 1, D) eigenpairs, less those at rounding level (a unit that is dead for
    every class takes no part). Hold NC1 against `nc1_noise_floor`: it is small without any collapse where
    there are few classes in many dimensions.

    Args:
        features: [N, D].
        labels: [N].

    Returns:
        0-d tensor in [0, inf); 0 at collapse. Invertible linear maps of the features leave it as it is if D <
        C.

    Raises:
        ValueError: As every metric; and if a class has a single sample or all class means are identical.

    Reference:
        Papyan, Han, Donoho, "Prevalence of neural collapse during the terminal phase of deep learning
        training", PNAS 2020, figure 6; Medepalli, Doraiswamy, report on prototypical networks, NC1.

    Example:
        S_W = 1, S_B = 5² and C = 2.

        >>> nc1(torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1]))
        tensor(0.0200, dtype=torch.float64)
    """
    return nc1_of(Sample(features, labels, least=2).moments())


def nc1_of(moments: Moments) -> Tensor:
    """Formula of `nc1`."""
    return moments.between.trace_of_inverse_with(moments.within) / len(moments.counts)


def separation_fuzziness(features: Tensor, labels: Tensor) -> Tensor:
    r"""Separation fuzziness, which falls by a constant factor a layer in a trained network.

    .. math:: D = \operatorname{tr}(S_W\, SS_B^+), \qquad
              SS_B = \sum_k \frac{n_k}{N} (\mu_k - \mu)(\mu_k - \mu)^\top, \qquad
              \mu = \sum_k \frac{n_k}{N} \mu_k

    Classes weigh by their size here; where all are of one size, D = C · NC1.

    Args:
        features: [N, D].
        labels: [N].

    Returns:
        0-d tensor in [0, inf); 0 at collapse.

    Raises:
        ValueError: As every metric; and if a class has a single sample or all class means are identical.

    Reference:
        He, Su, "A law of data separation in deep learning", PNAS 2023, the definition of separation
        fuzziness.

    Example:
        >>> separation_fuzziness(torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1]))
        tensor(0.0400, dtype=torch.float64)
    """
    return separation_fuzziness_of(Sample(features, labels, least=2).moments())


def separation_fuzziness_of(moments: Moments) -> Tensor:
    """Formula of `separation_fuzziness`."""
    return Between(moments.means, moments.counts / moments.counts.sum()).trace_of_inverse_with(moments.within)


def trace_ratio(features: Tensor, labels: Tensor) -> Tensor:
    r"""Trace of the within-class covariance over that of the between-class covariance.

    .. math:: \operatorname{tr} S_W / \operatorname{tr} S_B

    Args:
        features: [N, D].
        labels: [N].

    Returns:
        0-d tensor in [0, inf); 0 at collapse. Where class means are equidistant and classes of one size, it
        is 2C/(C - 1) times the CDNV.

    Raises:
        ValueError: As every metric; and if a class has a single sample or all class means are identical.

    Reference:
        Tirer, Bruna, "Extended unconstrained features model for exploring deep neural collapse", ICML 2022,
        and later work by Tirer.

    Example:
        >>> trace_ratio(torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1]))
        tensor(0.0400, dtype=torch.float64)
    """
    return trace_ratio_of(Sample(features, labels, least=2).moments())


def trace_ratio_of(moments: Moments) -> Tensor:
    """Formula of `trace_ratio`."""
    within = moments.counts @ moments.variances / moments.counts.sum()
    return within / moments.between.rows.square().sum()


def variability_collapse_index(features: Tensor, labels: Tensor) -> Tensor:
    r"""Variability collapse index (VCI).

    .. math:: \mathrm{VCI} = 1 - \frac{\operatorname{tr}(\Sigma_T^+ S_B)}{\operatorname{rank} S_B},
              \qquad \Sigma_T = S_W + S_B

    The rank is min(C - 1, D), less where class means are linearly dependent beyond that (dead units).

    Args:
        features: [N, D]. With D >= N - 1, samples in general position give 0 whatever the classes are.
        labels: [N].

    Returns:
        0-d tensor in [0, 1]; 0 at collapse. Invertible linear maps of the features leave it as it is.

    Raises:
        ValueError: As every metric; and if a class has a single sample or all class means are identical.

    Reference:
        Xu, Liu, "Quantifying the variability collapse of neural networks", ICML 2023, definition 5.3.

    Example:
        Σ_T = 1 + 25: VCI = 1 - 25/26.

        >>> features, labels = torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1])
        >>> variability_collapse_index(features, labels)
        tensor(0.0385, dtype=torch.float64)
    """
    return variability_collapse_index_of(Sample(features, labels, least=2).moments())


def variability_collapse_index_of(moments: Moments) -> Tensor:
    """Formula of `variability_collapse_index`."""
    between, within = moments.between, moments.within(None)
    rows, rank = between.rows, between.rank
    n_classes, dim = rows.shape
    # 1 - tr(...) cancels at collapse. The eigenvalues of S_T^+ S_B are m / (1 + m), those of the complement 1
    # / (1 + m).
    if not between.by_class:
        total, total_rank = pseudo_inverse(within + between.gram, n_classes)
        return ((total * within).sum() - (total_rank - rank)) / rank
    inverse, _ = pseudo_inverse(within, dim)
    towards = rows @ inverse
    with torch.no_grad():
        lost = (rows - towards @ within).abs().max() > 1e-6 * rows.abs().max()
    if lost:  # class means differ in directions without any variance within classes, where m is infinite
        between_covariance = rows.T @ rows
        total, _ = pseudo_inverse(within + between_covariance, dim)
        return 1 - (total * between_covariance).sum() / rank
    # m: the eigenvalues of R S_W^+ R^T [C, C], whose null direction sqrt(w) gets the eigenvalue `filled`.
    ratio = towards @ rows.T
    filled = ratio.detach().trace() / rank
    complement = torch.linalg.inv(
        torch.eye(n_classes, dtype=ratio.dtype, device=ratio.device) + ratio + filled / n_classes
    ).trace()
    return (complement - 1 / (1 + filled) - (n_classes - 1 - rank)) / rank


# ------------------------------------------------------------------------------------------------------------
# Class means, classifier, decisions: NC2, NC3, NC4


def nc2(features: Tensor, labels: Tensor, *, variant: str = "centred") -> Tensor:
    r"""NC2: how far the class means are from a simplex equiangular tight frame (ETF).

    .. math:: \left\| \frac{H H^\top}{\|H H^\top\|_F}
              - \frac{1}{\sqrt{C - 1}} \left(I - \frac1C 1 1^\top\right) \right\|_F

    ============== ==================================================== ============
    ``variant``    meaning                                              range
    ============== ==================================================== ============
    centred        the rows of H are the centred class means            [0, sqrt(2)]
    uncentred      the rows of H are the class means themselves         [0, sqrt(2)]
    normalised     the rows of H are the centred means at length 1      [0, sqrt(2)]
    equinorm       instead: std / mean of the centred means' lengths    [0, inf)
    equiangularity instead: mean over pairs of |cos of the centred      [0, C/(C-1)]
                   means + 1/(C - 1)|
    ============== ==================================================== ============

    Args:
        features: [N, D].
        labels: [N]; a class with a single sample is accepted.
        variant: One of the above.

    Returns:
        0-d tensor; 0 for a simplex ETF (for "uncentred", one about the origin).

    Raises:
        ValueError: As every metric; and if ``variant`` is none of the above, if all class means are identical
            (for "uncentred": zero), or, where one divides by lengths, if a class mean is the global mean.

    Reference:
        centred: Zhu et al., "A geometric analysis of neural collapse with unconstrained features", NeurIPS
            2021,
        their metric of NC2; uncentred: Medepalli, Doraiswamy, the report's formula; normalised: the code of
        that report; equinorm and equiangularity: Papyan, Han, Donoho, PNAS 2020, figures 2 and 4.

    Example:
        Two means are always an ETF once centred; the lengths 1, 0, 1 have mean 2/3 and variance 2/9.

        >>> nc2(torch.tensor([[3.0], [7.0]]), torch.tensor([0, 1])).round(decimals=12)
        tensor(0., dtype=torch.float64)
        >>> nc2(torch.tensor([[-1.0], [0.0], [1.0]]), torch.tensor([0, 1, 2]), variant="equinorm") ** 2
        tensor(0.5000, dtype=torch.float64)
    """
    if variant not in NC2_VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(NC2_VARIANTS)}, got {variant!r}")
    sample = Sample(features, labels)
    return nc2_of_means(sample.means, sample.classes, variant)


def nc2_of_means(means: Tensor, classes: Tensor, variant: str = "centred") -> Tensor:
    """Formula of `nc2`."""
    n_classes = len(means)
    if variant == "uncentred":
        return gram_to_etf(means @ means.T)
    centred = means - means.mean(0)
    raise_if_centred_means_vanish(centred, means)
    if variant == "centred":
        return gram_to_etf(centred @ centred.T)
    lengths = centred.norm(dim=1)
    if variant == "equinorm":
        return lengths.std(correction=0) / lengths.mean()
    at_centre = negligible(lengths.detach(), means)
    if at_centre.any():
        raise ValueError(
            f"variant {variant!r} divides by the distance of class means from the global mean, got zero for "
            f"{some(classes[at_centre].tolist())}"
        )
    directions = centred / lengths[:, None]
    if variant == "normalised":
        return gram_to_etf(directions @ directions.T)
    return mean_off_diagonal((directions @ directions.T + 1 / (n_classes - 1)).abs())


def gram_to_etf(gram: Tensor) -> Tensor:
    """Formula of `nc2`, of H H^T [C, C]."""
    n_classes = len(gram)
    length = gram.norm()
    if length == 0:
        raise ValueError("features must have class means that are not all zero, got zero ones")
    etf = torch.eye(n_classes, dtype=gram.dtype, device=gram.device) - 1 / n_classes
    return (gram / length - etf / math.sqrt(n_classes - 1)).norm()


def nc3(features: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    r"""NC3: how far the classifier is from the centred class means (self-duality).

    .. math:: \left\| \frac{W}{\|W\|_F} - \frac{H}{\|H\|_F} \right\|_F

    Args:
        features: [N, D].
        labels: [N]; a class with a single sample is accepted.
        weight: W [C, D], the classifier's weight; row k belongs to the k-th label in ascending order, as in
            H.

    Returns:
        0-d tensor in [0, 2]; 0 at collapse.

    Raises:
        ValueError: As every metric; and if ``weight`` is not [C, D], not finite or zero, or if all class
            means are identical.

    Reference:
        Papyan, Han, Donoho, PNAS 2020, figure 5.

    Example:
        The centred means are -5 and 5: every weight (-a, a) with a > 0 is dual to them, its negative is
        opposed.

        >>> features, labels = torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1])
        >>> nc3(features, labels, torch.tensor([[-3.0], [3.0]])).round(decimals=12)
        tensor(0., dtype=torch.float64)
        >>> nc3(features, labels, torch.tensor([[3.0], [-3.0]])).round(decimals=12)
        tensor(2., dtype=torch.float64)
    """
    return nc3_of_means(Sample(features, labels).means, weight)


def nc3_of_means(means: Tensor, weight: Tensor) -> Tensor:
    """Formula of `nc3`."""
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise TypeError(f"weight must be a float tensor, got {getattr(weight, 'dtype', type(weight).__name__)}")
    if weight.shape != means.shape:
        raise ValueError(f"weight must be [C, D] = {list(means.shape)}, got {list(weight.shape)}")
    weight = weight.to(means)
    centred = means - means.mean(0)
    raise_if_centred_means_vanish(centred, means)
    length = weight.norm()
    if not 0 < length < torch.inf:
        raise ValueError(f"weight must be finite and not zero, got one of Frobenius norm {length.item():g}")
    return (weight / length - centred / centred.norm()).norm()


def nc4(features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
    r"""NC4: share of samples for which the network and the nearest class mean decide differently.

    .. math:: \frac1N \#\{x : \arg\max_k \mathrm{logits}_k(x) \ne \arg\min_k \|x - \mu_k\|\}

    At a tie each decides for the first class. A count: no gradient flows.

    Args:
        features: [N, D].
        labels: [N], of which the class means are made; a class with a single sample is accepted.
        logits: [N, C], of any float dtype; column k belongs to the k-th label in ascending order.

    Returns:
        0-d tensor, a fraction in [0, 1]; 0 at collapse.

    Raises:
        ValueError: As every metric; and if ``logits`` is not [N, C] or holds NaN.

    Reference:
        Papyan, Han, Donoho, PNAS 2020, figure 7.

    Example:
        The means are 1 and 11, and the network decides otherwise on the last of four samples.

        >>> features, labels = torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1])
        >>> nc4(features, labels, torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0]]))
        tensor(0.2500, dtype=torch.float64)
    """
    return _nc4_of(Sample(features, labels), logits)


def _nc4_of(sample: Sample, logits: Tensor) -> Tensor:
    """Formula of `nc4`."""
    check_logits(logits, len(sample.features), len(sample.counts))
    with torch.no_grad():
        centre = sample.means.mean(0)
        differ = disagreements(sample.features, sample.means - centre, centre, logits.to(centre.device))
    return differ.to(sample.dtype) / len(sample.features)


def class_mean_mismatch(features: Tensor, labels: Tensor) -> Tensor:
    r"""Share of samples that are nearest to the mean of another class than their own.

    .. math:: \frac1N \#\{x : \arg\min_k \|x - \mu_k\| \ne y(x)\}

    `nc4` with the labels in place of the network's decisions.

    Args:
        features: [N, D].
        labels: [N]; a class with a single sample is accepted.

    Returns:
        0-d tensor, a fraction in [0, 1]; 0 where every sample is nearest to its own mean. No gradient flows.

    Raises:
        ValueError: As every metric.

    Reference:
        Galanti, Galanti, Ben-Shaul, "On the implicit bias towards minimal depth of deep neural networks", 2022, whose
        effective depth is the first layer where this is small (recalled).

    Example:
        Means 1 and 3: the sample at 4 of the first class is nearer to the second one's mean.

        >>> features, labels = torch.tensor([[-1.0], [0.0], [4.0], [3.0]]), torch.tensor([0, 0, 0, 1])
        >>> class_mean_mismatch(features, labels)
        tensor(0.2500, dtype=torch.float64)
    """
    sample = Sample(features, labels)
    decisions = torch.nn.functional.one_hot(sample.index, len(sample.classes)).to(sample.dtype)
    return _nc4_of(sample, decisions)


def disagreements(x: Tensor, centred: Tensor, centre: Tensor, logits: Tensor) -> Tensor:
    """How many rows of x are nearest to another mean, centre + centred_k, than that of argmax(logits)."""
    rows = min(len(x), rows_at_a_time(max(centred.shape)))
    shifted, scores = centred.new_empty(rows, x.shape[1]), centred.new_empty(rows, len(centred))
    minus_half_norms = -centred.square().sum(1) / 2  # [C]
    count, checksum = centred.new_zeros((), dtype=torch.int64), centred.new_zeros(())
    worst = logits.new_full((), -torch.inf)
    for part, decision in zip(x.split(rows), logits.split(rows), strict=True):
        n = len(part)
        # argmin |x - mu|² = argmax x . mu - |mu|² / 2, about a centre that keeps both small
        torch.sub(part, centre, out=shifted[:n])
        torch.addmm(minus_half_norms, shifted[:n], centred.T, out=scores[:n])
        highest, nearest = scores[:n].max(1)
        best, predicted = decision.max(1)
        count += (nearest != predicted).sum()
        # Not finite if any feature is not, NaN if any logit is: checks that cost nothing.
        checksum += highest.sum()
        worst = torch.maximum(worst, best.max())
    finite, nan = torch.stack([checksum.isfinite(), worst.isnan()]).tolist()
    if not finite:
        raise_not_finite(x)
    if nan:
        raise ValueError("logits must not hold NaN")
    return count


# ------------------------------------------------------------------------------------------------------------
# All at once


def summary(
    features: Tensor, labels: Tensor, *, weight: Tensor | None = None, logits: Tensor | None = None
) -> dict[str, Tensor]:
    """The metrics that describe one split of a run, from one pass over the features.

    The numbers of the functions of the same names, whose formulas these are; several times faster than one call after
    the other.

    Args:
        features: [N, D].
        labels: [N].
        weight: [C, D], the classifier's: gives "nc3".
        logits: [N, C]: gives "nc4".

    Returns:
        "cdnv", "cdnv_debiased" (the *median* over pairs, since a pair that cannot be told apart is ``inf``), "nc1",
        "nc2", "min_distance", "min_distance_normalised", and "nc3" and "nc4" where their arguments are given.

    Raises:
        ValueError: As those functions.

    Example:
        >>> features, labels = torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1])
        >>> [round(float(value), 4) for value in summary(features, labels).values()]
        [0.01, 0.0204, 0.02, 0.0, 10.0, 2.0]
    """
    sample = Sample(features, labels, least=2)
    moments, means = sample.moments(), sample.means
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pairs that cannot be told apart
        debiased = cdnv_of_pairs(moments, debiased=True)
    values = {
        "cdnv": cdnv_of_pairs(moments).mean(),
        "cdnv_debiased": debiased.median(),
        "nc1": nc1_of(moments),
        "nc2": nc2_of_means(means, sample.classes),
        "min_distance": min_distance_of_means(means),
        "min_distance_normalised": min_distance_of_means(means, normalised=True),
    }
    if weight is not None:
        values["nc3"] = nc3_of_means(means, weight)
    if logits is not None:
        values["nc4"] = _nc4_of(sample, logits)
    return values


# ------------------------------------------------------------------------------------------------------------
# What NC1 is without any signal


def nc2_of_equal_cosines(n_classes: int, cosine: float) -> Tensor:
    r"""Uncentred NC2 of class means with equal lengths and one cosine between any two: what such means alone give.

    .. math:: \mathrm{NC2}^2 = 2 - \frac{2 (1 - c) \sqrt{C - 1}}{\sqrt{C \, (1 + (C - 1) c^2)}}

    Features after a ReLU have positive cosines, so their uncentred NC2 is large before anything has collapsed: a value
    has to be held against this one.

    Args:
        n_classes: C, at least 2.
        cosine: c, from -1 / (C - 1), a simplex ETF, to 1, identical means.

    Returns:
        0-d float64 tensor in [0, sqrt(2)]; 0 at c = -1 / (C - 1).

    Raises:
        ValueError: fewer than two classes, or a cosine that so many vectors cannot have.

    Reference:
        Derived in this project; the quantity is the report's (Medepalli, Doraiswamy).

    Example:
        >>> nc2_of_equal_cosines(5, -0.25)
        tensor(0., dtype=torch.float64)
        >>> nc2_of_equal_cosines(2, 0.0) ** 2  # orthogonal: 2 - 2 / sqrt(2)
        tensor(0.5858, dtype=torch.float64)
    """
    if n_classes < 2:
        raise ValueError(f"n_classes={n_classes!r}; allowed: at least 2")
    if not -1 / (n_classes - 1) - 1e-12 <= cosine <= 1:
        raise ValueError(f"cosine={cosine!r}; allowed for {n_classes} classes: {-1 / (n_classes - 1):.4g} to 1")
    others = n_classes - 1
    squared = 2 - 2 * (1 - cosine) * math.sqrt(others) / math.sqrt(n_classes * (1 + others * cosine**2))
    return torch.tensor(max(0.0, squared), dtype=torch.float64).sqrt()


def nc1_noise_floor(n_classes: int, n_per_class: int, dim: int, *, spectrum: Tensor | None = None) -> Tensor:
    r"""Mean of `nc1` where labels mean nothing: Gaussian features of one law for all C classes of K samples.

    Isotropic features, exact:

    .. math:: \frac{(K - 1)(C - 1)}{D - C} \ (D > C), \qquad \frac{(K - 1) D}{C - D - 2} \ (D < C - 2)

    and infinite for D in {C - 2, C - 1, C}, where the smallest eigenvalue of S_B is too often too near 0 to
    have a mean. For D < C every covariance has this floor. For D > C it depends on the covariance's
    eigenvalues :math:`\lambda_i`, and ``spectrum`` gives the deterministic equivalent

    .. math:: \frac{(K - 1)\, d_2}{C - 1 - d_2}, \qquad
              d_2 = \sum_i \frac{\lambda_i^2}{(\lambda_i + \kappa)^2}, \qquad
              \kappa: \ \sum_i \frac{\lambda_i}{\lambda_i + \kappa} = C - 1

    which is several times as large where eigenvalues fall like a power law. (For equal eigenvalues it has
    D - C + 1 in place of D - C.) Near D = C, where tails are heavy, prefer a simulation.

    Args:
        n_classes: C, at least 2.
        n_per_class: K, samples of each class, at least 2.
        dim: D, at least 1.
        spectrum: [D] eigenvalues of the within-class covariance, none negative; zeros (dead directions) do
            not count as dimensions. None: isotropic.

    Returns:
        0-d float64 tensor in (0, inf], on the CPU.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Isotropic: traces of inverse Wishart matrices. Spectrum: the variance of ridgeless regression on C - 1
        observations. Both are derived for this package and checked by simulation in its tests.

    Example:
        (5 - 1)(5 - 1) / (64 - 5) = 16/59; and three times that for a spectrum of 1/i.

        >>> nc1_noise_floor(5, 5, 64)
        tensor(0.2712, dtype=torch.float64)
        >>> nc1_noise_floor(5, 5, 64, spectrum=1 / torch.arange(1, 65))
        tensor(0.8434, dtype=torch.float64)
    """
    for name, value, least in (("n_classes", n_classes, 2), ("n_per_class", n_per_class, 2), ("dim", dim, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if spectrum is not None:
        spectrum = torch.as_tensor(spectrum).detach().to("cpu", torch.float64)
        if spectrum.shape != (dim,):
            raise ValueError(f"spectrum must be [dim] = [{dim}], got {list(spectrum.shape)}")
        if not (spectrum.isfinite().all() and (spectrum >= 0).all() and (spectrum > 0).any()):
            raise ValueError(f"spectrum must be finite, not negative and not all zero, got {spectrum.tolist()}")
        spectrum = spectrum[spectrum > 0]
        dim = len(spectrum)
    if n_classes - 2 <= dim <= n_classes:
        return torch.tensor(math.inf, dtype=torch.float64)
    if dim < n_classes:
        ratio = dim / (n_classes - dim - 2)
    elif spectrum is None:
        ratio = (n_classes - 1) / (dim - n_classes)
    else:
        shrunk = spectrum / (spectrum + _ridge_of_degrees(spectrum, n_classes - 1))
        d2 = shrunk.square().sum().item()
        ratio = d2 / (n_classes - 1 - d2)
    return torch.tensor((n_per_class - 1) * ratio, dtype=torch.float64)


def _ridge_of_degrees(spectrum: Tensor, degrees: int) -> float:
    """The kappa with sum_i lambda_i / (lambda_i + kappa) = degrees < len(spectrum): its log, bisected."""
    # At the upper end the sum is below lambda.sum() / kappa = degrees, at the lower one it is len(spectrum).
    low, high = math.log(spectrum.min()) - 40, math.log(spectrum.sum() / degrees)
    for _ in range(100):
        middle = (low + high) / 2
        if (spectrum / (spectrum + math.exp(middle))).sum() > degrees:
            low = middle
        else:
            high = middle
    return math.exp(high)
