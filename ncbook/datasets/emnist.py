"""EMNIST, the "balanced" part: 47 classes of handwritten digits and letters, 2,800 samples each.

Reads the four official idx files, packed or not. Which classes the sources used as source and novel ones is unknown, so
they are split at random by ``class_seed``. Called by `ncbook.datasets.load`.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch

from ncbook.datasets import ImageClasses, _sources
from ncbook.datasets._cache import cache_key, cached

VERSION = 1  # raise when the same files give other pixels
# Of the 47 labels; the other small letters look like capitals.
NAMES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
LARGEST_PART = 112_800  # images of the official training file
FOLDERS = ("EMNIST/raw", "emnist/EMNIST/raw", "emnist")
FILES = [
    f"emnist-balanced-{part}-{kind}-ubyte" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")
]


def load(root: str | os.PathLike | None = None, *, download: bool | None = None) -> ImageClasses:
    """Load EMNIST balanced as upright 28 x 28 images, ink 255; the official test images are held out.

    Args:
        root: folder that holds ``EMNIST/raw/`` with the four files ``emnist-balanced-…-ubyte``, plain or ``.gz``. None:
            NCBOOK_DATA, else a user cache folder.
        download: whether to let torchvision download what is missing (0.5 GB); None: only if neither ``root`` nor
            NCBOOK_DATA is given.

    Returns:
        images uint8 [131600, 1, 28, 28] of 47 classes.

    Raises:
        FileNotFoundError: the files are not there and were not downloaded.
        ValueError: a file that is not what it should be.

    Reference:
        Cohen, Afshar, Tapson and van Schaik 2017, EMNIST: Extending MNIST to handwritten letters.
    """
    instructions = f"Put {', '.join(FILES)} (plain or .gz) from the official gzip.zip into {FOLDERS[0]} there."
    paths = _sources.find_files("EMNIST", root, _find, instructions, _download, download)
    key = cache_key("emnist", VERSION, *map(_sources.fingerprint, paths))
    return cached("emnist", key, lambda: _build(paths))


def _find(base: Path) -> list[Path] | None:
    for folder in FOLDERS:
        plain = [base / folder / file for file in FILES]
        paths = [next((p for p in (path, path.with_name(f"{path.name}.gz")) if p.is_file()), None) for path in plain]
        if None not in paths:
            return paths
    return None


def _download(base: Path) -> str:
    """torchvision's download, with its checksum; returns what happened."""
    from torchvision.datasets import EMNIST

    return _sources.attempt(EMNIST.url, lambda: EMNIST(str(base), split="balanced", download=True))


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """An idx file of bytes: a magic number 0, 0, 8, dimensions, then big-endian sizes, then the bytes."""
    header = 4 + 4 * dimensions
    content = _sources.unpacked(path, header + LARGEST_PART * (784 if dimensions == 3 else 1))
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < header:
        raise ValueError(f"{path} is no idx file of {dimensions} dimensions: it begins with {content[:4]!r}")
    sizes = np.frombuffer(content, ">u4", dimensions, 4).tolist()
    data = np.frombuffer(content, np.uint8, offset=header)
    if len(data) != math.prod(sizes):
        raise ValueError(f"{path} holds {len(data)} bytes for sizes {sizes}: it is cut short or damaged")
    return data.reshape(sizes)


def _build(paths: list[Path]) -> ImageClasses:
    parts = [(_idx(images, 3), _idx(labels, 1)) for images, labels in (paths[:2], paths[2:])]
    for path, labels_path, (images, labels) in zip(paths[::2], paths[1::2], parts, strict=True):
        if images.shape != (len(labels), 28, 28) or labels.max(initial=0) >= len(NAMES) or not len(labels):
            raise ValueError(
                f"{path} holds images {list(images.shape)} and {labels_path.name} {len(labels)} labels up to "
                f"{labels.max(initial=0)}; allowed: images of 28 x 28, and one label below {len(NAMES)} for each"
            )
    images, labels = (np.concatenate(both) for both in zip(*parts, strict=True))
    labels, held_out = labels.astype(np.int64), np.arange(len(labels)) >= len(parts[0][1])
    order = np.argsort(labels, kind="stable")
    upright = images[order].transpose(0, 2, 1)  # the files hold them mirrored and turned
    return ImageClasses(
        name="emnist",
        images=torch.from_numpy(np.ascontiguousarray(upright))[:, None],
        labels=torch.from_numpy(labels[order]),
        class_names=list(NAMES),
        held_out=torch.from_numpy(held_out[order]),
    )
