"""Work in processes of their own, several at once. One that dies takes no other along."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from app.errors import in_one_line

Task = TypeVar("Task")


def run_each(
    work: Callable[[Task], None],
    tasks: Sequence[Task],
    at_once: int,
    begins: Callable[[Task], None],
    ended: Callable[[Task, str], None],
) -> None:
    """Call ``work`` with every task, each in a new process, and wait for the last one.

    When this process is interrupted, or a callback raises, no more tasks begin, and the running ones get SIGTERM and
    the time that they need to save; a second Ctrl-C kills them. Where this process is killed, they are left alone.

    Args:
        work: a function of a module.
        tasks: can be pickled.
        at_once: processes at the same time.
        begins: called here before a task begins.
        ended: called here after it, with "" or with what went wrong on one line.
    """
    waiting, running = deque(tasks), {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                begins(waiting[0])
                child = _Child.start(work, waiting.popleft())
                running[child.process.sentinel] = child
            for sentinel in wait(list(running)):
                child = running.pop(sentinel)
                ended(child.task, child.trouble())
    finally:
        _stop([child.process for child in running.values()])


@dataclass(frozen=True)
class _Child(Generic[Task]):
    task: Task
    process: BaseProcess
    answer: Connection  # gets what went wrong

    @classmethod
    def start(cls, work: Callable[[Task], None], task: Task) -> "_Child[Task]":
        # Spawned: a fork would share locks and threads of torch with this process. A daemon: no way out leaves it here.
        context = multiprocessing.get_context("spawn")
        answer, sender = context.Pipe(duplex=False)
        process = context.Process(target=_enter, args=(work, task, sender), daemon=True)
        process.start()
        sender.close()
        return cls(task, process, answer)

    def trouble(self) -> str:
        self.process.join()
        code = self.process.exitcode
        with self.answer:
            try:
                return self.answer.recv()
            except EOFError:  # it had nothing to say
                return "" if code == 0 else f"its process ended with exit code {code}"


def _enter(work: Callable[[Task], None], task: Task, answer: Connection) -> None:
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C in a terminal is for the parent, which passes it on once
    try:
        work(task)
    except Exception as error:
        answer.send(in_one_line(error))


def _stop(processes: Iterable[BaseProcess]) -> None:
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()  # nothing, where it has ended
            process.join()
