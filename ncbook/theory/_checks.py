"""Refusals that the functions of this folder share: numbers or tensors of them, built on `ncbook._checks`."""

import math

import torch

from ncbook._checks import check_choice, check_real

QUERIES = ("undrawn", "all")


def check_at_least(name: str, value, low: float, *, above: bool = False, infinite: bool = False, nan: bool = False):
    """Refuse what is not a number or a tensor of numbers of at least ``low``; the value, as torch can compute with it.

    Args:
        name: of the parameter.
        value: number or tensor.
        low: the least number that is allowed.
        above: refuse ``low`` itself.
        infinite: let infinity pass.
        nan: let NaN pass, as on the diagonal of a matrix.
    """
    if not isinstance(value, torch.Tensor):
        if (nan and value != value) or (infinite and value == math.inf):
            return value
        number = check_real(name, value, low, above_low=above)
        return number if number >= 2.0**63 else value  # beside a tensor no larger int has a place
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} has dtype {value.dtype}; allowed: real numbers")
    numbers = value.detach()
    right = numbers > low if above else numbers >= low
    if not infinite:
        right &= numbers < math.inf
    if nan:
        right |= numbers.isnan()
    if not bool(right.all()):
        wrong = numbers[~right].flatten()[0].item()
        kind = "" if infinite else "finite "
        raise ValueError(f"{name}={wrong!r}; allowed: {kind}numbers {'above' if above else 'of at least'} {low}")
    return value


def check_shot(shot):
    """Refuse what is not at least one shot; the shots, as torch can compute with them."""
    if shot is None or (isinstance(shot, torch.Tensor) and shot.ndim):
        raise ValueError(f"shot={shot}; allowed: a finite number of at least 1")
    return check_at_least("shot", shot, 1)


def check_cdnv(name: str, value):
    """Refuse a negative entry; NaN, the diagonal of a matrix, and infinity, a pair that cannot be told apart, pass."""
    return check_at_least(name, value, 0, infinite=True, nan=True)


def check_pool(name: str, samples, shot, queries: str = QUERIES[0]):
    """Refuse a pool without a sample that is not a shot, and other queries; samples and shots, fit for torch."""
    shot = check_shot(shot)
    samples = check_at_least(name, samples, 1)
    if not bool(torch.as_tensor(samples > shot).all()):
        raise ValueError(f"{name}={samples!r} with shot={shot!r}; allowed: more samples than shots")
    check_choice("queries", queries, QUERIES)
    return samples, shot


def as_came(bound: torch.Tensor, value):
    """A bound computed in float64, as ``value`` came: a number or a tensor of its dtype, float64 for whole numbers."""
    if not isinstance(value, torch.Tensor):
        return float(bound)
    return bound.to(value.dtype) if value.is_floating_point() else bound


def saturating(x, limit: float):
    """limit x / (1 + x) for x >= 0, with its limit at infinity; NaN stays NaN."""
    if not isinstance(x, torch.Tensor):
        return limit if x == math.inf else limit * (x / (1 + x))
    endless = x == math.inf
    finite = x.masked_fill(endless, 0.0)  # so that gradients elsewhere stay numbers
    return (limit * (finite / (1 + finite))).masked_fill(endless, limit)
