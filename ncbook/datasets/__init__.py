"""Images by class, and their classes split into source, validation and novel ones.

One module a data set or kin; `load` finds it by name in `MODULES`. Nothing here imports torch before `load` or
`split` is called, so that `ncbook.Experiment` can check a name at once. Touches no files itself: the modules
read the data and `_cache` keeps the decoded pixels. Called by runs, the report and the notebooks.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MODULES", "ClassSplit", "ImageClasses", "Subset", "load", "split"]

# A data set is a function `load(root, **options) -> ImageClasses` of a module; `root` is None or a path.
MODULES = {
    "cifar10": "ncbook.datasets.cifar:load_cifar10",
    "cifar_fs": "ncbook.datasets.cifar:load_cifar_fs",
    "emnist": "ncbook.datasets.emnist",
    "fc100": "ncbook.datasets.cifar:load_fc100",
    "folder": "ncbook.datasets.folder",
    "mini_imagenet": "ncbook.datasets.mini_imagenet",
    "omniglot": "ncbook.datasets.omniglot",
    "strokes": "ncbook.datasets.strokes",
}
MAX_VALIDATION_CLASSES = 20


@dataclass(frozen=True, eq=False)
class ImageClasses:
    """Images of many classes, sorted by class, then by sample.

    Attributes:
        name: The data set's name.
        images: uint8 [N, C, H, W].
        labels: int64 [N], ascending, 0 … number of classes - 1.
        class_names: One name a class, all different.
        held_out: bool [N], True for the samples kept from training when their class is a source class.
        official: None, or the published lists of class indices under "source", "validation" and "novel".

    Raises:
        ValueError: If shapes, types, order of labels or names do not fit together.
    """

    name: str
    images: Tensor
    labels: Tensor
    class_names: list[str]
    held_out: Tensor
    official: dict[str, list[int]] | None = None

    def __post_init__(self) -> None:
        import torch

        n, n_classes = len(self.labels), len(self.class_names)
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or len(self.images) != n:
            raise ValueError(
                f"images must be uint8 [{n}, C, H, W] (one for each label), "
                f"got {self.images.dtype} {list(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise ValueError(f"labels must be int64 [N], got {self.labels.dtype} {list(self.labels.shape)}")
        if self.held_out.dtype != torch.bool or self.held_out.shape != self.labels.shape:
            raise ValueError(f"held_out must be bool [{n}], got {self.held_out.dtype} {list(self.held_out.shape)}")
        if len(set(self.class_names)) != n_classes:
            raise ValueError("class_names must all be different")
        if n and (self.labels.diff().lt(0).any() or self.labels[0] < 0 or self.labels[-1] >= n_classes):
            raise ValueError(f"labels must ascend from 0 to at most {n_classes - 1} (the classes have names)")

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the shape, the pixels and the labels."""
        digest = hashlib.sha256(repr(list(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy())
        digest.update(self.labels.contiguous().numpy().astype("<i8", copy=False))
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"ImageClasses({self.name!r}: {len(self.class_names)} classes, images {list(self.images.shape)})"


@dataclass(frozen=True, eq=False)
class Subset:
    """Some classes of a data set.

    Attributes:
        images: uint8 [n, C, H, W], sorted by label.
        labels: int64 [n], from 0 up within the subset.
        class_names: Name of each label.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]

    def __repr__(self) -> str:
        return f"Subset({len(self.class_names)} classes, images {list(self.images.shape)})"


@dataclass(frozen=True, eq=False)
class ClassSplit:
    """A data set split by class; `source_train` and `source_test`: different samples of the same classes."""

    source_train: Subset
    source_test: Subset
    novel: Subset
    validation: Subset


def load(name: str, root: str | os.PathLike | None = None, **options: Any) -> ImageClasses:
    """Load a data set by name.

    Args:
        name: One of `MODULES`.
        root: Folder of the data; None: the environment variable NCBOOK_DATA, else a user cache folder.
        **options: What the data set's own `load` takes besides `root`.

    Raises:
        ValueError: If the name or an option is unknown, or the data is damaged.
        FileNotFoundError: If the data is not there and cannot be downloaded.
    """
    _check_known("data set", name, list(MODULES))
    module, _, function = MODULES[name].partition(":")
    loader = getattr(importlib.import_module(module), function or "load")
    allowed = [option for option in inspect.signature(loader).parameters if option != "root"]
    for option in options:
        _check_known(f"option of the data set {name!r}", option, allowed)
    return loader(root, **options)


def split(images: ImageClasses, *, n_source: int, n_novel: int | None, class_seed: int = 0) -> ClassSplit:
    """Split the classes into source, novel and validation classes.

    `class_seed` puts the classes in an order, the same on every machine. Novel classes are taken from its
    front and source classes from its back, so neither depends on how many of the other there are; more source
    classes only add to fewer, and label i stays the same class. Validation classes, at most 20, follow the
    novel ones, as far as the source classes leave any. With official lists each kind comes from its own list.

    Args:
        images: The data set.
        n_source: Number of source classes, at least 2.
        n_novel: Number of novel classes, at least 2, or None: there are none.
        class_seed: Chooses the classes.

    Returns:
        Four subsets. `source_train` has the source classes' samples that are not held out, `source_test`
        those that are; `novel` and `validation` have all samples of their classes.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If a number is too small or the data set has too few classes.
    """
    _check_integer("n_source", n_source, at_least=2)
    if n_novel is not None:
        _check_integer("n_novel", n_novel, at_least=2)
    _check_integer("class_seed", class_seed)
    n_new = n_novel or 0
    order = {kind: _class_order(images, pool, class_seed) for kind, pool in _pools(images).items()}
    if images.official is None:
        too_many, has = n_source + n_new > len(order["source"]), f"has {len(order['source'])} classes"
    else:
        too_many = n_source > len(order["source"]) or n_new > len(order["novel"])
        has = f"has {len(order['source'])} official source and {len(order['novel'])} official novel classes"
    if too_many:
        raise ValueError(
            f"n_source={n_source} and n_novel={n_novel} ask for more classes than there are: "
            f"the data set {images.name!r} {has}"
        )
    source = order["source"][::-1][:n_source]
    novel = order["novel"][:n_new]
    taken = {*source, *novel}
    validation = [c for c in order["validation"] if c not in taken][:MAX_VALIDATION_CLASSES]
    return ClassSplit(
        source_train=_subset(images, source, ~images.held_out),
        source_test=_subset(images, source, images.held_out),
        novel=_subset(images, novel),
        validation=_subset(images, validation),
    )


def _pools(images: ImageClasses) -> dict[str, list[int]]:
    if images.official is None:
        everything = list(range(len(images.class_names)))
        return {"source": everything, "validation": everything, "novel": everything}
    return {kind: list(images.official.get(kind, [])) for kind in ("source", "validation", "novel")}


def _class_order(images: ImageClasses, pool: list[int], class_seed: int) -> list[int]:
    # Sorting by a hash instead of a library's generator: no version of Python or NumPy can change the order.
    def position(label: int) -> bytes:
        return hashlib.sha256(f"{int(class_seed)}/{images.class_names[label]}".encode()).digest()

    return sorted(pool, key=position)


def _subset(images: ImageClasses, classes: list[int], keep: Tensor | None = None) -> Subset:
    import torch

    from ncbook.datasets._pixels import take

    new_label = torch.full((len(images.class_names),), -1)  # [all classes], -1: not chosen
    new_label[torch.tensor(classes, dtype=torch.int64)] = torch.arange(len(classes))
    labels = new_label[images.labels]  # [N]
    chosen = labels >= 0 if keep is None else (labels >= 0) & keep
    rows = chosen.nonzero().squeeze(1)
    rows = rows[labels[rows].argsort(stable=True)]
    return Subset(take(images.images, rows), labels[rows], [images.class_names[c] for c in classes])


def _check_known(what: str, name: object, allowed: list[str]) -> None:
    if name not in allowed:
        nearest = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.0)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"unknown {what}: {name!r}; allowed: {', '.join(sorted(allowed)) or 'none'}{hint}")


def _check_integer(parameter: str, value: object, at_least: int | None = None) -> None:
    wanted = "an integer" if at_least is None else f"an integer of at least {at_least}"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{parameter} must be {wanted}, got {value!r}")
    if at_least is not None and value < at_least:
        raise ValueError(f"{parameter} must be {wanted}, got {value!r}")
