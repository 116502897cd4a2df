"""What is known of each data set before it is read: plain numbers, no torch, no files.

`Experiment` refuses too many classes by it; `training` takes the default number of steps from it.
"""

from typing import NamedTuple


class Facts(NamedTuple):
    """One data set.

    Attributes:
        classes: classes there are; for a generated data set the most that a run may ask for.
        steps: optimisation steps of a run whose number of epochs is not given.
        generated: whether the classes are made on demand, as many as are asked for.
        official: numbers of source and novel classes in the published lists, where there are any.
    """

    classes: int
    steps: int
    generated: bool = False
    official: tuple[int, int] | None = None


FACTS = {
    "strokes": Facts(classes=16_384, steps=300, generated=True),
    "omniglot": Facts(classes=1_623, steps=600),
    "cifar10": Facts(classes=10, steps=2_000),
    "cifar_fs": Facts(classes=100, steps=4_000, official=(64, 20)),
    "mini_imagenet": Facts(classes=100, steps=6_000, official=(64, 20)),
    "emnist": Facts(classes=47, steps=1_000),
    "fc100": Facts(classes=100, steps=4_000, official=(60, 20)),
}
NAMES = tuple(FACTS)

UNIVERSE = 1_024  # classes that generated data sets make at least: source sets of one universe are nested
SPARE = 20  # validation classes


def options_for(dataset: str, n_source: int, n_novel: int | None) -> dict[str, int]:
    """Options of `ncbook.datasets.load` that give an experiment its images.

    A generated data set has 1,024 classes, or the next multiple of it that holds all that are asked for.

    >>> options_for("strokes", 64, 100), options_for("strokes", 2000, 100), options_for("omniglot", 64, 100)
    ({'n_classes': 1024}, {'n_classes': 3072}, {})
    """
    if not FACTS[dataset].generated:
        return {}
    wanted = n_source + (n_novel or 0) + SPARE
    return {"n_classes": -(-wanted // UNIVERSE) * UNIVERSE}
