"""The one training loop: device, precision, augmentation on the device, schedule, when to measure.

`train` finds, continues or starts the run of an experiment. Metrics are `collapse` and `fewshot`; files are
`runs`. The order of samples and the augmentation of an epoch come from generators seeded by (seed, epoch); a checkpoint
within an epoch holds their states, so a run continued anywhere gives the bits of an uninterrupted one.
"""

import contextlib
import math
import os
import time
import warnings
from pathlib import Path

import pandas as pd
import torch

from ncbook import augmentations, backbones, collapse, fewshot, objectives, runs
from ncbook._files import DamagedFileError, make_folder, read_about, read_tensors, write_json, write_tensors
from ncbook._signals import Held
from ncbook.datasets.facts import FACTS
from ncbook.experiment import SCHEMA, Experiment
from ncbook.progress import Progress
from ncbook.runs import Run

CHECKPOINT_SECONDS = 30  # at most this much work is lost
EXPLODED = 1000  # times the loss of guessing
MEASURED_EPISODES = 2_000
MEASURED_QUERY = 15
HEADS = {"ncc": "accuracy", "ridge": "ridge_accuracy"}  # head -> name in the history


class DivergedError(RuntimeError):
    """The loss is not a finite number or has exploded, or the network gives every image the same features."""


def train(experiment: Experiment, *, runs_dir: str | os.PathLike | None = None, device: str = "auto") -> Run:
    """Train an experiment, continue it where it was interrupted, or find it finished.

    Args:
        experiment: what to train.
        runs_dir: folder of all runs; None: NCBOOK_RUNS, else a folder in the user's cache.
        device: "auto" (CUDA when there is one), "cpu", "cuda", "cuda:1", ...

    Returns:
        The finished run.

    A damaged run is trained anew, with a warning that names the file. While another process trains the same run, this
    one waits. The stop button (KeyboardInterrupt) and SIGTERM take effect after the current step, with a checkpoint.

    Raises:
        TypeError: ``experiment`` is not an `Experiment`.
        DivergedError: the loss became NaN, infinite or huge; the last checkpoint is kept.
        StorageError: the folder is full or cannot be written to; what was in it is kept.
    """
    if not isinstance(experiment, Experiment):
        raise TypeError(f"experiment is of type {type(experiment).__name__}; allowed: ncbook.Experiment")
    directory = runs.locate(experiment, runs_dir)
    if run := _found(directory):
        return run
    with runs.Lock(directory):
        run = _found(directory)  # another process may have finished it meanwhile
        if run is None:
            _Training(experiment, directory, runs.resolve_device(device)).fit()
            run = Run(directory)
    return run


def _found(directory: Path) -> Run | None:
    """The finished, undamaged run in that folder."""
    if not (directory / "finished.json").is_file():
        return None
    try:
        run = Run(directory)
        run.verify()
    except DamagedFileError:
        return None
    _drop_checkpoints(directory)  # a process that died between its last two acts left them
    return run


