"""What the two passes over batches share: their precision, the check of a batch, what float32 can hold. Their base."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from ncbook._checks import check_features


class FixedPrecision(Metric):
    """A metric that can be moved, by itself or within a model, and not cast: which sums are float64 is the method."""

    def _apply(self, fn: Callable[[Tensor], Tensor], *args, **kwargs) -> Metric:
        def moved(tensor: Tensor) -> Tensor:
            new = fn(tensor)
            return new if new.dtype == tensor.dtype else tensor.to(new.device)

        return super()._apply(moved, *args, **kwargs)


def check_batch(features: Tensor, labels: Tensor, n_classes: int, dim: int, device: torch.device) -> Tensor:
    """Return the labels as int64 on the device of the features; raise if either is not what ``update`` takes."""
    check_features(features, labels)
    if features.shape[1] != dim:
        raise ValueError(f"features has shape {list(features.shape)}; allowed: [N, dim] = [N, {dim}]")
    if features.device != device:
        raise ValueError(f"features are on the device {features.device}; allowed: the metric's device {device}")
    labels = labels.to(features.device, torch.int64)
    if len(labels):
        lowest, highest = torch.stack(labels.aminmax()).tolist()
        if lowest < 0 or highest >= n_classes:
            raise ValueError(f"labels hold {lowest} ... {highest}; allowed: 0 ... {n_classes - 1}")
    return labels


def float32_is_precise() -> bool:
    """Whether products of float32 matrices are in float32, not in TF32 or bfloat16."""
    return torch.get_float32_matmul_precision() == "highest"


def rounded_to_float32(values: Tensor) -> Tensor:
    """Round to what float32 has numbers for, and leave the rest, too large or too small, as it is; still float64."""
    rounded = values.float().double()
    return torch.where((values - rounded).abs() <= 2**-23 * values.abs(), rounded, values)
