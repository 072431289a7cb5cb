"""Lock that gives a run, study or launch one owner at a time."""

import os
import platform
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from app.core.atomic_files import make_folder, process_exists, sync_folder, write_json
from app.core.errors import UserError
from app.core.json_data import read_json


@dataclass(frozen=True)
class _Owner:
    """Process that holds a lock.

    Attributes:
        pid: Process number.
        host: Name of its machine.
        since: Local time at which it took the lock.
    """

    pid: int
    host: str
    since: str


class Lock:
    """Lock of a folder: a file lock of the operating system, which releases it when the process dies.

    The lock is ``.lock``, which is never removed. ``.owner.json`` beside it only names the owner for messages, so one
    that a dead process left does no harm.

    Args:
        folder: Folder to own; made if it is missing.
        kind: Its kind in messages: "run", "study" or "launch".
        wait_s: Seconds to wait until another owner releases it.

    Attributes:
        folder: The folder.
    """

    FILES = (".lock", ".owner.json")

    def __init__(self, folder: Path, kind: str, wait_s: float = 0.0):
        self.folder, self._kind = folder, kind
        lock, self._owner = (folder / name for name in self.FILES)
        self._lock = FileLock(lock, timeout=wait_s, thread_local=False)  # any thread may release it

    def acquire(self) -> None:
        """Take the lock; nothing happens if this object holds it already.

        Raises:
            UserError: Another process, or another lock of this process, holds it; or the folder cannot be written.
        """
        if self._lock.is_locked:
            return
        try:
            make_folder(self.folder)
            sync_folder(self.folder.parent)  # a process that was killed may have made the folder, and not come to this
            self._lock.acquire()
            owner = _Owner(os.getpid(), platform.node(), datetime.now().astimezone().isoformat(" ", "seconds"))
            write_json(self._owner, asdict(owner))
        except Timeout:  # a subclass of OSError, so it must come first
            raise UserError(self._refusal()) from None
        except OSError as error:
            self._lock.release(force=True)
            raise UserError(
                f"{self.folder}: the folder of the {self._kind} cannot be made or locked ({error.strerror or error}). "
                "Make it writable, or name another place with runs_dir, sweeps_dir or labs_dir."
            ) from None
        except BaseException:
            self._lock.release(force=True)
            raise

    def release(self) -> None:
        """Release the lock; nothing happens if this object does not hold it."""
        if self._lock.is_locked:
            try:
                self._owner.unlink(missing_ok=True)
            except OSError:
                pass  # it only serves messages, and the folder may have been removed
            self._lock.release(force=True)

    def __enter__(self) -> "Lock":
        """Take the lock."""
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        self.release()

    def _refusal(self) -> str:
        owner = self._read_owner()
        for _ in range(10):  # an owner that has just taken the lock writes its file in a moment
            if owner is not None:
                break
            time.sleep(0.05)
            owner = self._read_owner()
        by = "another process" if owner is None else f"process {owner.pid} on {owner.host} since {owner.since}"
        return (
            f"{self.folder}: the {self._kind} is in use by {by}. "
            "Wait until it ends, stop it with Ctrl-C, or start under another name."
        )

    def _read_owner(self) -> _Owner | None:
        """Return the recorded owner; None if the record is missing, damaged, or of a process that has died."""
        try:
            owner = _Owner(**read_json(self._owner))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        if type(owner.pid) is not int or (owner.host == platform.node() and not process_exists(owner.pid)):
            return None
        return owner


def in_use(folder: Path) -> bool:
    """Return whether a process holds the lock of a folder at this moment."""
    return not wait_until_free(folder, 0.0)


def wait_until_free(folder: Path, seconds: float) -> bool:
    """Wait until no process holds the lock of a folder.

    Args:
        folder: The folder.
        seconds: Seconds to wait at most.

    Returns:
        Whether the lock is free now.
    """
    path = folder / Lock.FILES[0]
    if not path.is_file():
        return True
    lock = FileLock(path, timeout=seconds, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return False
    lock.release(force=True)
    return True
