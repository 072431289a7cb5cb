"""Reasons why a run stops, and signals as stop requests that take effect between two updates."""

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import FrameType


class StopKind(Enum):
    """Kinds of stop reasons; the values are the words in ``summary.json`` and on the console."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"
    PRUNED = "pruned"
    COLLAPSED = "collapsed"
    NOT_FINITE = "not finite"
    PROCESS_LOST = "process lost"


@dataclass(frozen=True)
class StopReason:
    """Reason why a run stopped; as text "finished", "collapsed: return_test_det is stuck …" and so on.

    Attributes:
        kind: Kind of the reason.
        detail: Explanation for a person, empty where the kind says everything.
    """

    kind: StopKind
    detail: str = ""

    def __str__(self) -> str:
        """Return the kind, followed by the detail if there is one."""
        return f"{self.kind.value}: {self.detail}" if self.detail else self.kind.value


INTERRUPTED, TERMINATED = StopReason(StopKind.INTERRUPTED), StopReason(StopKind.TERMINATED)
_REASONS = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}


class Stopped(Exception):
    """Raised between two updates to end a run that can be saved as it is.

    Attributes:
        reason: Reason of the stop.
    """

    def __init__(self, reason: StopReason):
        super().__init__(str(reason))
        self.reason = reason


class StopRequest:
    """Context manager that turns Ctrl-C and SIGTERM into a request; a second signal raises KeyboardInterrupt at once.

    An exception in the middle of an optimizer step would leave networks that no checkpoint may contain.

    Args:
        problem: Returns why the run must end for another reason, or None.

    Attributes:
        reason: Reason of the newest signal; None if there was none.
    """

    def __init__(self, problem: Callable[[], str | None] = lambda: None) -> None:
        self.reason: StopReason | None = None
        self._problem = problem
        self._pending = False

    def check(self) -> None:
        """Raise Stopped if a signal came since the last call, or if there is a problem."""
        if self._pending:
            self._pending = False
            raise Stopped(self.reason)
        if (problem := self._problem()) is not None:
            raise Stopped(StopReason(StopKind.PROCESS_LOST, problem))

    def __enter__(self) -> "StopRequest":
        """Install the signal handlers."""
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self._before = {number: signal.signal(number, self._remember) for number in _REASONS}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self._pending:
            raise KeyboardInterrupt
        self.reason, self._pending = _REASONS[signal.Signals(number)], True
