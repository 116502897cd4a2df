"""EMNIST, the "balanced" part: 47 classes of handwritten digits and letters, 2,800 each (Cohen and others, 2017).

Reads the four official idx files, packed or not. Which classes the sources used as source and novel ones is unknown, so
they are split at random by ``class_seed``. Called by `ncbook.datasets.load`.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import torch

from ncbook.datasets import ImageClasses
from ncbook.datasets._cache import cache_folder, cached
from ncbook.datasets._download import attempt

VERSION = 1  # raise when the same files give other pixels
NAMES = (
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"  # of the 47 labels; the other small letters look like capitals
)
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
    """
    named = root if root is not None else os.environ.get("NCBOOK_DATA") or None
    base = Path(named).expanduser() if named is not None else cache_folder() / "data"
    found = _find(base)
    if found is None:
        allowed = named is None if download is None else download
        reason = _download(base) if allowed else "no download was tried"
        found = _find(base)
        if found is None:
            raise FileNotFoundError(
                f"EMNIST is not in {base} ({reason}). Put {', '.join(FILES)} (plain or .gz) from the official gzip.zip "
                f"into {base / FOLDERS[0]}, or give the folder that has them as root or in NCBOOK_DATA."
            )
    digest = hashlib.sha256(f"emnist {VERSION}".encode())
    for path in found:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return cached("emnist", digest.hexdigest(), lambda: _build(found))


def _find(base: Path) -> list[Path] | None:
    for folder in FOLDERS:
        paths = []
        for file in FILES:
            paths += [p for p in (base / folder / file, base / folder / f"{file}.gz") if p.is_file()][:1]
        if len(paths) == len(FILES):
            return paths
    return None


def _download(base: Path) -> str:
    """torchvision's download, with its checksum; returns what happened, in words."""
    from torchvision.datasets import EMNIST

    return attempt(EMNIST.url, lambda: EMNIST(str(base), split="balanced", download=True))


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """An idx file of bytes: a magic number 0, 0, 8, dimensions, then big-endian sizes, then the bytes."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is not a readable gzip file ({error}); replace it by a new copy") from error
    if content[:4] != bytes((0, 0, 8, dimensions)):
        raise ValueError(f"{path} is no idx file of {dimensions} dimensions: it begins with {content[:4]!r}")
    sizes = np.frombuffer(content, ">u4", dimensions, 4).tolist()
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if len(data) != int(np.prod(sizes)):
        raise ValueError(f"{path} holds {len(data)} bytes for sizes {sizes}: it is cut short or damaged")
    return data.reshape(sizes)


def _build(paths: list[Path]) -> ImageClasses:
    train, train_labels, test, test_labels = (_idx(path, 3 if "images" in path.name else 1) for path in paths)
    images, labels = np.concatenate([train, test]), np.concatenate([train_labels, test_labels]).astype(np.int64)
    if len(images) != len(labels) or images.shape[1:] != (28, 28) or labels.max(initial=-1) >= len(NAMES):
        raise ValueError(
            f"{paths[0].parent}: {len(images)} images of {images.shape[1:]} with labels up to {labels.max()}"
        )
    held_out = np.arange(len(labels)) >= len(train_labels)
    order = np.argsort(labels, kind="stable")
    upright = images[order].transpose(0, 2, 1)  # the files hold them mirrored and turned
    return ImageClasses(
        name="emnist",
        images=torch.from_numpy(np.ascontiguousarray(upright))[:, None],
        labels=torch.from_numpy(labels[order]),
        class_names=list(NAMES),
        held_out=torch.from_numpy(held_out[order]),
    )
