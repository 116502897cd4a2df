"""CIFAR-10, and CIFAR-FS and FC100, which are CIFAR-100 with published lists of source and novel classes.

Reads the official *binary* archives, packed or not (bytes, nothing is unpickled), or the JPEG copy of CIFAR-10, which
is called "CIFAR-10 (JPEG)" because its pixels differ. Called by `ncbook.datasets.load`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ncbook.datasets import ImageClasses, _sources, folder
from ncbook.datasets._cache import cache_key, cached
from ncbook.datasets._lists import official

VERSION = 1  # raise when the same files give other pixels
URL = "https://www.cs.toronto.edu/~kriz"


class Archive(NamedTuple):
    """One official archive: its md5, the folder in it, and the files of training samples, test samples and names."""

    md5: str
    folder: str
    training: list[str]
    test: list[str]
    names: str


ARCHIVES = {
    "cifar-10-binary.tar.gz": Archive(
        "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-batches-bin",
        [f"data_batch_{i}.bin" for i in range(1, 6)],
        ["test_batch.bin"],
        "batches.meta.txt",
    ),
    "cifar-100-binary.tar.gz": Archive(
        "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-binary",
        ["train.bin"],
        ["test.bin"],
        "fine_label_names.txt",
    ),
}
JPEG = "cifar10_jpeg.zip"
PIXELS = 3 * 32 * 32


def load_cifar10(root: str | os.PathLike | None = None, *, download: bool | None = None) -> ImageClasses:
    """Load CIFAR-10: 10 classes of 6,000 images, 32 x 32, the official test images held out.

    Args:
        root: folder with ``cifar-10-binary.tar.gz`` or the folder in it, or else with ``cifar10_jpeg.zip``, which is
            then used and named "CIFAR-10 (JPEG)". None: NCBOOK_DATA, else a user cache folder.
        download: whether to download what is missing; None: only if neither ``root`` nor NCBOOK_DATA is given.

    Returns:
        images uint8 [60000, 3, 32, 32].

    Raises:
        FileNotFoundError: the file is not there and was not downloaded.
        ValueError: a file that is not what it should be.
    """
    path = _find("cifar10", ["cifar-10-binary.tar.gz", JPEG], root, download)
    if path.name != JPEG:
        return _load("cifar10", path)
    key = cache_key("cifar10 jpeg", VERSION, _sources.fingerprint(path))
    return cached("cifar10_jpeg", key, lambda: folder.build(path, "CIFAR-10 (JPEG)", 32, 3, "test"))


def load_cifar_fs(root: str | os.PathLike | None = None, *, download: bool | None = None) -> ImageClasses:
    """Load CIFAR-FS: CIFAR-100 with published lists of 64 source, 16 validation and 20 novel classes.

    Held out are CIFAR-100's official test images, 100 of the 600 per class; which ones the sources held out is unknown.

    Args:
        root: folder with ``cifar-100-binary.tar.gz``; None: NCBOOK_DATA, else a user cache folder.
        download: as in `load_cifar10`.

    Returns:
        images uint8 [60000, 3, 32, 32].

    Raises:
        FileNotFoundError: the file is not there and was not downloaded.
        ValueError: a file that is not what it should be.

    Reference:
        Bertinetto, Henriques, Torr and Vedaldi 2019, Meta-learning with differentiable closed-form solvers.
    """
    return _load("cifar_fs", _find("cifar_fs", ["cifar-100-binary.tar.gz"], root, download))


def load_fc100(root: str | os.PathLike | None = None, *, download: bool | None = None) -> ImageClasses:
    """Load FC100: CIFAR-100 split by superclass into 60 source, 20 validation and 20 novel classes.

    Held-out images as in `load_cifar_fs`.

    Args:
        root: folder with ``cifar-100-binary.tar.gz``; None: NCBOOK_DATA, else a user cache folder.
        download: as in `load_cifar10`.

    Returns:
        images uint8 [60000, 3, 32, 32].

    Raises:
        FileNotFoundError: the file is not there and was not downloaded.
        ValueError: a file that is not what it should be.

    Reference:
        Oreshkin, Rodríguez López and Lacoste 2018, TADAM: Task dependent adaptive metric for improved few-shot
        learning.
    """
    return _load("fc100", _find("fc100", ["cifar-100-binary.tar.gz"], root, download))


def _find(name: str, files: list[str], root: str | os.PathLike | None, download: bool | None) -> Path:
    """The first that is there of the official archive, the folder unpacked from it, and the other files."""
    archive, (md5, unpacked, *_) = files[0], ARCHIVES[files[0]]

    def whole(path: Path) -> bool:
        read = [path / file for file in _files_of(ARCHIVES[archive])] if path.name == unpacked else [path]
        return all(file.is_file() for file in read)

    return _sources.find_files(
        name,
        root,
        lambda base: next(filter(whole, [base / file for file in (archive, unpacked, *files[1:])]), None),
        f"Put {archive} (md5 {md5}) from {URL}/, or the folder {unpacked} in it, there; pickled files are not read.",
        lambda base: _sources.download(URL, {archive: md5}, base),
        download,
    )


def _files_of(archive: Archive) -> list[str]:
    return [*archive.training, *archive.test, archive.names]


def _load(name: str, path: Path) -> ImageClasses:
    archive = next(archive for file, archive in ARCHIVES.items() if path.name in (file, archive.folder))
    read = [path / file for file in _files_of(archive)] if path.is_dir() else [path]
    key = cache_key(name, VERSION, *map(_sources.fingerprint, read))
    return cached(name, key, lambda: _build(name, path, archive))


def _build(name: str, path: Path, archive: Archive) -> ImageClasses:
    """Images sorted by class, then training before test, then in the files' order."""
    files = _files_of(archive)
    if path.is_dir():
        contents = {file: memoryview(_sources.unpacked(path / file)) for file in files}
    else:
        contents = _sources.read_tar(path, archive.folder, files)
    with _sources.readable(path, "archive"):
        names = str(contents.pop(archive.names), "ascii").split()
    label_bytes = 1 if len(names) <= 10 else 2  # CIFAR-100 has the coarse label first
    images, labels, held_out = [], [], []
    for file, content in contents.items():
        rows = np.frombuffer(content, np.uint8)
        if len(rows) % (label_bytes + PIXELS):
            raise ValueError(f"{path}: {file} has {len(rows)} bytes; allowed: a multiple of {label_bytes + PIXELS}")
        rows = rows.reshape(-1, label_bytes + PIXELS)
        labels.append(rows[:, label_bytes - 1])
        images.append(rows[:, label_bytes:].reshape(-1, 3, 32, 32))
        held_out.append(np.full(len(rows), file in archive.test))
    file_label = np.concatenate(labels).astype(np.int64)
    if len(file_label) == 0 or file_label.max() >= len(names) or len(set(names)) < len(names):
        raise ValueError(f"{path}: labels up to {file_label.max(initial=-1)} for {len(set(names))} different names")
    class_names = sorted(names)
    label = np.array([class_names.index(name) for name in names])[file_label]
    order = np.argsort(label, kind="stable")
    return ImageClasses(
        name=name,
        images=torch.from_numpy(np.concatenate(images)[order]),
        labels=torch.from_numpy(label[order]),
        class_names=class_names,
        held_out=torch.from_numpy(np.concatenate(held_out)[order]),
        official=None if name == "cifar10" else official(name, class_names, path),
    )
