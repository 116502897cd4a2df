"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each.

Reads the two zips, or the folders torchvision unpacks them to, and changes neither; downloads the zips if the user
chose no folder. The scaled-down images are cached. Called by `ncbook.datasets.load`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ncbook import catalog
from ncbook._checks import check_choice
from ncbook.datasets import ImageClasses, _decode, _sources
from ncbook.datasets._cache import cache_key, cached
from ncbook.datasets._lists import KINDS, class_list

VERSION = 1  # raise when the same files give other pixels
SIDE, SIDE_ON_DISK = 28, 105
DRAWINGS = 20
HELD_OUT = 5  # of the drawings of each character, the last ones
# Numbers of the characters in each part: the first four digits of a drawing's file name.
PARTS = {"images_background": range(1, 965), "images_evaluation": range(965, 1624)}
FOLDERS = ("omniglot/omniglot-py", "omniglot-py")
URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
ROTATIONS = (0, 90, 180, 270)  # in degrees, counter-clockwise


def load(
    root: str | os.PathLike | None = None, *, download: bool | None = None, protocol: str = "lake"
) -> ImageClasses:
    """Load all of Omniglot as 28 x 28 images, ink 255 on paper 0.

    Args:
        root: folder that holds ``omniglot-py/`` or ``omniglot/omniglot-py/``, with ``images_background.zip`` and
            ``images_evaluation.zip`` or the unpacked folders of these names. None: NCBOOK_DATA, else a user cache
            folder.
        download: whether to download missing files; None: only if neither ``root`` nor NCBOOK_DATA is given.
        protocol: "lake": every character is a class. "vinyals": every rotation of a character by 0, 90, 180 and 270
            degrees is one, with published lists of 4,112 source, 688 validation and 1,692 novel classes.

    Returns:
        images uint8 [32460, 1, 28, 28] of 1,623 classes ``Alphabet/characterNN`` in the order of their names; of each
        character's 20 drawings the last 5 are held out. With "vinyals" four times as many, of classes
        ``Alphabet/characterNN/rotDDD``.

    Raises:
        FileNotFoundError: the files are not there and were not downloaded.
        ValueError: a class or drawing is missing or too many, or a file cannot be read.

    Reference:
        Lake, Salakhutdinov and Tenenbaum 2015, Human-level concept learning through probabilistic program induction;
        Vinyals, Blundell, Lillicrap, Kavukcuoglu and Wierstra 2016, Matching networks for one shot learning.
    """
    check_choice("protocol", protocol, catalog.PROTOCOLS)
    zips = " and ".join(f"{part}.zip" for part in PARTS)
    sources = _sources.find_files(
        "Omniglot",
        root,
        _find,
        f"Looked there for {zips}, or for the unpacked folders of these names, in {' and '.join(FOLDERS)}. Get both "
        f"zips from {URL}/ and put them into one of these folders.",
        lambda folder: _download(folder / FOLDERS[-1]),
        download,
    )
    key = cache_key("omniglot", VERSION, *map(_sources.fingerprint, sources))
    images = cached("omniglot", key, lambda: _build(sources))
    return _rotated(images) if protocol == "vinyals" else images


def _rotated(images: ImageClasses) -> ImageClasses:
    """Four classes of each, turned counter-clockwise, with the published lists."""

    def rotations(names: list[str]) -> list[str]:
        return [f"{name}/rot{degrees:03d}" for name in names for degrees in ROTATIONS]

    turned = torch.stack([torch.rot90(images.images, n, dims=(2, 3)) for n in range(len(ROTATIONS))])  # [4, N, 1, …]
    labels = images.labels * len(ROTATIONS) + torch.arange(len(ROTATIONS))[:, None]  # [4, N]
    order = labels.flatten().argsort(stable=True)
    names = rotations(images.class_names)
    index = {name: label for label, name in enumerate(names)}
    lists = {kind: [index[name] for name in rotations(class_list("omniglot_vinyals", kind))] for kind in KINDS}
    return ImageClasses(
        name="omniglot (vinyals)",
        images=turned.flatten(0, 1)[order],
        labels=labels.flatten()[order],
        class_names=names,
        held_out=images.held_out.repeat(len(ROTATIONS))[order],
        official=lists,
    )


def _find(folder: Path) -> list[Path] | None:
    """The zip or unpacked folder of each part, in the order of PARTS, or None if one is missing."""
    for candidate in FOLDERS:
        sources = []
        for part in PARTS:
            packed, unpacked = folder / candidate / f"{part}.zip", folder / candidate / part
            sources += [packed] if packed.is_file() else [unpacked] if unpacked.is_dir() else []
        if len(sources) == len(PARTS):
            return sources
    return None


def _download(folder: Path) -> str:
    """Fetch both zips with torchvision's checksums; returns what happened."""
    from torchvision.datasets import Omniglot  # seconds to import: only now

    return _sources.download(URL, {f"{part}.zip": md5 for part, md5 in Omniglot.zips_md5.items()}, folder)


