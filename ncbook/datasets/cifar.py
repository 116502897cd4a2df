"""CIFAR-10, and CIFAR-FS and FC100, which are CIFAR-100 with published lists of source and novel classes.

Reads the official *binary* archives (bytes, nothing is unpickled), or the JPEG copy of CIFAR-10, which is called
"CIFAR-10 (JPEG)" because its pixels differ. Called by `ncbook.datasets.load`.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

import filelock
import numpy as np
import torch

from ncbook.datasets import ImageClasses, folder
from ncbook.datasets._cache import cache_folder, cached
from ncbook.datasets._download import NotWanted, attempt
from ncbook.datasets._lists import official

VERSION = 1  # raise when the same files give other pixels
URL = "https://www.cs.toronto.edu/~kriz"
ARCHIVES = {  # file: md5, folder in it, files of training and of test samples
    "cifar-10-binary.tar.gz": (
        "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-batches-bin",
        [f"data_batch_{i}.bin" for i in range(1, 6)],
        ["test_batch.bin"],
        "batches.meta.txt",
    ),
    "cifar-100-binary.tar.gz": (
        "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-binary",
        ["train.bin"],
        ["test.bin"],
        "fine_label_names.txt",
    ),
}
JPEG = "cifar10_jpeg.zip"
PIXELS = 3 * 32 * 32
LARGEST_MEMBER = 200 * 2**20


def load_cifar10(root: str | os.PathLike | None = None, *, download: bool | None = None) -> ImageClasses:
    """Load CIFAR-10: 10 classes of 6,000 images, 32 x 32, the official test images held out.

    Args:
        root: folder with ``cifar-10-binary.tar.gz``, or with ``cifar10_jpeg.zip``, which is then used and named
            "CIFAR-10 (JPEG)". None: NCBOOK_DATA, else a user cache folder.
        download: whether to download what is missing; None: only if neither ``root`` nor NCBOOK_DATA is given.

    Raises:
        FileNotFoundError: the file is not there and was not downloaded.
        ValueError: a file that is not what it should be.
    """
    named = root if root is not None else os.environ.get("NCBOOK_DATA") or None
    if named is not None:
        jpeg = Path(named).expanduser() / JPEG
        if jpeg.is_file() and not (jpeg.parent / "cifar-10-binary.tar.gz").is_file():
            key = hashlib.sha256(f"cifar10 jpeg {VERSION} {folder.fingerprint(jpeg)}".encode()).hexdigest()
            return cached("cifar10_jpeg", key, lambda: folder.build(jpeg, "CIFAR-10 (JPEG)", 32, 3, "test"))
    return _binary("cifar10", "cifar-10-binary.tar.gz", named, download)


def load_cifar_fs(root: str | os.PathLike | None = None, *, download: bool | None = None) -> ImageClasses:
    """Load CIFAR-FS: CIFAR-100 with the 64 source, 16 validation and 20 novel classes of Bertinetto et al. (2019).

    Held out are CIFAR-100's official test images, 100 of a class's 600; which ones the sources held out is unknown.

    Args:
        root: folder with ``cifar-100-binary.tar.gz``; None: NCBOOK_DATA, else a user cache folder.
        download: as in `load_cifar10`.
    """
    return _binary("cifar_fs", "cifar-100-binary.tar.gz", root or os.environ.get("NCBOOK_DATA") or None, download)


def load_fc100(root: str | os.PathLike | None = None, *, download: bool | None = None) -> ImageClasses:
    """Load FC100: CIFAR-100 split by super-class, 60 source, 20 validation and 20 novel classes (Oreshkin et al. 2018).

    Arguments and held-out images as in `load_cifar_fs`.
    """
    return _binary("fc100", "cifar-100-binary.tar.gz", root or os.environ.get("NCBOOK_DATA") or None, download)


def _binary(name: str, archive: str, named, download: bool | None) -> ImageClasses:
    base = Path(named).expanduser() if named is not None else cache_folder() / "data"
    path = base / archive
    if not path.is_file():
        allowed = named is None if download is None else download
        reason = _download(base, archive) if allowed else "no download was tried"
        if not path.is_file():
            raise FileNotFoundError(
                f"{name} is not in {base} ({reason}). Put {archive} (md5 {ARCHIVES[archive][0]}) from {URL}/ there, or "
                "give the folder that has it as root or in the environment variable NCBOOK_DATA."
            )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    key = hashlib.sha256(f"{name} {VERSION} {digest}".encode()).hexdigest()
    return cached(name, key, lambda: _build(name, path))


def _download(base: Path, archive: str) -> str:
    """Fetch an archive and check it; returns what happened, in words. What is not it is not kept."""

    def fetch() -> None:
        from torchvision.datasets.utils import check_integrity, download_url

        base.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(base / "download.lock"):
            if (base / archive).is_file():
                return
            part = base / f"{archive}.part"
            try:
                download_url(f"{URL}/{archive}", str(base), filename=part.name)
                if not check_integrity(str(part), ARCHIVES[archive][0]):
                    start = part.read_bytes()[:64].lstrip().lower()
                    what = "a web page" if start.startswith((b"<!doctype", b"<html")) else "a file of other content"
                    raise NotWanted(f"{what}, its md5 is not {ARCHIVES[archive][0]}")
                os.replace(part, base / archive)
            finally:
                part.unlink(missing_ok=True)

    return attempt(URL, fetch, probe=f"{URL}/{archive}")


def _build(name: str, path: Path) -> ImageClasses:
    """Images sorted by class, then training before test, then in the files' order."""
    _, inner, training, test, meta = ARCHIVES[path.name]
    members = _read_members(path, inner, [*training, *test, meta])
    names = members.pop(meta).decode("ascii").split()
    label_bytes = 1 if len(names) <= 10 else 2  # CIFAR-100 has the coarse label first
    images, labels, held_out = [], [], []
    for file, content in members.items():
        rows = np.frombuffer(content, np.uint8)
        if len(rows) % (label_bytes + PIXELS):
            raise ValueError(f"{path}: {file} has {len(rows)} bytes, not a multiple of {label_bytes + PIXELS}")
        rows = rows.reshape(-1, label_bytes + PIXELS)
        labels.append(rows[:, label_bytes - 1])
        images.append(rows[:, label_bytes:].reshape(-1, 3, 32, 32))
        held_out.append(np.full(len(rows), file in test))
    label = np.concatenate(labels).astype(np.int64)
    if len(label) == 0 or label.max() >= len(names):
        raise ValueError(f"{path}: labels up to {label.max(initial=-1)} for {len(names)} names")
    class_names = sorted(names)
    new = np.array([class_names.index(n) for n in names])[label]
    order = np.argsort(new, kind="stable")
    return ImageClasses(
        name=name,
        images=torch.from_numpy(np.concatenate(images)[order]),
        labels=torch.from_numpy(new[order]),
        class_names=class_names,
        held_out=torch.from_numpy(np.concatenate(held_out)[order]),
        official=None if name == "cifar10" else official(name, class_names),
    )


def _read_members(path: Path, inner: str, wanted: list[str]) -> dict[str, bytes]:
    """The wanted files of an archive, read without unpacking anything to disk."""
    found = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                file = member.name.removeprefix("./").removeprefix(inner + "/")
                if file in wanted and member.isfile():
                    if member.size > LARGEST_MEMBER:
                        raise ValueError(f"{path}: {member.name} has {member.size} bytes; allowed: {LARGEST_MEMBER}")
                    found[file] = archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a readable archive ({error}); replace it by a new copy") from error
    missing = [file for file in wanted if file not in found]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    return {file: found[file] for file in wanted}
