"""Random changes of training images, a batch at once, on the device that holds it. Called by `training`.

The random numbers are drawn where the generator is: on the CPU, so that they are the same on every kind of device.
"""

import torch
from torch.nn import functional as F


def affine(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rotate, scale and shift each image at random; bilinear, zero outside.

    Args:
        images: float [B, C, H, W].
        generator: on any device.

    Returns:
        float [B, C, H, W]: rotated by up to 0.25 rad (14 degrees), scaled by 0.85 ... 1.15, shifted by up to
        7.5 % of the width, all uniform.
    """
    draws = torch.rand(4, len(images), generator=generator, device=generator.device) * 2 - 1  # [4, B] in [-1, 1]
    draws = draws.to(images.device, non_blocking=True)  # no step waits for the one before it
    angle, scale = 0.25 * draws[0], 1 + 0.15 * draws[1]
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    shift = 0.15 * draws[2:]  # in half widths
    theta = torch.stack([torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)  # [B, H, W, 2]
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def crop_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift each image by up to an eighth of its side, zero outside, and mirror every second one, at random.

    The usual augmentation of small photographs: a random crop of the image padded by 4 of 32 pixels, and a flip.

    Args:
        images: float [B, C, H, W], square.
        generator: on any device.

    Returns:
        float [B, C, H, W], channels last.
    """
    n, _, size, _ = images.shape
    pad = size // 8
    shift = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator, device=generator.device)
    mirrored = torch.rand(n, 1, generator=generator, device=generator.device) < 0.5
    shift, mirrored = (drawn.to(images.device, non_blocking=True) for drawn in (shift, mirrored))
    place = torch.arange(size, device=images.device)
    rows = shift[0] + place  # [B, H], of the padded image
    columns = shift[1] + torch.where(mirrored, size - 1 - place, place)
    padded = F.pad(images, [pad] * 4).permute(0, 2, 3, 1)  # [B, H + 2 pad, W + 2 pad, C]
    chosen = padded[torch.arange(n, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return chosen.permute(0, 3, 1, 2)


AUGMENT = {"affine": affine, "crop_flip": crop_flip, "none": lambda images, generator: images}
