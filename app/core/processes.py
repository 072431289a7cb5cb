"""Child processes that end when their parent ends, and leave the signals of a terminal to it.

A child whose parent was killed must not go on: its result would be lost, and the next start of the same
command continues its work.
"""

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import NoReturn

_POLL_INTERVAL_S = 0.5
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # a terminal or a service manager sends them to the children, too
_HAS_SIGNAL_MASKS = hasattr(signal, "pthread_sigmask")  # not on Windows


@functools.cache
def terminate_with_parent(parent: int) -> None:
    """Send SIGTERM to this process as soon as its parent is gone; a second call does nothing.

    Args:
        parent: Process id of the parent.
    """
    _run_when_orphaned(parent, lambda: os.kill(os.getpid(), signal.SIGTERM))


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Raise SystemExit on SIGTERM, so that the block ends in order; a running training handles the signal itself."""
    if threading.current_thread() is not threading.main_thread():  # Python allows signal handlers there only
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def block_signals_in_children() -> Iterator[None]:
    """Block SIGINT and SIGTERM in processes that are started in this context, until they call ``exit_with_parent``.

    Signals that reach this process meanwhile are delivered when the context ends.
    """
    if not _HAS_SIGNAL_MASKS:
        yield
        return
    resource_tracker.ensure_running()  # multiprocessing would start it with the first child, and lift the mask
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def exit_with_parent(parent: int) -> None:
    """Ignore SIGINT and SIGTERM in this process, and exit at once when its parent is gone.

    Args:
        parent: Process id of the parent.
    """
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if _HAS_SIGNAL_MASKS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    _run_when_orphaned(parent, lambda: os._exit(1))


def is_orphan(parent: int | None) -> bool:
    """Return whether the parent process is gone: the system gives an orphan another parent at once.

    Args:
        parent: Process id of the parent; None for a process that has none to depend on.
    """
    return parent is not None and os.getppid() != parent


def _exit(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)  # the exit code that shells and schedulers expect


def _run_when_orphaned(parent: int, action: Callable[[], None]) -> None:
    def wait() -> None:
        while not is_orphan(parent):
            time.sleep(_POLL_INTERVAL_S)
        action()

    threading.Thread(target=wait, daemon=True).start()
