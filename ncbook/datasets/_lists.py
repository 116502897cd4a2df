"""Published lists of classes. Reads the text files in ``splits/`` beside it; called by the modules of data sets."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

KINDS = ("source", "validation", "novel")


def class_list(name: str, kind: str) -> list[str]:
    """Names of the classes of one kind, in the file's order; the file's first line says where they come from.

    Example:
        >>> [len(class_list("cifar_fs", kind)) for kind in KINDS]
        [64, 16, 20]
    """
    text = (resources.files("ncbook.datasets") / "splits" / f"{name}_{kind}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def official(name: str, class_names: list[str], source: Path) -> dict[str, list[int]]:
    """The lists as indices into ``class_names``, which were read from ``source``.

    Raises:
        ValueError: a class of the list is missing.
    """
    index = {class_name: i for i, class_name in enumerate(class_names)}
    lists = {}
    for kind in KINDS:
        listed = class_list(name, kind)
        missing = [class_name for class_name in listed if class_name not in index]
        if missing:
            raise ValueError(f"{source}: {len(missing)} {kind} classes of {name} are missing: {', '.join(missing[:5])}")
        lists[kind] = [index[class_name] for class_name in listed]
    return lists
