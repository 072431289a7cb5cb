"""Taking the folder of a run or study: it is made, owned, and nobody else's."""

from app.errors import UserError
from app.runs.lock import Lock
from app.runs.manifest import NAME


def claim(lock: Lock, key: str) -> None:
    """Make the folder of a lock or take the one that is there, and own it until the lock is released.

    Args:
        lock: of the folder.
        key: of the configuration that names the folder.

    Raises:
        UserError: it cannot be made, belongs to a running process, or was not made by this program.
    """
    lock.acquire()
    try:
        _refuse_foreign(lock, key)
    except BaseException:
        lock.release()
        raise


def _refuse_foreign(lock: Lock, key: str) -> None:
    others = [entry.name for entry in lock.folder.iterdir() if not entry.name.startswith(".")]
    if others and not (lock.folder / NAME).is_file():
        raise UserError(
            f"{lock.folder}: holds {others[0]} and no {NAME}: this program did not make it, or an older version did. "
            f"Choose another {key}, or move the folder away."
        )
