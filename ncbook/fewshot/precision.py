"""Products of float32 numbers in float32, whatever the caller has set."""

import contextlib

import torch


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
