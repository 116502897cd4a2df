"""mini-ImageNet: 100 classes of ImageNet, 600 images each, with the lists of Ravi and Larochelle (2017).

There is no official download; copies that go round as pickles are not read, as unpickling runs whatever is in them.
Reads a folder or zip of class folders named by their WordNet ids. Called by `ncbook.datasets.load`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import torch

from ncbook.datasets import ImageClasses, folder
from ncbook.datasets._cache import cached
from ncbook.datasets._lists import KINDS, class_list, official

VERSION = 1  # raise when the same files give other pixels
PER_CLASS, HELD_OUT = 600, 100
PLACES = ("mini_imagenet", "mini_imagenet.zip", "mini-imagenet", "mini-imagenet.zip", "miniimagenet", "miniImageNet")


def load(root: str | os.PathLike | None = None, *, size: int = 84) -> ImageClasses:
    """Load mini-ImageNet as 84 x 84 colour images.

    Args:
        root: folder that holds ``mini_imagenet/`` or ``mini_imagenet.zip`` with folders such as
            ``train/n01532829/*.jpg`` or just ``n01532829/*.jpg``: 100 classes, 600 images each. None: NCBOOK_DATA.
        size: height and width; larger files are scaled and cropped to the centre.

    Returns:
        images uint8 [60000, 3, size, size]; of each class the last 100 by name are held out (what the sources held out
        is unknown).

    Raises:
        FileNotFoundError: it is not there; the text says what to put where.
        ValueError: classes that are missing or not of the lists, in the wrong part, or without 600 images.
    """
    named = root if root is not None else os.environ.get("NCBOOK_DATA") or None
    base = Path(named).expanduser() if named is not None else None
    source = next((base / place for place in PLACES if (base / place).exists()), None) if base is not None else None
    if source is None:
        where = f"not in {base}" if base is not None else "not found: neither root nor NCBOOK_DATA is given"
        raise FileNotFoundError(
            f"mini_imagenet is {where}. It has no official download. Put a folder mini_imagenet/ or a mini_imagenet.zip"
            f" there with one folder of {PER_CLASS} images for each of its 100 classes, named by the WordNet ids of the"
            " lists of Ravi and Larochelle, such as n01532829/ or train/n01532829/. Pickled copies are not read."
        )
    key = hashlib.sha256(f"mini_imagenet {VERSION} {size} {folder.fingerprint(source)}".encode()).hexdigest()
    return cached("mini_imagenet", key, lambda: _build(source, size))


def _build(source: Path, size: int) -> ImageClasses:
    found = folder.build(source, "mini_imagenet", size, 3, HELD_OUT / PER_CLASS)
    parts = {"train": "source", "val": "validation", "test": "novel"}
    lists = {kind: set(class_list("mini_imagenet", kind)) for kind in KINDS}
    ids = []
    for name in found.class_names:
        *above, wordnet_id = name.split("/")
        kind = parts.get(above[-1]) if above else None
        if not any(wordnet_id in classes for classes in lists.values()):
            raise ValueError(f"{source}: {name} is no class of mini-ImageNet")
        if kind is not None and wordnet_id not in lists[kind]:
            raise ValueError(f"{source}: {name} is not a {kind} class in the lists of Ravi and Larochelle")
        ids.append(wordnet_id)
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise ValueError(f"{source}: {', '.join(twice[:5])} is there more than once")
    counts = found.labels.bincount().tolist()
    wrong = [f"{name} has {count}" for name, count in zip(found.class_names, counts, strict=True) if count != PER_CLASS]
    if wrong:
        raise ValueError(f"{source}: each class must have {PER_CLASS} images; {'; '.join(wrong[:5])}")
    names = sorted(ids)
    order = torch.tensor([ids.index(name) for name in names])
    rows = (order[:, None] * PER_CLASS + torch.arange(PER_CLASS)).flatten()
    return dataclasses.replace(
        found,
        images=found.images[rows],
        labels=torch.arange(len(names)).repeat_interleave(PER_CLASS),
        class_names=names,
        held_out=found.held_out[rows],
        official=official("mini_imagenet", names),
    )
