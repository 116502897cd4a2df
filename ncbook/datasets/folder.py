"""Any folder or zip of class folders of images: every folder that holds images is a class.

Reads the files and changes nothing; a zip is not unpacked. Decoding is parallel, the pixels are cached. Called by
`ncbook.datasets.load`, and by the data sets that come as such a folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from ncbook._checks import check_choice, check_real, check_whole, warn
from ncbook.datasets import ImageClasses, _decode, _pixels, _sources
from ncbook.datasets._cache import cache_key, cached
from ncbook.datasets._images import place_in_class

VERSION = 3  # raise when the same files give other pixels, or other samples are held out
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
BROKEN = ("refuse", "skip")


def load(
    root: str | os.PathLike | None = None,
    *,
    path: str | os.PathLike | None = None,
    image_size: int = 84,
    channels: int = 3,
    held_out: float = 0.2,
    broken: str = "refuse",
) -> ImageClasses:
    """Load a folder or a zip of class folders.

    A class is a folder that holds images, named by its path, such as ``birds/robin``. PNG, JPEG, BMP, GIF, TIFF, WebP
    and PPM are read. Images are turned as their EXIF says, cropped to the center square and scaled; what is transparent
    is white; white is 65535 in gray of 16 bits and 1 in floats. Hidden files are passed over, and so are links in a
    folder.

    A class can be a source class with at least 4 images (2 to train on and 2 held out; 2 if ``held_out`` is 0), a novel
    one with at least 2, and has few-shot accuracies of s shots with at least s + 15.

    Args:
        root: folder that ``path`` may be relative to; None: NCBOOK_DATA, else a user cache folder.
        path: the folder or zip; a relative path is looked for in the working folder first, then below ``root``.
        image_size: height and width of the images in pixels, at least 8.
        channels: 1 (gray) or 3; gray pictures become RGB with equal channels unless ``channels`` is 1.
        held_out: fraction of each class that is held out, the last samples by name. Unless it is 0, at least 2 of 4 or
            more samples, 1 of 2 or 3, and none of 1; never all.
        broken: "refuse" files that are no readable image, or "skip" them with a warning that counts them.

    Returns:
        images uint8 [N, channels, image_size, image_size].

    Raises:
        FileNotFoundError: there is no such folder or zip; names the places looked at.
        TypeError: an option of the wrong type.
        ValueError: a broken image or zip, a name in it that leads out of it, that is not UTF-8 or there twice, fewer
            than two classes, no ``path``, or an option that is not allowed.
    """
    image_size = check_whole("image_size", image_size, 8)
    if channels not in (1, 3):
        raise ValueError(f"channels={channels!r}; allowed: 1 or 3")
    held_out = check_real("held_out", held_out, 0, 1, below_high=True)
    check_choice("broken", broken, BROKEN)
    source = _sources.find_path(path, root)
    key = cache_key("folder", VERSION, image_size, channels, held_out, broken, _sources.fingerprint(source))
    return cached("folder", key, lambda: build(source, source.stem, image_size, channels, held_out, broken))


def build(
    source: Path, name: str, image_size: int, channels: int, held_out: float | str, broken: str = "refuse"
) -> ImageClasses:
    """Read every image of a folder or zip.

    Args:
        source: the folder or zip.
        name: name of the data set.
        image_size: as in `load`.
        channels: as in `load`.
        held_out: as in `load`, or the name of the top folder whose images are held out.
        broken: as in `load`.

    Returns:
        As `load`.

    Raises:
        ValueError: as `load`.
    """
    held_out_folder = held_out if isinstance(held_out, str) else None
    with _sources.opened(source, SUFFIXES) as readers, _decoders() as pool:
        paths, *_ = classes_of(source, list(readers), held_out_folder)
        images = _pixels.empty((len(paths), channels, image_size, image_size))
        rows = images.numpy()

        def fill(i: int) -> str | None:
            """Decode row i; returns what went wrong, if anything."""
            decoded, reason = _decoded(readers, paths[i], image_size, channels)
            if reason is None:
                rows[i] = decoded
            return reason

        failures = list(pool.map(fill, range(len(paths))))
    messages = [message for message in failures if message is not None]
    if messages:
        text = _unreadable(source, messages, len(paths))
        if broken == "refuse":
            raise ValueError(text + ("; …" if len(messages) > 3 else "") + ". broken='skip' leaves them out")
        warn(text + "; they are left out")
        whole = [i for i, message in enumerate(failures) if message is None]
        images, paths = _pixels.take(images, torch.tensor(whole, dtype=torch.int64)), [paths[i] for i in whole]
    _, labels, in_folder, class_names = classes_of(source, paths, held_out_folder)
    is_held_out = in_folder if held_out_folder is not None else _last_per_class(labels, held_out)
    return ImageClasses(name=name, images=images, labels=labels, class_names=class_names, held_out=is_held_out)


def stream(
    source: Path, paths: list[str], starts: range, batch_size: int, image_size: int, channels: int, broken: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Decode the images of a folder or zip batch after batch, each while its reader works on the one before.

    Args:
        source: the folder or zip.
        paths: the files of its images, as `classes_of` has sorted them.
        starts: of the batches that are wanted, in paths.
        batch_size, image_size, channels, broken: as in `build`.

    Yields:
        images uint8 [B, channels, image_size, image_size], and their places in paths int64 [B].

    Raises:
        ValueError: an image that cannot be read, unless ``broken`` is "skip": a warning at the end counts those.
    """
    failures = []
    with _sources.opened(source, SUFFIXES) as readers, _decoders() as pool:

        def begin(start):
            own = paths[start : start + batch_size]
            return [pool.submit(_decoded, readers, path, image_size, channels) for path in own]

        ahead = begin(starts[0]) if starts else []
        for start, after in zip(starts, [*starts[1:], None], strict=True):
            decoded = [future.result() for future in ahead]
            ahead = [] if after is None else begin(after)
            failures += [reason for _, reason in decoded if reason is not None]
            if failures and broken == "refuse":
                raise ValueError(f"{failures[0]} cannot be read. broken='skip' leaves such images out")
            if whole := [i for i, (_, reason) in enumerate(decoded) if reason is None]:
                yield torch.from_numpy(np.stack([decoded[i][0] for i in whole])), start + torch.tensor(whole)
    if failures:
        warn(_unreadable(source, failures, len(paths)) + "; they are left out")


