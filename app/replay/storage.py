"""Where the arrays of the replay lie: in memory, or in files that outlive the process."""

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

from app.envs.spec import ObservationSpec
from app.errors import UserError
from app.files import make_folder, sync_folder
from app.replay.layout import arrays

CHUNK_ROWS = 4096  # reserved at once: 17 MB with frames of 64×64
COPY_BYTES = 1 << 20  # at once, where blocks are reserved by writing them

CLEAR = (
    "`+restart=clean restart.targets=[replay]` keeps the networks and begins with an empty replay, "
    "and another run_name begins from scratch."
)


class StorageFull(UserError):
    """The disk has no room for the next rows of the replay."""


class Storage(Protocol):
    """Makes the arrays of one replay and makes their rows durable; all arrays have equally many rows."""

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Make an array, or open what an earlier process left of it."""

    def reserve(self, rows: int) -> None:
        """See to it that the rows [0, rows) of every array can be written."""

    def flush(self, first: int, count: int) -> None:
        """Make some rows of every array durable."""

    def damage(self) -> str:
        """Say in a sentence what became of the arrays as a whole, "" if they are as they were left."""

    def place(self, name: str) -> str:
        """Name, for a person, where an array lies."""

    def close(self) -> None:
        """Let go of everything; rows that were not flushed may be lost."""


class MemoryStorage:
    """Arrays in memory; the system hands out their pages as they are written."""

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Make an array of zeros."""
        return np.zeros(shape, dtype)

    def reserve(self, rows: int) -> None:
        """Do nothing."""

    def flush(self, first: int, count: int) -> None:
        """Do nothing: memory is never durable."""

    def damage(self) -> str:
        """Find nothing."""
        return ""

    def place(self, name: str) -> str:
        """Name the array."""
        return f"the array {name!r} in memory"

    def close(self) -> None:
        """Do nothing."""


@dataclass
class _Mapped:
    path: Path
    file: FileIO
    map: mmap.mmap
    row_bytes: int
    found: bool  # whether the file was there with its contents when it was opened

    @property
    def size(self) -> int:
        return len(self.map)


class MappedStorage:
    """Arrays in memory-mapped files ``<name>.bin``, which grow in blocks but never in length.

    A file that is new has its full length and no blocks. A write to a page without one would kill the process
    when the disk is full (SIGBUS); ``reserve`` takes the blocks first, where it can be said in words.

    Args:
        folder: Where the files lie; made with the first array.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays: dict[str, _Mapped] = {}
        self._reserved = 0

    def files(self, spec: ObservationSpec) -> list[Path]:
        """Return the files that a replay of these observations will make here."""
        return [self._path(name) for name in arrays(spec, 1)]

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Map a file, made when missing.

        Raises:
            UserError: If it has another size than the array, or cannot be opened.
        """
        path, size = self._path(name), int(np.prod(shape)) * dtype.itemsize
        with self._in_words("be opened for writing", path):
            make_folder(path.parent)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            file = FileIO(handle, "r+")
            present = os.fstat(handle).st_size
            if present == 0:  # new, or its maker was killed before it had a length
                file.truncate(size)
                sync_folder(path.parent)
            elif present != size:
                file.close()
                raise UserError(
                    f"{path} has {present:,} bytes, but a replay of {shape[0]:,} rows needs {size:,}: it was cut off, "
                    "or made with another replay.capacity or observation. Put it back, or set what it was made with; "
                    f"{CLEAR}"
                )
            mapped = mmap.mmap(handle, size)
        self._arrays[name] = _Mapped(path, file, mapped, size // shape[0], found=present > 0)
        return np.ndarray(shape, dtype, buffer=mapped)

    def reserve(self, rows: int) -> None:
        """Take the disk's blocks for the rows [0, rows), some ahead.

        Raises:
            StorageFull: If the disk has not enough.
        """
        if rows <= self._reserved:
            return
        wanted = -(-rows // CHUNK_ROWS) * CHUNK_ROWS
        for array in self._arrays.values():
            first, end = (min(row * array.row_bytes, array.size) for row in (self._reserved, wanted))
            if first < end:
                with self._in_words("grow", array.path):
                    _allocate(array.file, first, end - first)
        self._reserved = wanted

    def flush(self, first: int, count: int) -> None:
        """Write some rows of every file to the disk and wait until they are there.

        Raises:
            UserError: If a file is no longer there, or cannot be written.
        """
        for array in self._arrays.values():
            if trouble := _changed(array):
                raise UserError(f"{trouble} The steps since the last checkpoint are lost. Put it back; {CLEAR}")
            begin = first * array.row_bytes // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
            with self._in_words("be written", array.path):
                array.map.flush(begin, (first + count) * array.row_bytes - begin)
                if sys.platform != "linux":  # elsewhere the system may keep what was flushed
                    os.fsync(array.file.fileno())

    def damage(self) -> str:
        """Name a file that was not there when it was opened, or that has been removed, replaced or cut since."""
        for array in self._arrays.values():
            if not array.found and self._reserved == 0:
                return f"{array.path} is missing or empty."
            if trouble := _changed(array):
                return trouble
        return ""

    def place(self, name: str) -> str:
        """Name the file."""
        return str(self._path(name))

    def close(self) -> None:
        """Close the files; the arrays can be read until nobody holds them.

        A file that was made here and never got a row is removed: missing, it is known as missing the next time.
        """
        opened, self._arrays = self._arrays, {}
        for array in opened.values():
            unused = not array.found and self._reserved == 0 and not _changed(array)
            array.file.close()
            if unused and os.name != "nt":  # Windows keeps what is mapped
                array.path.unlink()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.bin"

    @contextmanager
    def _in_words(self, doing: str, path: Path) -> Iterator[None]:
        """Turn the system's errors into the user's."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full(path) from error
            raise UserError(
                f"{path} cannot {doing}: {error.strerror}. The replay of a run lies in its folder: "
                "make it writable and start again, or choose another run_name."
            ) from error

    def _full(self, path: Path) -> StorageFull:
        needed = sum(array.size for array in self._arrays.values())
        blocks = (getattr(os.fstat(array.file.fileno()), "st_blocks", 0) for array in self._arrays.values())
        held = 512 * sum(blocks)
        free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free
        return StorageFull(
            f"the disk of {self._folder} is full: {path.name} cannot grow. The replay holds {decimal(held)} and takes "
            f"{decimal(max(0, needed - held))} more until it is complete; {decimal(free)} are free. Make room and "
            "start again: the run goes on from its last checkpoint. Or take a smaller replay.capacity and another "
            "run_name."
        )


def _changed(array: _Mapped) -> str:
    """Say in a sentence if the path no longer leads to the file that is mapped, or to less of it."""
    try:
        there = os.stat(array.path)
    except FileNotFoundError:
        return f"{array.path} was removed while it was in use."
    except OSError as error:
        return f"{array.path} can no longer be reached: {error.strerror}."
    if not os.path.samestat(there, os.fstat(array.file.fileno())):
        return f"{array.path} was replaced while it was in use."
    if there.st_size != array.size:
        return f"{array.path} was cut off or grew while it was in use: {there.st_size:,} bytes, not {array.size:,}."
    return ""


def _allocate(file: FileIO, first: int, count: int) -> None:
    """Take the disk's blocks for some bytes of a file and leave their contents alone."""
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(file.fileno(), first, count)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that knows no such call
                raise
    for offset in range(first, first + count, COPY_BYTES):
        file.seek(offset)
        part = file.read(min(COPY_BYTES, first + count - offset))
        file.seek(offset)
        file.write(part)
