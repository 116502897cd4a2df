"""A run's folder on disk: its config, history, weights, lock; and what is read back from it.

    <runs_dir>/<experiment key>-<fingerprint of the pixels>/
        config.json               the experiment, what "auto" became, versions, hardware
        epoch-000012.safetensors  of each measured epoch: weights of f and of its head, and all that was measured
        features-novel-000012.safetensors  features of a split, once somebody asked for them, up to 16 MiB
        history.csv               what was measured, for people: tidy, epoch, step, split, metric, value
        resume.safetensors        the last checkpoint, anywhere in an epoch; gone when finished
        resume-before.safetensors the one before it, in case that is damaged
        log.csv                   epoch, seconds: what a seed does not determine
        finished.json             written last
    <the same>.lock, .holder      held while a process trains it, and who that is

Every file that numbers are read from carries a checksum (`_files`); `Run.history` reads the epochs' files.
`training` writes through the functions here; notebooks read through `Run`. No training happens here.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import platform
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import platformdirs
import torch
from torch import nn

import ncbook
from ncbook import backbones, datasets, objectives
from ncbook._files import (
    DamagedFileError,
    make_folder,
    read_about,
    read_json,
    read_tensors,
    replace,
    storage_error,
    tensors_checksum,
    write_tensors,
)
from ncbook.datasets.facts import options_for
from ncbook.experiment import SCHEMA, Experiment, nearest

SPLITS = ("source_train", "source_test", "novel", "validation")
FEATURES_KEPT = 16 * 2**20  # bytes up to which features of a split stay on disk
HISTORY_COLUMNS = ["epoch", "step", "split", "metric", "value"]


def default_runs_dir() -> Path:
    """NCBOOK_RUNS when it is set, else a folder in the user's cache."""
    chosen = os.environ.get("NCBOOK_RUNS")
    return Path(chosen).expanduser().absolute() if chosen else Path(platformdirs.user_cache_dir("ncbook")) / "runs"


def resolve_device(device: str = "auto") -> torch.device:
    """The device of that name; "auto": a CUDA device when there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


@functools.lru_cache(maxsize=2)
def _images(dataset: str, root: str | None, options: tuple) -> "datasets.ImageClasses":
    return datasets.load(dataset, root, **dict(options))


def load_images(experiment: Experiment) -> "datasets.ImageClasses":
    """The whole data set of an experiment; kept in memory for the next call."""
    options = options_for(experiment.dataset, experiment.n_source, experiment.n_novel)
    return _images(experiment.dataset, os.environ.get("NCBOOK_DATA"), tuple(sorted(options.items())))


def load_splits(experiment: Experiment) -> "datasets.ClassSplit":
    """The four class-disjoint splits of an experiment."""
    return datasets.split(
        load_images(experiment),
        n_source=experiment.n_source,
        n_novel=experiment.n_novel,
        class_seed=experiment.class_seed,
    )


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame as CSV in one step; floats keep all their digits."""
    replace(path, lambda p: frame.to_csv(p, index=False))


def weights_path(directory: Path, epoch: int) -> Path:
    """Where the weights of an epoch are kept."""
    return directory / f"epoch-{epoch:06d}.safetensors"


def locate(experiment: Experiment, runs_dir: str | os.PathLike | None = None) -> Path:
    """The folder of an experiment's run, whether it is there or not."""
    base = default_runs_dir() if runs_dir is None else Path(runs_dir).expanduser().absolute()
    return base / f"{experiment.key}-{load_images(experiment).fingerprint[:12]}"


def is_finished(experiment: Experiment, runs_dir: str | os.PathLike | None = None) -> bool:
    """Whether a finished run is there. (`ncbook.train`, which looks closer, trains a damaged one anew.)"""
    return (locate(experiment, runs_dir) / "finished.json").is_file()


class Lock:
    """Held by the one process that trains a run; another one waits, and says for whom.

    The operating system lets go of it when its holder dies, however that happens.
    """

    def __init__(self, directory: Path):
        self._lock = filelock.FileLock(directory.with_name(directory.name + ".lock"))
        self._holder = directory.with_name(directory.name + ".holder")

    def __enter__(self):
        make_folder(self._holder.parent)
        try:
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout:
                print(f"waiting: this run is being trained by {self.holder()}", file=sys.stderr, flush=True)
                self._lock.acquire()
        except OSError as error:
            raise storage_error(error, self._holder) from error
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        text = f"process {os.getpid()} on {platform.node()}, since {since}"
        try:
            replace(self._holder, lambda p: p.write_text(text, encoding="utf-8"))
        except OSError:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_):
        self._holder.unlink(missing_ok=True)
        self._lock.release()

    def holder(self) -> str:
        """Who holds it, in words."""
        try:
            return self._holder.read_text(encoding="utf-8")
        except OSError:
            return "another process"

    def held(self) -> bool:
        """Whether somebody holds it just now."""
        if not Path(self._lock.lock_file).is_file():
            return False
        try:
            with self._lock.acquire(timeout=0):
                return False
        except (filelock.Timeout, OSError):
            return True


