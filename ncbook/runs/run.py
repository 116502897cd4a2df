"""`Run`: what is read back from a run's folder. Opens fast, reads lazily; writes nothing but features it has computed.

Made by `ncbook.train`, or opened from its folder; used by notebooks, `layerwise`, `sweeps` and the explorers.
"""

import contextlib
import functools
import os

import pandas as pd
import torch
from torch import Tensor, nn

from ncbook import _files, backbones, catalog, datasets, objectives
from ncbook._checks import check_choice, check_whole, warn
from ncbook._files import DamagedFileError
from ncbook.datasets import ClassSplit, ImageClasses
from ncbook.experiment import SCHEMA, Experiment
from ncbook.features import extract, resolve_device
from ncbook.runs import layout
from ncbook.runs.kept import keep_features, read_features


def check_images(images: object) -> ImageClasses | None:
    """Accept images that a caller holds, or None."""
    if images is not None and not isinstance(images, ImageClasses):
        raise TypeError(f"images is of type {type(images).__name__}; allowed: ncbook.datasets.ImageClasses, or None")
    return images


def history_of(measured: dict[int, dict]) -> pd.DataFrame:
    """The tidy history: epoch, step, split, metric, value, from epoch -> what its file says (step, measured)."""
    rows = [(epoch, measured[epoch]["step"], *row) for epoch in sorted(measured) for row in measured[epoch]["measured"]]
    return pd.DataFrame(rows, columns=["epoch", "step", "split", "metric", "value"])


