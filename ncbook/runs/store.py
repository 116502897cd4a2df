"""The store: writes a run's files while it is trained, restores what an interrupted one left. It knows no loop.

Used by `ncbook.training.fit` under the run's `Lock`. Every file that numbers are read from carries a checksum.
"""

import contextlib
import itertools
import os
import platform
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import ncbook
from ncbook import _files
from ncbook._checks import warn
from ncbook._files import DamagedFileError
from ncbook.datasets import ImageClasses
from ncbook.runs import layout
from ncbook.runs.kept import keep_features
from ncbook.runs.run import Run, history_of


def find(directory: Path, images: ImageClasses | None = None, device: str | torch.device = "auto") -> Run | None:
    """The finished, undamaged run in that folder, which is named after it, or None."""
    if not (directory / layout.FINISHED).is_file():
        return None
    try:
        run = Run(directory, images=images, device=device)
        _refuse_other_run(run)
        run.verify()
    except (DamagedFileError, FileNotFoundError):
        return None
    _drop_checkpoints(directory)  # a process that died between its last two acts left them
    return run


class Store:
    """The files of one run that is being trained.

    Args:
        directory: the run's folder; made by `restore`.

    Attributes:
        measured: epoch -> what its file says of it: epoch, step and the rows that were measured.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.measured: dict[int, dict] = {}
        self._log: list[dict] = []
        self._identity, self._config = "", {}

    def restore(self) -> dict | None:
        """The config of the interrupted run in this folder, every file of it checked, or None where there is none.

        A damaged run is renamed, with a warning, and there is none. Half-written files are deleted.
        """
        _files.make_folder(self.directory.parent)
        _mark(self.directory.parent)
        _files.make_folder(self.directory)
        for path in layout.half_written(self.directory):
            path.unlink()
        files = layout.own_entries(self.directory)
        if not files:
            return None
        try:
            for path in files:
                if path.is_symlink() or not path.is_file():  # a folder or a pipe: nothing could be written there
                    raise DamagedFileError(f"{path} is no file")
            run = Run(self.directory)
            _refuse_other_run(run)
            for epoch in run.saved_epochs:
                _files.read_tensors(layout.weights_path(self.directory, epoch))
                self.measured[epoch] = run.measured(epoch)
            self._identity, self._config = run.identity, run.config
        except (OSError, ValueError) as error:
            damaged = _set_aside(self.directory)
            again = f"the run is trained again from the beginning, the old folder is now {damaged.name}"
            warn(f"{error}; {again}")
            _files.make_folder(self.directory)
            self.measured = {}
            return None
        (self.directory / layout.FINISHED).unlink(missing_ok=True)  # something of it is missing: it goes on
        self._log = _read_log(self.directory / layout.LOG)
        return run.config

    def begin(self, config: dict) -> None:
        """Write the config of a new run."""
        self._identity, self._config = layout.identity(config), config
        _files.write_json(self.directory / layout.CONFIG, config)

    def discard(self) -> None:
        """Take back `begin`, of a run of which nothing was measured."""
        (self.directory / layout.CONFIG).unlink()
        with contextlib.suppress(OSError):  # something that is not ours
            self.directory.rmdir()

    def save_measurement(
        self,
        epoch: int,
        step: int,
        rows: list[tuple[str, str, float]],
        weights: dict[str, Tensor],
        features: dict[str, tuple[Tensor, Tensor]],
        **seconds: float,
    ) -> None:
        """Write what was measured after an epoch, (split, metric, value), with the weights it belongs to.

        ``features``, split -> (features, labels), are kept too, where they are not too large.
        """
        about = {"run": self._identity, "epoch": epoch, "step": step, "measured": rows}
        _files.write_tensors(layout.weights_path(self.directory, epoch), weights, **about)  # one file: never apart
        self.measured[epoch] = about
        for split, (values, labels) in features.items():
            keep_features(self.directory, split, epoch, values, labels)
        self._log.append({"epoch": epoch, **seconds})
        _files.write_csv(self.directory / layout.HISTORY, history_of(self.measured))
        _files.write_csv(self.directory / layout.LOG, pd.DataFrame(self._log))

    @property
    def has_checkpoint(self) -> bool:
        """Whether the newest checkpoint is there."""
        return (self.directory / layout.CHECKPOINTS[0]).is_file()

    def save_checkpoint(self, state: dict[str, Tensor | int]) -> None:
        """Write a trainer's state; the one before it is kept."""
        newest, previous = (self.directory / name for name in layout.CHECKPOINTS)
        if newest.is_file():
            newest.replace(previous)
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        numbers = {name: value for name, value in state.items() if name not in tensors}
        _files.write_tensors(newest, tensors, run=self._identity, **numbers)

    def load_checkpoint(self) -> dict[str, Tensor | int] | None:
        """The newest state that is whole, or None; a damaged one is passed over with a warning."""
        for name in layout.CHECKPOINTS:
            path = self.directory / name
            if not path.is_file():
                continue
            try:
                tensors, about = _files.read_tensors(path), _files.read_about(path)
                self._refuse_other(path, about)
                return {**tensors, "epoch": about["epoch"], "step": about["step"]}
            except DamagedFileError as error:
                warn(f"{error}; an older state is used in its place")
        return None

    def _refuse_other(self, path: Path, about: dict) -> None:
        """Refuse a checkpoint of another run, of a moment that this run does not have, or of one after a lost epoch."""
        epoch, step = about.get("epoch"), about.get("step")
        inside = isinstance(epoch, int) and isinstance(step, int)
        inside = inside and 0 <= epoch <= self._config["epochs"] and 0 <= step < self._config["steps_per_epoch"]
        if about.get("run") != self._identity or not inside:
            raise DamagedFileError(f"{path} is no checkpoint of this run (epoch {epoch}, step {step})")
        lost = [e for e in self._config["measured_epochs"] if e <= epoch and e not in self.measured]
        if lost:
            raise DamagedFileError(f"{layout.weights_path(self.directory, lost[0])} is missing")

    def finish(self) -> None:
        """Mark the run as finished; its checkpoints go."""
        seconds = sum(row["seconds"] for row in self._log)
        _files.write_json(self.directory / layout.FINISHED, {"epochs": max(self.measured), "seconds": seconds})
        _drop_checkpoints(self.directory)


