"""The lock of a run: one process trains it, others wait. Touches the two files beside the run's folder."""

import contextlib
import os
import platform
import sys
import time
from pathlib import Path

import filelock

from ncbook._files import make_folder, replace, storage_error


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
        """Which process holds it, in words."""
        try:
            return self._holder.read_text(encoding="utf-8")
        except OSError:
            return "another process"

    def held(self) -> bool:
        """Whether another process holds it just now; on a disk that cannot be written to nobody does."""
        if not Path(self._lock.lock_file).is_file():
            return False
        try:
            with self._lock.acquire(timeout=0):
                return False
        except filelock.Timeout:
            return True
        except OSError:
            return False

    @contextlib.contextmanager
    def at_once(self):
        """Hold it without waiting; its own files are gone afterwards. A ValueError where another process holds it."""
        try:
            with self._lock.acquire(timeout=0):
                yield
                for path in (self._holder, Path(self._lock.lock_file)):
                    path.unlink(missing_ok=True)
        except filelock.Timeout:
            raise ValueError(f"the run is being trained by {self.holder()}: it is not deleted") from None
