"""The stop button and SIGTERM, held back until a computation is at a place where it can stop.

Used by `ncbook.training.fit`. Does nothing outside the main thread, where Python delivers no signals.
"""

import signal
import threading


class Stopped(KeyboardInterrupt):
    """The stop button after a checkpoint: says what is saved. To every program it is a KeyboardInterrupt."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of forty lines of traceback."""
        return [f"KeyboardInterrupt: {self}"]


class DeferredSignals:
    """Context in which SIGINT and SIGTERM are remembered instead of acted upon; a second one acts at once.

    Attributes:
        pending: number of the signal that came, or None.
    """

    def __init__(self):
        self.pending: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (None, signal.SIG_IGN):  # None: from C, and cannot be put back
                    self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, kind, *_):
        self._put_back()
        if self.pending is not None and kind is None:  # it came after the last place to stop
            self.deliver()

    def deliver(self, saved: str | None = None) -> None:
        """Let the signal that came do what it does without us: KeyboardInterrupt, or the end of the process.

        Args:
            saved: what a KeyboardInterrupt is to say, as `Stopped`; None: nothing.
        """
        self._put_back()
        number, self.pending = self.pending, None
        try:
            if number is not None:
                signal.raise_signal(number)
        except KeyboardInterrupt as interrupt:
            raise (Stopped(saved) if saved else interrupt) from None

    def _remember(self, number, frame) -> None:
        if self.pending is not None:
            self.deliver()
        self.pending = number

    def _put_back(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
