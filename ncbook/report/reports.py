"""The public functions of the report: check every parameter, read the images once, measure, and hold the tables."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor, nn

from ncbook._checks import check_choice, check_whole, named_arguments, one_sentence
from ncbook.collapse.jackknife import means_without_each
from ncbook.collapse.pairs import cdnv_matrix_of
from ncbook.datasets.folder import BROKEN
from ncbook.experiment import ParameterError
from ncbook.features import resolve_device
from ncbook.fewshot import HEADS, FewShotResult
from ncbook.fewshot.results import half_width

from . import measure, words
from .gather import Gathered, gather
from .images import open_stream
from .models import DEFAULT_SIZE, FeatureMap, load

_IN_MESSAGE = re.compile(r"classes (\d+) and (\d+)")  # of functions that know no names
_TABLES = ("summary", "pairs", "bounds", "growth", "classes", "layers")


@dataclass(frozen=True, repr=False)
class Report:
    """What a model's features of some images say of learning new classes from few of them.

    Attributes:
        summary: a row per number: metric, value, low, high (its 95 % interval, NaN where there is none), n and ``over``
            (what the interval is over: so many classes, or episodes), meaning (one sentence), verdict (a sentence that
            compares with the reference networks of this workbook, or nothing).
        pairs: a row per pair of classes, the hardest first: class_a, class_b, cdnv, directional_cdnv (mean of both
            directions), error (of the nearest class mean with max(shots) shots on images not drawn as shots; NaN of
            pairs beyond the first 100 classes drawn, but for the hardest).
        bounds: way, shot, bound, value, low, high, n, vacuous, measured: see `ncbook.report`.
        growth: along ("samples", "classes", "shots", "ways"), count, metric, value, low, high, n, over.
        classes: a row per class, the hardest first: class, n, cdnv (mean to all others), nearest, accuracy, taken_for.
        layers: layer, dim, cdnv, low, high, nc1, variability_collapse_index; empty unless layers were asked for.
        about: what was measured: model, weights, preprocessing, data, images, classes, dim, device, seed.
        notes: what was left out, and why.
    """

    summary: pd.DataFrame
    pairs: pd.DataFrame
    bounds: pd.DataFrame
    growth: pd.DataFrame
    classes: pd.DataFrame
    layers: pd.DataFrame
    about: dict
    notes: list[str]
    gathered: Gathered = field(compare=False)
    accuracies: list[FewShotResult] = field(compare=False)

    def __repr__(self) -> str:
        about = self.about
        return f"Report({about['model']} on {about['data']}: {about['images']:,} images of {about['classes']} classes)"

    def value(self, metric: str) -> float:
        """The value of one metric of the summary."""
        check_choice("metric", metric, list(self.summary["metric"]))
        return float(self.summary.set_index("metric")["value"][metric])

    def to_html(self, path: str | os.PathLike) -> Path:
        """Write one self-contained page: no network, no other file; returns its path."""
        from .page import render

        return _write(_target(path), render(self))

    def to_csv(self, directory: str | os.PathLike) -> list[Path]:
        """Write every table as ``report_<name>.csv`` into a folder, which is made if need be; returns their paths."""
        directory = Path(directory).expanduser()
        directory.mkdir(parents=True, exist_ok=True)
        tables = {name: getattr(self, name) for name in _TABLES if len(getattr(self, name))}
        return [_write(directory / f"report_{name}.csv", table.to_csv(index=False)) for name, table in tables.items()]


def _target(path: object) -> Path:
    """Accept the path of a file in a folder that is there."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path={path!r} is of type {type(path).__name__}; allowed: the path of a file")
    path = Path(path).expanduser()
    if path.is_dir():
        raise ParameterError(f"path={str(path)!r} is a folder; allowed: a file in it, such as {path / 'report.html'}")
    if not path.parent.is_dir():
        raise ParameterError(f"path={str(path)!r} is in a folder that is not there; allowed: {path.parent} made before")
    return path


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@named_arguments
def report(
    model: nn.Module | str | None,
    data,
    *,
    batch_size: int | None = None,
    shots: Sequence[int] = (1, 5),
    ways: Sequence[int] = (5,),
    heads: Sequence[str] = ("ncc", "ridge"),
    episodes: int = 10_000,
    device: str | torch.device = "auto",
    weights: str | os.PathLike = "auto",
    preprocess=None,
    image_size: int | None = None,
    head: nn.Linear | Tensor | None = None,
    layers: Sequence[str] = (),
    per_class: int = 200,
    broken: str = "refuse",
    seed: int = 0,
) -> Report:
    """Measure how far a model's features of some images have collapsed, and what that means for few shots.

    The images are read once, batch by batch; memory does not grow with their number. CDNV, NC1 to NC3, VCI, LogME,
    ranks and class separation are of all of them. Directional CDNV, NC4, few-shot accuracies, errors of pairs and
    directional bounds are measured on a random sample of ``per_class`` images of each class (of all, where classes are
    smaller; of fewer, but 25, where more would take half a gigabyte). The same images give the same report in any
    order, and in any number of processes that ``torch.distributed`` has been set up for, each with its part of the
    batches.

    Bounds are on the error of the nearest class mean with shots and queries drawn from the sample, taken as the
    population: "cdnv" is `theory.cdnv_bound`, "quadratic" `theory.quadratic_bound`, "directional"
    `theory.directional_bound`. Of two classes averages over pairs, of more the union bound.

    Args:
        model: images [B, C, H, W] -> features [B, D], or a name of torchvision or timm; None: ``data`` are features.
        data: a folder or zip of class folders, a name of a data set, an `ImageClasses`, tensors (images, labels) or
            (features, labels), or an iterable of such batches, such as a `DataLoader`. Images are uint8, gray or in
            colors as the model's first convolution takes them, or floats that go to the model as they are.
        batch_size: images per forward pass, of data that does not come in batches; None: 64 on a CPU, else 256.
        shots: labeled images per class of the few-shot accuracies.
        ways: classes per episode.
        heads: classifiers on top of features: "ncc", "ridge", "logistic", "cosine".
        episodes: of each accuracy.
        device: "auto", "cpu", "cuda", …
        weights: of a name: "auto" (pretrained ones if they are on this machine, else random), "pretrained" (downloaded
            if need be), "random", or a file. The report says which.
        preprocess: uint8 [B, C, H, W] -> network input; None: the model's own, of a module that has none levels / 255.
        image_size: that image files are scaled and cropped to; None: what the model takes, else 84.
        head: the classifier trained on these classes, `nn.Linear` or its weight [C, D]: adds NC3 and NC4.
        layers: names of submodules to measure, too; outputs of convolutions and tokens are averaged over places.
        per_class: images of each class that are kept, at least 2.
        broken: "refuse" or "skip" files that are no readable image; they are named and counted.
        seed: of episodes and samples.

    Raises:
        ParameterError: anything that cannot be used, in one message; before the long work wherever it can be known.
        FileNotFoundError: a path that is not there.
        TypeError: an unknown argument.

    Example:
        Class means 1, 11, 21 and 31, variances 1, 1, 1 and 4: the last two are nearest to each other, (1 + 4) / 200.

        >>> features = torch.tensor([[0.0], [2.0], [10.0], [12.0], [20.0], [22.0], [29.0], [33.0]])
        >>> found = report(None, (features, torch.arange(4).repeat_interleave(2)), shots=(1,), ways=(2,), episodes=100)
        >>> found.pairs.loc[0, ["class_a", "class_b"]].tolist(), float(found.pairs["cdnv"][0].round(6))
        (['2', '3'], 0.025)
    """
    shared = dict(shots=shots, ways=ways, heads=heads, episodes=episodes, per_class=per_class, broken=broken, seed=seed)
    own = dict(batch_size=batch_size, image_size=image_size, preprocess=preprocess, device=device, layers=tuple(layers))
    options = _checked(**shared, **own)
    return _report(_loaded(model, weights, options), data, options, head)


