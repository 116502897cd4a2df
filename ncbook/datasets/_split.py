"""Which classes are source, validation and novel ones.

Touches no files; imports torch only when images are split. Called through `ncbook.datasets`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ncbook import catalog
from ncbook._checks import check_whole, named_arguments
from ncbook.datasets._images import ClassSplit, ImageClasses, Subset, place_in_class

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("source", "novel", "validation")


@named_arguments
def split(
    images: ImageClasses,
    *,
    n_source: int,
    n_novel: int | None = None,
    class_seed: int = 0,
    n_validation: int | None = None,
    samples_per_class: int | None = None,
) -> ClassSplit:
    """Split the classes into source, novel and validation classes.

    ``class_seed`` puts the classes in an order, the same on every machine. Novel classes are taken from its front and
    source classes from its back, so neither depends on the number of the other; a larger source set contains the
    smaller ones, and label i stays the same class. Validation classes follow the novel ones, up to the source classes.
    With official lists each kind comes from its own list.

    Args:
        images: the data set.
        n_source: number of source classes, at least 2.
        n_novel: number of novel classes: 0, or at least 2. None: as many as there are beside the source classes (and
            the validation classes, if ``n_validation`` is a number), at most 100; none if there are fewer than 2.
        class_seed: chooses the classes; at least 0.
        n_validation: number of validation classes. None: as many as there are besides, at most 20.
        samples_per_class: training samples of each source class: the first so many; None: all that are not held out.

    Returns:
        Four subsets. ``source_train`` has the source classes' samples that are not held out, ``source_test`` those that
        are; ``novel`` and ``validation`` have all samples of their classes.

    Raises:
        TypeError: a number is not an integer.
        ValueError: a number is too small or the data set has too few classes.
    """
    return split_classes(images, repr(images.name), n_source, n_novel, class_seed, n_validation, samples_per_class)


def split_classes(
    images: ImageClasses,
    name: str,
    n_source: int,
    n_novel: int | None,
    class_seed: int,
    n_validation: int | None,
    samples_per_class: int | None = None,
) -> ClassSplit:
    """As `split`; errors call the data set ``name``."""
    n_source = check_whole("n_source", n_source, 2)
    n_novel = None if n_novel is None else check_whole("n_novel", n_novel, 0)
    n_validation = None if n_validation is None else check_whole("n_validation", n_validation, 0)
    class_seed = check_whole("class_seed", class_seed, 0)
    if samples_per_class is not None:
        check_whole("samples_per_class", samples_per_class, 2)
    if n_novel == 1:
        raise ValueError("n_novel=1; allowed: 0, or at least 2")
    everyone = range(len(images.class_names))
    lists = dict.fromkeys(KINDS, everyone) if images.official is None else images.official
    order = {kind: _class_order(images, lists.get(kind, []), class_seed) for kind in KINDS}
    numbers = f"n_source={n_source}, n_novel={n_novel} and n_validation={n_validation}"
    if images.official is None:
        total = len(images.class_names)
        has = f"has {total} classes"
        available = total - n_source - (n_validation or 0)
    else:
        has = "has " + ", ".join(f"{len(order[kind])} official {kind}" for kind in KINDS) + " classes"
        available = len(order["novel"])
    hint = f" (n_novel at most {available})" if (n_novel or 0) > available >= 2 else ""
    if n_novel is None:
        n_novel = min(catalog.MOST_NOVEL, available) if available >= 2 else 0
    source, novel = order["source"][::-1][:n_source], order["novel"][:n_novel]
    taken = {*source, *novel}
    spare = [label for label in order["validation"] if label not in taken]
    validation = spare[: catalog.MOST_VALIDATION if n_validation is None else n_validation]
    if len(taken) < n_source + n_novel or len(validation) < (n_validation or 0):
        raise ValueError(f"{numbers} ask for more classes than there are: the data set {name} {has}{hint}")
    return ClassSplit(
        source_train=_subset(images, source, _training_samples(images, source, samples_per_class)),
        source_test=_subset(images, source, images.held_out),
        novel=_subset(images, novel),
        validation=_subset(images, validation),
    )


def _training_samples(images: ImageClasses, source: list[int], most: int | None) -> Tensor:
    """Which samples are trained on, bool [N]: of each class the first ``most`` that are not held out."""
    if most is None:
        return ~images.held_out
    free = (~images.held_out).nonzero().squeeze(1)  # [M]
    counts = images.labels[free].bincount(minlength=len(images.class_names))  # [all classes]
    fewest = min(source, key=lambda label: counts[label])
    if counts[fewest] < most:
        has = f"{images.class_names[fewest]!r} has {counts[fewest]} that are not held out"
        raise ValueError(f"samples_per_class={most}; allowed: at most {counts[fewest]}, since the source class {has}")
    chosen = images.held_out.new_zeros(len(images.held_out))
    chosen[free[place_in_class(images.labels[free]) < most]] = True
    return chosen


def _class_order(images: ImageClasses, labels: Iterable[int], class_seed: int) -> list[int]:
    # Sorting by a hash instead of a library's generator: no version of Python or NumPy can change the order.
    def position(label: int) -> bytes:
        return hashlib.sha256(f"{class_seed}/{images.class_names[label]}".encode()).digest()

    return sorted(labels, key=position)


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
