"""`Experiment`: every parameter of one run, refused when wrong before any work starts.

No torch, no I/O. Notebooks build one in their second cell; `training.train` takes it; its `key` names the run.
"""

import ast
import builtins
import dataclasses
import difflib
import hashlib
import json
import os
import re
from collections.abc import Callable
from functools import partial

from ncbook import catalog
from ncbook._checks import check_choice, check_real, check_whole, nearest

__all__ = ["Experiment", "NOT_IN_KEY", "ParameterError", "SCHEMA", "check_parameters"]
__dir__ = __all__.copy

SCHEMA = 6  # raise it when the same parameters come to mean other numbers, or a run's files change
NOT_IN_KEY = ("path",)  # where the images lie says nothing about them: their fingerprint is in the folder's name


class ParameterError(ValueError):
    """A parameter that is not allowed; the message names it, what came and what is allowed.

    In a notebook it prints as that one message, without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def _check_path(name: str, value: object) -> str:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}={value!r} is of type {type(value).__name__}; allowed: text, or None")
    return os.fspath(value)


def _check_switch(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r} is of type {type(value).__name__}; allowed: True or False")
    return value


def _parameter(default: object, check: Callable, **allowed):
    """A field with its default and what it is checked by."""
    return dataclasses.field(default=default, metadata={"check": partial(check, **allowed)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Every parameter of one run: which images, which network, how it is trained, when it is measured.

    A parameter that does not belong to the chosen data set, objective or optimizer is refused by name. ``None`` stands
    for a default that depends on the others, and is replaced by it at once.

    Args:
        dataset: "strokes" (the default), "omniglot", "cifar10", "cifar_fs", "fc100", "mini_imagenet", "emnist" or
            "folder" (images of your own).
        path: of "folder": a folder or zip of class folders; no default. Not part of the key.
        image_size: of "folder": height and width in pixels that images are scaled and cropped to, 8 to 4096; None: 84.
        protocol: of "omniglot": "lake" (a character is a class) or "vinyals" (so is each of its four rotations, with
            published lists); None: "lake".
        backbone: the feature map f: "conv4" (the default; four convolutions), "plain3", "plain5", "plain10", "plain14",
            "plain18", "plain20" (that many convolutions), "resnet12", "resnet18" or "wrn_28_4"; with
            fewer channels, for two CPU cores: "conv4_small", "conv4_small_wide" (with more features), "plain3_small",
            "plain5_small", "plain10_small", "plain14_small", "plain18_small", "plain20_small", "resnet12_small".
        objective: what is minimized. On batches of samples: "cross_entropy" (the default), "distillation" (its
            teacher is the run with "cross_entropy" and the other parameters alike), "label_smoothing", "squared_error",
            "fixed_etf" (a classifier that is not trained), "cdnv_penalty", "center_loss" or "supervised_contrastive".
            On episodes: "prototypical", "matching", "relation", "ridge" (R2D2), "maml" or "anil".
        n_source: source classes l the network is trained on, at least 2; default 64.
        n_novel: novel classes, never seen in training, that the few-shot tasks are drawn from. None: as many as the
            data set has to spare, 100 at most (of a folder that is known when it is read); 0: none; else at least 2.
        n_validation: validation classes; a single one is not measured. None: as many as the data set has to spare,
            20 at most.
        samples_per_class: training samples m of each source class, at least 2: its first ones, so that smaller sets are
            part of larger ones. None: all that are not held out.
        epochs: passes over the source training samples, or rounds of ``episodes_per_epoch`` episodes. None: as many as
            make the data set's default number of optimization steps (`ncbook.catalog`), whatever ``n_source`` is.
        batch_size: largest number of images per step, at least 2; an epoch is cut into equal batches. None: 64.
        train_way, train_shot, train_query: of objectives that train on episodes: classes per episode, and shots and
            queries per class. None: 20 classes (5 for "maml" and "anil") or all there are, 5 shots, 5 queries.
        episodes_per_epoch: of the same; None: 100.
        distance: of "prototypical": "squared_euclidean" (None; as its code) or "euclidean" (as the report prints); of
            "matching": similarity to each shot, "cosine" (None), "dot" (with shots of length 1) or
            "squared_euclidean".
        scale: of "matching", "ridge" and "fixed_etf": what scores are multiplied by before the softmax, above 0; None:
            10 ("fixed_etf": 16).
        learn_scale: of "matching" and "ridge": whether it is trained, too; None: yes.
        ridge: of "ridge": penalty λ of the regression, above 0; None: 50.
        learn_ridge: whether it is trained, too; None: yes.
        inner_steps, inner_rate: of "maml" and "anil": steps on the shots of an episode, and their learning rate. None:
            1 step at a rate of 0.4; "anil": 20 at 0.01 (at larger rates the steps overshoot).
        second_order: of the same: whether the gradient passes through those steps; None: yes.
        tasks_per_step: of the same: episodes per step of the optimizer; None: 4.
        temperature: of "distillation" and "supervised_contrastive": what scores, or inner products, are divided by,
            above 0; None: 4, or 0.1.
        teacher_weight: of "distillation": of the teacher's term, against 1 - teacher_weight of the labels'; None: 0.5.
        smoothing: of "label_smoothing": part of a label that is spread over all classes, between 0 and 1; None: 0.1.
        penalty: of "cdnv_penalty": weight of the CDNV, and of "center_loss": of half the mean squared distance from the
            center of the class, at least 0; None: 1, or 10 if ``directional`` ("center_loss": 0.01).
        directional: of "cdnv_penalty": whether its directional form is taken; None: no.
        per_class: of the same: samples of a class that come together in a batch, from 2 to half of ``batch_size``;
            None: 4.
        frame: of "fixed_etf": directions of the classes, "simplex" (None; at most one class more than there are
            features) or "orthogonal" (at most as many).
        spare_rows: of the same: further directions, that belong to no class; None: 0.
        optimizer: "sgd" (with Nesterov momentum) or "adam"; None: "adam" for objectives that train on episodes, else
            "sgd".
        learning_rate: peak of the schedule, above 0; None: 0.2 for "sgd" (0.05 with "squared_error"), 0.001 for "adam".
        momentum: of "sgd", from 0 to below 1; None: 0.9.
        weight_decay: L2 penalty on all weights, 0 to 1; None: 0.005 for "sgd", 0 for "adam".
        schedule: of the learning rate: "one_cycle" (the default; up for 30 % of the steps, then down to 0, along
            cosines), "cosine" (down to 0 along a cosine), "step" (a tenth from 60 % of the steps on, a hundredth from
            80 %), "halving" (halved after every 20 epochs) or "constant".
        augmentation: "affine" (the default; random rotation, scale and shift, for handwriting), "crop_flip" (random
            shift and mirror image, for photographs) or "none"; training batches only.
        precision: "auto" (the default) trains in "bfloat16" where the hardware computes in it, else in "float32".
            Measuring is always in float32.
        measurements: how often the run is measured and its weights are kept: at epoch 0, at the last, and evenly
            between; 1: at the last alone; default 7.
        class_seed: chooses which classes are source, validation and novel; default 0.
        seed: governs initial weights, order of samples and augmentation; default 0.

    Raises:
        ParameterError: (a ValueError) names the parameter, what came and what is allowed.

    Example:
        >>> Experiment(n_source=32).n_source
        32
        >>> Experiment(seed=-1)
        Traceback (most recent call last):
        ncbook.experiment.ParameterError: seed=-1; allowed: a whole number of at least 0 and at most 2147483647
        >>> Experiment(train_way=5)
        Traceback (most recent call last):
        ncbook.experiment.ParameterError: train_way=5 does not belong to objective='cross_entropy'; allowed: None
    """

    dataset: str = _parameter("strokes", check_choice, allowed=catalog.DATASETS, known_as=catalog.KNOWN_AS)
    path: str | None = _parameter(None, _check_path)
    image_size: int | None = _parameter(None, check_whole, low=8, high=4096)
    protocol: str | None = _parameter(None, check_choice, allowed=catalog.PROTOCOLS)
    backbone: str = _parameter("conv4", check_choice, allowed=catalog.BACKBONES)
    objective: str = _parameter("cross_entropy", check_choice, allowed=catalog.OBJECTIVES)
    n_source: int = _parameter(64, check_whole, low=2)
    n_novel: int | None = _parameter(None, check_whole, low=0)
    n_validation: int | None = _parameter(None, check_whole, low=0)
    samples_per_class: int | None = _parameter(None, check_whole, low=2)
    epochs: int | None = _parameter(None, check_whole, low=1, high=100_000)
    batch_size: int | None = _parameter(None, check_whole, low=2, high=65_536)
    train_way: int | None = _parameter(None, check_whole, low=2)
    train_shot: int | None = _parameter(None, check_whole, low=1, high=1_000)
    train_query: int | None = _parameter(None, check_whole, low=1, high=1_000)
    episodes_per_epoch: int | None = _parameter(None, check_whole, low=1, high=1_000_000)
    distance: str | None = None
    scale: float | None = _parameter(None, check_real, low=0, high=1e6, above_low=True)
    learn_scale: bool | None = _parameter(None, _check_switch)
    ridge: float | None = _parameter(None, check_real, low=0, high=1e6, above_low=True)
    learn_ridge: bool | None = _parameter(None, _check_switch)
    inner_steps: int | None = _parameter(None, check_whole, low=1, high=1_000)
    inner_rate: float | None = _parameter(None, check_real, low=0, high=1e6, above_low=True)
    second_order: bool | None = _parameter(None, _check_switch)
    tasks_per_step: int | None = _parameter(None, check_whole, low=1, high=10_000)
    temperature: float | None = _parameter(None, check_real, low=0, high=1e6, above_low=True)
    teacher_weight: float | None = _parameter(None, check_real, low=0, high=1)
    smoothing: float | None = _parameter(None, check_real, low=0, high=1, above_low=True, below_high=True)
    penalty: float | None = _parameter(None, check_real, low=0, high=1e6)
    directional: bool | None = _parameter(None, _check_switch)
    per_class: int | None = _parameter(None, check_whole, low=2, high=32_768)
    frame: str | None = _parameter(None, check_choice, allowed=catalog.FRAMES)
    spare_rows: int | None = _parameter(None, check_whole, low=0, high=65_536)
    optimizer: str | None = _parameter(None, check_choice, allowed=catalog.OPTIMIZERS)
    learning_rate: float | None = _parameter(None, check_real, low=0, high=100, above_low=True)
    momentum: float | None = _parameter(None, check_real, low=0, high=1, below_high=True)
    weight_decay: float | None = _parameter(None, check_real, low=0, high=1)
    schedule: str = _parameter("one_cycle", check_choice, allowed=catalog.SCHEDULES)
    augmentation: str = _parameter("affine", check_choice, allowed=catalog.AUGMENTATIONS)
    precision: str = _parameter("auto", check_choice, allowed=catalog.PRECISIONS)
    measurements: int = _parameter(7, check_whole, low=1, high=1_000)
    class_seed: int = _parameter(0, check_whole, low=0, high=2**31 - 1)
    seed: int = _parameter(0, check_whole, low=0, high=2**31 - 1)

    def __post_init__(self):
        try:
            _check(self)
        except (TypeError, ValueError) as error:
            raise ParameterError(str(error)) from None

    @property
    def key(self) -> str:
        """Name of this experiment: 16 hex digits of a hash over its parameters and a schema version."""
        # None says nothing: a parameter that comes to be later leaves the names of the runs before it as they are
        parameters = {
            name: value for name, value in self.to_dict().items() if name not in NOT_IN_KEY and value is not None
        }
        text = json.dumps({"schema": SCHEMA, **parameters}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict:
        """Parameters as plain data, as in config.json."""
        return dataclasses.asdict(self)

    @property
    def teacher(self) -> "Experiment | None":
        """The experiment whose run teaches this one ("distillation"); None: it has no teacher."""
        if self.objective != "distillation":
            return None
        return self.replace(objective="cross_entropy", temperature=None, teacher_weight=None)

    def replace(self, **changes) -> "Experiment":
        """Return the same experiment with some parameters changed, validated again.

        Parameters that stand at a default which depends on the others follow those.

        Example:
            >>> Experiment().replace(n_source=8).n_source
            8
            >>> Experiment().replace(optimizer="adam").learning_rate
            0.001
        """
        defaults = _dependent_defaults(self)
        kept = {name: value for name, value in self.to_dict().items() if defaults.get(name) != value}
        return type(self)(**{**kept, **changes})


def _check(e: Experiment) -> None:
    """Accept every parameter and replace None by the default it stands for; raises TypeError or ValueError."""

    def put(name: str, value: object) -> None:
        object.__setattr__(e, name, value)  # the class is frozen

    def accept(name: str) -> None:
        value, field = getattr(e, name), fields[name]
        if value is not None or field.default is not None:
            put(name, field.metadata["check"](name, value))

    fields = {field.name: field for field in dataclasses.fields(e)}
    accept("objective")
    if e.optimizer is None:  # defaults of others depend on it
        put("optimizer", _usual_optimizer(e.objective))
    accept("dataset")
    accept("optimizer")
    _refuse_others(e, "dataset", {name: entry.options for name, entry in catalog.DATASETS.items()})
    _refuse_others(e, "objective", {name: parameters for name, (_, parameters) in catalog.OBJECTIVES.items()})
    _refuse_others(e, "optimizer", catalog.OPTIMIZERS)
    for name in fields:
        if name != "distance":
            accept(name)
        elif e.distance is not None:
            check_choice(name, e.distance, catalog.DISTANCES[e.objective])
    novel_chosen = e.n_novel is not None
    for name, default in _dependent_defaults(e).items():
        if getattr(e, name) is None:
            put(name, default)
    if e.per_class is not None and e.batch_size < 2 * e.per_class:
        raise ValueError(
            f"batch_size={e.batch_size} with per_class={e.per_class}; "
            f"allowed: a batch_size of at least {2 * e.per_class}, for two classes"
        )
    _check_classes(e, novel_chosen)


def _refuse_others(e: Experiment, chooser: str, parameters: dict[str, tuple[str, ...]]) -> None:
    """Refuse parameters that belong to other choices of ``chooser`` than the one made."""
    chosen = getattr(e, chooser)
    for name, value in vars(e).items():
        belongs = [choice for choice, own in parameters.items() if name in own]
        if value is not None and belongs and chosen not in belongs:
            raise ValueError(
                f"{name}={value!r} does not belong to {chooser}={chosen!r}; allowed: None"
                + ("" if chooser == "objective" else f" (it belongs to {chooser} {', '.join(belongs)})")
            )


def _classes(e: Experiment) -> tuple[int | None, tuple[int, int] | None]:
    """Classes there are, and numbers of source and novel classes in published lists; None: not known here."""
    if e.dataset == "omniglot":
        return catalog.PROTOCOLS[e.protocol or "lake"]
    return catalog.DATASETS[e.dataset].classes, catalog.DATASETS[e.dataset].official


def _usual_optimizer(objective: str) -> str:
    return "adam" if "train_way" in catalog.OBJECTIVES[objective][1] else "sgd"


def _dependent_defaults(e: Experiment) -> dict[str, object]:
    """Defaults that depend on other parameters."""
    sgd = e.optimizer == "sgd"
    classes, lists = _classes(e)
    defaults = {
        "optimizer": _usual_optimizer(e.objective),
        "learning_rate": (0.05 if e.objective == "squared_error" else 0.2) if sgd else 1e-3,
        "momentum": 0.9 if sgd else None,
        "weight_decay": 5e-3 if sgd else 0.0,
    }
    if classes is not None:
        spare = lists[1] if lists else classes - e.n_source - (e.n_validation or 0)
        # too many source classes: the message about it names 100 novel ones
        defaults["n_novel"] = (
            0 if spare in (0, 1) else min(catalog.MOST_NOVEL, spare) if spare > 1 else catalog.MOST_NOVEL
        )
    own = {
        "batch_size": 64,
        "train_way": min(5 if e.objective in ("maml", "anil") else 20, e.n_source),
        "train_shot": 5,
        "train_query": 5,
        "episodes_per_epoch": 100,
        "distance": catalog.DISTANCES.get(e.objective, (None,))[0],
        "scale": 16.0 if e.objective == "fixed_etf" else 10.0,
        "learn_scale": True,
        "ridge": 50.0,
        "learn_ridge": True,
        "inner_steps": 20 if e.objective == "anil" else 1,
        "inner_rate": 0.01 if e.objective == "anil" else 0.4,
        "second_order": True,
        "tasks_per_step": 4,
        "temperature": 0.1 if e.objective == "supervised_contrastive" else 4.0,
        "teacher_weight": 0.5,
        "smoothing": 0.1,
        "penalty": 0.01 if e.objective == "center_loss" else 10.0 if e.directional is True else 1.0,
        "directional": False,
        "per_class": 4,
        "frame": catalog.FRAMES[0],
        "spare_rows": 0,
    }
    return defaults | {name: own[name] for name in catalog.OBJECTIVES[e.objective][1]}


def _check_classes(e: Experiment, novel_chosen: bool) -> None:
    """Refuse more classes than there are, as far as that is known before the data set is read."""
    n_source, n_novel, n_validation = e.n_source, e.n_novel or 0, e.n_validation or 0
    classes, lists = _classes(e)
    counts = f"n_source={n_source} and n_novel={n_novel}"
    if n_validation:
        counts += f" and n_validation={n_validation}"
    if n_novel == 1:
        raise ValueError("n_novel=1; allowed: 0, or at least 2")
    most = lists[0] if lists else (classes or 0) - n_validation
    hint = ""
    if n_source > most >= 2:
        hint = f" (n_source at most {most})"
    elif n_source <= most and novel_chosen:
        hint = " (n_novel=None: what is to spare)"
    if lists is not None and (n_source > lists[0] or n_novel > lists[1]):
        raise ValueError(
            f"{counts} ask for more classes than {e.dataset!r} has; "
            f"allowed by its published lists: {lists[0]} source and {lists[1]} novel classes{hint}"
        )
    if classes is not None and n_source + n_novel + n_validation > classes:
        raise ValueError(f"{counts} ask for more classes than {e.dataset!r} has; allowed together: {classes}{hint}")
    if (e.train_way or 0) > n_source:
        raise ValueError(f"train_way={e.train_way}; allowed: at most n_source={n_source}")


def _refuse_unknown(init):
    """Wrap the generated ``__init__``: an unknown name gets the nearest valid one, positions are refused."""
    names = [field.name for field in dataclasses.fields(Experiment)]

    def __init__(self, *values, **parameters):
        if values:
            raise ParameterError(f"{values[0]!r} came without a name; allowed: parameters by name, as in n_source=64")
        for name in parameters:
            if name not in names:
                raise ParameterError(f"unknown parameter {name!r}; {nearest(name, names)}")
        init(self, **parameters)

    __init__.__wrapped__ = init  # keeps the signature that help() and editors show
    return __init__


Experiment.__init__ = _refuse_unknown(Experiment.__init__)


def _assigned_literals(cell: str) -> tuple[dict[str, object], dict[str, str]]:
    """Values of plain ``name = literal`` assignments of a cell, Ellipsis for other ones; and annotations, by name."""
    values, annotations = {}, {}
    for node in _parsed(cell).body:
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(targets[0], ast.Name):
            try:
                values[targets[0].id] = ast.literal_eval(node.value)
            except (ValueError, TypeError):
                values[targets[0].id] = ...
            if isinstance(node, ast.AnnAssign):
                annotations[targets[0].id] = ast.unparse(node.annotation)
    return values, annotations


def _is_of_type(value: object, annotation: str) -> bool:
    """Whether a literal is what an annotation such as "float" or "list[int]" says; others than these say nothing."""
    kind, _, of_items = annotation.removesuffix("]").partition("[")
    if kind == "list" and isinstance(value, list):
        return not of_items or all(_is_of_type(item, of_items) for item in value)
    if kind == "float" and type(value) is int:
        return True
    return type(value).__name__ == kind or kind not in ("bool", "int", "float", "str", "list")


def _parsed(cell: str) -> ast.Module:
    """The cell as Python; one with a magic is empty."""
    try:
        return ast.parse(cell)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _names_used(cell: str) -> set[str]:
    """Names that a cell reads and does not set itself."""
    names = [node for node in ast.walk(_parsed(cell)) if isinstance(node, ast.Name)]
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    return read - {node.id for node in names if isinstance(node.ctx, ast.Store)}


def check_parameters(cells: list[str] | None = None) -> None:
    """Refuse parameters of this notebook: misspelled names, and values that are not of the type that their line says.

    papermill injects every name that it gets, a misspelled one too, which would be used silently, in a cell that begins
    with ``# Parameters``: the last such cell is compared with what the notebook itself has run so far. In JupyterLab,
    where cells are edited and run again and again, a parameter keeps its old value in the kernel when its line is
    renamed: names that this cell uses must be set by the parameters cell as it was run last.

    Args:
        cells: sources of the cells run so far, the present one last; by default those of the running notebook.

    Raises:
        ParameterError: a name is unknown or no longer set, or a value is of another type than its line or default says.

    Example:
        >>> check_parameters(["n_source = 64", "# Parameters\\nn_sorce = 8\\n"])
        Traceback (most recent call last):
        ncbook.experiment.ParameterError: unknown parameter 'n_sorce'; did you mean 'n_source'? allowed: n_source
    """
    namespace = {}
    if cells is None:
        try:
            namespace = get_ipython().user_ns  # defined by IPython in every notebook
            cells = namespace["In"]
        except NameError:
            cells = []
    injected, declared, types, parameter_cells, stale = {}, {}, {}, [], set()
    for cell in cells:
        assigned, annotations = _assigned_literals(cell)
        if cell.lstrip().startswith("# Parameters"):
            injected = assigned
            continue
        declared, types = declared | assigned, types | annotations
        if re.search(r"^\w+: [\w\[\]]+ = ", cell, re.MULTILINE):  # a parameters cell, or the same one edited
            injected, names = {}, assigned.keys()
            stale = (stale | {name for old in parameter_cells if old & names for name in old}) - names
            parameter_cells = [old for old in parameter_cells if not old & names] + [names]
        stale -= assigned.keys()  # set anywhere else, a name has the value that a reader sees
    used = _names_used(cells[-1]) if parameter_cells else set()
    unset = used - declared.keys() - namespace.keys() - vars(builtins).keys()
    known = stale.union(*parameter_cells)
    for name in sorted(stale & used | unset):
        for other in difflib.get_close_matches(name, known - stale - used, n=1):
            raise ParameterError(f"unknown parameter {other!r}; {nearest(other, sorted(known & used | {name}))}")
        if name in stale:
            raise ParameterError(f"{name} is not in the parameters cell; allowed: a line that sets it there")
    for name in injected.keys() - declared.keys():
        raise ParameterError(f"unknown parameter {name!r}; {nearest(name, list(declared))}")
    for name, value in (declared | injected).items():
        default = declared[name]
        wanted = types.get(name, type(default).__name__)
        words = f"allowed: {wanted}, as in the default {name}={default!r}" if name in injected else f"allowed: {wanted}"
        if name in injected and value is ...:  # the one kind of value that papermill writes as a call
            raise ParameterError(f"{name} is a number that is not finite; {words}")
        may_be_none = default is None and (value is None or name not in types)
        if name not in known | injected.keys() or may_be_none or ... in (value, default) or _is_of_type(value, wanted):
            continue
        items = sorted({type(item).__name__ for item in value}) if isinstance(value, list) else []
        kind = type(value).__name__ + (f" of {', '.join(items)}" if items else "")
        raise ParameterError(f"{name}={value!r} is of type {kind}; {words}")