def _decoders() -> ThreadPoolExecutor:
    """Pillow decodes without Python's lock. At most 8 threads: each holds an image of up to Pillow's limit."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))


def _decoded(readers: dict, path: str, image_size: int, channels: int) -> tuple[np.ndarray | None, str | None]:
    """(pixels, None), or (None, what went wrong)."""
    try:
        return _decode.pixels(readers[path](), image_size, channels), None
    except Exception as error:  # Pillow and zipfile raise a dozen types for damaged bytes
        return None, f"{path[: _sources.LONGEST]} ({_sources.in_one_line(error)})"


def _unreadable(source: Path, messages: list[str], count: int) -> str:
    return f"{len(messages)} of {count} images in {source} cannot be read: {'; '.join(messages[:3])}"


def classes_of(
    source: Path, paths: list[str], held_out_folder: str | None = None
) -> tuple[list[str], torch.Tensor, torch.Tensor, list[str]]:
    """Sort paths by class, those in ``held_out_folder`` last, then by name.

    Returns:
        Paths, labels int64 [N], which are in ``held_out_folder`` bool [N], where paths are then ``top
        folder/class/file``, and the names of the classes.
    """
    parts = [PurePosixPath(path).parts for path in paths]
    common = len(os.path.commonprefix([p[:-1] for p in parts])) if parts else 0  # one folder around everything
    if parts and any(len(p) - 1 == common for p in parts):
        common = max(0, common - 1)  # that folder holds images: it is a class
    first = common + (held_out_folder is not None)  # where the name of the class begins
    rows = sorted(
        ("/".join(p[first:-1]), p[common] == held_out_folder, path) for p, path in zip(parts, paths, strict=True)
    )
    class_names = sorted({class_name for class_name, _, _ in rows})
    if len(class_names) < 2:
        raise ValueError(f"{source} holds {len(class_names)} class folders of images; allowed: at least 2")
    index = {class_name: i for i, class_name in enumerate(class_names)}
    names, in_folder, paths = zip(*rows, strict=True)
    return list(paths), torch.tensor([index[name] for name in names]), torch.tensor(in_folder), class_names


def _last_per_class(labels: torch.Tensor, fraction: float) -> torch.Tensor:
    """Which samples are held out: bool [N], the last ones per class, for ascending labels int64 [N]."""
    counts = labels.bincount()  # [number of classes]
    # A variance needs two samples, so 2 of 4 or more are held out; 1 of 2 or 3.
    least = (counts.ge(2).long() + counts.ge(4).long()) * (fraction > 0)
    kept = (counts * (1 - fraction)).round().long().clamp(min=1).minimum(counts - least)
    return place_in_class(labels) >= kept[labels]
