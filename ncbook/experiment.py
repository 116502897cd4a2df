"""`Experiment`: every parameter of one run, refused when wrong before any work starts.

No torch, no I/O. Notebooks build one in their second cell; `training.train` takes it; its `key` names the run.
"""

import ast
import dataclasses
import difflib
import hashlib
import json
import math

from ncbook.datasets.facts import FACTS, NAMES

SCHEMA = 2  # raise it when the same parameters come to mean other numbers, or a run's files change

# Names as plain strings, so that a typo is refused without importing torch.
BACKBONES = (
    "conv4",
    "plain3",
    "plain5",
    "plain10",
    "plain14",
    "plain18",
    "plain20",
    "resnet12",
    "resnet18",
    "wrn_28_4",
)
OBJECTIVES = ("cross_entropy",)
SCHEDULES = ("one_cycle", "cosine", "step", "constant")
AUGMENTATIONS = ("affine", "crop_flip", "none")
PRECISIONS = ("auto", "float32", "bfloat16")


class ParameterError(ValueError):
    """A parameter that is not allowed; the message names it, what came and what is allowed.

    In a notebook it prints as that one message, without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def nearest(name: object, allowed) -> str:
    """Say what is allowed, the nearest valid name first.

    >>> nearest("conv5", ["conv4", "resnet12"])
    "did you mean 'conv4'? allowed: conv4, resnet12"
    """
    close = difflib.get_close_matches(str(name), allowed, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + "allowed: " + ", ".join(allowed)


def _whole(name: str, value: object, low: int, high: float = math.inf) -> int:
    allowed = f"a whole number of at least {low}" + (f" and at most {high}" if high < math.inf else "")
    if isinstance(value, bool) or not isinstance(value, int):
        raise ParameterError(f"{name}={value!r} is of type {type(value).__name__}; allowed: {allowed}")
    if not low <= value <= high:
        raise ParameterError(f"{name}={value!r}; allowed: {allowed}")
    return value


def _real(name: str, value: object, low: float, high: float, *, open_low: bool = False) -> float:
    allowed = f"a number {'above' if open_low else 'from'} {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        hint = ""
        if isinstance(value, str):
            try:
                hint = f" (YAML reads it as text: write {float(value):.1e})"
            except ValueError:
                hint = ""
        raise ParameterError(f"{name}={value!r} is of type {type(value).__name__}; allowed: {allowed}{hint}")
    if not (low <= value <= high) or (open_low and value == low):
        raise ParameterError(f"{name}={value!r}; allowed: {allowed}")
    return float(value)


def _one_of(name: str, value: object, allowed) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ParameterError(f"{name}={value!r} is unknown; {nearest(value, list(allowed))}")
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Every parameter of one run: which images, which network, how it is trained, when it is measured.

    Args:
        dataset: a name of `ncbook.datasets.facts.NAMES`.
        backbone: the feature map f.
        objective: what is minimised.
        n_source: source classes l the network is trained on.
        n_novel: novel classes, never seen in training, that the few-shot tasks are drawn from; None: there are none.
        epochs: passes over the source training samples. None: as many as make the data set's default number
            of optimisation steps (`ncbook.datasets.facts`), whatever `n_source` is.
        batch_size: largest number of images a step; an epoch is cut into equal batches.
        learning_rate: peak of the schedule.
        momentum: of SGD (Nesterov).
        weight_decay: L2 penalty on all weights.
        schedule: "one_cycle" (linear up for 30 % of the steps, cosine down to 0), "cosine" or "constant".
        augmentation: "affine" (random rotation, scale and shift, for handwriting), "crop_flip" (random shift and mirror
            image, for photographs) or "none"; training batches only.
        precision: "auto" trains in bfloat16 where the hardware computes in it, else in float32. Measuring is
            always in float32.
        measurements: number of moments, epoch 0 and the last among them, at which the run is measured and
            its weights are kept.
        class_seed: chooses which classes are source, validation and novel.
        seed: governs initial weights, order of samples and augmentation.

    Raises:
        ParameterError: (a ValueError) names the parameter, what came and what is allowed.

    >>> Experiment(n_source=32).n_source
    32
    >>> Experiment(seed=-1)
    Traceback (most recent call last):
    ncbook.experiment.ParameterError: seed=-1; allowed: a whole number of at least 0 and at most 2147483647
    """

    dataset: str = "strokes"
    backbone: str = "conv4"
    objective: str = "cross_entropy"
    n_source: int = 64
    n_novel: int | None = 100
    epochs: int | None = None
    batch_size: int = 64
    learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-3
    schedule: str = "one_cycle"
    augmentation: str = "affine"
    precision: str = "auto"
    measurements: int = 7
    class_seed: int = 0
    seed: int = 0

    def __post_init__(self):
        def settle(name, value):  # an int given for a float becomes that float, so that keys agree
            object.__setattr__(self, name, value)

        _one_of("dataset", self.dataset, NAMES)
        _one_of("backbone", self.backbone, BACKBONES)
        _one_of("objective", self.objective, OBJECTIVES)
        _whole("n_source", self.n_source, 2)
        if self.n_novel is not None:
            _whole("n_novel", self.n_novel, 2)
        lists = FACTS[self.dataset].official
        if lists is not None and (self.n_source > lists[0] or (self.n_novel or 0) > lists[1]):
            raise ParameterError(
                f"n_source={self.n_source} and n_novel={self.n_novel} ask for more classes than {self.dataset!r} has: "
                f"allowed by its published lists: {lists[0]} source and {lists[1]} novel classes"
            )
        if self.n_source + (self.n_novel or 0) > FACTS[self.dataset].classes:
            raise ParameterError(
                f"n_source={self.n_source} and n_novel={self.n_novel} ask for more classes than "
                f"{self.dataset!r} has: allowed together: {FACTS[self.dataset].classes}"
            )
        if self.epochs is not None:
            _whole("epochs", self.epochs, 1, 100_000)
        _whole("batch_size", self.batch_size, 2, 65_536)
        settle("learning_rate", _real("learning_rate", self.learning_rate, 0, 100, open_low=True))
        settle("momentum", _real("momentum", self.momentum, 0, 0.9999))
        settle("weight_decay", _real("weight_decay", self.weight_decay, 0, 1))
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("augmentation", self.augmentation, AUGMENTATIONS)
        _one_of("precision", self.precision, PRECISIONS)
        _whole("measurements", self.measurements, 2, 1000)
        _whole("class_seed", self.class_seed, 0, 2**31 - 1)
        _whole("seed", self.seed, 0, 2**31 - 1)

    @property
    def key(self) -> str:
        """Name of this experiment: 16 hex digits of a hash over its parameters and a schema version."""
        content = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def replace(self, **changes) -> "Experiment":
        """Return the same experiment with some parameters changed, validated again.

        >>> Experiment().replace(n_source=8).n_source
        8
        """
        return type(self)(**{**dataclasses.asdict(self), **changes})


