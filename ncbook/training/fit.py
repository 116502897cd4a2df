"""`train`: find, restore, fit. Joins the trainer, which knows no folder, and the store, which knows no loop.

When to measure, when to write a checkpoint, and what the stop button does is decided here.
"""

import contextlib
import os
import threading
import time

import torch

from ncbook import backbones, catalog, datasets, objectives, runs
from ncbook._checks import check_whole, named_arguments, warn
from ncbook.datasets import ClassSplit, ImageClasses
from ncbook.experiment import SCHEMA, Experiment
from ncbook.features import extract, reproducible, resolve_device
from ncbook.objectives import UndefinedLoss
from ncbook.progress import Progress
from ncbook.runs import Run, Store, layout
from ncbook.runs.run import check_images
from ncbook.training.measuring import measure, measured_epochs
from ncbook.training.signals import DeferredSignals
from ncbook.training.trainer import Trainer, resolve_precision

CHECKPOINT_SECONDS = 30  # at most this much work is lost
MOST_THREADS = 1024
DIVERGED = 1000  # times the loss of guessing
_ONE_AT_A_TIME = threading.Lock()  # of threads: torch's random numbers and settings are those of the process


class DivergedError(RuntimeError):
    """The loss is not a finite number or has exploded, or the network gives every image the same features."""


@named_arguments
def train(
    experiment: Experiment,
    *,
    images: ImageClasses | None = None,
    runs_dir: str | os.PathLike | None = None,
    device: str | torch.device = "auto",
    threads: int | None = None,
) -> Run:
    """Train an experiment, continue it where it was interrupted, or find it finished.

    Args:
        experiment: what to train.
        images: images at hand, in place of the experiment's data set; None: the data set. A run read back later needs
            them again, `Run(directory, images=...)`. With ``dataset="folder"`` the experiment assumes nothing about how
            many classes there are.
        runs_dir: folder of all runs; None: NCBOOK_RUNS, else a folder in the user's cache.
        device: "auto" (CUDA when there is one), "cpu", "cuda", "cuda:1", ...; the run computes its features there too.
        threads: of the CPU, 1 to 1,024, on which the bits depend; None: as many as torch uses. A run keeps the number
            it was begun with. Where other processes use the same cores, 1 is often the fastest.

    Returns:
        The finished run.

    While it trains, the random numbers, the number of threads and the default dtype of the process are the run's.

    The same experiment gives the same bits on the same kind of processor with the same versions and number of threads,
    and on the same kind of GPU, where torch has deterministic algorithms for all operations (it has for the networks
    of this package; for others it warns). CPU and GPU step on the same batches, but round differently.

    With ``objective="distillation"`` the teacher, `Experiment.teacher`, is trained or found first, as a run of its own.

    A damaged run is trained again from the beginning, with a warning that names the file. While another process trains
    the same run, this one waits. The stop button (KeyboardInterrupt) and SIGTERM take effect after the current step,
    with a checkpoint. A run goes on on another kind of device than it was begun on, with a warning that names both.

    Raises:
        TypeError: an argument is of a wrong type, such as an ``experiment`` that is no `Experiment`.
        ValueError: the images have too few classes, or a class has too few samples, or two classes of a split have the
            same images (noticed where epoch 0 is measured); a device that is not there; a folder that cannot be one;
            before anything is kept.
        DivergedError: the loss became NaN, infinite or huge; the last checkpoint is kept.
        StorageError: the folder is full or cannot be written to; what was in it is kept.
    """
    if not isinstance(experiment, Experiment):
        raise TypeError(f"experiment is of type {type(experiment).__name__}; allowed: ncbook.Experiment")
    handed_over = check_images(images) is not None
    target = resolve_device(device)
    threads = threads if threads is None else check_whole("threads", threads, 1, MOST_THREADS)
    layout.resolve_runs_dir(runs_dir)
    if not handed_over:
        images = datasets.load_for(experiment)
    directory = runs.locate(experiment, runs_dir, images)
    if run := runs.find(directory, images, device):
        return run
    splits = datasets.split_for(experiment, images)
    splits.check()
    _refuse_what_cannot_be_trained(experiment, splits)
    about = {"fingerprint": images.fingerprint, "images_handed_over": handed_over}
    teacher = None
    if experiment.teacher:
        own = images if handed_over else None
        teacher = train(experiment.teacher, images=own, runs_dir=runs_dir, device=device, threads=threads)
        about["teacher"] = teacher.directory.name
    with runs.Lock(directory), _ONE_AT_A_TIME:
        if run := runs.find(directory, images, device):  # another process has finished it meanwhile
            return run
        with _settings_put_back(target), reproducible(target):
            _fit(Store(directory), experiment, splits, about, target, threads, teacher)
        return Run(directory, images=images, device=device)


def _refuse_what_cannot_be_trained(experiment: Experiment, splits: ClassSplit) -> None:
    """Raise ValueError for images that the network, or an objective's batches, cannot be made of."""
    source = splits.source_train
    channels, height, width = source.images.shape[1:]
    if height != width:
        raise ValueError(f"images are {height} x {width} pixels; allowed: as high as wide")
    with torch.device("meta"):  # no memory, no random numbers
        backbone = backbones.build(experiment.backbone, channels, width)
        objective = objectives.build(experiment, backbone.feature_dim)
    objective.batches(source.labels, torch.Generator().manual_seed(0))


