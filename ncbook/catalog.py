"""Names that an `Experiment` may use, each with what is known of it before anything is read: plain strings and numbers.

No torch, no files, no imports of the package. `Experiment` refuses by it; `datasets`, `backbones` and `objectives` find
their code by it. A new data set, backbone or objective is one file and one line here.
"""

from typing import NamedTuple

__all__ = [
    "AUGMENTATIONS", "BACKBONES", "Backbone", "DATASETS", "DISTANCES", "DataSet", "EPISODES", "FRAMES",
    "GENERATED_AT_LEAST", "INNER", "KNOWN_AS", "MOST_NOVEL", "MOST_VALIDATION", "OBJECTIVES", "OPTIMIZERS",
    "PRECISIONS", "PROTOCOLS", "ROWS", "SCHEDULES", "SPLITS",
]  # fmt: skip
__dir__ = __all__.copy


class DataSet(NamedTuple):
    """One data set.

    Attributes:
        loader: "module:function" below `ncbook.datasets`; the function takes ``root`` and the options.
        steps: optimization steps of a run whose number of epochs is not given.
        classes: classes there are; for a generated data set the most that a run may use; None: known once it is read.
        generated: whether the classes are made on demand, as many as are wanted.
        official: numbers of source and novel classes in the published lists, where there are any.
        options: parameters of `Experiment` that are options of the loader.
    """

    loader: str
    steps: int
    classes: int | None
    generated: bool = False
    official: tuple[int, int] | None = None
    options: tuple[str, ...] = ()


DATASETS = {
    "strokes": DataSet("strokes:load", steps=300, classes=16_384, generated=True),
    "omniglot": DataSet("omniglot:load", steps=600, classes=1_623, options=("protocol",)),
    "cifar10": DataSet("cifar:load_cifar10", steps=2_000, classes=10),
    "cifar_fs": DataSet("cifar:load_cifar_fs", steps=4_000, classes=100, official=(64, 20)),
    "mini_imagenet": DataSet("mini_imagenet:load", steps=6_000, classes=100, official=(64, 20)),
    "emnist": DataSet("emnist:load", steps=1_000, classes=47),
    "fc100": DataSet("cifar:load_fc100", steps=4_000, classes=100, official=(60, 20)),
    "folder": DataSet("folder:load", steps=1_000, classes=None, options=("path", "image_size")),
}
KNOWN_AS = {"cifar100": "allowed: 'cifar_fs' and 'fc100', which are CIFAR-100 with published lists of classes"}
PROTOCOLS = {  # of Omniglot: classes, and numbers of source and novel classes in the published lists
    "lake": (1_623, None),
    "vinyals": (6_492, (4_112, 1_692)),
}
MOST_NOVEL, MOST_VALIDATION = 100, 20  # classes taken where a data set has more to spare and no number is given
GENERATED_AT_LEAST = 1_024  # classes that generated data sets make: source sets of one such set are nested


class Backbone(NamedTuple):
    """One feature map.

    Attributes:
        builder: its class or function in `ncbook.backbones`.
        smallest: height and width in pixels of the smallest images it takes.
        layers: names of its layers, from the first to the features.
        options: arguments of the builder.
    """

    builder: str
    smallest: int
    layers: tuple[str, ...]
    options: dict[str, int | tuple[int, ...]] = {}


_BLOCKS = tuple(f"block{i}" for i in range(1, 5))
BACKBONES = {
    "conv4": Backbone("Conv4", 16, (*_BLOCKS, "features")),
    "conv4_small": Backbone("Conv4", 16, (*_BLOCKS, "features"), {"widths": (8, 16, 32, 64)}),
    "conv4_small_wide": Backbone("Conv4", 16, (*_BLOCKS, "features"), {"widths": (8, 16, 32, 256)}),
    **{
        f"plain{depth}{size}": Backbone(
            "PlainConv",
            4,
            (*(f"layer{i}" for i in range(1, depth + 1)), "features"),
            {"depth": depth, "width": width},
        )
        for size, width in (("", 64), ("_small", 16))
        for depth in (3, 5, 10, 14, 18, 20)
    },
    "resnet12": Backbone("ResNet12", 16, (*_BLOCKS, "features")),
    "resnet12_small": Backbone("ResNet12", 16, (*_BLOCKS, "features"), {"widths": (16, 32, 64, 128)}),
    "resnet18": Backbone("resnet18", 8, ("relu", *(f"layer{i}.{j}" for i in range(1, 5) for j in (0, 1)), "fc")),
    "wrn_28_4": Backbone(
        "WideResNet",
        8,
        ("stem", *(f"group{i}.{j}" for i in (1, 2, 3) for j in range(4)), "features"),
        {"depth": 28, "widen": 4},
    ),
}

ROWS = ("batch_size",)  # parameters of objectives that step on batches of rows, and of those that step on episodes
EPISODES = ("train_way", "train_shot", "train_query", "episodes_per_epoch")
INNER = ("inner_steps", "inner_rate", "second_order", "tasks_per_step")  # of those that adapt within an episode
OBJECTIVES = {  # name -> "module:class" below `ncbook.objectives`, and the parameters that belong to it
    "cross_entropy": ("cross_entropy:CrossEntropy", ROWS),
    "distillation": ("distillation:Distillation", (*ROWS, "temperature", "teacher_weight")),
    "label_smoothing": ("label_smoothing:LabelSmoothing", (*ROWS, "smoothing")),
    "squared_error": ("squared_error:SquaredError", ROWS),
    "fixed_etf": ("fixed_etf:FixedEtf", (*ROWS, "scale", "frame", "spare_rows")),
    "cdnv_penalty": ("cdnv_penalty:CdnvPenalty", (*ROWS, "penalty", "directional", "per_class")),
    "center_loss": ("center_loss:CenterLoss", (*ROWS, "penalty")),
    "supervised_contrastive": ("supervised_contrastive:SupervisedContrastive", (*ROWS, "temperature")),
    "prototypical": ("prototypical:Prototypical", (*EPISODES, "distance")),
    "matching": ("matching:Matching", (*EPISODES, "distance", "scale", "learn_scale")),
    "relation": ("relation:Relation", EPISODES),
    "ridge": ("ridge:Ridge", (*EPISODES, "scale", "learn_scale", "ridge", "learn_ridge")),
    "maml": ("maml:Maml", (*EPISODES, *INNER)),
    "anil": ("anil:Anil", (*EPISODES, *INNER)),
}
DISTANCES = {  # of the objectives that have a choice, the default first
    "prototypical": ("squared_euclidean", "euclidean"),
    "matching": ("cosine", "dot", "squared_euclidean"),
}
FRAMES = ("simplex", "orthogonal")  # of a classifier that is not trained
OPTIMIZERS = {"sgd": ("momentum",), "adam": ()}  # name -> the parameters that belong to it
SCHEDULES = ("one_cycle", "cosine", "step", "halving", "constant")
AUGMENTATIONS = ("affine", "crop_flip", "none")
PRECISIONS = ("auto", "float32", "bfloat16")
SPLITS = ("source_train", "source_test", "novel", "validation")
