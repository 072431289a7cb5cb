"""Files that are never half written, not even after a power cut, and JSON that every reader accepts."""

import contextlib
import errno
import glob
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil


@contextlib.contextmanager
def replacing(path: Path, keep_as: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place, durably, when the block ends well.

    The folder is made when missing. When the block raises, ``path`` is as it was before and the temporary
    file is gone; what a killed process left of an earlier attempt goes first. The suffix is kept, because ffmpeg
    and matplotlib choose the format by it.

    Args:
        path: what is written.
        keep_as: a path in the same folder that the file which was there before is renamed to; None: it goes.
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
    """Write ``value`` as strict JSON; the file is complete or as it was before."""
    with replacing(path) as temporary:
        temporary.write_text(strict_json(value, indent=2) + "\n", encoding="utf-8")


def make_folder(folder: Path) -> None:
    """Make a folder with its parents, durably; one that exists is fine."""
    if not folder.is_dir():
        if folder.parent != folder:  # a drive that does not exist is its own parent
            make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: what was made, renamed or removed there. Windows has no such call."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        sync(handle)
    finally:
        os.close(handle)


def sync(folder: int) -> None:
    """Make the names in an open folder durable, where its file system can."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no folders
            raise


def _sync_file(path: Path) -> None:
    with path.open("r+b") as file:  # Windows syncs only what is open for writing
        os.fsync(file.fileno())


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files that dead processes left beside ``path``."""
    start, end = f".{path.stem}.", f".tmp{path.suffix}"
    for leftover in path.parent.glob(f"{glob.escape(start)}*{glob.escape(end)}"):
        owner = leftover.name[len(start) : -len(end)]
        # One with our own number is not ours either: a process before us had it (in a container, always the same).
        if owner.isdecimal() and (int(owner) == os.getpid() or not alive(int(owner))):
            leftover.unlink(missing_ok=True)


def alive(pid: int) -> bool:
    """Return whether a process with this number runs on this machine; any number may be asked for."""
    return 0 < pid < 2**31 and psutil.pid_exists(pid)


def strict_json(value: Any, indent: int | None = None) -> str:
    """Return ``value`` as standard JSON: NaN and infinities are null, paths and other objects are text."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "item"):  # a scalar of NumPy or torch
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