class Run:
    """A run on disk: an experiment's numbers and networks. Made by `ncbook.train`; opens fast, reads lazily.

    Args:
        directory: the run's folder.
        images: the images it was trained on, where these were handed over to `ncbook.train`; None: the experiment's
            data set, when images are needed at all.
        device: where features are computed, as `ncbook.train` takes it.

    Raises:
        FileNotFoundError: there is no run in that folder.
        DamagedFileError: its config was cut short or altered, or describes no run.
        ValueError: it was written by a version of the package with another layout.
    """

    def __init__(
        self, directory: str | os.PathLike, *, images: ImageClasses | None = None, device: str | torch.device = "auto"
    ):
        self.directory, self._images = layout.check_folder("directory", directory), check_images(images)
        self.device = device
        if device != "auto":  # asking for CUDA here would keep forked processes from it
            resolve_device(device)
        path = self.directory / layout.CONFIG
        if not path.is_file():
            raise FileNotFoundError(f"no run in {self.directory}: config.json is missing")
        self.config: dict = _files.read_json(path)
        if self.config.get("schema") != SCHEMA:
            version = self.config.get("environment", {}).get("versions", {}).get("ncbook", "unknown")
            raise ValueError(
                f"the run in {self.directory} was written by ncbook {version} in layout {self.config.get('schema')}; "
                f"this version reads layout {SCHEMA}: train it again, or read it with that version"
            )
        try:
            self.experiment = Experiment(**self.config["experiment"])
            self.identity = layout.identity(self.config)
            check_whole("threads", self.config["threads"], 1)
            check_choice("precision", self.config["precision"], catalog.PRECISIONS)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFileError(f"{path} describes no run: {error}") from error

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        e = self.experiment
        return f"Run({e.dataset}, {e.backbone}, {e.n_source} source classes, {self.config['epochs']} epochs, {state})"

    @property
    def finished(self) -> bool:
        """Whether training went to its last epoch."""
        return (self.directory / layout.FINISHED).is_file()

    @property
    def history(self) -> pd.DataFrame:
        """Every measurement, tidy: epoch, step, split, metric, value; only what a seed determines.

        Read from the epochs' files; a history.csv that says otherwise is replaced, with a warning.

        Raises:
            DamagedFileError: an epoch's file is damaged.
        """
        self._refuse_incomplete()
        frame = history_of({epoch: self.measured(epoch) for epoch in self.saved_epochs})
        path = self.directory / layout.HISTORY
        if self.finished and not (path.is_file() and path.read_bytes() == frame.to_csv(index=False).encode()):
            warn(f"{path} is not what was measured, and is replaced")
            with contextlib.suppress(OSError):  # a folder that is read-only: the numbers returned are right
                _files.write_csv(path, frame)
        return frame

    def verify(self) -> None:
        """Check every file of a finished run against its checksum; each once per process.

        Raises:
            DamagedFileError: naming the file.
        """
        _files.read_json(self.directory / layout.FINISHED)
        self._refuse_incomplete()
        for epoch in self.saved_epochs:
            self.measured(epoch)
            _files.read_tensors(layout.weights_path(self.directory, epoch))

    def measured(self, epoch: int) -> dict:
        """What an epoch's file says of it: epoch, step, and the rows (split, metric, value) that were measured.

        Raises:
            DamagedFileError: the file is damaged, or belongs to another run or epoch.
        """
        path = layout.weights_path(self.directory, epoch)
        about = _files.read_about(path)
        if (about.get("run"), about.get("epoch")) != (self.identity, epoch) or "measured" not in about:  # a checkpoint
            raise DamagedFileError(f"{path} belongs to another run or epoch ({about.get('run')}, {about.get('epoch')})")
        return about

    def _refuse_incomplete(self) -> None:
        """Raise where the file of an epoch before the last one is missing: nothing may stand in for it."""
        last = self.config["epochs"] if self.finished else max(self.saved_epochs, default=0)
        missing = {epoch for epoch in self.config["measured_epochs"] if epoch <= last} - {*self.saved_epochs}
        if missing and (self.finished or self.saved_epochs):
            path = layout.weights_path(self.directory, min(missing))
            raise DamagedFileError(f"{path} is missing; ncbook.train trains the run again")

    @property
    def saved_epochs(self) -> list[int]:
        """Epochs whose weights are on disk, in ascending order."""
        return layout.saved_epochs(self.directory)

    @functools.cached_property
    def splits(self) -> ClassSplit:
        """The images the run was trained and measured on.

        Raises:
            ValueError: the images are not there, or are not those that the run was trained on.
        """
        images = self._images
        if images is None and self.config["images_handed_over"]:
            raise ValueError(
                f"the run in {self.directory} was trained on images that were handed over: hand them over again, "
                "Run(directory, images=...) or ncbook.train(experiment, images=...)"
            )
        if images is None:
            images = datasets.load_for(self.experiment)
        if images.fingerprint != self.config["fingerprint"]:
            raise ValueError(
                f"the run in {self.directory} was trained on other pixels than those of {images.name!r} "
                f"(fingerprint {self.config['fingerprint'][:12]}, here {images.fingerprint[:12]})"
            )
        return datasets.split_for(self.experiment, images)

    def _saved_epoch(self, epoch: int | None) -> int:
        """An epoch whose weights are on disk and belong to this run; None: the last."""
        self._refuse_incomplete()
        epochs = self.saved_epochs
        if not epochs:
            raise ValueError(f"the run in {self.directory} has no weights yet")
        whole = hasattr(epoch, "__index__") and not isinstance(epoch, bool)
        if epoch is not None and not (whole and epoch in epochs):
            raise ValueError(f"epoch={epoch!r} was not kept; kept: {', '.join(map(str, epochs))}")
        epoch = epochs[-1] if epoch is None else int(epoch)
        self.measured(epoch)
        return epoch

    def _weights(self, epoch: int | None, part: str) -> dict[str, Tensor]:
        prefix = part + "."
        tensors = _files.read_tensors(layout.weights_path(self.directory, self._saved_epoch(epoch)))
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

    def objective(self, epoch: int | None = None) -> objectives.Objective:
        """The objective with its head after an epoch (None: the last), on the CPU."""
        weights = self._weights(epoch, "objective")
        with torch.device("meta"):
            objective = objectives.build(self.experiment, self.config["feature_dim"])
        objective.load_state_dict(weights, assign=True)
        return objective.eval()

    def head(self, epoch: int | None = None) -> Tensor | None:
        """Rows of the linear classifier after an epoch, float32 [C, D]; None when there is no such head."""
        weight = self.objective(epoch).weight
        return None if weight is None else weight.detach()

    def features(self, split: str, epoch: int | None = None, layer: str | None = None) -> tuple[Tensor, Tensor]:
        """Features and labels of a split, computed in float32 without augmentation.

        Features f(x) of up to 16 MiB, those of the last epoch and those that were computed here, stay in the run's
        folder, and are read from there, without any images.

        Args:
            split: "source_train", "source_test", "novel" or "validation".
            epoch: a measured epoch; None: the last.
            layer: a name of `ncbook.backbones.layers`; None: the features f(x).

        Returns:
            features float32 [N, D] and labels int64 [N], 0 ... C-1 within the split.

        Raises:
            ValueError: unknown split or layer, or an epoch whose weights were not kept.
        """
        check_choice("split", split, catalog.SPLITS)
        if layer is not None:
            check_choice("layer", layer, backbones.layers(self.experiment.backbone))
        epoch = self._saved_epoch(epoch)
        if layer is None and (kept := read_features(self.directory, split, epoch)):
            return kept
        part = getattr(self.splits, split)
        features = extract(self.model(epoch).to(resolve_device(self.device)), part.images, layer=layer).cpu()
        if layer is None:
            keep_features(self.directory, split, epoch, features, part.labels)
        return features, part.labels

    @torch.no_grad()
    def logits(self, split: str, epoch: int | None = None) -> Tensor | None:
        """Scores of the source classes [N, C] for the samples of a split; None without a head."""
        return self.objective(epoch).logits(self.features(split, epoch)[0])