def environment() -> dict:
    """Versions and hardware, as stored with every run."""
    return {
        "python": platform.python_version(),
        "versions": {
            "ncbook": ncbook.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pandas": pd.__version__,
        },
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@torch.no_grad()
def extract_layers(
    backbone: nn.Module, images: torch.Tensor, layers: Sequence[str], *, batch: int | None = None
) -> list[torch.Tensor]:
    """Flattened outputs of named layers, in evaluation mode and float32, on the device of the backbone.

    Args:
        backbone: the feature map; its mode is restored afterwards.
        images: uint8 [N, C, H, W], any device.
        layers: names of `ncbook.backbones.layers`, or "" for the features f(x).
        batch: images a forward pass; None: as many as are fast, 64 on a CPU (they stay in its cache: twice as
            fast as 512), 1,024 elsewhere.

    Returns:
        float32 [N, D_layer] for each layer, from one forward pass.
    """
    device = next(backbone.parameters()).device
    batch = batch or (64 if device.type == "cpu" else 1024)
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in layers}

    def keep(name):  # a copy: the next module may work in place
        return lambda _module, _input, output: kept[name].append(output.flatten(1).clone())

    hooks = [backbone.get_submodule(name).register_forward_hook(keep(name)) for name in kept]
    training = backbone.training
    backbone.eval()
    try:
        for chunk in images.split(batch):
            backbone(as_input(chunk.to(device)))
    finally:
        backbone.train(training)
        for hook in hooks:
            hook.remove()
    return [torch.cat(kept[name]).float() for name in layers]


def extract(backbone: nn.Module, images: torch.Tensor, *, layer: str | None = None) -> torch.Tensor:
    """Features of images float32 [N, D], or outputs of one layer, as `extract_layers` does."""
    return extract_layers(backbone, images, [layer or ""])[0]


def as_input(images: torch.Tensor) -> torch.Tensor:
    """Grey levels 0 ... 255 [B, C, H, W] to network input: float32 in [0, 1], channels last."""
    return images.to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)