@contextlib.contextmanager
def _settings_put_back(device: torch.device):
    """The caller's random numbers, threads and default dtype stay as they were; networks are float32 meanwhile."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    devices = [device] if device.type == "cuda" else []
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


def _fit(store: Store, experiment: Experiment, splits: ClassSplit, about: dict, device, threads, teacher) -> None:
    """Train from the last checkpoint, or from the beginning, to the end."""
    config = store.restore() or {}
    # An interrupted run keeps its precision and its threads, on which its bits depend.
    kept = config.get("threads", threads or torch.get_num_threads())
    if threads not in (None, kept):
        warn(f"threads={threads}, but this run was begun with {kept} and keeps them")
    if config and torch.device(config["device"]).type != device.type:
        begun = f"this run was begun on {config['device']} and goes on on {device}"
        warn(f"{begun}: its numbers are those of neither alone, to the last digits")
    torch.set_num_threads(kept)
    source = splits.source_train
    precision = config.get("precision") or resolve_precision(experiment.precision, device)
    trainer = Trainer(experiment, source.images, source.labels, device=device, precision=precision)
    if teacher:
        trainer.objective.learn_from(teacher.model().to(device), teacher.objective().to(device))
    measured = measured_epochs(trainer.epochs, experiment.measurements)
    if not config:
        store.begin(_config(trainer, splits, measured) | about)
    elif set(measured) <= store.measured.keys() and not store.has_checkpoint:
        return store.finish()  # only the last mark was lost
    if state := store.load_checkpoint():
        trainer.load_state(state)
    _run_to_the_end(trainer, store, splits, measured)
    store.finish()


def _config(trainer: Trainer, splits: ClassSplit, measured: list[int]) -> dict:
    """What config.json says of a run."""
    source = splits.source_train
    return {
        "schema": SCHEMA,
        "experiment": trainer.experiment.to_dict(),
        "epochs": trainer.epochs,
        "steps_per_epoch": trainer.steps_per_epoch,
        "measured_epochs": measured,
        "image_shape": list(source.images.shape[1:]),
        "source_samples": len(source.labels),
        "classes": {split: len(getattr(splits, split).class_names) for split in catalog.SPLITS},
        "feature_dim": trainer.backbone.feature_dim,
        "precision": trainer.precision,
        "device": str(trainer.device),
        "threads": torch.get_num_threads(),
        "environment": runs.environment(),
    }


def _run_to_the_end(trainer: Trainer, store: Store, splits: ClassSplit, measured: list[int]) -> None:
    experiment = trainer.experiment
    measured_at = saved_at = time.monotonic()
    label = f"{experiment.dataset}, {experiment.n_source} source classes"
    steps = trainer.epochs * trainer.steps_per_epoch
    done = trainer.epoch * trainer.steps_per_epoch + trainer.step
    with DeferredSignals() as signals, Progress(steps, label, done=done) as bar:
        if trainer.epoch == trainer.step == 0 and 0 in measured:
            measured_at = _measure(trainer, store, splits, measured_at)
        while not trainer.finished:
            try:
                trainer.advance()
            except UndefinedLoss as error:
                raise _diverged(trainer, store, str(error)) from error
            ended = trainer.step == 0
            loss = trainer.mean_loss() if ended else None
            bar.advance(1, f"loss {loss:.3f}" if ended else "")
            if ended:
                if not loss < DIVERGED * trainer.objective.chance_loss:
                    raise _diverged(trainer, store, f"the loss is {loss:.4g}")
                if trainer.epoch in measured:
                    measured_at = _measure(trainer, store, splits, measured_at)
            due = signals.pending is not None or time.monotonic() - saved_at > CHECKPOINT_SECONDS
            if due or (ended and trainer.epoch in measured):
                store.save_checkpoint(trainer.state())
                saved_at = time.monotonic()
            if signals.pending is not None:
                where = f"stopped at epoch {trainer.epoch} of {trainer.epochs}"
                signals.deliver(f"{where}; everything is saved: run the same again to continue")


def _measure(trainer: Trainer, store: Store, splits: ClassSplit, since: float) -> float:
    """Measure every split, and store the numbers with the weights they belong to; the time now, to count from next."""
    began, rows, kept = time.monotonic(), [], {}
    for split in catalog.SPLITS:
        part = getattr(splits, split)
        if len(part.labels.unique()) < 2:  # no samples, or a single validation class, on which nothing is defined
            continue
        features, labels = extract(trainer.backbone, part.images), part.labels.to(trainer.device)
        objective = trainer.objective.eval() if split.startswith("source") else None
        try:
            values = measure(features, labels, objective)
        except ValueError as error:  # features that no metric is defined on: images that are alike, or a dead network
            if trainer.epoch == 0:
                store.discard()
                raise ValueError(f"{split} before any training: {error}") from error
            raise _diverged(trainer, store, str(error)) from error
        rows += [(split, metric, value) for metric, value in values.items()]
        if trainer.finished:  # those of the last epoch, which readers of the run ask for
            kept[split] = (features, part.labels)
    now = time.monotonic()
    step = trainer.epoch * trainer.steps_per_epoch
    seconds = {"seconds": now - since, "measuring": now - began}
    store.save_measurement(trainer.epoch, step, rows, trainer.weights(), kept, **seconds)
    return now


def _diverged(trainer: Trainer, store: Store, what: str) -> DivergedError:
    kept = f"the weights of epoch {max(store.measured)} are" if store.measured else "no weights are"
    penalty = trainer.experiment.penalty
    return DivergedError(
        f"{what} after epoch {trainer.epoch} of {trainer.epochs}; {kept} kept in {store.directory.name}. "
        f"Try a learning_rate below {trainer.experiment.learning_rate:g}"
        + (f", or a penalty below {penalty:g}." if penalty else ".")
    )
