"""How far a long computation is: a bar in JupyterLab, a line every ten seconds elsewhere, silence under nbval.

The environment variable NCBOOK_PROGRESS chooses by hand: "bar", "lines" or "off". Used by `training`.
"""

import os
import sys
import time

__all__ = ["Progress", "mode"]
__dir__ = __all__.copy


def mode() -> str:
    """Return "bar", "lines" or "off" for the place this runs in."""
    chosen = os.environ.get("NCBOOK_PROGRESS", "auto")
    if chosen in ("bar", "lines", "off"):
        return chosen
    if "PYTEST_CURRENT_TEST" in os.environ:  # nbval's kernels inherit it
        return "off"
    if "JPY_SESSION_NAME" in os.environ:  # a kernel that a Jupyter server opened; papermill's have none
        return "bar"
    return "lines"


class Progress:
    """Counts steps of a known total; use as a context manager.

    Args:
        total: number of steps.
        label: what is being done, shown in front.
        done: steps already behind us (a resumed run).
        every: seconds between two lines where lines are printed.
    """

    def __init__(self, total: int, label: str, done: int = 0, every: float = 10.0):
        self.total, self.label, self.done, self.every = total, label, done, every
        self._mode = mode()
        self._start = self._last = time.monotonic()
        self._first = done
        self._bar = None
        if self._mode == "bar":
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, initial=done, desc=label, leave=False)

    def advance(self, steps: int, note: str = "") -> None:
        """Count ``steps`` more; ``note`` is the latest measurement in a few words."""
        self.done += steps
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(steps)
        elif self._mode == "lines" and time.monotonic() - self._last >= self.every:
            self._last = now = time.monotonic()
            left = (now - self._start) / (self.done - self._first) * (self.total - self.done)
            print(f"{self.label}: {self.done}/{self.total}, about {left:.0f} s left {note}", file=sys.stdout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()