class Run:
    """A run on disk: an experiment's numbers and networks. Made by `ncbook.train`; opens fast, reads lazily.

    Args:
        directory: the run's folder.

    Raises:
        FileNotFoundError: there is no run in that folder.
        DamagedFileError: its config was cut short or altered.
        ValueError: it was written by a version of the package with another layout.
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        path = self.directory / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"no run in {self.directory}: config.json is missing")
        self.config: dict = read_json(path)
        if self.config.get("schema") != SCHEMA:
            version = self.config.get("environment", {}).get("versions", {}).get("ncbook", "unknown")
            raise ValueError(
                f"the run in {self.directory} was written by ncbook {version} in layout {self.config.get('schema')}; "
                f"this version reads layout {SCHEMA}: train it anew, or read it with that version"
            )
        self.experiment = Experiment(**self.config["experiment"])

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        e = self.experiment
        return f"Run({e.dataset}, {e.backbone}, {e.n_source} source classes, {self.config['epochs']} epochs, {state})"

    @property
    def finished(self) -> bool:
        """Whether training went to its last epoch."""
        return (self.directory / "finished.json").is_file()

    @property
    def history(self) -> pd.DataFrame:
        """Every measurement, tidy: epoch, step, split, metric, value; only what a seed determines.

        Read from the epochs' files; a history.csv that says otherwise is written anew, with a warning.

        Raises:
            DamagedFileError: an epoch's file is damaged.
        """
        rows = []
        for epoch in self.epochs_kept:
            about = read_about(weights_path(self.directory, epoch))
            rows += [(epoch, about["step"], *row) for row in about["measured"]]
        frame = pd.DataFrame(rows, columns=HISTORY_COLUMNS)
        path = self.directory / "history.csv"
        if self.finished and not (path.is_file() and path.read_text(encoding="utf-8") == frame.to_csv(index=False)):
            warnings.warn(f"{path} is not what was measured, and is written anew", stacklevel=2)
            with contextlib.suppress(OSError):  # a folder that is read-only: the numbers returned are right
                write_csv(path, frame)
        return frame

    def verify(self) -> None:
        """Check every file of a finished run against its checksum; each once per process.

        Raises:
            DamagedFileError: naming the file.
        """
        read_json(self.directory / "finished.json")
        for epoch in self.config["measured_epochs"]:
            path = weights_path(self.directory, epoch)
            if not path.is_file():
                raise DamagedFileError(f"{path} is missing")
            read_tensors(path)

    @property
    def epochs_kept(self) -> list[int]:
        """Epochs whose weights are on disk, in ascending order."""
        return sorted(int(path.stem.removeprefix("epoch-")) for path in self.directory.glob("epoch-*.safetensors"))

    @functools.cached_property
    def splits(self) -> "datasets.ClassSplit":
        """The images the run was trained and measured on.

        Raises:
            ValueError: the data set at hand has other pixels than the ones the run was trained on.
        """
        here = load_images(self.experiment).fingerprint
        if here != self.config["fingerprint"]:
            raise ValueError(
                f"the run in {self.directory} was trained on other pixels of {self.experiment.dataset!r} "
                f"(fingerprint {self.config['fingerprint'][:12]}, here {here[:12]})"
            )
        return load_splits(self.experiment)

    def _weights_kept(self, epoch: int | None) -> Path:
        """The file of the weights of an epoch, None: the last."""
        kept = self.epochs_kept
        if not kept:
            raise ValueError(f"the run in {self.directory} has no weights yet")
        epoch = kept[-1] if epoch is None else epoch
        if epoch not in kept:
            raise ValueError(f"epoch={epoch!r} was not kept; kept: {', '.join(map(str, kept))}")
        return weights_path(self.directory, epoch)

    def _weights(self, epoch: int | None, part: str) -> dict[str, torch.Tensor]:
        prefix = part + "."
        tensors = read_tensors(self._weights_kept(epoch))
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    def model(self, epoch: int | None = None) -> nn.Module:
        """The feature map f after an epoch (None: the last), in evaluation mode on the CPU.

        Raises:
            ValueError: the weights of that epoch were not kept; the message lists those that were.
        """
        weights = self._weights(epoch, "backbone")
        channels, size = self.config["image_shape"][0], self.config["image_shape"][-1]
        with torch.device("meta"):  # no random numbers drawn
            backbone = backbones.build(self.experiment.backbone, channels, size)
        backbone.load_state_dict(weights, assign=True)
        return backbone.to(memory_format=torch.channels_last).eval()

    def objective(self, epoch: int | None = None) -> nn.Module:
        """The objective with its head after an epoch (None: the last), on the CPU."""
        weights = self._weights(epoch, "objective")
        with torch.device("meta"):
            objective = objectives.build(
                self.experiment.objective, self.config["feature_dim"], self.experiment.n_source
            )
        objective.load_state_dict(weights, assign=True)
        return objective.eval()

    def head(self, epoch: int | None = None) -> torch.Tensor | None:
        """Rows of the linear classifier after an epoch, float32 [C, D]; None when there is no such head."""
        weight = getattr(self.objective(epoch), "weight", None)
        return None if weight is None else weight.detach()

    def features(
        self, split: str, epoch: int | None = None, layer: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and labels of a split, computed in float32 without augmentation.

        Features f(x) of up to 16 MiB stay in the run's folder once they were computed, and are read from there.

        Args:
            split: "source_train", "source_test", "novel" or "validation".
            epoch: a measured epoch; None: the last.
            layer: a name of `ncbook.backbones.layers`; None: the features f(x).

        Returns:
            features float32 [N, D] and labels int64 [N], 0 ... C-1 within the split.

        Raises:
            ValueError: unknown split or layer, or an epoch whose weights were not kept.
        """
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is unknown; {nearest(split, [*SPLITS])}")
        names = backbones.layers(self.experiment.backbone)
        if layer is not None and layer not in names:
            raise ValueError(f"layer={layer!r} is unknown; {nearest(layer, names)}")
        part = getattr(self.splits, split)
        weights = self._weights_kept(epoch)
        size = 4 * len(part.labels) * self.config["feature_dim"]
        path = weights.with_name(f"features-{split}-{weights.name.removeprefix('epoch-')}")
        keep = layer is None and size <= FEATURES_KEPT
        of = tensors_checksum(weights)
        if keep and (features := _read_features(path, of)) is not None:
            return features, part.labels
        features = extract(self.model(epoch).to(resolve_device()), part.images, layer=layer).cpu()
        if keep:
            with contextlib.suppress(OSError):  # a folder that cannot be written to: computed again next time
                write_tensors(path, {"features": features}, weights=of)
        return features, part.labels

    @torch.no_grad()
    def logits(self, split: str, epoch: int | None = None) -> torch.Tensor:
        """Scores of the source classes [N, C] for the samples of a split."""
        return self.objective(epoch).logits(self.features(split, epoch)[0])


