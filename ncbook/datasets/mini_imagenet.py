"""mini-ImageNet: 100 classes of ImageNet, 600 images each, with the published lists of classes.

Reads a folder or zip of class folders named by their WordNet ids. There is no official download; pickled copies are not
read, because unpickling runs any code that is in them. Called by `ncbook.datasets.load`.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import torch

from ncbook._checks import check_whole
from ncbook.datasets import ImageClasses, _sources, folder
from ncbook.datasets._cache import cache_key, cached
from ncbook.datasets._lists import KINDS, class_list, official

VERSION = 2  # raise when the same files give other pixels
PER_CLASS, HELD_OUT = 600, 100
PLACES = ("mini_imagenet", "mini_imagenet.zip", "mini-imagenet", "mini-imagenet.zip", "miniimagenet", "miniImageNet")


def load(root: str | os.PathLike | None = None, *, image_size: int = 84) -> ImageClasses:
    """Load mini-ImageNet as 84 x 84 color images.

    Args:
        root: folder that holds ``mini_imagenet/`` or ``mini_imagenet.zip`` with folders such as
            ``train/n01532829/*.jpg`` or just ``n01532829/*.jpg``: 100 classes, 600 images each. None: NCBOOK_DATA,
            else a user cache folder.
        image_size: height and width in pixels, at least 8; other files are scaled and cropped to the center.

    Returns:
        images uint8 [60000, 3, image_size, image_size]; of each class the last 100 by name are held out (what the
        sources held out is unknown).

    Raises:
        FileNotFoundError: it is not there; the text says what to put where.
        ValueError: classes that are missing or not of the lists, in the wrong part, or without 600 images.

    Reference:
        Vinyals, Blundell, Lillicrap, Kavukcuoglu and Wierstra 2016, Matching networks for one shot learning; the lists
        are those of Ravi and Larochelle 2017, Optimization as a model for few-shot learning.
    """
    image_size = check_whole("image_size", image_size, 8)
    source = _sources.find_files(
        "mini_imagenet",
        root,
        lambda base: next((base / place for place in PLACES if (base / place).exists()), None),
        f"Put a folder mini_imagenet/ or a mini_imagenet.zip there with one folder of {PER_CLASS} images for each of "
        "its 100 classes, named by the WordNet ids of the lists of Ravi and Larochelle, such as n01532829/ or "
        "train/n01532829/. Pickled copies are not read.",
    )
    key = cache_key("mini_imagenet", VERSION, image_size, _sources.fingerprint(source))
    return cached("mini_imagenet", key, lambda: _build(source, image_size))


def _build(source: Path, image_size: int) -> ImageClasses:
    images = folder.build(source, "mini_imagenet", image_size, 3, HELD_OUT / PER_CLASS)
    parts = {"train": "source", "val": "validation", "test": "novel"}
    lists = {kind: set(class_list("mini_imagenet", kind)) for kind in KINDS}
    ids = []
    for name in images.class_names:
        *above, wordnet_id = name.split("/")
        kind = parts.get(above[-1]) if above else None
        if not any(wordnet_id in classes for classes in lists.values()):
            raise ValueError(f"{source}: {name} is no class of mini-ImageNet")
        if kind is not None and wordnet_id not in lists[kind]:
            raise ValueError(f"{source}: {name} is not a {kind} class in the lists of Ravi and Larochelle")
        ids.append(wordnet_id)
    repeated = sorted({i for i in ids if ids.count(i) > 1})
    if repeated:
        raise ValueError(f"{source}: {', '.join(repeated[:5])} is there more than once")
    counts = images.labels.bincount().tolist()
    wrong = [
        f"{name} has {count}" for name, count in zip(images.class_names, counts, strict=True) if count != PER_CLASS
    ]
    if wrong:
        raise ValueError(f"{source}: each class must have {PER_CLASS} images; {'; '.join(wrong[:5])}")
    names = sorted(ids)
    order = torch.tensor([ids.index(name) for name in names])
    rows = (order[:, None] * PER_CLASS + torch.arange(PER_CLASS)).flatten()
    return dataclasses.replace(
        images,
        images=images.images[rows],
        labels=torch.arange(len(names)).repeat_interleave(PER_CLASS),
        class_names=names,
        held_out=images.held_out[rows],
        official=official("mini_imagenet", names, source),
    )
