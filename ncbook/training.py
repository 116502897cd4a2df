"""The one training loop: device, precision, augmentation on the device, schedule, when to measure.

`train` finds, continues or starts the run of an experiment. Metrics are `collapse` and `fewshot`; files are
`runs`. The order of samples and the augmentation of an epoch come from generators seeded by (seed, epoch), so a
run continued at an epoch's boundary gives the numbers of an uninterrupted one.
"""

import contextlib
import math
import os
import time
import warnings
from pathlib import Path

import pandas as pd
import torch
from torch.nn import functional as F

from ncbook import backbones, collapse, fewshot, objectives, runs
from ncbook.datasets.facts import FACTS
from ncbook.experiment import Experiment
from ncbook.progress import Progress
from ncbook.runs import Run

CHECKPOINT_SECONDS = 30  # at most this much work is lost between two measurements
MEASURED_EPISODES = 2_000
MEASURED_QUERY = 15
HEADS = {"ncc": "accuracy", "ridge": "ridge_accuracy"}  # head -> name in the history


class DivergedError(RuntimeError):
    """The loss is no longer a finite number, or the network gives every image the same features."""


def train(experiment: Experiment, *, runs_dir: str | os.PathLike | None = None, device: str = "auto") -> Run:
    """Train an experiment, continue it where it was interrupted, or find it finished.

    Args:
        experiment: what to train.
        runs_dir: folder of all runs; None: NCBOOK_RUNS, else a folder in the user's cache.
        device: "auto" (CUDA when there is one), "cpu", "cuda", "cuda:1", ...

    Returns:
        The finished run.

    Raises:
        TypeError: ``experiment`` is not an `Experiment`.
        DivergedError: the loss became NaN or infinite; the last checkpoint is kept.
    """
    if not isinstance(experiment, Experiment):
        raise TypeError(f"experiment is of type {type(experiment).__name__}; allowed: ncbook.Experiment")
    directory = runs.locate(experiment, runs_dir)
    if (directory / "finished.json").is_file():
        return Run(directory)
    with runs.lock(directory):
        if not (directory / "finished.json").is_file():  # another process may have finished it meanwhile
            _Training(experiment, directory, runs.resolve_device(device)).fit()
    return Run(directory)


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype that training computes in; "auto": bfloat16 where the hardware multiplies in it."""
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        found = torch.cpu.get_capabilities()
        native = bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    else:
        native = False
    return torch.bfloat16 if native else torch.float32


def measured_epochs(epochs: int, measurements: int) -> list[int]:
    """Epochs at which a run is measured: 0, the last, and evenly spread ones between.

    >>> measured_epochs(40, 5)
    [0, 10, 20, 30, 40]
    >>> measured_epochs(2, 5)
    [0, 1, 2]
    """
    return sorted({round(i * epochs / (measurements - 1)) for i in range(measurements)})


def steps_per_epoch(n_samples: int, batch_size: int) -> int:
    """Batches an epoch is cut into, all of the same size give or take one.

    >>> steps_per_epoch(120, 64), steps_per_epoch(960, 64)
    (2, 15)
    """
    return math.ceil(n_samples / batch_size)


def learning_rate_factor(schedule: str, progress: float) -> float:
    """Learning rate over its peak at a share ``progress`` in [0, 1] of all steps.

    "one_cycle" (Smith & Topin 2018): from 1/25 up to 1 over the first 30 %, then down to 0, along cosines.

    >>> [round(learning_rate_factor("one_cycle", p), 2) for p in (0.0, 0.3, 0.65, 1.0)]
    [0.04, 1.0, 0.5, 0.0]
    """
    if schedule == "constant":
        return 1.0
    down = 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "cosine":
        return down
    if progress < 0.3:
        return 1 - (1 - 1 / 25) * 0.5 * (1 + math.cos(math.pi * progress / 0.3))
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.3) / 0.7))


def affine(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rotate, scale and shift each image at random; bilinear, zero outside.

    Args:
        images: float [B, C, H, W].
        generator: on the device of the images.

    Returns:
        float [B, C, H, W]: rotated by up to 0.25 rad (14 degrees), scaled by 0.85 ... 1.15, shifted by up to
        7.5 % of the width, all uniform.
    """
    draws = torch.rand(4, len(images), generator=generator, device=images.device) * 2 - 1  # [4, B] in [-1, 1]
    angle, scale = 0.25 * draws[0], 1 + 0.15 * draws[1]
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    shift = 0.15 * draws[2:]  # in half widths
    theta = torch.stack([torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)  # [B, H, W, 2]
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def median_debiased_cdnv(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Median over pairs of the CDNV freed of the bias of few samples: comparable between sample sizes.

    A median, since a pair that cannot be told apart has no finite value; infinite where most pairs have none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pairs that cannot be told apart
        pairs = collapse.cdnv_matrix(features, labels, debiased=True)
    return pairs.nanmedian()


def measure(features: torch.Tensor, labels: torch.Tensor, objective: torch.nn.Module | None = None) -> dict[str, float]:
    """Every number that a history keeps of one split.

    Args:
        features: [N, D].
        labels: [N], 0 ... C-1; on the source splits the rows of the objective's head.
        objective: on the source splits, the head; None on classes it does not know.

    Returns:
        metric -> value: collapse metrics; loss, accuracy, nc3 and nc4 with a head; few-shot accuracies (5-way,
        15 queries, 2,000 episodes) where each class has enough samples.
    """
    values = {
        "cdnv": collapse.cdnv(features, labels),
        "cdnv_debiased": median_debiased_cdnv(features, labels),
        "nc1": collapse.nc1(features, labels),
        "nc2": collapse.nc2(features, labels),
        "min_distance": collapse.min_distance(features, labels),
        "min_distance_normalised": collapse.min_distance(features, labels, normalised=True),
    }
    if objective is not None:
        logits = objective.logits(features)
        values["loss"] = objective(features, labels)
        values["accuracy"] = (logits.argmax(1) == labels).double().mean()
        values["nc3"] = collapse.nc3(features, labels, objective.weight)
        values["nc4"] = collapse.nc4(features, labels, logits)
    counts = labels.bincount()
    for shot in (1, 5):
        if len(counts) >= 5 and int(counts.min()) >= shot + MEASURED_QUERY:
            for head, name in HEADS.items():
                result = fewshot.evaluate(
                    features,
                    labels,
                    way=5,
                    shot=shot,
                    query=MEASURED_QUERY,
                    episodes=MEASURED_EPISODES,
                    head=head,
                )
                values[f"{name}_{shot}shot"] = result.accuracy
    return {name: float(value) for name, value in values.items()}


class _Training:
    """One run being trained. Made and used by `train` under the run's lock."""

    def __init__(self, experiment: Experiment, directory: Path, device: torch.device):
        self.experiment, self.directory, self.device = experiment, directory, device
        self.splits = runs.load_splits(experiment)
        source = self.splits.source_train
        self.steps_per_epoch = steps_per_epoch(len(source.labels), experiment.batch_size)
        self.epochs = experiment.epochs or max(1, round(FACTS[experiment.dataset].steps / self.steps_per_epoch))
        self.steps = self.epochs * self.steps_per_epoch
        self.measured = measured_epochs(self.epochs, experiment.measurements)

    def fit(self) -> None:
        """Train from the last checkpoint, or from the beginning, to the end."""
        config_path = self.directory / "config.json"
        if config_path.is_file():  # an interrupted run keeps the precision and the threads it began with
            self.config = Run(self.directory).config
        else:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.config = self._new_config()
            runs.write_json(config_path, self.config)
        threads = torch.get_num_threads()
        torch.set_num_threads(self.config["threads"])
        try:
            with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
                self._fit()
        finally:
            torch.set_num_threads(threads)

    def _new_config(self) -> dict:
        source = self.splits.source_train
        return {
            "experiment": runs.describe(self.experiment),
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "measured_epochs": self.measured,
            "image_shape": list(source.images.shape[1:]),
            "source_samples": len(source.labels),
            "fingerprint": runs.load_images(self.experiment).fingerprint,
            "precision": str(resolve_precision(self.experiment.precision, self.device)).removeprefix("torch."),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "environment": runs.environment(),
        }

    def _build(self) -> None:
        e = self.experiment
        torch.manual_seed(runs.derived_seed(e.seed, "weights"))
        channels, size = self.splits.source_train.images.shape[1], self.splits.source_train.images.shape[-1]
        self.backbone = backbones.build(e.backbone, channels, size)
        self.config["feature_dim"] = self.backbone.feature_dim
        self.objective = objectives.build(e.objective, self.backbone.feature_dim, e.n_source)
        self.backbone.to(self.device, memory_format=torch.channels_last)
        self.objective.to(self.device)
        parameters = [*self.backbone.parameters(), *self.objective.parameters()]
        self.optimiser = torch.optim.SGD(
            parameters,
            lr=e.learning_rate,
            momentum=e.momentum,
            weight_decay=e.weight_decay,
            nesterov=e.momentum > 0,
            fused=True,
        )
        self.parts = {"backbone": self.backbone, "objective": self.objective}

    def _fit(self) -> None:
        self._build()
        runs.write_json(self.directory / "config.json", self.config)
        self.history: list[dict] = []
        self.seconds: list[dict] = []
        begin = self._restore() if (self.directory / "resume.safetensors").is_file() else 0
        images = self.splits.source_train.images.to(self.device)
        labels = self.splits.source_train.labels.to(self.device)
        self.start = self.saved = time.monotonic()
        if begin == 0:
            self._measure(0)
        label = f"{self.experiment.dataset}, {self.experiment.n_source} source classes"
        with Progress(self.steps, label, done=begin * self.steps_per_epoch) as bar:
            for epoch in range(begin + 1, self.epochs + 1):
                loss = self._epoch(epoch, images, labels)
                if not math.isfinite(loss):
                    raise self._diverged(epoch, f"the loss is {loss}")
                if epoch in self.measured:
                    try:
                        self._measure(epoch)
                    except ValueError as error:  # features that no metric is defined on: a dead network
                        raise self._diverged(epoch, str(error)) from error
                if epoch in self.measured or time.monotonic() - self.saved > CHECKPOINT_SECONDS:
                    self._checkpoint(epoch)
                bar.advance(self.steps_per_epoch, f"loss {loss:.3f}")
        runs.write_json(
            self.directory / "finished.json",
            {"epochs": self.epochs, "seconds": time.monotonic() - self.start},
        )
        (self.directory / "resume.safetensors").unlink(missing_ok=True)

    def _diverged(self, epoch: int, what: str) -> DivergedError:
        kept = Run(self.directory).epochs_kept[-1]
        return DivergedError(
            f"{what} after epoch {epoch} of {self.epochs}; the weights of epoch {kept} are kept in "
            f"{self.directory.name}. Try a learning_rate below {self.experiment.learning_rate:g}."
        )

    def _epoch(self, epoch: int, images: torch.Tensor, labels: torch.Tensor) -> float:
        """One pass over the source training samples; the mean loss of its batches."""
        seed = runs.derived_seed(self.experiment.seed, "epoch", epoch)
        torch.manual_seed(seed)  # for layers that draw random numbers
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(self.device)
        noise = torch.Generator(self.device).manual_seed(seed)
        total = torch.zeros((), device=self.device)
        first = (epoch - 1) * self.steps_per_epoch
        for step, batch in enumerate(order.tensor_split(self.steps_per_epoch), start=first):
            rate = self.experiment.learning_rate * learning_rate_factor(
                self.experiment.schedule, step / max(1, self.steps - 1)
            )
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            pixels = runs.as_input(images[batch])
            if self.experiment.augmentation == "affine":
                pixels = affine(pixels, noise)
            total += self._step(pixels, labels[batch])
        return float(total) / self.steps_per_epoch  # the one wait for the device in an epoch

    def _step(self, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        reduced = self.config["precision"] != "float32"
        dtype = getattr(torch, self.config["precision"])
        autocast = torch.autocast(self.device.type, dtype=dtype) if reduced else contextlib.nullcontext()
        with autocast:
            loss = self.objective(self.backbone(pixels), labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    @torch.no_grad()
    def _measure(self, epoch: int) -> None:
        began = time.monotonic()
        for split in runs.SPLITS:
            part = getattr(self.splits, split)
            if len(part.labels) == 0:
                continue
            features = runs.extract(self.backbone, part.images)
            objective = self.objective if split.startswith("source") else None
            for metric, value in measure(features, part.labels.to(self.device), objective).items():
                row = {"epoch": epoch, "step": epoch * self.steps_per_epoch}
                self.history.append({**row, "split": split, "metric": metric, "value": value})
        weights = self._named(lambda module: module.state_dict())
        runs.write_tensors(runs.weights_path(self.directory, epoch), weights, epoch=epoch)
        runs.write_csv(self.directory / "history.csv", pd.DataFrame(self.history, columns=runs.HISTORY_COLUMNS))
        now = time.monotonic()
        self.seconds.append({"epoch": epoch, "seconds": now - self.start, "measuring": now - began})
        runs.write_csv(self.directory / "log.csv", pd.DataFrame(self.seconds))

    def _named(self, tensors_of) -> dict[str, torch.Tensor]:
        named = {part: tensors_of(module) for part, module in self.parts.items()}
        return {f"{part}.{name}": tensor for part, found in named.items() for name, tensor in found.items()}

    def _checkpoint(self, epoch: int) -> None:
        """Weights and momentum after an epoch: all that the rest of the run depends on."""
        state = self._named(lambda module: module.state_dict())
        for name, parameter in self._named(lambda module: dict(module.named_parameters())).items():
            buffer = self.optimiser.state[parameter].get("momentum_buffer")
            if buffer is not None:
                state[f"momentum.{name}"] = buffer
        runs.write_tensors(self.directory / "resume.safetensors", state, epoch=epoch)
        self.saved = time.monotonic()

    def _restore(self) -> int:
        """Read the last checkpoint back; returns its epoch."""
        path = self.directory / "resume.safetensors"
        epoch = int(runs.resume_metadata(path)["epoch"])
        state = runs.load_file(path)
        for part, module in self.parts.items():
            prefix = part + "."
            module.load_state_dict(
                {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
            )
        for name, parameter in self._named(lambda module: dict(module.named_parameters())).items():
            if f"momentum.{name}" in state:
                buffer = state[f"momentum.{name}"].to(self.device).to(memory_format=torch.preserve_format)
                self.optimiser.state[parameter]["momentum_buffer"] = buffer.contiguous(
                    memory_format=_format_of(parameter)
                )
        history = Run(self.directory).history
        self.history = history[history["epoch"] <= epoch].to_dict("records")
        log = self.directory / "log.csv"
        self.seconds = pd.read_csv(log).to_dict("records") if log.is_file() else []
        return epoch


def _format_of(parameter: torch.Tensor) -> torch.memory_format:
    four = parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if four else torch.contiguous_format