def _read_features(path: Path, weights: str) -> torch.Tensor | None:
    """Features kept in a file; None if it is not there, damaged, or of other weights."""
    try:
        return read_tensors(path)["features"] if read_about(path)["weights"] == weights else None
    except (FileNotFoundError, DamagedFileError):
        return None


def describe(experiment: Experiment) -> dict:
    """An experiment as plain data, for config.json."""
    return dataclasses.asdict(experiment)


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed for one purpose, from a run's seed and the purpose's name; the same on every machine.

    >>> derived_seed(0, "epoch", 1) == derived_seed(0, "epoch", 1) != derived_seed(0, "epoch", 2)
    True
    """
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def set_aside(directory: Path) -> Path:
    """Rename a damaged run's folder, in place of what was set aside before; returns the new name."""
    aside = directory.with_name(directory.name + ".damaged")
    shutil.rmtree(aside, ignore_errors=True)
    directory.rename(aside)
    return aside


def list(runs_dir: str | os.PathLike | None = None) -> pd.DataFrame:
    """All runs of a folder.

    Args:
        runs_dir: folder of all runs; None: NCBOOK_RUNS, else a folder in the user's cache.

    Returns:
        One row a run: directory, state ("finished", "training", "interrupted", "unreadable"), epochs_done, epochs,
        seconds, megabytes, and the experiment's fields. Give a selection of its rows to `remove`.
    """
    base = default_runs_dir() if runs_dir is None else Path(runs_dir).expanduser().absolute()
    rows = []
    for path in sorted(base.glob("*/config.json")) if base.is_dir() else ():
        directory = path.parent
        size = sum(file.stat().st_size for file in directory.iterdir() if file.is_file()) / 1e6
        row = {"directory": str(directory), "state": "unreadable", "megabytes": round(size, 2)}
        try:
            run = Run(directory)
            row |= {"epochs_done": max(run.epochs_kept, default=0), "epochs": run.config["epochs"]}
            row |= {"seconds": read_json(directory / "finished.json")["seconds"] if run.finished else np.nan}
            row |= describe(run.experiment)
            row["state"] = "finished" if run.finished else "training" if Lock(directory).held() else "interrupted"
        except (ValueError, TypeError, KeyError):
            pass  # damaged, or of another version: listed, so that it can be removed
        rows.append(row)
    first = ["directory", "state", "epochs_done", "epochs", "seconds", "megabytes"]
    frame = pd.DataFrame(rows, columns=None if rows else first)
    return frame[[*first, *(name for name in frame.columns if name not in first)]] if rows else frame


def remove(rows: pd.DataFrame) -> float:
    """Delete runs.

    Args:
        rows: rows of `list`, such as ``runs.list().query("state == 'interrupted'")``.

    Returns:
        Megabytes that were freed.

    Raises:
        ValueError: rows without a directory, or a run that is being trained; then nothing is deleted.
    """
    if "directory" not in rows:
        raise ValueError(f"rows has columns {[*rows.columns]}; allowed: rows of ncbook.runs.list()")
    directories = [Path(path) for path in rows["directory"]]
    for directory in directories:
        if not (directory / "config.json").is_file():
            raise ValueError(f"no run in {directory}: config.json is missing")
        if Lock(directory).held():
            raise ValueError(f"the run in {directory} is being trained by {Lock(directory).holder()}")
    freed = 0.0
    for directory in directories:
        freed += sum(file.stat().st_size for file in directory.iterdir() if file.is_file()) / 1e6
        shutil.rmtree(directory)
        for left in (".lock", ".holder"):
            directory.with_name(directory.name + left).unlink(missing_ok=True)
    return round(freed, 2)


def disk_space(runs_dir: str | os.PathLike | None = None) -> str:
    """A line: how many runs there are, how much they take, and how much room is left."""
    base = default_runs_dir() if runs_dir is None else Path(runs_dir).expanduser().absolute()
    table = list(base)
    there = next((folder for folder in (base, *base.parents) if folder.is_dir()), Path("/"))
    free = shutil.disk_usage(there).free / 1e9
    return f"{len(table)} runs, {table['megabytes'].sum():.1f} MB in {base}; {free:.1f} GB free"
