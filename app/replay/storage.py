"""Storage of the replay's arrays: in memory, or in memory-mapped files that remain after the process."""

import errno
import mmap
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Protocol

import numpy as np
from rich.filesize import decimal

from app.core.atomic_files import make_folder, sync_folder
from app.core.errors import UserError
from app.envs.spec import ObservationSpec
from app.replay.row_format import array_kinds

CHUNK_ROWS = 4096  # reserved at a time: 17 MB with frames of 64×64
COPY_BYTES = 1 << 20  # written at a time, where the system cannot reserve blocks

_CLEAR_HINT = (
    "`+restart=clean restart.targets=[replay]` keeps the networks and begins with an empty replay, "
    "and another run_name begins from scratch."
)


class StorageFull(UserError):
    """The disk has no space for the next rows of the replay."""


class Storage(Protocol):
    """Provider of the arrays of one replay, which all have equally many rows."""

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Create an array, or open the one that an earlier process left."""

    def reserve(self, rows: int) -> None:
        """Ensure that the rows [0, rows) of every array can be written."""

    def flush(self, first: int, count: int) -> None:
        """Make some rows of every array durable."""

    def find_damage(self) -> str | None:
        """Return a sentence about an array that is missing or was changed from outside; None if there is none."""

    def location(self, name: str) -> str:
        """Return the location of an array, for messages."""

    def close(self) -> None:
        """Release all resources; rows that were not flushed may be lost."""


class MemoryStorage:
    """Arrays in memory; the system allocates their pages when they are written."""

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Create an array of zeros."""
        return np.zeros(shape, dtype)

    def reserve(self, rows: int) -> None:
        """Do nothing."""

    def flush(self, first: int, count: int) -> None:
        """Do nothing: memory is never durable."""

    def find_damage(self) -> str | None:
        """Return None: nothing outside this process can change the arrays."""
        return None

    def location(self, name: str) -> str:
        """Return the name of the array."""
        return f"the array {name!r} in memory"

    def close(self) -> None:
        """Do nothing."""


@dataclass
class _MappedFile:
    path: Path
    file: FileIO
    map: mmap.mmap
    row_bytes: int
    existed: bool  # before it was opened, with contents

    @property
    def size(self) -> int:
        return len(self.map)


