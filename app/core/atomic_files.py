"""Atomic, durable file writes, and JSON that every reader accepts."""

import contextlib
import errno
import glob
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import psutil


@contextlib.contextmanager
def atomic_write(path: Path, keep_as: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path``, durably, when the block ends without an error.

    A missing folder is made. When the block raises, ``path`` is unchanged and the temporary file is removed.
    Temporary files of killed processes are removed first. The suffix is kept, because ffmpeg and matplotlib choose
    the format by it.

    Args:
        path: The file to write.
        keep_as: Path in the same folder that an existing file is renamed to; None: it is overwritten.
    """
    make_folder(path.parent)
    _remove_leftovers(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        _sync_file(temporary)  # before the old one moves: at no moment is there none
        if keep_as is not None and path.exists():
            os.replace(path, keep_as)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as strict JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(strict_json(value, indent=2) + "\n", encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Append a line durably to a file, which is made if it is missing; its folder exists.

    The whole line is written, or nothing: half of one would spoil the next one, too. What a power cut left of an
    earlier line becomes a line of its own.

    Args:
        path: The file.
        line: Text without a line break.
    """
    with path.open("a+b", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        is_torn = length > 0 and _last_byte(file) != b"\n"
        data = (b"\n" if is_torn else b"") + line.encode() + b"\n"
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(length)
            raise
        os.fsync(file.fileno())
    if not length:
        sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder with its parents, durably; it may exist already."""
    if not folder.is_dir():
        if folder.parent != folder:  # a drive that does not exist is its own parent
            make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable: files made, renamed or removed there. Windows has no such call."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        sync(handle)
    finally:
        os.close(handle)


def sync(folder: int) -> None:
    """Make the entries of an open folder durable, if its file system can.

    Args:
        folder: File descriptor of the folder.
    """
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no folders
            raise


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _sync_file(path: Path) -> None:
    with path.open("r+b") as file:  # Windows only syncs files that are open for writing
        os.fsync(file.fileno())


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files that dead processes left beside ``path``."""
    start, end = f".{path.stem}.", f".tmp{path.suffix}"
    for leftover in path.parent.glob(f"{glob.escape(start)}*{glob.escape(end)}"):
        owner = leftover.name[len(start) : -len(end)]
        # A file with the number of this process is from an earlier one: in a container, the numbers repeat.
        if owner.isdecimal() and (int(owner) == os.getpid() or not process_exists(int(owner))):
            leftover.unlink(missing_ok=True)


def process_exists(pid: int) -> bool:
    """Return whether a process with this number runs on this machine; False for numbers that no process can have."""
    return 0 < pid < 2**31 and psutil.pid_exists(pid)


def strict_json(value: Any, indent: int | None = None) -> str:
    """Return ``value`` as standard JSON: NaN and infinities become null, paths and other objects become text."""
    return json.dumps(_jsonable(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "item"):  # a scalar of NumPy or torch
        return _jsonable(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
