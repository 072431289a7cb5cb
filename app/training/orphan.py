"""A process whose parent was killed saves and ends: nobody would learn its result, and the next start goes on."""

import functools
import os
import signal
import threading
import time

_PERIOD = 0.5  # s between two looks


@functools.cache
def watch(parent: int) -> None:
    """Have this process get SIGTERM when its parent is gone, whatever it does then; once is enough."""
    threading.Thread(target=_wait_for_the_end, args=(parent,), daemon=True).start()


def is_orphan(parent: int | None) -> bool:
    """Return whether the parent is gone: the system gives an orphan another one at once."""
    return parent is not None and os.getppid() != parent


def _wait_for_the_end(parent: int) -> None:
    while not is_orphan(parent):
        time.sleep(_PERIOD)
    os.kill(os.getpid(), signal.SIGTERM)
