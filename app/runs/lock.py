"""One owner of a run or study at a time."""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from app.errors import UserError
from app.files import alive, make_folder, write_json


@dataclass(frozen=True)
class _Owner:
    """Who holds a lock."""

    pid: int
    host: str
    since: str


class Lock:
    """One owner of a folder: an OS file lock, released by the kernel when its process dies.

    The lock is ``.lock``, which stays; ``.owner.json`` beside it only says who holds it, so what a dead process left
    there is no obstacle.

    Args:
        folder: what is owned; made when missing.
        what: its name in messages: "run", "study" or "launch".
        wait_s: seconds to wait for the owner to give it up.

    Attributes:
        folder: what is owned.
    """

    FILES = (".lock", ".owner.json")

    def __init__(self, folder: Path, what: str, wait_s: float = 0.0):
        self.folder, self._what = folder, what
        lock, self._owner = (folder / name for name in self.FILES)
        self._lock = FileLock(lock, timeout=wait_s, thread_local=False)  # any thread may release it

    def acquire(self) -> None:
        """Take the lock; holding it already is fine.

        Raises:
            UserError: another process, or another lock of this one, has it; or the folder cannot be written.
        """
        if self._lock.is_locked:
            return
        try:
            make_folder(self.folder)
            self._lock.acquire()
            owner = _Owner(os.getpid(), platform.node(), datetime.now().astimezone().isoformat(" ", "seconds"))
            write_json(self._owner, asdict(owner))
        except Timeout:  # a kind of OSError: it must come first
            raise UserError(self._refusal()) from None
        except OSError as error:
            self._lock.release(force=True)
            raise UserError(
                f"{self.folder}: the folder of the {self._what} cannot be made or locked ({error.strerror or error}). "
                "Make it writable, or name another place with runs_dir or sweeps_dir."
            ) from None
        except BaseException:
            self._lock.release(force=True)
            raise

    def release(self) -> None:
        """Give the lock back; doing so twice is fine."""
        if self._lock.is_locked:
            try:
                self._owner.unlink(missing_ok=True)
            except OSError:
                pass  # it is a message only, and the folder may be gone
            self._lock.release(force=True)

    def __enter__(self) -> "Lock":
        """Take the lock."""
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lock back."""
        self.release()

    def _refusal(self) -> str:
        owner = self._read_owner()
        for _ in range(10):  # an owner that has only just begun writes down who it is in a moment
            if owner is not None:
                break
            time.sleep(0.05)
            owner = self._read_owner()
        by = "another process" if owner is None else f"process {owner.pid} on {owner.host} since {owner.since}"
        return (
            f"{self.folder}: the {self._what} is in use by {by}. "
            "Wait until that ends, stop it with Ctrl-C, or start under another name."
        )

    def _read_owner(self) -> _Owner | None:
        """Return the owner on record, None when that is no help: missing, damaged, or left by a dead process."""
        try:
            owner = _Owner(**json.loads(self._owner.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        if type(owner.pid) is not int or (owner.host == platform.node() and not alive(owner.pid)):
            return None
        return owner


def in_use(folder: Path) -> bool:
    """Return whether somebody holds the lock of a folder at this moment."""
    return not wait_until_free(folder, 0.0)


def wait_until_free(folder: Path, seconds: float) -> bool:
    """Wait for the owner of a folder, if there is one, to give it up; returns whether nobody holds it now."""
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
