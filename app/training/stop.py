"""Ctrl-C and SIGTERM as a request that the run honours between two updates."""

import signal
import threading
from collections.abc import Callable
from types import FrameType

_REASONS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Stopped(Exception):
    """The run was asked to stop; ``reason`` is "interrupted" or "terminated"."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class StopRequest:
    """While entered, the first signal is only remembered; another one interrupts at once.

    An exception out of the middle of an optimiser's step would leave networks that no checkpoint may keep.

    Args:
        trouble: says why the run must end for another reason, "" while there is none.

    Attributes:
        reason: of the newest signal, "" if there was none.
    """

    def __init__(self, trouble: Callable[[], str] = str) -> None:
        self.reason = ""
        self._trouble = trouble
        self._pending = False

    def check(self) -> None:
        """Raise Stopped if a signal came since the last one was heeded, or if there is trouble."""
        if self._pending:
            self._pending = False
            raise Stopped(self.reason)
        if trouble := self._trouble():
            raise Stopped(trouble)

    def __enter__(self) -> "StopRequest":
        """Take over the signals."""
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self._before = {number: signal.signal(number, self._remember) for number in _REASONS}
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self._pending:
            raise KeyboardInterrupt
        self.reason, self._pending = _REASONS[signal.Signals(number)], True
