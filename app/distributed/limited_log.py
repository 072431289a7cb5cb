"""Lines for a console, limited in number, whatever peers do."""

import time
from collections.abc import Callable

_INTERVAL_S, _LINES = 60.0, 100


class LimitedLog:
    """Writes at most a hundred lines a minute.

    Args:
        write: Writes a line.
    """

    def __init__(self, write: Callable[[str], None]):
        self._write = write
        self._began, self._lines, self._omitted = -float("inf"), 0, 0
        self._seen: set[str] = set()

    def add(self, line: str) -> None:
        """Write a line."""
        self._begin_interval()
        self._lines += 1
        if self._lines <= _LINES:
            self._write(line)
        else:
            self._omitted += 1

    def add_once(self, line: str) -> None:
        """Write a line unless it was written in the same minute."""
        self._begin_interval()
        if line not in self._seen:
            self.add(line)
            if len(self._seen) < _LINES:
                self._seen.add(line)

    def _begin_interval(self) -> None:
        now = time.monotonic()
        if now - self._began < _INTERVAL_S:
            return
        if self._omitted:
            self._write(f"{self._omitted:,} more lines were omitted.")
        self._began, self._lines, self._omitted = now, 0, 0
        self._seen.clear()
