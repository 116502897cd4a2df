"""Images to network input, features of images, and the device they are computed on. No training, no files.

Used by `training`, `runs`, `layerwise` and by readers who bring a feature map and images.
"""

import contextlib
import os
from collections.abc import Sequence

import torch
from torch import nn

from ncbook._checks import check_choice

__all__ = ["as_input", "extract", "extract_layers", "reproducible", "resolve_device"]
__dir__ = __all__.copy


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device of that name; "auto": a CUDA device when there is one, else the CPU.

    Raises:
        ValueError: a device that this machine does not have.
    """
    names, accelerator = ["auto", "cpu"], torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        count = torch.accelerator.device_count()
        names += [accelerator.type, *(f"{accelerator.type}:{number}" for number in range(count))]
    name = check_choice("device", str(device) if isinstance(device, torch.device) else device, names)
    return torch.device(("cuda" if "cuda" in names else "cpu") if name == "auto" else name)


@contextlib.contextmanager
def reproducible(device: torch.device):
    """Full float32 in here (no TF32, no bfloat16 unasked), and on CUDA the algorithms that give the same bits again.

    The caller's settings come back afterwards, but for CUBLAS_WORKSPACE_CONFIG, which counts when CUDA is first used.
    The settings are the process's: another thread that computes meanwhile gets them, too.
    An operation that torch has no deterministic algorithm for is warned of, and computed all the same.
    """
    cudnn, mkldnn, mode = torch.backends.cudnn, torch.backends.mkldnn, torch.get_deterministic_debug_mode()
    parts = (torch.backends.cuda.matmul, cudnn.conv, mkldnn.matmul, mkldnn.conv)
    wanted = [(part, "fp32_precision", "ieee") for part in parts if part.fp32_precision in ("tf32", "bf16")]
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_deterministic_debug_mode("warn")
        wanted += [(cudnn, "deterministic", True), (cudnn, "benchmark", False)]
    before = [(part, name, getattr(part, name)) for part, name, _ in wanted]
    try:
        for setting in wanted:
            setattr(*setting)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        for setting in before:
            setattr(*setting)


def as_input(images: torch.Tensor) -> torch.Tensor:
    """Gray levels 0 ... 255 [B, C, H, W] to network input: float32 in [0, 1], channels last."""
    return images.to(torch.float32, copy=True).div_(255).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def extract_layers(
    backbone: nn.Module, images: torch.Tensor, layers: Sequence[str], *, batch: int | None = None
) -> list[torch.Tensor]:
    """Flattened outputs of named layers, in evaluation mode and float32, on the device of the backbone.

    Args:
        backbone: the feature map; its mode is restored afterwards.
        images: uint8 [N, C, H, W], any device.
        layers: names of `ncbook.backbones.layers`, or "" for the features f(x).
        batch: images per forward pass; None: as many as are fast, 64 on a CPU (they stay in its cache: twice as
            fast as 512), 1,024 elsewhere.

    Returns:
        float32 [N, D_layer] for each layer, from one forward pass.
    """
    device = next((parameter.device for parameter in backbone.parameters()), images.device)
    batch = batch or (64 if device.type == "cpu" else 1024)
    outputs: dict[str, list[torch.Tensor]] = {name: [] for name in layers}

    def store(name):  # a copy: the next module may work in place
        return lambda _module, _input, output: outputs[name].append(output.flatten(1).clone())

    hooks = [backbone.get_submodule(name).register_forward_hook(store(name)) for name in outputs]
    training = backbone.training
    backbone.eval()
    try:
        with reproducible(device):
            for chunk in images.split(batch):
                backbone(as_input(chunk.to(device)))
    finally:
        backbone.train(training)
        for hook in hooks:
            hook.remove()
    return [torch.cat(outputs[name]).float() for name in layers]


def extract(backbone: nn.Module, images: torch.Tensor, *, layer: str | None = None) -> torch.Tensor:
    """Features of images float32 [N, D], or outputs of one layer, as `extract_layers` does."""
    return extract_layers(backbone, images, [layer or ""])[0]
