"""Refuse bad input before any work: each error names the argument, what came and what is allowed."""

import difflib
import math

import torch
from torch import Tensor


def check_count(name: str, value: int, least: int = 1) -> int:
    """Return ``value`` if it is an integer of at least ``least``."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer of at least {least}, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def check_positive(name: str, value: float) -> float:
    """Return ``value`` if it is a finite number above zero."""
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a finite number above 0, got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0, got {value}")
    return float(value)


def check_choice(name: str, value: str, allowed) -> str:
    """Return ``value`` if it is one of the ``allowed`` names; the error proposes the nearest one."""
    allowed = list(allowed)
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}{hint}")
    return value


def check_labels(labels: Tensor, name: str = "labels") -> Tensor:
    """Return ``labels`` if they are a non-empty vector of integers."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of integers [N], got {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, got dtype {labels.dtype}")
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"{name} must have shape [N] with N >= 1, got {list(labels.shape)}")
    return labels


def check_features(features: Tensor, labels: Tensor, name: str = "features", labels_name: str = "labels"):
    """Return features as float32 or float64, if they are finite, [N, D] and beside labels [N]."""
    if not isinstance(features, Tensor):
        raise TypeError(f"{name} must be a floating-point torch.Tensor [N, D], got {type(features).__name__}")
    if not features.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got dtype {features.dtype}")
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name} must have shape [N, D] with N, D >= 1, got {list(features.shape)}")
    check_labels(labels, labels_name)
    if len(labels) != len(features):
        raise ValueError(f"{labels_name} must have one entry a row of {name}: {len(features)}, got {len(labels)}")
    if labels.device != features.device:
        raise ValueError(f"{labels_name} are on {labels.device}, {name} on {features.device}: move one to the other")
    if not features.detach().sum().isfinite():  # reads once, writes nothing; the rows only where it is in doubt
        broken = (~torch.isfinite(features)).any(1).nonzero()
        if len(broken):  # else a sum of finite numbers that overflows
            raise ValueError(f"{name} must be finite, got NaN or infinity first in row {int(broken[0])}")
    # half precision would lose accuracy silently, so the arithmetic is never below float32
    return features.detach() if features.dtype == torch.float64 else features.detach().float()
