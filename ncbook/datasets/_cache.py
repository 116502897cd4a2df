"""Decoded data sets on disk: one safetensors file each, written whole or not at all, checked at every load.

Reads and writes only below `cache_folder()`. Called by the modules of `ncbook.datasets`.
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

import platformdirs
import safetensors.torch
from safetensors import SafetensorError

from ncbook.datasets import ImageClasses


def cache_folder() -> Path:
    """The environment variable NCBOOK_CACHE, else the user's cache folder for ncbook."""
    folder = os.environ.get("NCBOOK_CACHE") or platformdirs.user_cache_dir("ncbook")
    return Path(folder).expanduser().absolute()


def cached(name: str, key: str, build: Callable[[], ImageClasses]) -> ImageClasses:
    """Return the data set stored under `name` and `key`, or build and store it.

    A damaged file is rebuilt, and a folder that cannot be written to is done without; both with a warning.

    Args:
        name: The data set's name.
        key: Hex digest of everything that decides the pixels.
        build: Makes the data set.
    """
    path = cache_folder() / "datasets" / f"{name}-{key[:20]}.safetensors"
    try:
        return _read(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        warnings.warn(f"the cached data set {path} is damaged and is built anew: {error!r}", stacklevel=4)
    images = build()
    try:
        _write(path, images)
    except OSError as error:
        warnings.warn(f"the data set {name!r} cannot be cached and is built at each load: {error}", stacklevel=4)
    return images


def _read(path: Path) -> ImageClasses:
    content = path.read_bytes()  # not memory-mapped: a file cut short while mapped would kill the process
    tensors = safetensors.torch.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    description = json.loads(header["__metadata__"]["description"])
    checksum = description.pop("checksum")
    images = ImageClasses(**tensors, **description)
    if _checksum(images) != checksum:
        raise ValueError("its content does not have the checksum it was written with")
    return images


def _checksum(images: ImageClasses) -> str:
    words = json.dumps([images.fingerprint, images.name, images.class_names, images.official])
    return hashlib.sha256(words.encode() + images.held_out.numpy().tobytes()).hexdigest()


def _write(path: Path, images: ImageClasses) -> None:
    tensors = {key: getattr(images, key).contiguous() for key in ("images", "labels", "held_out")}
    description = {key: getattr(images, key) for key in ("name", "class_names", "official")}
    description["checksum"] = _checksum(images)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob("*.tmp"):  # by processes that were killed while they wrote
        if time.time() - left.stat().st_mtime > 3600:
            left.unlink(missing_ok=True)
    temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(safetensors.torch.save(tensors, {"description": json.dumps(description)}))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
