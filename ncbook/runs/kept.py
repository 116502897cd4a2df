"""Features that stay in a run's folder, so that they are computed once: of up to 16 MiB per split and epoch.

Kept by `Store` when the last epoch is measured, and by `Run.features` when it had to compute some. No result depends on
them: what is missing, damaged or of other weights is computed again.
"""

import contextlib
from pathlib import Path

from torch import Tensor

from ncbook import _files
from ncbook._files import DamagedFileError
from ncbook.runs import layout

FEATURES_ON_DISK = 16 * 2**20  # bytes of a split's features that are kept


def keep_features(directory: Path, split: str, epoch: int, features: Tensor, labels: Tensor) -> None:
    """Write a split's features and labels after an epoch, whose weights are on disk, unless they are too large."""
    if features.nbytes <= FEATURES_ON_DISK:
        about = _belongs_to(directory, split, epoch)
        with contextlib.suppress(OSError):  # a folder that cannot be written to: computed again next time
            path = layout.features_path(directory, split, epoch)
            _files.write_tensors(path, {"features": features, "labels": labels}, **about)


def read_features(directory: Path, split: str, epoch: int) -> tuple[Tensor, Tensor] | None:
    """Features and labels that were kept; None where there are none, or damaged ones, or those of other weights."""
    path = layout.features_path(directory, split, epoch)
    try:
        if _files.read_about(path) != _belongs_to(directory, split, epoch):
            return None
        tensors = _files.read_tensors(path)
        return tensors["features"], tensors["labels"]
    except (FileNotFoundError, DamagedFileError):
        return None


def _belongs_to(directory: Path, split: str, epoch: int) -> dict[str, str]:
    """What the features are computed with, and of."""
    return {"weights": _files.tensors_checksum(layout.weights_path(directory, epoch)), "split": split}
