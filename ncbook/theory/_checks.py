"""Refusals that the functions of this folder share."""

import torch


def check_at_least(name: str, value, low: float) -> None:
    """Raise unless ``value``, a number or a tensor, is nowhere below ``low`` and nowhere NaN."""
    given = value.detach() if isinstance(value, torch.Tensor) else torch.as_tensor(value)
    if not bool((given >= low).all()):
        raise ValueError(f"{name}={value!r}; allowed: at least {low}")


def check_shot(shot) -> None:
    """Raise unless there is at least one shot."""
    if shot is None:
        raise ValueError("shot must be given")
    check_at_least("shot", shot, 1)


def check_cdnv(name: str, value) -> None:
    """Raise if an entry is negative; NaN, the diagonal of a matrix, passes."""
    given = value.detach() if isinstance(value, torch.Tensor) else torch.as_tensor(value)
    if bool((given < 0).any()):
        raise ValueError(f"{name}={value!r}; allowed: at least 0")


def check_share(name: str, value: float) -> None:
    """Raise unless 0 < value < 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name}={value!r}; allowed: above 0 and below 1")
