"""Arrays of pixels, in memory or, where they are large, in files mapped into it.

Makes files without a name in the cache folder, which vanish with the process. Called by the modules of
`ncbook.datasets`; the callers use such a tensor as any other.
"""

from __future__ import annotations

import math
import os
import tempfile

import torch

from ncbook.datasets._sources import cache_folder

CHUNK = 4096  # images moved at a time


def fits_in_memory(size: int) -> bool:
    """Whether an array of ``size`` bytes is kept in memory: up to an eighth of what the machine has.

    The environment variable NCBOOK_MEMORY_GB says how much that is where the system does not know (in a container).

    Raises:
        ValueError: NCBOOK_MEMORY_GB is not a number.
    """
    gigabytes = os.environ.get("NCBOOK_MEMORY_GB")
    try:
        memory = float(gigabytes) * 1e9 if gigabytes else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except ValueError as error:
        raise ValueError(f"NCBOOK_MEMORY_GB={gigabytes!r}; allowed: a number of gigabytes") from error
    return size <= memory / 8


def empty(shape: tuple[int, ...]) -> torch.Tensor:
    """A uint8 tensor of the given shape, its values still to be filled in.

    Raises:
        OSError: the disk has no room for it.
    """
    size = math.prod(shape)
    if fits_in_memory(size):
        return torch.empty(shape, dtype=torch.uint8)
    folder = cache_folder() / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    handle, path = tempfile.mkstemp(suffix=".tmp", dir=folder)
    try:
        os.posix_fallocate(handle, 0, size)  # a full disk is an error here, and not a crash at the first write
        return torch.from_file(path, shared=True, size=size, dtype=torch.uint8).view(shape)
    finally:
        os.close(handle)
        os.unlink(path)  # the mapping lives on


def take(images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``images[rows]``, in memory or not as `empty` decides.

    Args:
        images: uint8 [N, C, H, W].
        rows: int64 [n].
    """
    taken = empty((len(rows), *images.shape[1:]))
    for target, chunk in zip(taken.split(CHUNK), rows.split(CHUNK), strict=True):
        torch.index_select(images, 0, chunk, out=target)
    return taken
