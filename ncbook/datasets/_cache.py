"""Decoded data sets on disk: one safetensors file each, written whole or not at all, checked at every load.

A file too large for memory is mapped into it. Reads and writes only below the cache folder. Called by the modules of
`ncbook.datasets`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from ncbook._checks import warn
from ncbook._files import read_about, read_tensors, write_tensors
from ncbook.datasets import ImageClasses
from ncbook.datasets._pixels import fits_in_memory
from ncbook.datasets._sources import cache_folder

FORMAT = 3  # of the files and their checksums: those of another one are neither found nor called damaged


def cache_key(*parts: object) -> str:
    """sha256 (hex) of everything that decides the pixels: data set, version, options, fingerprints of files."""
    return hashlib.sha256(" ".join(map(str, (*parts, FORMAT))).encode()).hexdigest()


def cached(name: str, key: str, build: Callable[[], ImageClasses]) -> ImageClasses:
    """Return the data set stored under ``name`` and ``key``, or build and store it.

    A damaged file is rebuilt; if the folder cannot be written to, nothing is stored. Both with a warning.

    Args:
        name: the data set's name.
        key: what `cache_key` gives.
        build: makes the data set.
    """
    path = cache_folder() / "datasets" / f"{name}-{key[:20]}.safetensors"
    fits_in_memory(0)  # a wrong setting is refused before any work
    try:
        return _read(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        warn(f"the cached data set {path} is damaged and is rebuilt: {error!r}")
    images = build()
    try:
        _write(path, images)
    except (OSError, SafetensorError) as error:
        warn(f"the data set {name!r} cannot be cached and is rebuilt at each load: {error}")
    return images


def _read(path: Path) -> ImageClasses:
    small = fits_in_memory(path.stat().st_size)
    tensors, about = read_tensors(path), read_about(path)  # views of the mapped file
    if small:  # not mapped any longer: a file cut short while mapped would kill the process
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    return ImageClasses(**tensors, **about)


def _write(path: Path, images: ImageClasses) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.tmp*", ".*.safetensors.*"):  # of processes that were killed while they wrote
        for leftover in path.parent.glob(pattern):
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink(missing_ok=True)
    tensors = {key: getattr(images, key) for key in ("labels", "held_out", "images")}
    write_tensors(path, tensors, name=images.name, class_names=images.class_names, official=images.official)
    path.chmod(0o644)  # safetensors leaves it to its owner alone, but users may share a cache