def _checked(**given) -> SimpleNamespace:
    """The parameters of a report, in the form that is worked with, but for those that each model has of its own."""
    options = SimpleNamespace(**given)
    try:
        options.device = resolve_device(options.device)
        for name, low in (("shots", 1), ("ways", 2)):
            values = given[name]
            if not isinstance(values, Sequence) or isinstance(values, str) or not values:
                raise ValueError(f"{name}={values!r}; allowed: a sequence such as (1, 5)")
            setattr(options, name, tuple(dict.fromkeys(check_whole(name, value, low) for value in values)))
        if isinstance(options.heads, str) or not options.heads:
            raise ValueError(f"heads={options.heads!r}; allowed: a sequence of {', '.join(HEADS)}")
        options.heads = tuple(check_choice("heads", head, HEADS) for head in options.heads)
        for name, low in (("episodes", 2), ("per_class", 2), ("seed", 0), ("batch_size", 1), ("image_size", 8)):
            if given[name] is not None or name not in ("batch_size", "image_size"):
                check_whole(name, given[name], low)
        check_choice("broken", options.broken, BROKEN)
        if options.preprocess is not None and not callable(options.preprocess):
            came = type(options.preprocess).__name__
            raise TypeError(f"preprocess is of type {came}; allowed: a function of uint8 images")
    except (TypeError, ValueError) as error:
        raise ParameterError(str(error)) from None
    options.batch_size = options.batch_size or (64 if options.device.type == "cpu" else 256)
    return options


