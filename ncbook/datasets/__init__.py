"""Images by class, and their classes split into source, validation and novel ones.

`load` finds the function of a data set by `ncbook.catalog`; that function is in a module of its own. Importing this
imports no torch. Touches no files itself: the modules read the data and `_cache` keeps the decoded pixels. Called by
training, runs, the report and the notebooks.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncbook import catalog
from ncbook._checks import check_choice, nearest, one_sentence
from ncbook.datasets import _sources
from ncbook.datasets._images import ClassSplit, ImageClasses, Subset
from ncbook.datasets._split import split, split_classes

if TYPE_CHECKING:
    from ncbook.experiment import Experiment

__all__ = ["ClassSplit", "ImageClasses", "Subset", "load", "load_for", "split", "split_for"]
__dir__ = __all__.copy


@one_sentence()
def load(name: str, root: str | os.PathLike | None = None, **options: Any) -> ImageClasses:
    """Load a data set by name.

    Args:
        name: one of `ncbook.catalog.DATASETS`.
        root: folder of the data; None: the environment variable NCBOOK_DATA, else a user cache folder.
        **options: what the data set's own function takes besides ``root``.

    Raises:
        ValueError: the name or an option is unknown, or the data is damaged.
        FileNotFoundError: the data is not there and cannot be downloaded.
    """
    check_choice("name", name, catalog.DATASETS, catalog.KNOWN_AS)
    module, _, function = catalog.DATASETS[name].loader.partition(":")
    loader = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    allowed = [option for option in inspect.signature(loader).parameters if option != "root"]
    for option in options:
        if option not in allowed:
            raise ValueError(f"option {option!r} of the data set {name!r} is unknown; {nearest(option, allowed)}")
    return loader(root, **options)


@one_sentence()
def load_for(experiment: Experiment) -> ImageClasses:
    """The whole data set of an experiment, kept in memory for the next call.

    A generated data set has 1,024 classes, or the next multiple of it that holds all source, novel and validation
    classes. Of an option that is None the data set's own default is taken.

    Args:
        experiment: an `ncbook.Experiment`.

    Raises:
        ValueError: a parameter is not allowed, or the data is damaged.
        FileNotFoundError: the data is not there and cannot be downloaded.
    """
    name = check_choice("dataset", experiment.dataset, catalog.DATASETS, catalog.KNOWN_AS)
    known = catalog.DATASETS[name]
    options = {option: getattr(experiment, option) for option in known.options}
    options = {option: value for option, value in options.items() if value is not None}
    if known.generated:
        n_novel = catalog.MOST_NOVEL if experiment.n_novel is None else experiment.n_novel
        n_validation = max(catalog.MOST_VALIDATION, experiment.n_validation or 0)
        n_classes = experiment.n_source + n_novel + n_validation
        options["n_classes"] = -(-n_classes // catalog.GENERATED_AT_LEAST) * catalog.GENERATED_AT_LEAST
    root = os.environ.get("NCBOOK_DATA")
    files = ()
    if "path" in options:  # a user's own images may change between two calls, and the working folder, too
        options["path"] = str(_sources.find_path(options["path"], root))
        files = tuple(_sources.listing(Path(options["path"])))
    return _load_once(name, root, tuple(sorted(options.items())), files)


@functools.lru_cache(maxsize=2)
def _load_once(name: str, root: str | None, options: tuple, files: tuple) -> ImageClasses:
    return load(name, root, **dict(options))


@one_sentence()
def split_for(experiment: Experiment, images: ImageClasses | None = None) -> ClassSplit:
    """The four splits of an experiment.

    Args:
        experiment: an `ncbook.Experiment`: `n_source`, `n_novel`, `n_validation`, `samples_per_class` and `class_seed`
            are what `split` takes.
        images: split these instead of the data set that the experiment names.

    Raises:
        ValueError: as `load_for`, or the data set has too few classes.
        FileNotFoundError: as `load_for`.
    """
    if images is None:
        images = load_for(experiment)
        name = repr(experiment.dataset) + ("" if images.name == experiment.dataset else f" ({images.name})")
    else:
        name = repr(images.name)
    numbers = ("n_source", "n_novel", "class_seed", "n_validation", "samples_per_class")
    return split_classes(images, name, *(getattr(experiment, number) for number in numbers))
