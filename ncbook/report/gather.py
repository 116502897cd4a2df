"""The one pass over the images: what is kept of them does not grow with their number.

Kept are the sums of `collapse.CollapseMetrics`, sums of feature vectors at length 1, and of each class a reservoir: a
random sample of bounded size, whose features few-shot accuracies and errors of pairs are measured on, and a few small
pictures. Called by `reports`; looks at images and features batch by batch, and at other processes once, at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, distributed, nn

from ncbook._checks import describe_not_finite
from ncbook.collapse.moments import Moments, projected
from ncbook.collapse.transferability import unit_vectors
from ncbook.datasets._images import place_in_class
from ncbook.experiment import ParameterError
from ncbook.features import reproducible
from ncbook.progress import Progress

from .images import Stream, check_counts, check_labels, part_of_process
from .models import FeatureMap

_RESERVOIR_BYTES = 2**29  # of all classes together
_LEAST = 25  # samples per class that are kept whatever they need
_SHOWN, _SHOWN_PIXELS = 4, 56  # pictures per class, and their height and width
_MIX = -7046029254386353131  # an odd number of 64 bits without pattern: 2^64 divided by the golden ratio


@dataclass
class Gathered:
    """What is known of the images after the pass, on the CPU.

    Attributes:
        class_names: of classes 0 … C - 1.
        moments: of all samples.
        units: means and variances of the features at length 1; None if some feature vector is zero.
        features: float [n, D], of the reservoirs, sorted by class and then at random.
        index: int64 [n], their classes.
        complete: whether the reservoirs hold all samples.
        pictures: uint8 [m, C, 56, 56] or None, and their classes [m].
        layers: moments of each layer that was asked for, averaged over places.
    """

    class_names: list[str]
    moments: Moments
    units: Moments | None
    features: Tensor
    index: Tensor
    complete: bool
    pictures: Tensor | None
    picture_index: Tensor
    layers: dict[str, Moments] = field(default_factory=dict)


class Reservoir:
    """A random sample of at most ``size`` rows of each class, the same whatever the order, batches and processes.

    A row's key is a hash of its pixels (of a file: of its number) and the seed; kept are the rows with the smallest
    keys of each class. So every set of rows is kept with the same probability over seeds, and reservoirs of two parts
    merge into that of the whole.
    """

    def __init__(self, size: int):
        self.size, self.seen = size, 0
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self.limits = torch.empty(0, dtype=torch.int64)  # [K] keys above which a class needs none

    def wanted(self, index: Tensor, keys: Tensor) -> Tensor:
        """Which rows may be kept: bool [B]."""
        more = int(index.max()) + 1 - len(self.limits)
        if more > 0:
            self.limits = torch.cat([self.limits, torch.full((more,), torch.iinfo(torch.int64).max)])
        return keys <= self.limits[index]

    def add(self, index: Tensor, keys: Tensor, rows: Tensor) -> None:
        """Add rows [b, ...] that are wanted."""
        self.parts.append((index, keys, rows))
        self.seen += len(index)
        if self.seen > max(4096, 1.25 * self.size * len(self.limits)):
            self.prune()

    def prune(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keep what is to be kept, sorted by class, then by key."""
        index, keys, rows = (torch.cat(part) for part in zip(*self.parts, strict=True))
        row_bytes = rows[0].numel() * rows.element_size() if len(rows) else 1
        self.size = min(self.size, max(_LEAST, _RESERVOIR_BYTES // (row_bytes * len(self.limits))))
        order = keys.argsort(stable=True)
        order = order[index[order].argsort(stable=True)]
        order = order[place_in_class(index[order]) < self.size]
        index, keys, rows = index[order], keys[order], rows[order]
        counts = index.bincount(minlength=len(self.limits))
        full = counts == self.size
        self.limits[full] = keys[(counts.cumsum(0) - 1)[full]]
        self.parts, self.seen = [(index, keys, rows)], len(index)
        return index, keys, rows


def keys_of(rows: Tensor, seed: int) -> Tensor:
    """A hash of each row's bytes and the seed: int64 [B]."""
    data = rows.detach().cpu().contiguous().flatten(1).view(torch.uint8)
    data = nn.functional.pad(data, (0, -data.shape[1] % 8)).view(torch.int64)
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randint(-(2**63), 2**63 - 1, (data.shape[1],), generator=generator) | 1
    keys = (data * factors).sum(1)
    for shift in (32, 29, 31):
        keys = (keys ^ (keys >> shift)) * _MIX
    return keys


class _Sums:
    """What is summed of the features, for labels that may be new at any time."""

    def __init__(self, dim: int, n_classes: int, device: torch.device):
        from ncbook import collapse

        self.metrics = collapse.CollapseMetrics(max(2, n_classes), dim).to(device)
        self.units = torch.zeros(max(2, n_classes), dim, dtype=torch.float64, device=device)
        self.zeros = 0  # feature vectors without a direction

    def add(self, features: Tensor, index: Tensor) -> None:
        known, needed = len(self.units), int(index.max()) + 1
        if needed > known:
            self.rename(torch.arange(known, device=features.device), max(needed, 2 * known))
        self.metrics.update(features, index)
        zero = (features == 0).all(1)
        self.zeros += int(zero.sum())
        if not self.zeros:
            self.units.index_add_(0, index.to(features.device), unit_vectors(features).double())

    def rename(self, names: Tensor, n_classes: int) -> None:
        """Class k is called names[k] from now on."""
        self.metrics = self.metrics.renamed(names, n_classes)
        units = self.units.new_zeros(n_classes, self.units.shape[1])
        units[names] = self.units[: len(names)]
        self.units = units


@torch.no_grad()
def gather(
    stream: Stream,
    model: FeatureMap | None,
    *,
    device: torch.device,
    per_class: int,
    seed: int,
    layers: tuple[str, ...] = (),
    label: str = "features",
) -> Gathered:
    """Read the stream once.

    Args:
        stream: the images, or features where ``model`` is None.
        model: the feature map.
        device: where it runs.
        per_class: samples of each class in the reservoir, less where classes and dimensions are very many.
        seed: of the reservoirs.
        layers: names of submodules to measure, too.
        label: of the progress.

    Raises:
        ParameterError: images, labels or features that cannot be used; at the first batch that has them.
    """
    names: dict[int, int] = {}  # label -> class, in the order of their coming
    n_known = len(stream.counts) if stream.counts is not None else 0
    sums: dict[str, _Sums] = {}
    home = torch.device("cpu") if device.type == "mps" else device  # which has no float64
    kept, shown, n = Reservoir(per_class), Reservoir(_SHOWN), 0
    progress = Progress(stream.n, label) if stream.n else contextlib.nullcontext()
    with _evaluating(model, device, layers) as run, reproducible(device), progress as bar:
        for batch in stream.batches():
            images, labels = _checked(batch[:2] if stream.numbered else batch, model)
            if not len(labels):
                continue
            found = run(images.to(device))
            features = found[""] = _usable(found[""], images, model, first=not n)
            for value in labels.unique().tolist():
                names.setdefault(value, len(names))
            index = torch.tensor([names[value] for value in labels.tolist()])
            for name, values in found.items():
                if name not in sums:
                    sums[name] = _Sums(values.shape[1], n_known, home)
                sums[name].add(values.to(home, torch.promote_types(values.dtype, torch.float32)), index)
            keys = keys_of(batch[2][:, None] if stream.numbered else images, seed)
            wanted = kept.wanted(index, keys)
            kept.add(index[wanted], keys[wanted], features[wanted.to(features.device)].cpu())
            if images.ndim == 4 and (wanted := shown.wanted(index, keys)).any():
                shown.add(index[wanted], keys[wanted], _pictures(images[wanted]))
            n += len(labels)
            if bar is not None:
                bar.advance(1)
    return _merged(names, sums, kept, shown, stream, home)


@contextlib.contextmanager
def _evaluating(model: FeatureMap | None, device: torch.device, layers: tuple[str, ...]) -> Iterator:
    """A function from a batch to {layer: values [B, D]}; "" are the features. The module comes back as it was."""
    if model is None:
        yield lambda features: {"": features}
        return
    outputs: dict[str, Tensor] = {}

    def store(name):  # averaged over places: early layers have millions of units
        return lambda _module, _input, output: outputs.__setitem__(name, _averaged(output))

    parts = dict(model.net.named_modules())
    for name in layers:
        if name not in parts or not name:
            known = ", ".join(name for name in list(parts)[1:9])
            raise ParameterError(f"layers holds {name!r}; allowed: names of submodules, such as {known}")
    before = next((p.device for p in model.net.parameters()), torch.device("cpu"))
    training = {part: part.training for part in model.net.modules()}
    hooks = [parts[name].register_forward_hook(store(name)) for name in layers]
    model.net.eval().to(device)

    def run(images: Tensor) -> dict[str, Tensor]:
        outputs.clear()
        try:
            features = model(images)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            said = " ".join(str(error).split())[:200]
            shape = list(images.shape)
            raise ParameterError(f"model fails on images {images.dtype} {shape}: {said}") from error
        return {**{name: outputs[name] for name in layers if name in outputs}, "": features}

    try:
        yield run
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in training.items():
            part.training = mode
        model.net.to(before)


def _averaged(output: Tensor) -> Tensor:
    if output.ndim == 4:
        return output.mean((2, 3))  # [B, C, H, W]
    return output.mean(1) if output.ndim == 3 else output.clone()  # [B, tokens, D]


def _checked(batch, model: FeatureMap | None) -> tuple[Tensor, Tensor]:
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise ParameterError(f"data gave a batch of type {type(batch).__name__}; allowed: (images, labels)")
    rows, labels = batch[0], check_labels(batch[1])
    rows = torch.as_tensor(rows)
    dims, shape = (4, "images [B, C, H, W]") if model is not None else (2, "features [B, D]")
    numbers = rows.is_floating_point() or (model is not None and rows.dtype == torch.uint8)
    if rows.ndim != dims or not numbers:
        kind = "uint8, or float as the model takes them" if model is not None else "float; images need a model"
        raise ParameterError(f"data gave {rows.dtype} {list(rows.shape)}; allowed: {shape}, {kind}")
    if len(rows) != len(labels):
        raise ParameterError(f"data gave {len(rows)} rows with {len(labels)} labels; allowed: one label per row")
    return rows, labels


def _usable(features, images: Tensor, model: FeatureMap | None, first: bool) -> Tensor:
    who = "model gives" if model is not None else "data holds"
    if not isinstance(features, Tensor):
        raise ParameterError(f"{who} a {type(features).__name__}; allowed: a tensor of features [B, D]")
    if features.ndim == 4 and features.shape[2:] == (1, 1):
        features = features.flatten(1)
    if features.ndim != 2 or len(features) != len(images) or not features.is_floating_point():
        came, hint = f"{features.dtype} {list(features.shape)}", ""
        if features.ndim > 2:
            hint = " (torch.nn.Sequential(model, torch.nn.Flatten()), or a mean over places)"
        raise ParameterError(f"{who} {came} of {len(images)} images; allowed: float features [B, D]{hint}")
    if not features.isfinite().all():
        raise ParameterError(f"{who} what cannot be used: {describe_not_finite(features)}")
    varied = len(images) > 1 and bool((images != images[0]).any())
    if first and varied and model is not None and bool((features == features[0]).all()):
        raise ParameterError(f"{who} the same features for {len(images)} images; allowed: features that vary")
    return features


def _pictures(images: Tensor) -> Tensor:
    """Small uint8 pictures; floats are stretched to gray levels."""
    pictures = images.float().cpu()
    if images.dtype != torch.uint8:
        low, high = pictures.flatten(1).aminmax(dim=1)
        pictures = 255 * (pictures - low.view(-1, 1, 1, 1)) / (high - low).clamp_min(1e-12).view(-1, 1, 1, 1)
    pictures = nn.functional.interpolate(pictures, (_SHOWN_PIXELS,) * 2, mode="bilinear", antialias=True)
    return pictures.round().clamp(0, 255).to(torch.uint8)


def _merged(
    names: dict[int, int],
    sums: dict[str, _Sums],
    kept: Reservoir,
    shown: Reservoir,
    stream: Stream,
    device: torch.device,
) -> Gathered:
    """Everything of all processes, with classes in the order of their labels."""
    _, count = part_of_process()
    mine = {
        "counts": dict(zip(names, sums[""].metrics.counts.long().tolist(), strict=False)) if sums else {},
        "dims": {name: part.metrics.dim for name, part in sums.items()},
        "units": (sums[""].units.cpu(), sums[""].zeros) if sums else (None, 0),
        "kept": kept.prune() if kept.parts else None,
        "shown": shown.prune() if shown.parts else None,
        "size": kept.size,
    }
    every = [mine]
    if count > 1:
        every = [None] * count
        distributed.all_gather_object(every, mine)
    labels = sorted({label for part in every for label in part["counts"]})
    dims = next((part["dims"] for part in every if part["dims"]), None)
    if dims is None:
        raise ParameterError("data gave no batch; allowed: at least two classes of two images")
    class_names = [stream.class_names[k] if stream.class_names else str(k) for k in labels]
    check_counts(torch.tensor([sum(part["counts"].get(k, 0) for part in every) for k in labels]), class_names)
    place = {label: k for k, label in enumerate(labels)}
    moments = {}
    for name, dim in dims.items():
        part = sums.get(name) or _Sums(dim, 2, device)  # of a process that had no batch
        part.rename(torch.tensor([place[label] for label in names], dtype=torch.int64), len(labels))
        moments[name] = _on_cpu(part.metrics.moments())
    reservoirs = {}
    for which, size in (("kept", min(part["size"] for part in every)), ("shown", _SHOWN)):
        both = Reservoir(size)
        for part in every:
            if part[which] is not None:
                own, keys, rows = part[which]
                renamed = torch.tensor([place[label] for label in part["counts"]])[own]
                both.wanted(renamed, keys)
                both.add(renamed, keys, rows)
        reservoirs[which] = both.prune() if both.parts else None
    index, _, features = reservoirs["kept"]
    pictures = reservoirs["shown"]
    return Gathered(
        class_names=class_names,
        moments=moments[""],
        units=None if any(part["units"][1] for part in every) else _unit_moments(every, place, moments[""]),
        features=features.float() if features.dtype != torch.float64 else features,
        index=index,
        complete=len(index) == int(moments[""].counts.sum()),
        pictures=None if pictures is None else pictures[2],
        picture_index=torch.empty(0, dtype=torch.int64) if pictures is None else pictures[0],
        layers={name: value for name, value in moments.items() if name},
    )


def _unit_moments(every: list[dict], place: dict[int, int], of: Moments) -> Moments:
    """Of vectors at length 1 a class's variance is 1 - |mean|²."""
    total = torch.zeros_like(of.means)
    for part in every:
        if own := [place[label] for label in part["counts"]]:
            total[own] += part["units"][0][: len(own)].to(total)
    means = total / of.counts[:, None]
    return Moments(of.classes, of.counts, means, (1 - means.square().sum(1)).clamp_min(0), of.within)


def _on_cpu(of: Moments) -> Moments:
    tensors = {name: getattr(of, name).cpu() for name in ("classes", "counts", "means", "variances")}
    return replace(of, within=projected(of.within(None).cpu()), **tensors)
