"""Processes that work beside this one and end with it."""

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from app.config.schema import Config
from app.errors import in_one_line
from app.training.orphan import watch

_GRACE_S = 15.0  # that they get to end by themselves
_LOOK_S = 0.5  # between two looks at them


class Children:
    """While entered, processes can be started; on the way out, whatever the reason, they are stopped.

    Where this process is killed, they notice and end.

    Attributes:
        ended: who has ended before the time, and why; "" while those that are needed are there.
    """

    def __init__(self) -> None:
        self.ended = ""
        self._running: dict[str, tuple[BaseProcess, Connection]] = {}
        self._needed: str | None = None  # the first one; of the others one is enough
        self._looked = -float("inf")

    def start(self, name: str, work: Callable[[Config], None], config: Config) -> None:
        """Run ``work(config)`` in a new process; it must be a function of a module."""
        # Spawned: a fork would share locks and threads of torch with this process.
        context = multiprocessing.get_context("spawn")
        words, sender = context.Pipe(duplex=False)
        process = context.Process(target=_enter, args=(work, config, os.getpid(), sender), name=name)
        process.start()
        sender.close()
        self._needed = self._needed or name
        self._running[name] = process, words

    def trouble(self) -> str:
        """Return why this process cannot go on: the first child has ended, or all others have."""
        now = time.monotonic()
        if self.ended or now - self._looked < _LOOK_S:
            return self.ended
        self._looked = now
        for name, (process, words) in list(self._running.items()):
            if process.is_alive():
                continue
            del self._running[name]
            if name == self._needed or set(self._running) <= {self._needed}:
                self.ended = f"{name} has ended ({_last_words(process, words)})"
        return self.ended

    def __enter__(self) -> "Children":
        """Begin with none."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Stop them, those first that were started last."""
        for process, _ in reversed(self._running.values()):
            process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for process, _ in reversed(self._running.values()):
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()  # nothing, where it has ended
            process.join()


def _enter(work: Callable[[Config], None], config: Config, parent: int, words: Connection) -> None:
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C in a terminal is for the parent, which stops all others
    watch(parent)
    try:
        work(config)
    except Exception as error:
        words.send(in_one_line(error))


def _last_words(process: BaseProcess, words: Connection) -> str:
    try:
        return words.recv() if words.poll() else f"exit code {process.exitcode}"
    except EOFError:
        return f"exit code {process.exitcode}"
