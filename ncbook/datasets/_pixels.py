"""Arrays of pixels, in memory or, where they are large, in files mapped into it.

Makes files without a name in the cache folder, which vanish with the process. Called by the modules of
`ncbook.datasets`; whoever gets such a tensor need not know.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import platformdirs
import torch

CHUNK = 4096  # images moved at a time


def cache_folder() -> Path:
    """The environment variable NCBOOK_CACHE, else the user's cache folder for ncbook."""
    folder = os.environ.get("NCBOOK_CACHE") or platformdirs.user_cache_dir("ncbook")
    return Path(folder).expanduser().absolute()


def fits_in_memory(size: int) -> bool:
    """Whether an array of that many bytes is kept in memory: up to an eighth of what the machine has.

    The environment variable NCBOOK_MEMORY_GB says how much that is where the system cannot (in a container).
    """
    named = os.environ.get("NCBOOK_MEMORY_GB")
    try:
        memory = float(named) * 1e9 if named else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except ValueError as error:
        raise ValueError(f"NCBOOK_MEMORY_GB={named!r}; allowed: a number of gigabytes") from error
    return size <= memory / 8


def empty(shape: tuple[int, ...]) -> torch.Tensor:
    """A uint8 tensor of that shape, to be filled.

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
    for here, chunk in zip(taken.split(CHUNK), rows.split(CHUNK), strict=True):
        torch.index_select(images, 0, chunk, out=here)
    return taken


def keep(images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The given rows, ascending, moved to the front of the same tensor."""
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        images[start : start + len(chunk)] = images[chunk]  # no row is overwritten before it is read
    return images[: len(rows)]