def _refuse_other_run(run: Run) -> None:
    """Refuse a run that was copied or renamed to the place of another one."""
    if run.identity != run.directory.name:
        raise DamagedFileError(f"{run.directory} holds another run, {run.identity}")


def environment() -> dict:
    """Versions and hardware, as stored with every run."""
    return {
        "python": platform.python_version(),
        "versions": {module.__name__: module.__version__ for module in (ncbook, torch, np, pd)},
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


def _read_log(path: Path) -> list[dict]:
    """Seconds of earlier epochs; an unreadable log is begun again, since no result depends on it."""
    try:
        log = pd.read_csv(path)
        return log[["epoch", "seconds", "measuring"]].astype(float).to_dict("records")
    except (OSError, ValueError, KeyError):
        return []


def _drop_checkpoints(directory: Path) -> None:
    for name in layout.CHECKPOINTS:
        with contextlib.suppress(OSError):  # a read-only folder: they do no harm
            (directory / name).unlink(missing_ok=True)


def _mark(runs_dir: Path) -> None:
    """Mark a folder of runs: only in such a folder anything is ever deleted."""
    mark = runs_dir / layout.MARK
    if not mark.is_file():
        _files.replace(mark, lambda path: path.write_text("A folder of runs of ncbook.\n", encoding="utf-8"))


def _set_aside(directory: Path) -> Path:
    """Rename a damaged run's folder, in place of what was set aside before; returns the new name."""
    damaged = directory.with_name(directory.name + ".damaged")
    try:
        if layout.is_run_folder(damaged) and not layout.foreign_entries(damaged):
            shutil.rmtree(damaged)
        for number in itertools.count(2):
            if not os.path.lexists(damaged):
                break
            damaged = directory.with_name(f"{directory.name}.damaged-{number}")
        directory.rename(damaged)
    except OSError as error:
        raise _files.storage_error(error, damaged) from error
    return damaged