class MappedStorage:
    """Arrays in memory-mapped files ``<name>.bin`` of fixed length.

    A new file is sparse: it has its full length but no blocks on the disk. Writing to a page without a block would
    kill the process when the disk is full (SIGBUS), so ``reserve`` allocates the blocks first, where a full disk can
    be reported.

    Args:
        folder: Folder of the files, created with the first array.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays: dict[str, _MappedFile] = {}
        self._reserved = 0

    def files(self, spec: ObservationSpec) -> list[Path]:
        """Return the files that a replay of such observations creates."""
        return [self._path(name) for name in array_kinds(spec, 1)]

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Map a file; it is created if it is missing.

        Raises:
            UserError: It has another size than the array, or cannot be opened.
        """
        path, size = self._path(name), int(np.prod(shape)) * dtype.itemsize
        with self._as_user_errors("be opened for writing", path):
            make_folder(path.parent)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            file = FileIO(handle, "r+")
            present = os.fstat(handle).st_size
            if present == 0:  # new, or its process was killed before it had a length
                file.truncate(size)
                sync_folder(path.parent)
            elif present != size:
                file.close()
                raise UserError(
                    f"{path} has {present:,} bytes, but a replay of {shape[0]:,} rows needs {size:,}: it was cut off, "
                    "or made with another replay.capacity or observation. Put it back, or set what it was made with; "
                    f"{_CLEAR_HINT}"
                )
            mapped = mmap.mmap(handle, size)
        self._arrays[name] = _MappedFile(path, file, mapped, size // shape[0], existed=present > 0)
        return np.ndarray(shape, dtype, buffer=mapped)

    def reserve(self, rows: int) -> None:
        """Allocate the disk's blocks for the rows [0, rows), rounded up to CHUNK_ROWS.

        Raises:
            StorageFull: The disk has too little space.
        """
        if rows <= self._reserved:
            return
        wanted = -(-rows // CHUNK_ROWS) * CHUNK_ROWS
        for array in self._arrays.values():
            first, end = (min(row * array.row_bytes, array.size) for row in (self._reserved, wanted))
            if first < end:
                with self._as_user_errors("grow", array.path):
                    _allocate(array.file, first, end - first)
        self._reserved = wanted

    def flush(self, first: int, count: int) -> None:
        """Write some rows of every file to the disk and wait until that is done.

        Raises:
            UserError: A file was removed or replaced, or cannot be written.
        """
        for array in self._arrays.values():
            if change := _external_change(array):
                raise UserError(
                    f"{change} The steps since the last checkpoint are lost. Put the file back; {_CLEAR_HINT}"
                )
            begin = first * array.row_bytes // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
            with self._as_user_errors("be written", array.path):
                array.map.flush(begin, (first + count) * array.row_bytes - begin)
                if sys.platform != "linux":  # elsewhere the system may keep what was flushed
                    os.fsync(array.file.fileno())

    def find_damage(self) -> str | None:
        """Return a sentence about a file that was missing when opened, or was removed, replaced or cut since."""
        for array in self._arrays.values():
            if not array.existed and self._reserved == 0:
                return f"{array.path} is missing or empty."
            if change := _external_change(array):
                return change
        return None

    def location(self, name: str) -> str:
        """Return the path of the file."""
        return str(self._path(name))

    def close(self) -> None:
        """Close the files; arrays that are still referenced stay readable.

        A file that was created here and never got a row is removed, so that the next process sees that it is missing.
        """
        opened, self._arrays = self._arrays, {}
        for array in opened.values():
            unused = not array.existed and self._reserved == 0 and _external_change(array) is None
            array.file.close()
            if unused and os.name != "nt":  # Windows keeps what is mapped
                array.path.unlink()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.bin"

    @contextmanager
    def _as_user_errors(self, action: str, path: Path) -> Iterator[None]:
        """Raise errors of the system as user errors."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full(path) from error
            raise UserError(
                f"{path} cannot {action}: {error.strerror}. The replay of a run is stored in its folder: "
                "make the folder writable and start again, or choose another run_name."
            ) from error

    def _full(self, path: Path) -> StorageFull:
        needed = sum(array.size for array in self._arrays.values())
        blocks = (getattr(os.fstat(array.file.fileno()), "st_blocks", 0) for array in self._arrays.values())
        held = 512 * sum(blocks)
        free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free
        return StorageFull(
            f"the disk of {self._folder} is full: {path.name} cannot grow. The replay holds {decimal(held)} and takes "
            f"{decimal(max(0, needed - held))} more until it is complete; {decimal(free)} are free. Free space and "
            "start again: the run continues from its last checkpoint. Or set a smaller replay.capacity and another "
            "run_name."
        )


def _external_change(array: _MappedFile) -> str | None:
    """Return a sentence if the file at the path is no longer the one that is mapped, or has another size."""
    try:
        current = os.stat(array.path)
    except FileNotFoundError:
        return f"{array.path} was removed while it was in use."
    except OSError as error:
        return f"{array.path} can no longer be reached: {error.strerror}."
    if not os.path.samestat(current, os.fstat(array.file.fileno())):
        return f"{array.path} was replaced while it was in use."
    if current.st_size != array.size:
        return f"{array.path} was cut off or grew while it was in use: {current.st_size:,} bytes, not {array.size:,}."
    return None


def _allocate(file: FileIO, first: int, count: int) -> None:
    """Allocate the disk's blocks for some bytes of a file without changing their contents."""
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(file.fileno(), first, count)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not supported by the file system
                raise
    for offset in range(first, first + count, COPY_BYTES):
        file.seek(offset)
        part = file.read(min(COPY_BYTES, first + count - offset))
        file.seek(offset)
        file.write(part)
