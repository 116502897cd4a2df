"""What a report looks at: a folder or zip, a data set of the package, tensors, or any batches; as a stream of batches.

Called by `reports`; reads files and keeps none of what has passed. In a group of processes each takes its part of the
rows; batches of the reader's are taken as this process's part.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed

from ncbook import catalog, datasets
from ncbook._checks import nearest
from ncbook.collapse.sample import name_a_few
from ncbook.datasets import _pixels, _sources, folder
from ncbook.experiment import ParameterError

ALLOWED = (
    "a folder or zip of class folders, a name of ncbook.catalog.DATASETS, an ImageClasses, (images, labels) or "
    "(features, labels), or an iterable of such batches"
)


@dataclass
class Stream:
    """Batches of images, or of features, with their labels.

    Attributes:
        batches: gives an iterator over (images uint8 or float [B, C, H, W], or features [B, D]; labels int [B]), and
            if ``numbered`` the numbers of the rows int64 [B].
        name: of the data, in words.
        n: batches to come, as far as known.
        class_names: of labels 0, 1, …; None: labels are their own names.
        counts: samples per class, where they are known before; of all processes.
        numbered: files, which models read at sizes of their own: known by their number, not by their pixels.
    """

    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    name: str
    n: int | None = None
    class_names: list[str] | None = None
    counts: Tensor | None = None
    numbered: bool = False


def part_of_process() -> tuple[int, int]:
    """(number of this process, how many there are)."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def open_stream(
    data, *, batch_size: int, image_size: int, channels: int | None, broken: str, several: bool = False
) -> Stream:
    """The data as a stream; what can be refused before any work is refused here.

    Args:
        data: see `ALLOWED`.
        batch_size: of what does not come in batches.
        image_size, channels: that image files are read as; None: in colors.
        broken: "refuse" or "skip" files that are no readable image.
        several: whether the stream will be read more than once.

    Raises:
        ParameterError: something else, or fewer than two classes, or a class with a single image.
        FileNotFoundError: a path that is not there.
    """
    if isinstance(data, str | os.PathLike):
        stream = _of_name(data, batch_size, image_size, channels or 3, broken)
    elif hasattr(data, "images") and hasattr(data, "labels"):  # ImageClasses, Subset
        name = getattr(data, "name", "images")
        stream = _of_rows(data.images, check_labels(data.labels), name, batch_size, getattr(data, "class_names", None))
    elif isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(v, Tensor | np.ndarray) for v in data):
        rows, labels = (torch.as_tensor(v) for v in data)
        if len(rows) != len(labels):
            raise ParameterError(f"data holds {len(rows)} rows and {len(labels)} labels; allowed: one label per row")
        stream = _of_rows(rows, check_labels(labels), "features" if rows.ndim == 2 else "images", batch_size)
    elif isinstance(data, Iterable) and not isinstance(data, dict | set):
        if several and iter(data) is data:
            raise ParameterError("data can be read once only; allowed for several models: a DataLoader, or a list")
        n = len(data) if hasattr(data, "__len__") else None
        stream = Stream(lambda: iter(data), type(data).__name__, n)
    else:
        raise ParameterError(f"data is of type {type(data).__name__}; allowed: {ALLOWED}")
    if stream.counts is not None:
        check_counts(stream.counts, stream.class_names)
    return stream


def check_labels(labels) -> Tensor:
    """Accept a vector of integers; of a list of them or of NumPy, too."""
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):  # names, say
        came = f"of type {type(labels).__name__}"
        raise ParameterError(f"data has labels {came}; allowed: integers [B], one label per image") from None
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.ndim != 1:
        came = f"{labels.dtype} {list(labels.shape)}"
        raise ParameterError(f"data has labels {came}; allowed: integers [B], one label per image")
    return labels.long()


def check_counts(counts: Tensor, class_names: list[str] | None) -> None:
    """Refuse fewer than two classes, and classes whose variance is not defined."""
    here = counts > 0
    if int(here.sum()) < 2:
        raise ParameterError(f"data holds {int(here.sum())} class; allowed: at least two classes")
    single = (counts == 1).nonzero().flatten().tolist()
    if single:
        names = name_a_few([class_names[k] if class_names else k for k in single])
        raise ParameterError(f"data holds a single image of {names}; allowed: two or more of each class")


def _starts(n: int, batch_size: int) -> range:
    """Where this process's batches begin: every count-th, so that rows of mapped files are read one after the other."""
    number, count = part_of_process()
    return range(number * batch_size, n, count * batch_size)


def _of_rows(rows: Tensor, labels: Tensor, name: str, batch_size: int, class_names=None, numbered=False) -> Stream:
    starts = _starts(len(rows), batch_size)
    values, index = labels.unique(return_inverse=True)  # without classes that have no images
    if class_names is not None:
        class_names = [class_names[int(k)] for k in values]
    elif not (values == torch.arange(len(values))).all():
        class_names = [str(k) for k in values.tolist()]

    def batches():
        for i in starts:
            batch = rows[i : i + batch_size], index[i : i + batch_size]
            yield (*batch, i + torch.arange(len(batch[1]))) if numbered else batch

    return Stream(batches, name, len(starts), class_names, index.bincount(), numbered)


def _of_name(data: str | os.PathLike, batch_size: int, image_size: int, channels: int, broken: str) -> Stream:
    known = catalog.DATASETS
    if isinstance(data, str) and data in known and data != "folder":
        found = datasets.load(data)
        return _of_rows(found.images, found.labels, found.name, batch_size, found.class_names)
    try:
        source = _sources.find_path(data, None)
    except FileNotFoundError as error:
        hint = "" if os.sep in str(data) or "." in str(data) else f"; as a data set: {nearest(data, known)}"
        raise FileNotFoundError(f"data: {error}{hint}") from None
    with _sources.opened(source, folder.SUFFIXES) as readers:
        paths = list(readers)
    if _pixels.fits_in_memory(len(paths) * channels * image_size**2):
        options = dict(path=str(source), image_size=max(8, image_size), channels=channels, held_out=0, broken=broken)
        found = datasets.load("folder", **options)
        return _of_rows(found.images, found.labels, source.name, batch_size, found.class_names, numbered=True)
    paths, labels, _, class_names = folder.classes_of(source, paths)
    starts = _starts(len(paths), batch_size)

    def batches():  # too many to be kept
        try:
            for pictures, rows in folder.stream(source, paths, starts, batch_size, image_size, channels, broken):
                yield pictures, labels[rows], rows
        except ValueError as error:
            raise ParameterError(str(error)) from None

    return Stream(batches, source.name, len(starts), class_names, labels.bincount(), numbered=True)
