"""What children do when their parent is gone, or when it and they are told to end.

A child whose parent was killed saves and ends: nobody would learn its result, and the next start goes on.
"""

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker

_PERIOD = 0.5  # s between two looks
_FOR_THE_PARENT = (signal.SIGINT, signal.SIGTERM)  # a terminal or a service manager tells the children, too
_HAS_MASKS = hasattr(signal, "pthread_sigmask")  # not on Windows


@functools.cache
def watch(parent: int) -> None:
    """Have this process get SIGTERM when its parent is gone, whatever it does then; once is enough."""
    _when_orphaned(parent, lambda: os.kill(os.getpid(), signal.SIGTERM))


@contextlib.contextmanager
def born_deaf() -> Iterator[None]:
    """Let processes that start here hold the signals that are meant for this one, until they call ``end_with``.

    This process hears afterwards what it was told meanwhile.
    """
    if not _HAS_MASKS:
        yield
        return
    resource_tracker.ensure_running()  # it would come with the first process, and lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with(parent: int) -> None:
    """Have this process end at once when its parent is gone, and not by the signals that are meant for the parent."""
    for number in _FOR_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    if _HAS_MASKS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FOR_THE_PARENT)
    _when_orphaned(parent, lambda: os._exit(1))


def is_orphan(parent: int | None) -> bool:
    """Return whether the parent is gone: the system gives an orphan another one at once."""
    return parent is not None and os.getppid() != parent


def _when_orphaned(parent: int, act: Callable[[], None]) -> None:
    threading.Thread(target=_wait_for_the_end, args=(parent, act), daemon=True).start()


def _wait_for_the_end(parent: int, act: Callable[[], None]) -> None:
    while not is_orphan(parent):
        time.sleep(_PERIOD)
    act()
