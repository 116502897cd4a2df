"""The exact two-class few-shot error of Gaussian classes, of any covariances, by one integral."""

import math

import torch
from torch import Tensor

from ncbook._checks import named_arguments, warn

from ._checks import check_shot

_TOLERANCE = 1e-10  # relative change at which the integral is called converged
_MOST_SHOTS = 1e12  # with more, errors differ by less than rounding does
_MOST_NODES = 2**15


@named_arguments
def gaussian_error(gap: Tensor, first: Tensor, second: Tensor, shot: int) -> float:
    r"""Error of the nearest-class-mean classifier between N(0, Sigma_1) and N(gap, Sigma_2), n shots of each.

    For a query of class 1, y = x - m_1 and h = x - m_2 are jointly Gaussian, and the margin Z = |h|^2 - |y|^2 is a
    quadratic form in them: d^2 + sum_j (lambda_j z_j^2 + c_j z_j) with independent standard normal z_j. Its
    moment-generating function M is elementary, and

    .. math:: e_1 = P[Z \le 0] = \frac{1}{2\pi i} \int_{\kappa - i\infty}^{\kappa + i\infty} \frac{M(s)}{-s}\,ds,
              \qquad \ln M(s) = s d^2 + \sum_j \Bigl[-\tfrac12 \ln(1 - 2 s\lambda_j)
              + \frac{s^2 c_j^2}{2 (1 - 2 s \lambda_j)}\Bigr]

    for any kappa < 0 where M exists. At the saddle point of M(s) / -s the integrand has one narrow hump, so even errors
    of 1e-30 come with many correct digits.

    Args:
        gap: mu_2 - mu_1, float [D].
        first: Sigma_1, [D, D], or its diagonal [D].
        second: Sigma_2, likewise.
        shot: n >= 1.

    Returns:
        (e_1 + e_2) / 2, in [0, 1], to about nine digits.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, a covariance that is not symmetric and positive
            semi-definite, no noise at all, or fewer than one shot.

    Reference:
        Inversion along the saddle point: Daniels (1987), Tail probability approximations, section 3; the quadratic form
        as in Imhof (1961).

    Example:
        On a line, x - (m_1 + m_2) / 2 and m_1 - m_2 are independent, and an error is that their signs agree.

        >>> u, w = 1 / math.sqrt(1.5), 2 / math.sqrt(2)  # their means in standard deviations; gap 2, variances 1, n = 1
        >>> phi = lambda t: (1 + math.erf(t / math.sqrt(2))) / 2
        >>> by_hand = phi(-u) * phi(w) + phi(u) * phi(-w)
        >>> abs(gaussian_error(torch.tensor([2.0]), torch.ones(1), torch.ones(1), shot=1) - by_hand) < 1e-9
        True
    """
    check_shot(shot)
    shot = min(shot, _MOST_SHOTS)
    gap = torch.as_tensor(gap).detach().double()
    if gap.ndim != 1:
        raise ValueError(f"gap has shape {list(gap.shape)}; allowed: [D]")
    _check_finite("gap", gap)
    first, second = _covariance("first", first, gap), _covariance("second", second, gap)
    if first.ndim != second.ndim:
        first, second = (torch.diag(c) if c.ndim == 1 else c for c in (first, second))
    if not float(first.abs().sum() + second.abs().sum()) > 0:
        raise ValueError("first and second are zero; allowed: noise in at least one class")
    return (_one_sided(gap, first, second, shot) + _one_sided(gap, second, first, shot)) / 2


def _check_finite(name: str, value: Tensor) -> None:
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinity; allowed: finite numbers")


def _covariance(name: str, value: Tensor, gap: Tensor) -> Tensor:
    value = torch.as_tensor(value).detach().double()
    dim = len(gap)
    if list(value.shape) not in ([dim], [dim, dim]):
        raise ValueError(f"{name} has shape {list(value.shape)}; allowed: [{dim}] or [{dim}, {dim}], as gap has {dim}")
    _check_finite(name, value)
    if value.ndim == 2 and not torch.allclose(value, value.mT, rtol=1e-6, atol=1e-12):
        raise ValueError(f"{name} is not symmetric; allowed: a covariance")
    least = float((torch.linalg.eigvalsh(value) if value.ndim == 2 else value).min())
    if not least >= -1e-9 * float(value.abs().max()):
        raise ValueError(f"{name} has a smallest eigenvalue of {least:.3g}; allowed: at least 0")
    return value