def _loaded(model, weights, options: SimpleNamespace) -> FeatureMap | None:
    """What is to be measured; None: features as they come."""
    return None if model is None else load(model, weights, options.image_size, options.preprocess)


def _head(head, dim: int, n_classes: int) -> tuple[Tensor | None, Tensor | None]:
    """(Weight [C, D], bias [C] or None) of a classifier."""
    if head is None:
        return None, None
    weight, bias = (head.weight, head.bias) if isinstance(head, nn.Linear) else (head, None)
    if not isinstance(weight, Tensor) or weight.shape != (n_classes, dim):
        came = list(weight.shape) if isinstance(weight, Tensor) else type(head).__name__
        raise ParameterError(f"head is {came}; allowed: nn.Linear, or a weight [C, D] = [{n_classes}, {dim}]")
    return weight.detach().cpu().double(), None if bias is None else bias.detach().cpu()


def _report(model: FeatureMap | None, data, options: SimpleNamespace, head, several: bool = False) -> Report:
    size, channels = (model.image_size, model.channels) if model is not None else (DEFAULT_SIZE, 3)
    reading = dict(batch_size=options.batch_size, image_size=size, channels=channels, broken=options.broken)
    with one_sentence():
        stream = open_stream(data, several=several, **reading)
    name = model.name if model is not None else "features as they came"
    passing = dict(per_class=options.per_class, seed=options.seed, layers=options.layers)
    found = gather(stream, model, device=options.device, label=f"{name} on {stream.name}", **passing)
    n_classes, dim = found.moments.means.shape
    weight, bias = _head(head, dim, n_classes)
    names = found.class_names
    try:
        return _measured(found, model, name, stream.name, options, weight, bias)
    except (ValueError, ArithmeticError) as error:
        said = _IN_MESSAGE.sub(lambda found: _named_pair(found, names), str(error))
        raise ParameterError(f"{name} on {stream.name}: {said}") from error


def _named_pair(found: re.Match, names: list[str]) -> str:
    return "classes " + " and ".join(repr(names[int(k)]) for k in found.groups())


def _measured(found: Gathered, model, name: str, data: str, options: SimpleNamespace, weight, bias) -> Report:
    n_classes, dim = found.moments.means.shape
    notes: list[str] = []
    if not found.complete:
        kept = int(found.index.bincount().max())
        notes.append(f"Of each class {kept} images at most, drawn at random, serve what is measured image by image.")
    if found.units is None:
        notes.append("Class separation was left out: some feature vectors are zero and have no direction.")
    if n_classes < 4:
        notes.append("There are no intervals over classes: they need at least 4.")
    drawing = dict(shots=options.shots, seed=options.seed)
    protocol = dict(ways=options.ways, heads=options.heads, episodes=options.episodes)
    accuracies = measure.few_shot(found, **protocol, **drawing, notes=notes)
    directional = measure.directional_matrix(found)
    rows = measure.metrics(found, directional, weight, bias) + [measure.accuracy_row(r) for r in accuracies]
    summary = pd.DataFrame(rows)
    summary["meaning"] = [words.meaning(m).sentence for m in summary["metric"]]
    compared = summary[["metric", "value", "low", "high"]].itertuples(index=False)
    summary["verdict"] = [words.verdict(*row)[1] for row in compared]
    smallest = int(found.index.bincount().min())
    shot = max((s for s in options.shots if s < smallest), default=1)
    about = {
        "model": name,
        "weights": model.weights if model is not None else "–",
        "preprocessing": model.preprocessing if model is not None else "–",
        "data": data,
        "images": int(found.moments.counts.sum()),
        "classes": n_classes,
        "dim": dim,
        "device": str(options.device),
        "episodes": options.episodes,
        "seed": options.seed,
        "pair_shot": shot,
    }
    return Report(
        summary=summary,
        pairs=measure.pairs(found, directional, shot=shot, seed=options.seed),
        bounds=measure.bounds(found, ways=options.ways, accuracies=accuracies, **drawing),
        growth=measure.growth(found, episodes=options.episodes, seed=options.seed),
        classes=measure.classes(found, accuracies),
        layers=measure.layers(found),
        about=about,
        notes=notes,
        gathered=found,
        accuracies=accuracies,
    )