def _build(sources: list[Path]) -> ImageClasses:
    """Read, check and scale down all drawings."""
    bits: dict[str, list[bytes]] = {}  # by class: its drawings, packed
    for source, (part, numbers) in zip(sources, PARTS.items(), strict=True):
        folder = f"{part}/" if source.is_dir() else ""  # a zip has it in its names
        with _sources.opened(source, {".png"}) as files:
            readers = {folder + name: files[name] for name in sorted(files) if (folder + name).startswith(f"{part}/")}
            for character, names in _check_names(readers, numbers, source).items():
                if character in bits:
                    raise ValueError(f"{source}: the class {character} is in another part of Omniglot, too")
                bits[character] = [_read_drawing(readers[name], name, source) for name in names]
    class_names = sorted(bits)
    images = _scale_down(b"".join(drawing for name in class_names for drawing in bits[name]))
    return ImageClasses(
        name="omniglot",
        images=images,
        labels=torch.arange(len(class_names)).repeat_interleave(DRAWINGS),
        class_names=class_names,
        held_out=(torch.arange(DRAWINGS) >= DRAWINGS - HELD_OUT).repeat(len(class_names)),
    )


def _check_names(names: Iterable[str], numbers: range, source: Path) -> dict[str, list[str]]:
    """File names by class, checked: each character number with each drawing once, in a class of its own."""
    by_class: dict[str, list[str]] = {}
    class_of: dict[int, str] = {}
    for name in names:
        _, *folders, file = name.split("/")
        number, _, drawer = file.removesuffix(".png").partition("_")
        if len(folders) != 2 or not (number.isdecimal() and drawer.isdecimal()):
            raise ValueError(f"{source}: {name} is not named <Alphabet>/<character>/NNNN_DD.png")
        character = "/".join(folders)
        if int(number) not in numbers:
            raise ValueError(
                f"{source}: the class {character} is one too many: its number {number} is not in "
                f"{numbers.start:04d} to {numbers.stop - 1:04d}"
            )
        if class_of.setdefault(int(number), character) != character:
            raise ValueError(f"{source}: the classes {class_of[int(number)]} and {character} have one number, {number}")
        by_class.setdefault(character, []).append(name)
    missing = [f"{number:04d}" for number in numbers if number not in class_of]
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise ValueError(f"{source}: {len(missing)} of {len(numbers)} classes are missing: number {shown}")
    expected = [f"{number + 1:02d}" for number in range(DRAWINGS)]
    for character, files in by_class.items():
        drawers = [name.rpartition("_")[2].removesuffix(".png") for name in files]
        wrong = [f"{d} is missing" for d in expected if d not in drawers]
        wrong += [f"{d} is one too many" for d in sorted(set(drawers)) if drawers.count(d) > (d in expected)]
        if wrong:
            raise ValueError(f"{source}: the class {character} must have {DRAWINGS} drawings: drawing {wrong[0]}")
    return by_class


def _read_drawing(read: Callable[[], bytes], name: str, source: Path) -> bytes:
    """The drawing as 105 rows of 14 bytes, one bit per pixel, paper 1."""
    try:
        image = _decode.open_image(read(), ("PNG",))
        if image.size != (SIDE_ON_DISK, SIDE_ON_DISK):
            raise ValueError(f"its size is {image.size}, not {(SIDE_ON_DISK, SIDE_ON_DISK)}")
        if image.mode != "1" or image.has_transparency_data:
            image = _decode.on_white(image, "L").convert("1", dither=Image.Dither.NONE)
        return image.tobytes()
    except Exception as error:  # Pillow and zipfile raise a dozen types for damaged bytes
        raise ValueError(f"{source}: {name} cannot be read: {_sources.in_one_line(error)}") from error


def _scale_down(bits: bytes) -> torch.Tensor:
    """Packed drawings to uint8 [N, 1, 28, 28]: a pixel is the fraction of ink on its 3.75 x 3.75 dots."""
    rows = np.frombuffer(bits, np.uint8).reshape(-1, SIDE_ON_DISK, 14)  # [N, 105, 14]
    quarters = torch.eye(SIDE).repeat_interleave(15, 1).view(SIDE, SIDE_ON_DISK, 4).sum(2)  # of each dot, in each pixel
    images = torch.empty(len(rows), 1, SIDE, SIDE, dtype=torch.uint8)
    for start in range(0, len(rows), 256):
        dots = np.unpackbits(rows[start : start + 256], axis=2, count=SIDE_ON_DISK)  # [n, 105, 105], paper 1
        paper = quarters @ (torch.from_numpy(dots).float() @ quarters.T)  # [n, 28, 28], of 15 x 15: exact
        images[start : start + 256, 0] = (255 - paper * 255 / 225).round()
    return images