def _one_sided(gap: Tensor, own: Tensor, rival: Tensor, shot: int) -> float:
    """P[|x - m_1| >= |x - m_2|] for x of class 1."""
    from scipy.optimize import minimize_scalar  # half a second to import

    if not bool(own.any()):  # x = m_1 always
        return 0.0
    constant, curvature, slope = _margin(gap, own, rival, shot)
    log_m = _Log(constant, curvature, slope)

    def height_at(s: float) -> float:  # ln |M(s) / -s|, convex on the real line
        return float(log_m(curvature.new_tensor([s]))) - math.log(-s)

    wall = 1 / (2 * float(curvature.min()))  # M exists from here to 0
    kappa = float(minimize_scalar(height_at, bounds=(wall, 0), method="bounded", options={"xatol": 0}).x)
    height = height_at(kappa)
    width = 1 / math.sqrt(log_m.second(kappa) + 1 / kappa**2)
    # where no noise reaches a part of the gap, exp(s rest) only turns: bent to the left it dies away
    bend = 0.5 if log_m.constant > 0 else 0.0
    nodes, before = 256, math.inf
    while nodes <= _MOST_NODES:
        x = torch.linspace(0, 40, nodes + 1, dtype=torch.float64, device=gap.device)
        s = torch.complex(kappa - bend * width * (x.cosh() - 1), width * x.sinh())
        ds = torch.complex(-bend * width * x.sinh(), width * x.cosh())
        values = ((log_m(s) - torch.log(-s) - height).exp() * ds).imag
        values[0] /= 2  # trapezoidal rule on one half; the other is its mirror image
        integral = float(values.nan_to_num(0.0).sum()) * 40 / nodes / math.pi
        if abs(integral - before) <= _TOLERANCE * abs(integral):
            break
        nodes, before = 2 * nodes, integral
    else:
        warn("gaussian_error: the integral has not converged to nine digits", RuntimeWarning)
    return min(1.0, max(0.0, math.exp(height) * integral))


def _margin(gap: Tensor, own: Tensor, rival: Tensor, shot: int) -> tuple[float, Tensor, Tensor]:
    """d^2, and lambda and c of Z = d^2 + sum_j (lambda_j z_j^2 + c_j z_j)."""
    if own.ndim == 1:  # coordinates are independent: D blocks of (y, h)
        joint = torch.stack([own * (1 + 1 / shot), own, own, own + rival / shot], -1).view(-1, 2, 2)
        sign = torch.tensor([-1.0, 1.0], dtype=own.dtype, device=own.device)
        mean = torch.stack([torch.zeros_like(gap), gap], -1)  # [D, 2]
    else:
        joint = torch.cat([torch.cat([own * (1 + 1 / shot), own], 1), torch.cat([own, own + rival / shot], 1)])[None]
        sign = torch.cat([-torch.ones_like(gap), torch.ones_like(gap)])
        mean = torch.cat([torch.zeros_like(gap), gap])[None]
    values, vectors = torch.linalg.eigh(joint)
    root = vectors * values.clamp_min(0).sqrt()[:, None, :]  # joint = root root'
    curvature, axes = torch.linalg.eigh(root.mT @ (sign[:, None] * root))
    slope = 2 * (axes.mT @ (root.mT @ (sign * mean)[..., None]))[..., 0]
    return float(gap.square().sum()), curvature.flatten(), slope.flatten()


class _Log:
    """ln M(s) of the margin, and its derivatives on the real line; terms with the same lambda are one.

    With the square completed, lambda (z + c / (2 lambda))^2, a term's exponent stays bounded; what is then left of d^2
    is the squared part of the gap that no noise reaches, often 0.
    """

    def __init__(self, constant: float, curvature: Tensor, slope: Tensor):
        digits = (curvature / curvature.abs().max() * 1e13).round()
        _, same, self.count = digits.unique(return_inverse=True, return_counts=True)
        self.curvature = torch.zeros_like(curvature[: len(self.count)]).index_add(0, same, curvature) / self.count
        squares = torch.zeros_like(self.curvature).index_add(0, same, slope.square())  # c^2
        bent = self.curvature.abs() > 1e-10 * self.curvature.abs().max()
        self.shift = torch.where(bent, squares / (4 * self.curvature.where(bent, 1.0)), 0.0)  # c^2 / (4 lambda)
        self.linear = torch.where(bent, 0.0, squares).sum()  # c^2 of the terms without curvature
        rest = constant - float(self.shift.sum())
        self.constant = rest if abs(rest) > 1e-9 * constant else 0.0

    def __call__(self, s: Tensor) -> Tensor:
        rest = 1 - 2 * s[:, None] * self.curvature  # [nodes, 2D]
        terms = -self.count * rest.log() / 2 + s[:, None] * self.shift / rest
        return s * self.constant + s.square() * self.linear / 2 + terms.sum(1)

    def second(self, s: float) -> float:
        rest = 1 - 2 * s * self.curvature
        terms = 2 * self.count * (self.curvature / rest).square() + 4 * self.shift * self.curvature / rest.pow(3)
        return float(self.linear) + float(terms.sum())
