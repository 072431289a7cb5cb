"""File operations below a trusted folder that never follow a link."""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from app.core.atomic_files import sync

# Names can be looked up in an open folder, so that a link put in the place of a parent leads nowhere. Windows cannot do
# this: there each parent is checked again right before.
_HAS_DIR_FDS = {os.open, os.mkdir, os.unlink, os.rmdir, os.rename, os.stat} <= os.supports_dir_fd and hasattr(
    os, "O_NOFOLLOW"
)
_LINK_TAGS = (0xA000000C, 0xA0000003)  # Windows: symbolic link, junction


class UnsafePathError(OSError):
    """A path that is not touched; the text says why."""


def stat_file(base: Path, path: Path) -> os.stat_result | None:
    """Return the status of a regular file, or None if the path does not exist.

    Args:
        base: Trusted folder; it may be a link itself.
        path: Path below it.

    Raises:
        UnsafePathError: The path is no regular file, or a folder between ``base`` and it is a link or no folder.
    """
    status = None
    for part in _paths_down_to(base, path):
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise UnsafePathError(f"{part.parent} is not a folder")
        try:
            status = os.lstat(part)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnsafePathError(f"{part} cannot be read ({error.strerror})") from None
        if _is_link(status):
            raise UnsafePathError(f"{part} is a symbolic link")
    if status is None or not stat.S_ISREG(status.st_mode):
        raise UnsafePathError(f"{path} is not a regular file")
    return status


def folder_exists(base: Path, path: Path) -> bool:
    """Return whether a folder exists.

    Args:
        base: Trusted folder; it may be a link itself.
        path: Path below it.

    Raises:
        UnsafePathError: The path, or a parent of it below ``base``, is a link or no folder.
    """
    for part in _paths_down_to(base, path):
        try:
            status = os.lstat(part)
        except FileNotFoundError:
            return False
        if _is_link(status):
            raise UnsafePathError(f"{part} is a symbolic link")
        if not stat.S_ISDIR(status.st_mode):
            raise UnsafePathError(f"{part} is not a folder")
    return True


class Folder:
    """An open folder, from ``Folder.open``.

    Args:
        path: Path of the folder.
        handle: Open file descriptor; None where the system has none for folders.
    """

    def __init__(self, path: Path, handle: int | None):
        self._path, self._handle = path, handle

    @classmethod
    @contextlib.contextmanager
    def open(cls, base: Path, path: Path, make: bool = False) -> Iterator["Folder"]:
        """Keep a folder open during the block.

        Args:
            base: Trusted folder; it may be a link itself.
            path: Path below it.
            make: Whether to make folders that are missing.

        Raises:
            OSError: The folder cannot be opened, or there is a link between ``base`` and it.
        """
        if not _HAS_DIR_FDS:
            if not folder_exists(base, path) and make:
                path.mkdir(parents=True)
            yield cls(path, None)
            return
        handle = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in path.relative_to(base).parts:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=handle)
                        sync(handle)
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
                os.close(handle)
                handle = inner
            yield cls(path, handle)
        finally:
            os.close(handle)

    def unlink(self, name: str) -> None:
        """Remove a regular file durably."""
        self._require_file(name)
        os.unlink(self._at(name), dir_fd=self._handle)
        self._sync()

    def move(self, name: str, target: "Folder") -> None:
        """Move a regular file durably, with the same content, to a folder that does not have the name yet."""
        self._require_file(name)
        with contextlib.suppress(FileNotFoundError):
            target._status(name)
            raise FileExistsError(f"{target._path / name} exists")
        try:
            os.rename(self._at(name), target._at(name), src_dir_fd=self._handle, dst_dir_fd=target._handle)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy(name, target)
            os.unlink(self._at(name), dir_fd=self._handle)
        target._sync()
        self._sync()

    def remove_folder(self, name: str) -> None:
        """Remove an empty folder."""
        os.rmdir(self._at(name), dir_fd=self._handle)

    def _copy(self, name: str, target: "Folder") -> None:
        """Copy a file to another file system; an incomplete copy is removed."""
        try:
            with open(name, "rb", opener=self._open_file) as source, open(name, "xb", opener=target._open_file) as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
                copy.flush()
                os.fsync(copy.fileno())
            target._sync()
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target._at(name), dir_fd=target._handle)
            raise

    def _open_file(self, name: str, flags: int) -> int:
        return os.open(self._at(name), flags | getattr(os, "O_NOFOLLOW", 0), 0o666, dir_fd=self._handle)

    def _require_file(self, name: str) -> None:
        status = self._status(name)
        if _is_link(status) or not stat.S_ISREG(status.st_mode):
            raise UnsafePathError(f"{self._path / name} is not a regular file any more")

    def _status(self, name: str) -> os.stat_result:
        return os.stat(self._at(name), dir_fd=self._handle, follow_symlinks=False)

    def _at(self, name: str) -> str:
        return str(self._path / name) if self._handle is None else name

    def _sync(self) -> None:
        if self._handle is not None:
            sync(self._handle)


def _paths_down_to(base: Path, path: Path) -> Iterator[Path]:
    """Yield every path from below ``base`` to ``path``."""
    at = base
    for part in path.relative_to(base).parts:
        at = at / part
        yield at


def _is_link(status: os.stat_result) -> bool:
    return stat.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", 0) in _LINK_TAGS
