"""Replacement of a whole folder at once, which is refused unless an earlier export wrote the folder."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from app.core.atomic_files import make_folder, process_exists, sync_folder
from app.core.errors import UserError
from app.export_bundle.driver import DESCRIPTION

_REPLACEABLE = frozenset({"__pycache__", "actor.safetensors"})  # of Python, and of exports of format 2


@contextlib.contextmanager
def replacing_folder(folder: Path, files: frozenset[str]) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``folder`` when the block ends without an error.

    When it raises, ``folder`` stays as it was, and the temporary folder is removed.

    Args:
        folder: Folder that is absent, empty, or written by an earlier export. For a link, its target is replaced.
        files: Names of all files that an export writes.

    Raises:
        UserError: The folder holds something else.
        OSError: It cannot be written.
    """
    folder = Path(os.path.realpath(folder))
    _refuse_foreign(folder, files)
    make_folder(folder.parent)
    _remove_leftovers(folder)
    temporary = _sibling(folder, "tmp")
    temporary.mkdir()
    try:
        yield temporary
        _sync(temporary)
        _swap(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_foreign(folder: Path, files: frozenset[str]) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"folder = {folder}: is a file. Name another folder.")
    found = sorted(entry.name for entry in folder.iterdir())
    foreign = [name for name in found if name not in files | _REPLACEABLE]
    if foreign or (found and not _is_description(folder / DESCRIPTION)):
        raise UserError(
            f"folder = {folder}: holds {(foreign or found)[0]}, which no export wrote. Name another folder, or move "
            "this one away."
        )


def _is_description(path: Path) -> bool:
    try:
        return {"format", "observation"} <= json.loads(path.read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _sibling(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}.{os.getpid()}.{suffix}")


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary folders of exports that were killed, recognised by process ids that no longer run."""
    for entry in folder.parent.iterdir():
        found = re.fullmatch(rf"\.{re.escape(folder.name)}\.(\d+)\.(tmp|old)", entry.name, re.ASCII)
        # A process before us may have had our own id.
        if found and (int(found[1]) == os.getpid() or not process_exists(int(found[1]))):
            shutil.rmtree(entry)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("r+b") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())
    sync_folder(folder)


def _swap(new: Path, folder: Path) -> None:
    old = _sibling(folder, "old")
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
