"""How far a long computation is: a bar in JupyterLab, a line every ten seconds elsewhere, silence under nbval.

The environment variable NCBOOK_PROGRESS chooses by hand: "bar", "lines" or "off". Used by `training`, `sweeps`, `plots`
and notebooks.
"""

import contextlib
import io
import os
import sys
import time
from collections import deque
from collections.abc import Collection, Iterator

_RECENT = 100  # steps that an estimate of the time left looks back on
_which = ""  # "network 2 of 4, " while several are trained

__all__ = ["Progress", "mode", "numbered"]
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


def numbered(items: Collection) -> Iterator:
    """Yield networks to train one after the other; progress says meanwhile which of them it is about.

    Example:
        >>> [Progress(300, "strokes").label for _ in numbered(["a", "b"])]
        ['network 1 of 2, strokes', 'network 2 of 2, strokes']
    """
    global _which
    try:
        for number, item in enumerate(items, 1):
            _which = f"network {number} of {len(items)}, " if len(items) > 1 else ""
            yield item
    finally:  # a loop that is left early, too
        _which = ""


class Progress:
    """Counts steps of a known total; use as a context manager.

    Args:
        total: number of steps.
        label: what is being done, shown in front.
        done: steps already behind us (a resumed run).
        every: seconds between two lines where lines are printed.
    """

    def __init__(self, total: int, label: str, done: int = 0, every: float = 10.0):
        self.total, self.label, self.done, self.every = total, _which + label, done, every
        self._mode, self._note = mode(), ""
        self._times: deque[tuple[float, int]] = deque(maxlen=_RECENT)  # (when, steps done)
        self._last = time.monotonic()
        self._bar = None
        if self._mode == "bar":
            from tqdm.auto import tqdm

            shape = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
            self._bar = tqdm(total=total, initial=done, desc=self.label, leave=False, bar_format=shape)

    def advance(self, steps: int, note: str = "") -> None:
        """Count ``steps`` more; ``note`` is the latest measurement in a few words, and stays until the next."""
        self.done, self._note = self.done + steps, note or self._note
        self._times.append((time.monotonic(), self.done))
        words = ", ".join(filter(None, [self._note, self.time_left()]))
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)
            self._bar.update(steps)
        elif self._mode == "lines" and time.monotonic() - self._last >= self.every:
            self._last = time.monotonic()
            _print(f"{self.label}: {self.done}/{self.total}, {words}")

    def time_left(self) -> str:
        """In words, at the speed of the latest steps; empty until a few seconds of them were timed."""
        (began, first), (now, _) = self._times[0], self._times[-1]
        if self.done - first < min(10, self.total // 4) or now - began < 2:
            return ""
        seconds = (now - began) / (self.done - first) * (self.total - self.done)
        for size, unit in ((3600, "h"), (60, "min")):
            if seconds >= 1.5 * size:
                return f"about {seconds / size:.0f} {unit} left"
        return f"about {seconds:.0f} s left"

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        global _which
        if self._bar is not None:
            self._bar.close()
        if kind is not None:
            _which = ""  # an error ends the loop of `numbered` as well


def _print(line: str) -> None:
    """Print a line, and in a kernel that papermill or nbconvert started also to their terminal.

    A kernel sends what is printed into the notebook only, which nobody sees before its end; its stderr has kept a
    number of the file that the kernel was started with.
    """
    print(line, flush=True)
    with contextlib.suppress(AttributeError, io.UnsupportedOperation, OSError):
        terminal = sys.stderr.fileno()
        if terminal != 2 and "ipykernel" in sys.modules:
            os.write(terminal, (("\r\033[K" if os.isatty(terminal) else "") + line + "\n").encode())
