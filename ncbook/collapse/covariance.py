"""Within-class against between-class covariance: NC1, separation fuzziness, trace ratio, variability collapse index.

Called by the reader of a notebook, by `overview`, and with moments in place of features by the accumulator.
"""

import torch
from torch import Tensor

from .moments import Between, Moments, cholesky_if_regular
from .sample import Sample


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
        0-d tensor in [0, inf); 0 at collapse. Invertible linear maps of the features leave it as it is if D < C.

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
    r"""Separation fuzziness, which falls by a constant factor per layer in a trained network.

    .. math:: D = \operatorname{tr}(S_W\, SS_B^+), \qquad
              SS_B = \sum_k \frac{n_k}{N} (\mu_k - \mu)(\mu_k - \mu)^\top, \qquad
              \mu = \sum_k \frac{n_k}{N} \mu_k

    Classes count by their size here; where all are of one size, D = C · NC1.

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
        0-d tensor in [0, inf); 0 at collapse. Where class means are equidistant and classes of one size, it is
        2C/(C - 1) times the CDNV.

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
        features: [N, D]. With D >= N - 1, samples in general position give 0 whatever the classes are. Where S_W is
            singular and class means differ along some direction by less than 1e-7 of their distances, rounding decides;
            else the value is certain to 1e-15 times the condition number of Σ_T.
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
    """Formula of `variability_collapse_index`, without differences of numbers near 1.

    Along the row space V of R (R^T R = S_B), what counts of S_W is its Schur complement W: the variance that the
    directions across V cannot explain. With Q = W measured in units of S_B, VCI = tr(Q (I + Q)^-1) / rank.
    """
    between, within = moments.between, moments.within(None)
    rows, rank = between.rows, between.rank
    n_classes, dim = rows.shape
    if between.by_class and between.inverse is not None:
        factor = cholesky_if_regular(within)
        if factor is not None:  # Q^-1 = R S_W^-1 R^T, whose null direction sqrt(w) gets the eigenvalue `filled`
            inverse = rows @ torch.cholesky_solve(rows.T, factor)
            filled = inverse.detach().trace() / rank
            identity = torch.eye(n_classes, dtype=rows.dtype, device=rows.device)
            return (torch.linalg.inv(identity + inverse + filled / n_classes).trace() - 1 / (1 + filled)) / rank
    if not between.by_class and between.inverse is not None:  # V is the whole space
        ratio = between.inverse @ within
    else:
        to_rows = between.inverse_rows  # R^T to_rows projects on V
        if rank < dim:
            beyond = torch.eye(dim, dtype=rows.dtype, device=rows.device) - rows.T @ to_rows
            across = within @ beyond
            both = beyond.T @ across
            both = (both + both.T) / 2
            # Solved, not inverted: an inverse rounds what stands along small directions beside far larger ones. Where
            # variances are at the rounding level of S_W, in V among them, there is nothing to be solved: filled up.
            sizes, directions = torch.linalg.eigh(both.detach())
            largest = float(within.detach().diagonal().max())
            null = directions[:, sizes <= torch.finfo(within.dtype).eps * dim * largest]
            filled = both + (largest or 1.0) * null @ null.T
            within = within - across @ torch.linalg.solve(filled, across.T)
        ratio = to_rows @ within @ to_rows.T
    identity = torch.eye(len(ratio), dtype=rows.dtype, device=rows.device)
    return (torch.linalg.solve(identity + ratio, ratio).trace() / rank).clamp(0, 1)
