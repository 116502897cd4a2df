"""Runs on disk: where they lie, how they are written, locked, read back, listed and removed.

Notebooks read through `Run`; `training` writes through `Store` under a `Lock`. Nothing here trains.
"""

from ncbook._files import DamagedFileError, StorageError
from ncbook.runs.layout import default_runs_dir, locate
from ncbook.runs.lock import Lock
from ncbook.runs.manage import disk_space, is_finished, list, remove
from ncbook.runs.run import Run
from ncbook.runs.store import Store, environment, find

__all__ = [
    "DamagedFileError",
    "Lock",
    "Run",
    "StorageError",
    "Store",
    "default_runs_dir",
    "disk_space",
    "environment",
    "find",
    "is_finished",
    "list",
    "locate",
    "remove",
]
__dir__ = __all__.copy
