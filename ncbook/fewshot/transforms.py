"""The usual feature transforms before few-shot classification, each by its name."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .checks import check_choice

TRANSFORMS = ("none", "l2", "centred", "power")


def check_transform(transform, source_mean: Tensor | None, features: Tensor) -> tuple[str, ...]:
    """Return the names of the transforms, in order, if they can be applied."""
    names = (transform,) if isinstance(transform, str) else tuple(transform)
    for name in names:
        check_choice("transform", name, TRANSFORMS)
    if "centred" in names:
        if source_mean is None:
            raise ValueError("transform 'centred' needs source_mean [D], the mean of the source features; got None")
        if not isinstance(source_mean, Tensor) or source_mean.shape != features.shape[1:]:
            got = list(source_mean.shape) if isinstance(source_mean, Tensor) else type(source_mean).__name__
            raise ValueError(f"source_mean must have shape [{features.shape[1]}], got {got}")
        if not bool(torch.isfinite(source_mean).all()):
            raise ValueError("source_mean must be finite, got NaN or infinity")
    elif source_mean is not None:
        raise ValueError(f"source_mean is used by transform 'centred' only, got transform {transform!r}")
    return names


def apply_transform(features: Tensor, names: tuple[str, ...], source_mean: Tensor | None) -> Tensor:
    """Apply the transforms in order to features [N, D]."""
    for name in names:
        if name == "l2":
            features = F.normalize(features, dim=1)
        elif name == "centred":
            features = features - source_mean.to(features)
        elif name == "power":
            if bool((features < 0).any()):
                raise ValueError("transform 'power' needs features >= 0, as after a ReLU; got negative ones")
            features = features.sqrt()
    return features
