"""Whether folders can be written, found out without leaving anything there."""

import os
import shutil
import tempfile
from pathlib import Path

from rich.filesize import decimal

from app.diagnosis.finding import Finding

_LITTLE = 1_000_000_000  # bytes


def writable(key: str, folder: Path) -> Finding:
    """Look whether files can be made in a folder, or whether the folder can be made.

    Args:
        key: that names the folder.
        folder: may not exist yet.
    """
    there, shown = nearest(folder), str(folder) if folder.is_absolute() else f"{folder} ({folder.absolute()})"
    remedy = f"Name another folder, such as {key}=/a/better/place, or mend this one."
    if there is None or not there.is_dir():
        return Finding("broken", f"{shown}: {there or folder.anchor} is no folder", remedy)
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(bytes(4096))
    except OSError as error:
        return Finding("broken", f"{shown}: {there.absolute()} cannot be written ({error.strerror or error})", remedy)
    how = "can be written" if there == folder else "does not exist yet and can be made"
    free = shutil.disk_usage(there).free
    found = f"{shown}: {how}, {decimal(free)} free"
    return Finding("note", found, "Make room: so little is soon used up.") if free < _LITTLE else Finding("ok", found)


def nearest(folder: Path) -> Path | None:
    """Return the folder, or what is nearest above it and exists; None for a drive that does not."""
    return next((path for path in (folder, *folder.absolute().parents) if os.path.lexists(path)), None)


def occupied(folder: Path) -> int:
    """Return the bytes that the files in a folder take on the disk; 0 if there is none."""
    found = [path.stat() for path in folder.glob("*") if path.is_file()]
    return sum(one.st_blocks * 512 if hasattr(one, "st_blocks") else one.st_size for one in found)