def _drop_checkpoints(directory: Path) -> None:
    for name in ("resume.safetensors", "resume-before.safetensors"):
        with contextlib.suppress(OSError):  # a read-only folder: they do no harm
            (directory / name).unlink(missing_ok=True)


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

    "one_cycle" (Smith & Topin 2018): from 1/25 up to 1 over the first 30 %, then down to 0, along cosines. "step": a
    tenth from 60 % on and a hundredth from 80 % on, as in the public recipe of Tian et al. (2020, RFS).

    >>> [round(learning_rate_factor("one_cycle", p), 2) for p in (0.0, 0.3, 0.65, 1.0)]
    [0.04, 1.0, 0.5, 0.0]
    """
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return 1.0 if progress < 0.6 else 0.1 if progress < 0.8 else 0.01
    down = 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "cosine":
        return down
    if progress < 0.3:
        return 1 - (1 - 1 / 25) * 0.5 * (1 + math.cos(math.pi * progress / 0.3))
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.3) / 0.7))


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
    if objective is None:
        values = collapse.summary(features, labels)
    else:
        logits = objective.logits(features)
        values = collapse.summary(features, labels, weight=objective.weight, logits=logits)
        values["loss"] = objective(features, labels)
        values["accuracy"] = (logits.argmax(1) == labels).double().mean()
    counts = labels.bincount()
    shots = [shot for shot in (1, 5) if len(counts) >= 5 and int(counts.min()) >= shot + MEASURED_QUERY]
    if shots:
        results = fewshot.compare(
            features,
            labels,
            heads=list(HEADS),
            shots=shots,
            way=5,
            query=MEASURED_QUERY,
            episodes=MEASURED_EPISODES,
            confusion=False,
        )
        values |= {f"{HEADS[head]}_{shot}shot": result.accuracy for (head, shot), result in results.items()}
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
        self.signals, self.saved = Held(), time.monotonic()
        self.partial: dict | None = None  # the state within an epoch that a checkpoint held

    def fit(self) -> None:
        """Train from the last checkpoint, or from the beginning, to the end."""
        make_folder(self.directory)
        for left in self.directory.glob(".*"):  # half-written, by a process that was killed
            left.unlink()
        self.config = self._config()
        threads = torch.get_num_threads()
        torch.set_num_threads(self.config["threads"])
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices):  # the caller's random numbers stay as they were
                self._fit()
        finally:
            torch.set_num_threads(threads)

    def _config(self) -> dict:
        """That of the interrupted run, which keeps its precision and threads, or a new one, written."""
        try:
            config = Run(self.directory).config
            for epoch in Run(self.directory).epochs_kept:
                read_tensors(runs.weights_path(self.directory, epoch))
            return config
        except FileNotFoundError:
            pass
        except (DamagedFileError, ValueError) as error:
            aside = runs.set_aside(self.directory)
            warnings.warn(f"{error}; the run is trained anew, the old folder is now {aside.name}", stacklevel=4)
            make_folder(self.directory)
        config = self._new_config()
        write_json(self.directory / "config.json", config)
        return config

    def _new_config(self) -> dict:
        source = self.splits.source_train
        with torch.device("meta"):
            shape = source.images.shape[1], source.images.shape[-1]
            feature_dim = backbones.build(self.experiment.backbone, *shape).feature_dim
        return {
            "schema": SCHEMA,
            "experiment": runs.describe(self.experiment),
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "measured_epochs": self.measured,
            "image_shape": list(source.images.shape[1:]),
            "source_samples": len(source.labels),
            "feature_dim": feature_dim,
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
        self.measurements = self._measurements()
        self.seconds: list[dict] = []
        self.start = self.saved = time.monotonic()
        if set(self.measured) <= set(self.measurements) and not (self.directory / "resume.safetensors").is_file():
            return self._finish()  # only the last mark was lost
        begin, self.partial = self._restore()  # epochs done, and the state within the next one
        images = self._at_hand(self.splits.source_train.images)
        labels = self.splits.source_train.labels.to(self.device)
        label = f"{self.experiment.dataset}, {self.experiment.n_source} source classes"
        with Held() as self.signals, Progress(self.steps, label, done=begin * self.steps_per_epoch) as bar:
            if begin == 0 and self.partial is None:
                self._measure(0)
            for epoch in range(begin + 1, self.epochs + 1):
                loss = self._epoch(epoch, images, labels)
                if not loss < EXPLODED * math.log(max(3, self.experiment.n_source)):
                    raise self._diverged(epoch, f"the loss is {loss:.4g}")
                if epoch in self.measured:
                    try:
                        self._measure(epoch)
                    except ValueError as error:  # features that no metric is defined on: a dead network
                        raise self._diverged(epoch, str(error)) from error
                    self._checkpoint(epoch)
                bar.advance(self.steps_per_epoch, f"loss {loss:.3f}")
        self._finish()

    def _at_hand(self, images: torch.Tensor) -> torch.Tensor:
        """The images on the device, or where they are when they would take more than half of its free memory."""
        if self.device.type == "cuda" and images.nbytes > torch.cuda.mem_get_info(self.device)[0] / 2:
            return images
        return images.to(self.device)

    def _finish(self) -> None:
        seconds = sum(row["seconds"] for row in self.seconds)
        write_json(self.directory / "finished.json", {"epochs": self.epochs, "seconds": seconds})
        _drop_checkpoints(self.directory)

    def _diverged(self, epoch: int, what: str) -> DivergedError:
        kept = Run(self.directory).epochs_kept[-1]
        return DivergedError(
            f"{what} after epoch {epoch} of {self.epochs}; the weights of epoch {kept} are kept in "
            f"{self.directory.name}. Try a learning_rate below {self.experiment.learning_rate:g}."
        )

    def _epoch(self, epoch: int, images: torch.Tensor, labels: torch.Tensor) -> float:
        """One pass over the source training samples, or what is left of it; the mean loss of its batches."""
        seed = runs.derived_seed(self.experiment.seed, "epoch", epoch)
        torch.manual_seed(seed)  # for layers that draw random numbers
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(self.device)
        noise = torch.Generator(self.device).manual_seed(seed)
        total, done = torch.zeros((), device=self.device), 0
        if self.partial is not None:
            total, done = self._set_state(self.partial, noise)
            self.partial = None
        first = (epoch - 1) * self.steps_per_epoch
        batches = order.tensor_split(self.steps_per_epoch)
        for step in range(done, self.steps_per_epoch):
            batch = batches[step]
            rate = self.experiment.learning_rate * learning_rate_factor(
                self.experiment.schedule, (first + step) / max(1, self.steps - 1)
            )
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            chosen = images[batch.to(images.device)].to(self.device)
            pixels = augmentations.AUGMENT[self.experiment.augmentation](runs.as_input(chosen), noise)
            total += self._step(pixels, labels[batch])
            if self.signals.pending is not None or time.monotonic() - self.saved > CHECKPOINT_SECONDS:
                self._checkpoint(epoch - 1, step + 1, self._state(noise, total))
                if self.signals.pending is not None:
                    self.signals.deliver()
        return float(total) / self.steps_per_epoch  # the one wait for the device in an epoch

    def _state(self, noise: torch.Generator, total: torch.Tensor) -> dict[str, torch.Tensor]:
        """What else than weights and momentum the rest of an epoch depends on."""
        state = {"state.noise": noise.get_state(), "state.random": torch.get_rng_state(), "state.loss": total}
        if self.device.type == "cuda":
            state["state.cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def _set_state(self, state: dict, noise: torch.Generator) -> tuple[torch.Tensor, int]:
        """Put it back; returns the sum of losses and the number of steps so far."""
        noise.set_state(state["state.noise"])
        torch.set_rng_state(state["state.random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["state.cuda"], self.device)
        return state["state.loss"].to(self.device), state["step"]

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
        """Measure every split, and keep the numbers with the weights they belong to, in one file."""
        began = time.monotonic()
        rows = []
        for split in runs.SPLITS:
            part = getattr(self.splits, split)
            if len(part.labels) == 0:
                continue
            features = runs.extract(self.backbone, part.images)
            objective = self.objective if split.startswith("source") else None
            found = measure(features, part.labels.to(self.device), objective)
            rows += [(split, metric, value) for metric, value in found.items()]
        weights = self._named(lambda module: module.state_dict())
        about = {"epoch": epoch, "step": epoch * self.steps_per_epoch, "measured": rows}
        write_tensors(runs.weights_path(self.directory, epoch), weights, **about)
        self.measurements[epoch] = about
        now = time.monotonic()
        self.seconds.append({"epoch": epoch, "seconds": now - self.start, "measuring": now - began})
        self.start = now
        runs.write_csv(self.directory / "history.csv", self._history())
        runs.write_csv(self.directory / "log.csv", pd.DataFrame(self.seconds))

    def _measurements(self) -> dict[int, dict]:
        """What was measured before this process began: epoch -> description of its file."""
        kept = Run(self.directory).epochs_kept
        return {epoch: read_about(runs.weights_path(self.directory, epoch)) for epoch in kept}

    def _history(self) -> pd.DataFrame:
        rows = [
            (epoch, about["step"], *row)
            for epoch, about in sorted(self.measurements.items())
            for row in about["measured"]
        ]
        return pd.DataFrame(rows, columns=runs.HISTORY_COLUMNS)

    def _named(self, tensors_of) -> dict[str, torch.Tensor]:
        named = {part: tensors_of(module) for part, module in self.parts.items()}
        return {f"{part}.{name}": tensor for part, found in named.items() for name, tensor in found.items()}

    def _checkpoint(self, epoch: int, step: int = 0, state: dict[str, torch.Tensor] | None = None) -> None:
        """All that the rest of the run depends on, after ``epoch`` whole epochs and ``step`` steps of the next."""
        tensors = self._named(lambda module: module.state_dict()) | (state or {})
        for name, parameter in self._named(lambda module: dict(module.named_parameters())).items():
            buffer = self.optimiser.state[parameter].get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{name}"] = buffer
        path = self.directory / "resume.safetensors"
        if path.is_file():
            path.replace(path.with_name("resume-before.safetensors"))
        write_tensors(path, tensors, epoch=epoch, step=step)
        self.saved = time.monotonic()

    def _restore(self) -> tuple[int, dict | None]:
        """Read the last checkpoint that is whole: epochs done, and the state within the next one, if any."""
        for name in ("resume.safetensors", "resume-before.safetensors"):
            path = self.directory / name
            if not path.is_file():
                continue
            try:
                about, tensors = read_about(path), read_tensors(path)
            except DamagedFileError as error:
                warnings.warn(f"{error}; an older state is used in its place", stacklevel=5)
                continue
            self._load(tensors)
            log = self.directory / "log.csv"
            self.seconds = pd.read_csv(log).to_dict("records") if log.is_file() else []
            return about["epoch"], {**tensors, **about} if about["step"] else None
        return 0, None

    def _load(self, tensors: dict[str, torch.Tensor]) -> None:
        for part, module in self.parts.items():
            prefix = part + "."
            module.load_state_dict(
                {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            )
        for name, parameter in self._named(lambda module: dict(module.named_parameters())).items():
            if f"momentum.{name}" in tensors:
                buffer = tensors[f"momentum.{name}"].to(self.device)
                self.optimiser.state[parameter]["momentum_buffer"] = buffer.contiguous(
                    memory_format=_format_of(parameter)
                )


def _format_of(parameter: torch.Tensor) -> torch.memory_format:
    four = parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if four else torch.contiguous_format
