"""What this folder asks of its input beyond ``ncbook._checks``; called by every public function here."""

import torch
from torch import Tensor

from ncbook import _checks


def check_labels(labels: Tensor, name: str = "labels") -> Tensor:
    """Accept a vector [N] of integers that is not empty."""
    if len(_checks.check_labels(labels, name)) == 0:
        raise ValueError(f"{name} has shape [0]; allowed: [N] with N of at least 1")
    return labels


def check_samples(features: Tensor, labels: Tensor, name: str = "features", labels_name: str = "labels") -> Tensor:
    """Accept finite features [N, D] beside labels [N] on one device; return them as float32 or float64."""
    _checks.check_features(features, labels, name, labels_name)
    check_labels(labels, labels_name)
    if labels.device != features.device:
        raise ValueError(f"{labels_name} is on {labels.device}; allowed: {features.device}, where {name} is")
    features = features.detach()
    # half precision would lose accuracy silently, so the arithmetic is never below float32
    features = features if features.dtype == torch.float64 else features.float()
    return check_finite(features, name)


def check_finite(values: Tensor, name: str) -> Tensor:
    """Accept values [N, D] without NaN and infinity."""
    # the sum reads once and writes nothing; one of finite numbers may overflow
    if not values.sum().isfinite() and not bool(values.isfinite().all()):
        raise ValueError(_checks.describe_not_finite(values, name))
    return values