def _refuse_unknown(init):
    """Wrap the generated ``__init__``: an unknown name gets the nearest valid one, positions are refused."""
    names = [field.name for field in dataclasses.fields(Experiment)]

    def __init__(self, **parameters):
        for name in parameters:
            if name not in names:
                raise ParameterError(f"unknown parameter {name!r}; {nearest(name, names)}")
        init(self, **parameters)

    __init__.__wrapped__ = init  # keeps the signature that help() and editors show
    return __init__


Experiment.__init__ = _refuse_unknown(Experiment.__init__)


def _assigned_literals(cell: str) -> dict[str, object]:
    """Plain ``name = literal`` assignments of a notebook cell; names of other assignments map to Ellipsis."""
    found: dict[str, object] = {}
    try:
        body = ast.parse(cell).body
    except SyntaxError:  # a cell with a magic
        return found
    for node in body:
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(targets[0], ast.Name):
            try:
                found[targets[0].id] = ast.literal_eval(node.value)
            except (ValueError, TypeError):
                found[targets[0].id] = ...
    return found


def check_parameters(cells: list[str] | None = None) -> None:
    """Refuse a parameter that was injected into this notebook under a name the notebook does not declare.

    papermill injects any name it is given, a misspelt one too, in a cell that begins with ``# Parameters``.
    This compares those cells with the ones the notebook itself has run so far (in JupyterLab there is no
    injected cell, and cells may be run again and again).

    Args:
        cells: sources of the cells run so far; by default those of the running notebook.

    Raises:
        ParameterError: an injected name is unknown, or its value is of another type than the declared default.

    >>> check_parameters(["n_source = 64", "# Parameters\\nn_sorce = 8\\n"])
    Traceback (most recent call last):
    ncbook.experiment.ParameterError: unknown parameter 'n_sorce'; did you mean 'n_source'? allowed: n_source
    """
    if cells is None:
        try:
            cells = get_ipython().user_ns["In"]  # defined by IPython in every notebook
        except NameError:
            cells = []
    injected, declared = {}, {}
    for cell in cells:
        (injected if cell.lstrip().startswith("# Parameters") else declared).update(_assigned_literals(cell))
    for name, value in injected.items():
        if name not in declared:
            raise ParameterError(f"unknown parameter {name!r}; {nearest(name, list(declared))}")
        default = declared[name]
        same = type(value) is type(default) or (type(value) is int and type(default) is float)
        if default is not None and default is not ... and not same:
            raise ParameterError(
                f"{name}={value!r} is of type {type(value).__name__}; "
                f"allowed: {type(default).__name__}, as in the default {name}={default!r}"
            )
