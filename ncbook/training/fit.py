"""`train`: find, restore, fit. Joins the trainer, which knows no folder, and the store, which knows no loop.

When to measure, when to write a checkpoint, and what the stop button does is decided here.
"""

import contextlib
import os
import time

import torch

from ncbook import catalog, datasets, runs
from ncbook.datasets import ClassSplit, ImageClasses
from ncbook.experiment import SCHEMA, Experiment
from ncbook.features import extract, resolve_device
from ncbook.progress import Progress
from ncbook.runs import Run, Store
from ncbook.training.measuring import measure, measured_epochs
from ncbook.training.signals import DeferredSignals
from ncbook.training.trainer import Trainer, resolve_precision

CHECKPOINT_SECONDS = 30  # at most this much work is lost
DIVERGED = 1000  # times the loss of guessing


class DivergedError(RuntimeError):
    """The loss is not a finite number or has exploded, or the network gives every image the same features."""


def train(
    experiment: Experiment,
    *,
    images: ImageClasses | None = None,
    runs_dir: str | os.PathLike | None = None,
    device: str = "auto",
) -> Run:
    """Train an experiment, continue it where it was interrupted, or find it finished.

    Args:
        experiment: what to train.
        images: images at hand, in place of the experiment's data set; None: the data set. A run read back later needs
            them again, `Run(directory, images=...)`. With ``dataset="folder"`` the experiment assumes nothing about how
            many classes there are.
        runs_dir: folder of all runs; None: NCBOOK_RUNS, else a folder in the user's cache.
        device: "auto" (CUDA when there is one), "cpu", "cuda", "cuda:1", ...

    Returns:
        The finished run.

    A damaged run is trained again from the beginning, with a warning that names the file. While another process trains
    the same run, this one waits. The stop button (KeyboardInterrupt) and SIGTERM take effect after the current step,
    with a checkpoint.

    Raises:
        TypeError: ``experiment`` is not an `Experiment`, or ``images`` are not `ncbook.datasets.ImageClasses`.
        ValueError: the images have too few classes, or a class has too few samples; before anything is written.
        DivergedError: the loss became NaN, infinite or huge; the last checkpoint is kept.
        StorageError: the folder is full or cannot be written to; what was in it is kept.
    """
    if not isinstance(experiment, Experiment):
        raise TypeError(f"experiment is of type {type(experiment).__name__}; allowed: ncbook.Experiment")
    if images is not None and not isinstance(images, ImageClasses):
        raise TypeError(f"images is of type {type(images).__name__}; allowed: ncbook.datasets.ImageClasses, or None")
    handed_over = images is not None
    images = images if handed_over else datasets.load_for(experiment)
    directory = runs.locate(experiment, runs_dir, images)
    if run := runs.find(directory, images):
        return run
    splits = datasets.split_for(experiment, images)
    splits.check()
    about_images = {"fingerprint": images.fingerprint, "images_handed_over": handed_over}
    with runs.Lock(directory):
        run = runs.find(directory, images)  # another process may have finished it meanwhile
        if run is None:
            target = resolve_device(device)
            with _random_numbers_and_threads_put_back(target):
                _fit(Store(directory), experiment, splits, about_images, target)
            run = Run(directory, images=images)
    return run


@contextlib.contextmanager
def _random_numbers_and_threads_put_back(device: torch.device):
    """The caller's random numbers and threads stay as they were."""
    threads, devices = torch.get_num_threads(), [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.set_num_threads(threads)


def _fit(store: Store, experiment: Experiment, splits: ClassSplit, about_images: dict, device: torch.device) -> None:
    """Train from the last checkpoint, or from the beginning, to the end."""
    config = store.restore() or {}
    # An interrupted run keeps its precision and its threads, on which its bits depend.
    torch.set_num_threads(config.get("threads", torch.get_num_threads()))
    source = splits.source_train
    precision = config.get("precision") or resolve_precision(experiment.precision, device)
    trainer = Trainer(experiment, source.images, source.labels, device=device, precision=precision)
    measured = measured_epochs(trainer.epochs, experiment.measurements)
    if not config:
        store.begin(_config(trainer, splits, measured) | about_images)
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
    with DeferredSignals() as signals, Progress(steps, label, done=trainer.epoch * trainer.steps_per_epoch) as bar:
        if trainer.epoch == trainer.step == 0:
            measured_at = _measure(trainer, store, splits, measured_at)
        while not trainer.finished:
            trainer.advance()
            ended = trainer.step == 0
            if ended:
                _refuse_diverged(trainer, store)
                bar.advance(trainer.steps_per_epoch, f"loss {trainer.mean_loss():.3f}")
                if trainer.epoch in measured:
                    measured_at = _measure(trainer, store, splits, measured_at)
            due = signals.pending is not None or time.monotonic() - saved_at > CHECKPOINT_SECONDS
            if due or (ended and trainer.epoch in measured):
                store.save_checkpoint(trainer.state())
                saved_at = time.monotonic()
            if signals.pending is not None:
                signals.deliver()


def _measure(trainer: Trainer, store: Store, splits: ClassSplit, since: float) -> float:
    """Measure every split, and store the numbers with the weights they belong to; the time now, to count from next."""
    began, rows = time.monotonic(), []
    for split in catalog.SPLITS:
        part = getattr(splits, split)
        if len(part.labels) == 0:
            continue
        features, labels = extract(trainer.backbone, part.images), part.labels.to(trainer.device)
        objective = trainer.objective.eval() if split.startswith("source") else None
        try:
            values = measure(features, labels, objective)
        except ValueError as error:  # features that no metric is defined on: a dead network
            raise _diverged(trainer, store, str(error)) from error
        rows += [(split, metric, value) for metric, value in values.items()]
    now = time.monotonic()
    step = trainer.epoch * trainer.steps_per_epoch
    store.save_measurement(trainer.epoch, step, rows, trainer.weights(), seconds=now - since, measuring=now - began)
    return now


def _refuse_diverged(trainer: Trainer, store: Store) -> None:
    loss = trainer.mean_loss()
    if not loss < DIVERGED * trainer.objective.chance_loss:
        raise _diverged(trainer, store, f"the loss is {loss:.4g}")


def _diverged(trainer: Trainer, store: Store, what: str) -> DivergedError:
    return DivergedError(
        f"{what} after epoch {trainer.epoch} of {trainer.epochs}; the weights of epoch "
        f"{max(store.measured, default=0)} are kept in {store.directory.name}. "
        f"Try a learning_rate below {trainer.experiment.learning_rate:g}."
    )
