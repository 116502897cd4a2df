"""Any folder or zip of class folders of images: every folder that holds images is a class.

Reads one file at a time and changes nothing; a zip is not unpacked. Decoding is parallel, the pixels are cached. Called
by `ncbook.datasets.load`, and by the data sets that come as such a folder.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from ncbook.datasets import ImageClasses, _pixels
from ncbook.datasets._cache import cached

VERSION = 1  # raise when the same files give other pixels
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
LARGEST_FILE = 200 * 2**20  # bytes of one image file, unpacked
BROKEN = ("refuse", "skip")


def load(
    root: str | os.PathLike | None = None,
    *,
    path: str | os.PathLike = ".",
    size: int = 84,
    channels: int = 3,
    held_out: float = 0.2,
    broken: str = "refuse",
) -> ImageClasses:
    """Load a folder or a zip of class folders.

    A class is a folder that holds images, named by its path, such as ``birds/robin``. Images are turned as their EXIF
    says, scaled so that the shorter side is ``size``, and cropped to the centre. Hidden files are passed over.

    Args:
        root: folder that ``path`` is relative to; None: NCBOOK_DATA, else the working folder.
        path: the folder or zip.
        size: height and width of the images in pixels, at least 8.
        channels: 1 (grey) or 3.
        held_out: share of each class that is held out, the last ones by name; at least one sample, but never all.
        broken: "refuse" files that are no readable image, or "skip" them with a warning that counts them.

    Returns:
        images uint8 [N, channels, size, size].

    Raises:
        FileNotFoundError: there is no such folder or zip.
        ValueError: a broken image, a path in the zip that leads out of it, fewer than two classes, or an option that is
            not allowed.
    """
    if not isinstance(size, int) or size < 8:
        raise ValueError(f"size={size!r}; allowed: a whole number of at least 8")
    if channels not in (1, 3):
        raise ValueError(f"channels={channels!r}; allowed: 1 or 3")
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out={held_out!r}; allowed: from 0 to below 1")
    if broken not in BROKEN:
        raise ValueError(f"broken={broken!r}; allowed: {' or '.join(BROKEN)}")
    base = Path(root if root is not None else os.environ.get("NCBOOK_DATA") or ".").expanduser()
    source = base / path
    if not source.exists():
        raise FileNotFoundError(f"there is no folder or zip {source}")
    options = f"folder {VERSION} {size} {channels} {held_out} {broken}"
    key = hashlib.sha256((options + fingerprint(source)).encode()).hexdigest()
    return cached("folder", key, lambda: build(source, source.stem, size, channels, held_out, broken))


def fingerprint(source: Path) -> str:
    """sha256 (hex) of what decides the content: a zip's bytes; of a folder names, sizes and times."""
    if source.is_file():
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    entries = [f"{p.relative_to(source)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in _files(source)]
    return hashlib.sha256("\n".join(sorted(entries)).encode()).hexdigest()


@contextmanager
def _opened(source: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{source} is not a readable zip ({error}); replace it by a new copy") from error
    with archive:
        yield archive


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder; links are not followed."""
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.name.startswith((".", "__MACOSX")) or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from _files(Path(entry.path))
        elif entry.is_file():
            yield Path(entry.path)


@contextmanager
def _readers(source: Path) -> Iterator[dict[str, Callable[[], bytes]]]:
    """Path within the source -> what reads it, of every image file."""
    if source.is_dir():
        paths = [path for path in _files(source) if path.suffix.lower() in SUFFIXES]
        yield {path.relative_to(source).as_posix(): path.read_bytes for path in paths}
        return
    with _opened(source) as archive:
        readers = {}
        for entry in archive.infolist():
            name = PurePosixPath(entry.filename)
            if name.is_absolute() or ".." in name.parts or "\\" in entry.filename:
                raise ValueError(f"{source} holds {entry.filename!r}, a path that leads out of it: it is not read")
            hidden = any(part.startswith((".", "__MACOSX")) for part in name.parts)
            link = (entry.external_attr >> 28) == 0xA
            if not (entry.is_dir() or hidden or link) and name.suffix.lower() in SUFFIXES:
                readers[str(name)] = partial(_unpack, archive, entry)
        yield readers


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.file_size > LARGEST_FILE:
        raise ValueError(f"{entry.file_size} bytes unpacked; allowed: {LARGEST_FILE}")
    return archive.read(entry)


def _decode(content: bytes, size: int, channels: int) -> np.ndarray:
    """Pixels [channels, size, size]. Pillow raises a dozen types for damaged bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(content))
        image.load()
    orientation = image.getexif().get(0x0112, 1)
    if orientation != 1:
        from PIL import ImageOps

        image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "P", "PA"):  # on white, as on paper
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != (size, size):
        scale = size / min(image.size)
        wide, high = (max(size, round(side * scale)) for side in image.size)
        image = image.resize((wide, high), Image.Resampling.BILINEAR)  # averages when it shrinks
        left, top = (wide - size) // 2, (high - size) // 2
        image = image.crop((left, top, left + size, top + size))
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _classes(
    source: Path, paths: list[str], held_out: float | str
) -> tuple[list[str], list[str], list[int], list[bool]]:
    """Paths sorted by class, then held out last, then by name; class names; labels; held out by its top folder."""
    parts = [PurePosixPath(path).parts for path in paths]
    common = len(os.path.commonprefix([p[:-1] for p in parts])) if parts else 0  # one folder around everything
    if parts and any(len(p) - 1 == common for p in parts):
        common = max(0, common - 1)  # that folder holds images: it is a class
    top = 1 if isinstance(held_out, str) else 0  # top folder / class / file
    rows = sorted(
        ("/".join(p[common + top : -1]), p[common] == held_out, path) for p, path in zip(parts, paths, strict=True)
    )
    class_names = sorted({name for name, _, _ in rows})
    if len(class_names) < 2:
        raise ValueError(f"{source} holds {len(class_names)} class folders of images; allowed: at least 2")
    index = {name: i for i, name in enumerate(class_names)}
    return [row[2] for row in rows], class_names, [index[row[0]] for row in rows], [row[1] for row in rows]


