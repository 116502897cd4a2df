"""Decoded data sets on disk: one safetensors file each, written whole or not at all, checked at every load.

A file too large for memory is mapped into it. Reads and writes only below the cache folder. Called by the modules of
`ncbook.datasets`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open

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
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        warnings.warn(f"the cached data set {path} is damaged and is rebuilt: {error!r}", stacklevel=5)
    images = build()
    try:
        _write(path, images)
    except (OSError, SafetensorError) as error:
        warnings.warn(f"the data set {name!r} cannot be cached and is rebuilt at each load: {error}", stacklevel=5)
    return images


def _read(path: Path) -> ImageClasses:
    if fits_in_memory(path.stat().st_size):
        content = path.read_bytes()  # not mapped: a file cut short while mapped would kill the process
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    else:
        with safe_open(path, "pt") as file:  # its tensors are views of the mapped file
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata()
    description = json.loads(header["description"])
    checksum = description.pop("checksum")
    images = ImageClasses(**tensors, **description)
    if _checksum(images) != checksum:
        raise ValueError("its content does not have the checksum it was written with")
    return images


def _checksum(images: ImageClasses) -> str:
    content = json.dumps([images.fingerprint, images.name, images.class_names])
    return hashlib.sha256(content.encode()).hexdigest()


def _write(path: Path, images: ImageClasses) -> None:
    tensors = {key: getattr(images, key).contiguous() for key in ("labels", "held_out", "images")}
    description = {key: getattr(images, key) for key in ("name", "class_names", "official")}
    description["checksum"] = _checksum(images)
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob("*.tmp"):  # of processes that were killed while they wrote
        if time.time() - leftover.stat().st_mtime > 3600:
            leftover.unlink(missing_ok=True)
    temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
    try:
        safetensors.torch.save_file(tensors, temporary, {"description": json.dumps(description)})
        temporary.chmod(0o644)  # safetensors leaves it to its owner alone, but users may share a cache
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
