"""What NC1 is without any signal: the number to hold a measured NC1 against. Called by the reader of a notebook."""

import math

import torch
from torch import Tensor

from ncbook._checks import check_whole, named_arguments


@named_arguments
def nc1_noise_floor(n_classes: int, n_per_class: int, dim: int, *, spectrum: Tensor | None = None) -> Tensor:
    r"""Mean of `nc1` where labels mean nothing: one Gaussian distribution for all C classes of K samples.

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
        n_per_class: K, samples per class, at least 2.
        dim: D, at least 1.
        spectrum: [D] eigenvalues of the within-class covariance, none negative; zeros (dead directions) do
            not count as dimensions. None: isotropic.

    Returns:
        0-d float64 tensor in (0, inf], on the CPU.

    Raises:
        TypeError, ValueError: If an argument is of another type or out of its range.

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
        check_whole(name, value, least)
    if spectrum is not None:
        spectrum = torch.as_tensor(spectrum).detach().to("cpu", torch.float64)
        if spectrum.shape != (dim,):
            raise ValueError(f"spectrum has shape {list(spectrum.shape)}; allowed: [dim] = [{dim}]")
        if not (spectrum.isfinite().all() and (spectrum >= 0).all() and (spectrum > 0).any()):
            ends = f"{spectrum.min():g} to {spectrum.max():g}"
            raise ValueError(f"spectrum holds {ends}; allowed: finite numbers, none negative and not all zero")
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
    """The kappa with sum_i lambda_i / (lambda_i + kappa) = degrees < len(spectrum): by its log."""
    from scipy.optimize import bisect  # half a second to import

    # At the upper end the sum is below lambda.sum() / kappa = degrees, at the lower one it is len(spectrum).
    low, high = math.log(spectrum.min()) - 40, math.log(spectrum.sum() / degrees)
    return math.exp(bisect(lambda log: float((spectrum / (spectrum + math.exp(log))).sum()) - degrees, low, high))
