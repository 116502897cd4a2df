"""All runs of a folder: list them, see how much room they take, remove some. The only place that deletes runs."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from ncbook._checks import named_arguments
from ncbook._files import read_about, read_json, storage_error
from ncbook.datasets import ImageClasses
from ncbook.experiment import Experiment
from ncbook.runs import layout
from ncbook.runs.lock import Lock
from ncbook.runs.run import Run

_FIRST = ["state", "epochs_done", "epochs", "seconds", "megabytes"]


def is_finished(
    experiment: Experiment, runs_dir: str | os.PathLike | None = None, images: ImageClasses | None = None
) -> bool:
    """Whether a finished run is there. (`ncbook.train`, which looks closer, trains a damaged one again.)"""
    return (layout.locate(experiment, runs_dir, images) / layout.FINISHED).is_file()


class Runs(pd.DataFrame):
    """Rows of `list`, printed with the columns that tell the runs apart; all others are there, as ``.columns`` says."""

    @property
    def _constructor(self):
        return Runs

    def _brief(self) -> pd.DataFrame:
        if not {*_FIRST, "directory", "n_source"} <= {*self} or not self.columns.is_unique:  # a reader's own selection
            return pd.DataFrame(self)
        others = (name for name in self if name not in [*_FIRST, "directory"])
        return pd.DataFrame(self)[[*_FIRST, *(name for name in others if self[name].astype(str).nunique() > 1)]]

    def __repr__(self) -> str:
        brief = self._brief()
        more = len(self.columns) - len(brief.columns)
        return repr(brief) + (f"\nand {more} more columns" if more else "")

    def _repr_html_(self) -> str:
        return self._brief()._repr_html_()


@named_arguments
def list(runs_dir: str | os.PathLike | None = None) -> pd.DataFrame:
    """All runs of a folder; folders of another layout are not runs.

    Args:
        runs_dir: folder of all runs; None: NCBOOK_RUNS, else a folder in the user's cache.

    Returns:
        One row per run: state ("finished", "training", "interrupted", "unreadable"), epochs_done, epochs, seconds,
        megabytes, directory, and the experiment's fields. It prints the parameters that differ between the runs only.
        Give a selection of its rows to `remove`.
    """
    base = layout.resolve_runs_dir(runs_dir)
    directories = sorted(base.iterdir()) if base.is_dir() else ()
    rows = [_row(directory) for directory in directories if layout.is_run_folder(directory)]
    first = [*_FIRST, "directory"]
    frame = pd.DataFrame(rows, columns=None if rows else first)
    return Runs(frame.reindex(columns=[*first, *(name for name in frame.columns if name not in first)]))


def _row(directory: Path) -> dict:
    row = {"directory": str(directory), "state": "unreadable", "megabytes": np.nan}
    try:
        row["megabytes"] = round(_bytes(directory) / 1e6, 2)
        run = Run(directory)
        done = max([*run.saved_epochs, _epoch_of_checkpoint(directory)])
        row |= {"epochs_done": done, "epochs": run.config["epochs"]}
        row |= {"seconds": read_json(directory / layout.FINISHED)["seconds"] if run.finished else np.nan}
        row |= run.experiment.to_dict()
        row["state"] = "finished" if run.finished else "training" if Lock(directory).held() else "interrupted"
    except Exception:  # damaged in whatever way, or of another version: listed, so that it can be removed
        pass
    return row


def _epoch_of_checkpoint(directory: Path) -> int:
    """Whole epochs behind the newest checkpoint; 0 without one, or of a damaged one, which is passed over."""
    try:
        return int(read_about(directory / layout.CHECKPOINTS[0])["epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


@named_arguments
def remove(rows: pd.DataFrame) -> float:
    """Delete runs, and nothing but runs: all rows are checked before the first folder is touched.

    Args:
        rows: rows of `list`, such as ``runs.list().query("state == 'interrupted'")``.

    Returns:
        Megabytes that were freed.

    Raises:
        TypeError: no frame.
        ValueError: rows without a directory; a folder that is no run, or lies in no folder of runs; a run that is being
            trained; a file that ncbook did not write. Then nothing is deleted, or where a training began meanwhile only
            what came before it.
        StorageError: a folder that cannot be written to.
    """
    if not isinstance(rows, pd.DataFrame):
        raise TypeError(f"rows is of type {type(rows).__name__}; allowed: rows of ncbook.runs.list()")
    if "directory" not in rows or not all(isinstance(path, str) for path in rows["directory"]):
        raise ValueError(f"rows has columns {[*rows.columns]}, of no runs; allowed: rows of ncbook.runs.list()")
    directories = [*dict.fromkeys(Path(os.path.abspath(path)) for path in rows["directory"])]
    for directory in directories:
        _refuse_to_remove(directory)
    freed = 0
    for directory in directories:
        try:
            with Lock(directory).at_once():  # nobody begins to train it meanwhile
                freed += _bytes(directory)
                shutil.rmtree(directory)
        except OSError as error:
            raise storage_error(error, directory) from error
    return round(freed / 1e6, 2)


def _refuse_to_remove(directory: Path) -> None:
    """Raise unless the folder is a run of the package's own layout, inside a folder of runs, that nobody trains."""
    if not layout.is_run_folder(directory):
        raise ValueError(f"{directory} is no run of ncbook: nothing is deleted; allowed: rows of ncbook.runs.list()")
    if not (directory.parent / layout.MARK).is_file():
        raise ValueError(
            f"{directory} is not inside a folder of runs ({layout.MARK} is missing in {directory.parent}): nothing is "
            "deleted; allowed: rows of ncbook.runs.list()"
        )
    if foreign := layout.foreign_entries(directory):
        raise ValueError(
            f"{directory} holds what ncbook did not write: {', '.join(foreign[:5])}; nothing is deleted, move it first"
        )
    if Lock(directory).held():
        raise ValueError(f"the run in {directory} is being trained by {Lock(directory).holder()}: nothing is deleted")


@named_arguments
def disk_space(runs_dir: str | os.PathLike | None = None) -> str:
    """A line: how many runs there are, how much they take, and how much room is left."""
    base = layout.resolve_runs_dir(runs_dir)
    table = list(base)
    existing = next((folder for folder in (base, *base.parents) if folder.is_dir()), Path("/"))
    free = shutil.disk_usage(existing).free / 1e9
    return f"{len(table)} runs, {table['megabytes'].sum():.1f} MB in {base}; {free:.1f} GB free"


def _bytes(directory: Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(directory) if entry.is_file(follow_symlinks=False))
