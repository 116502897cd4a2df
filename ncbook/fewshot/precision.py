"""What the arithmetic of this folder can tell apart: full float32 products, powers of two, the size of rounding."""

import contextlib
import math

import torch
from torch import Tensor

_ORDINARY = 16  # products of numbers up to 2^16 and of their like are far from both ends of float32
_LARGEST_RIDGE = 100  # a power of two: beside it, products of numbers below 1 vanish even in float64


@contextlib.contextmanager
def full_precision(device: torch.device):
    """No TF32, no bf16 and no autocast in here; the caller's settings come back afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def rounding(dtype: torch.dtype, dim: int) -> float:
    """Relative rounding error allowed to an inner product of ``dim`` terms: at least twice what is observed."""
    return (4 + math.sqrt(dim) / 4) * torch.finfo(dtype).eps


def exponent_of(*values: Tensor) -> int:
    """The e with 2^(e - 1) <= largest entry < 2^e, but 0 for zeros and for entries of an ordinary size."""
    largest = max(abs(float(end)) for v in values for end in torch.aminmax(v))
    exponent = math.frexp(largest)[1]
    return 0 if abs(exponent) <= _ORDINARY else exponent


def times_power_of_two(values: Tensor, exponent: int) -> Tensor:
    """values x 2^exponent, exact but for numbers that vanish beside the largest one."""
    if exponent == 0:
        return values
    half = exponent // 2  # 2^exponent itself may not be a number of this dtype
    return values * 2.0**half * 2.0 ** (exponent - half)


def scaled_ridge(ridge: float, exponent: int) -> float:
    """The ridge that goes with features x 2^exponent: ridge x 4^exponent, within the range that matters."""
    mantissa, own = math.frexp(ridge)
    return math.ldexp(mantissa, min(own + 2 * exponent, _LARGEST_RIDGE))
