"""What a data set is in memory: images by class, some of the classes, and a split of them.

Touches no files; imports torch only when one is made. Called by everything that has images.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def place_in_class(labels: Tensor) -> Tensor:
    """How many samples of its class come before each sample: int64 [N], for ascending labels int64 [N]."""
    counts = labels.bincount()  # [number of classes]
    return labels.new_ones(len(labels)).cumsum(0) - 1 - (counts.cumsum(0) - counts)[labels]


@dataclass(frozen=True, eq=False)
class ImageClasses:
    """Images of many classes, sorted by class, then by sample.

    Attributes:
        name: the data set's name.
        images: uint8 [N, C, H, W].
        labels: int64 [N], ascending, 0 … number of classes - 1.
        class_names: one name per class, all different.
        held_out: bool [N], True for the samples kept from training when their class is a source class.
        official: None, or the published lists of class indices under "source", "validation" and "novel".

    Raises:
        ValueError: shapes, types, order of labels or names do not fit together.
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
        for field, dtype, ndim, shape in [
            ("labels", torch.int64, 1, "[N]"),
            ("images", torch.uint8, 4, f"[{n}, C, H, W], one image per label"),
            ("held_out", torch.bool, 1, f"[{n}], one entry per label"),
        ]:
            value = getattr(self, field)
            if value.dtype != dtype or value.ndim != ndim or len(value) != n:
                raise ValueError(f"{field} is {value.dtype} {list(value.shape)}; allowed: {dtype} {shape}")
        if len(set(self.class_names)) != n_classes:
            repeated = next(name for name in self.class_names if self.class_names.count(name) > 1)
            raise ValueError(f"class_names has {repeated!r} more than once; allowed: names that are all different")
        descents = self.labels.diff().lt(0).nonzero()
        if len(descents):
            first = int(descents[0])
            came = f"labels are {int(self.labels[first])} in row {first} and {int(self.labels[first + 1])} in the next"
            raise ValueError(f"{came}; allowed: in ascending order (rows = labels.argsort(stable=True) sorts them)")
        if n and (self.labels[0] < 0 or self.labels[-1] >= n_classes):
            came = f"labels are from {int(self.labels[0])} to {int(self.labels[-1])}"
            raise ValueError(f"{came}; allowed: from 0 to at most {n_classes - 1} ({n_classes} classes have names)")

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over all that a run on these images depends on: shape, pixels, labels, and what splits them."""
        digest = hashlib.sha256(repr(list(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy())
        digest.update(self.labels.contiguous().numpy().astype("<i8", copy=False))
        digest.update(self.held_out.contiguous().numpy())
        digest.update(json.dumps([self.class_names, self.official], sort_keys=True).encode())
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"ImageClasses({self.name!r}: {len(self.class_names)} classes, images {list(self.images.shape)})"


@dataclass(frozen=True, eq=False)
class Subset:
    """Some classes of a data set.

    Attributes:
        images: uint8 [n, C, H, W], sorted by label.
        labels: int64 [n], ascending, 0 … number of classes - 1 of the subset.
        class_names: one name per label.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]

    def __repr__(self) -> str:
        return f"Subset({len(self.class_names)} classes, images {list(self.images.shape)})"


@dataclass(frozen=True, eq=False)
class ClassSplit:
    """A data set split by class.

    Attributes:
        source_train: samples of the source classes to train on.
        source_test: held-out samples of the same classes.
        novel: all samples of the novel classes.
        validation: all samples of the validation classes.
    """

    source_train: Subset
    source_test: Subset
    novel: Subset
    validation: Subset

    def check(self) -> None:
        """Refuse classes with too few samples to be measured: a variance needs two.

        A split without any sample is not measured and passes, but `source_train` must have some.

        Raises:
            ValueError: names the split, the class, its number of samples and what is needed.
        """
        for split in ("source_train", "source_test", "novel", "validation"):
            subset = getattr(self, split)
            if len(subset.labels) == 0 and split != "source_train":
                continue
            counts = subset.labels.bincount(minlength=len(subset.class_names)).tolist()
            too_few = [label for label, count in enumerate(counts) if count < 2]
            if too_few:
                name, count = subset.class_names[too_few[0]], counts[too_few[0]]
                in_all = f" ({len(too_few)} classes have fewer than 2)" if len(too_few) > 1 else ""
                raise ValueError(
                    f"{split}: the class {name!r} has {count} sample{'s' * (count != 1)}{in_all}; "
                    "allowed: at least 2 samples per class, because a variance needs two"
                    + (", so at least 4 per source class if samples are held out" if "source" in split else "")
                )