def build(
    source: Path, name: str, size: int, channels: int, held_out: float | str, broken: str = "refuse"
) -> ImageClasses:
    """Read every image of a folder or zip; ``held_out`` is a share, or the name of the top folder that is held out."""
    with _readers(source) as readers, ThreadPoolExecutor(os.cpu_count()) as pool:
        paths, *_ = _classes(source, list(readers), held_out)
        images = _pixels.empty((len(paths), channels, size, size))
        rows = images.numpy()

        def decode(i: int) -> str | None:
            """Fill row i; returns what went wrong, if anything."""
            try:
                rows[i] = _decode(readers[paths[i]](), size, channels)
            except Exception as error:
                return f"{paths[i]} ({error})"

        outcome = list(pool.map(decode, range(len(paths))))  # Pillow decodes without Python's lock
    failed = [text for text in outcome if text is not None]
    if failed:
        text = f"{len(failed)} of {len(paths)} images in {source} cannot be read: {'; '.join(failed[:3])}"
        if broken == "refuse":
            raise ValueError(text + ("; …" if len(failed) > 3 else "") + ". broken='skip' leaves them out")
        warnings.warn(text + "; they are left out", stacklevel=2)
        good = [i for i, text in enumerate(outcome) if text is None]
        images, paths = _pixels.keep(images, torch.tensor(good)), [paths[i] for i in good]
    _, class_names, labels, aside = _classes(source, paths, held_out)
    labels, out = torch.tensor(labels), torch.tensor(aside)
    if not isinstance(held_out, str):
        counts = labels.bincount()
        kept = torch.maximum((counts * (1 - held_out)).round().long(), torch.ones_like(counts))
        kept = torch.where((counts > 1) & (held_out > 0), torch.minimum(kept, counts - 1), kept)
        place = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels]
        out = place >= kept[labels]
    return ImageClasses(name=name, images=images, labels=labels, class_names=class_names, held_out=out)