@named_arguments
def compare_models(
    models: Mapping[str, nn.Module | str],
    data,
    *,
    batch_size: int | None = None,
    shots: Sequence[int] = (1, 5),
    ways: Sequence[int] = (5,),
    heads: Sequence[str] = ("ncc",),
    episodes: int = 10_000,
    device: str | torch.device = "auto",
    weights: str | os.PathLike | Mapping[str, str] = "auto",
    preprocess=None,
    image_size: int | None = None,
    per_class: int = 200,
    broken: str = "refuse",
    seed: int = 0,
) -> pd.DataFrame:
    """Several models on the same images and the same episodes: one table with paired intervals.

    Each model takes the images through its own preprocessing. The samples of each class, and so the episodes, are
    chosen by the images alone: row by row and episode by episode the models are asked the same. ``plots.models`` draws
    the table: CDNV against few-shot error.

    Args:
        models: name -> module, or name of torchvision or timm.
        data: as `ncbook.report`; a stream must be one that can be read once per model.
        batch_size, shots, ways, heads, episodes, device, preprocess, image_size, per_class, broken, seed: as there.
        weights: as there, for all models that are names; or name -> weights.

    Returns:
        One row per model, in their order: model, weights, dim, then every metric of `Report.summary` with ``…_low`` and
        ``…_high``; and for the CDNV and each accuracy ``…_difference`` from the first model with its paired 95 %
        interval ``…_difference_low`` and ``…_difference_high`` (0 and NaN in the first row): of the CDNV by the
        jackknife over classes of the differences of each pair, of accuracies by the bootstrap of classes of the
        differences of each episode (over episodes where there are fewer than twice as many classes as ways).

    Raises:
        ParameterError, FileNotFoundError, TypeError: as `ncbook.report`; no models; a stream that can be read once.

    Example:
        >>> images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.manual_seed(0))
        >>> two = {"pixels": nn.Flatten(), "halves": nn.Sequential(nn.AvgPool2d(2), nn.Flatten())}
        >>> table = compare_models(two, (images, torch.arange(4).repeat(10)), ways=(2,), shots=(1,), episodes=50)
        >>> table[["model", "dim"]].values.tolist()
        [['pixels', 64], ['halves', 16]]
    """
    if not isinstance(models, Mapping) or not models:
        raise ParameterError(f"models is of type {type(models).__name__}; allowed: a dict of name -> model, not empty")
    shared = dict(shots=shots, ways=ways, heads=heads, episodes=episodes, per_class=per_class, broken=broken, seed=seed)
    own = dict(batch_size=batch_size, image_size=image_size, preprocess=preprocess, device=device, layers=())
    options = _checked(**shared, **own)
    prepared = {}  # all of them before the long work
    for name, model in models.items():
        named = weights.get(name, "auto") if isinstance(weights, Mapping) else weights
        prepared[str(name)] = _loaded(model, "auto" if isinstance(model, nn.Module) else named, options)
    rows, first = [], None
    for called, model in prepared.items():
        found = _report(model, data, options, None, several=len(prepared) > 1)
        first = first or found
        row = {"model": called, "weights": found.about["weights"], "dim": found.about["dim"]}
        for name, value, low, high in found.summary[["metric", "value", "low", "high"]].itertuples(index=False):
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        rows.append(row | _differences(found, first))
    return pd.DataFrame(rows)


def _differences(report: Report, first: Report) -> dict:
    """Paired differences from the first model."""
    ours, theirs = (cdnv_matrix_of(r.gathered.moments) for r in (report, first))
    if ours.shape != theirs.shape or report.about["images"] != first.about["images"]:
        raise ParameterError("data gave other images to each model; allowed: the same at every reading")
    value = report.value("cdnv") - first.value("cdnv")
    rows = [("cdnv", value, *measure.interval(value, means_without_each(ours - theirs)))]
    for mine, other in zip(report.accuracies, first.accuracies, strict=True):
        episodes = mine.per_episode - other.per_episode
        of_both = dict(accuracy=mine.accuracy - other.accuracy, per_episode=episodes, ci95=half_width(episodes))
        row = measure.accuracy_row(dataclasses.replace(mine, **of_both))
        rows.append((row["metric"], row["value"], row["low"], row["high"]))
    found = {}
    for metric, value, low, high in rows:
        low, high = (math.nan, math.nan) if report is first else (low, high)
        name = f"{metric}_difference"
        found |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return found
