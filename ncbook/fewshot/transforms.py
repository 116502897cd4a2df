"""The usual feature transforms before few-shot classification, each by its name; called by the evaluation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ncbook._checks import check_choice, not_a_tensor

from .checks import check_finite

TRANSFORMS = ("none", "l2", "centered", "power")
_SPELLINGS = {"centred": "centered"}  # names that were public once


def check_transform(transform: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the transforms, in order."""
    names = (transform,) if isinstance(transform, str) else tuple(transform)
    return tuple(check_choice("transform", _SPELLINGS.get(name, name), TRANSFORMS) for name in names)


def check_source_mean(names: tuple[str, ...], source_mean: Tensor | None, dim: int) -> None:
    """Refuse a source mean that does not fit, that is missing, or that no transform uses."""
    if "centered" not in names:
        if source_mean is not None:
            raise ValueError(f"source_mean with transform={names!r}; allowed: with transform 'centered' only")
        return
    if source_mean is None:
        raise ValueError(f"source_mean=None; allowed: [{dim}], the mean of the source features, with 'centered'")
    if not isinstance(source_mean, Tensor):
        raise not_a_tensor("source_mean", source_mean, f"[{dim}]")
    if list(source_mean.shape) != [dim]:
        raise ValueError(f"source_mean has shape {list(source_mean.shape)}; allowed: [{dim}]")
    if not bool(torch.isfinite(source_mean).all()):
        raise ValueError("source_mean holds NaN or infinity; allowed: finite numbers")


def apply_transform(features: Tensor, names: tuple[str, ...], source_mean: Tensor | None, name: str) -> Tensor:
    """Apply the transforms in order to features [N, D]; ``name`` is what messages call them."""
    for transform in names:
        if transform == "l2":
            features = unit_rows(features)
        elif transform == "centered":
            features = features - source_mean.detach().to(features)
        elif transform == "power":
            if bool((features < 0).any()):
                raise ValueError(f"{name} holds negative numbers; allowed with transform 'power': 0 and more")
            features = features.sqrt()
        else:
            continue
        check_finite(features, f"{name} after transform {transform!r}")
    return features


def unit_rows(features: Tensor) -> Tensor:
    """Rows [..., D] of norm 1 at every scale, since their squares neither overflow nor vanish; rows of 0 stay."""
    largest = features.abs().amax(-1, keepdim=True)
    features = features / largest.where(largest > 0, 1.0)
    norms = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return features / norms.where(norms > 0, 1.0)
