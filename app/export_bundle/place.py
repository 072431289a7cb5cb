"""A folder that is replaced as a whole, and only if an export made it."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from app.errors import UserError
from app.export_bundle.driver import DESCRIPTION
from app.files import alive, make_folder, sync_folder


@contextlib.contextmanager
def replacing_folder(folder: Path, files: frozenset[str]) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of ``folder`` when the block ends well.

    When it raises, what was there stays, and the temporary folder is gone.

    Args:
        folder: absent, empty, or made by an earlier export. Of a link, what it leads to is replaced.
        files: names of all files that an export makes.

    Raises:
        UserError: there is something else.
        OSError: it cannot be written.
    """
    folder = Path(os.path.realpath(folder))
    _refuse_foreign(folder, files)
    make_folder(folder.parent)
    _remove_leftovers(folder)
    temporary = _beside(folder, "tmp")
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
    foreign = [name for name in found if name not in files | {"__pycache__"}]
    if foreign or (found and not _is_description(folder / DESCRIPTION)):
        raise UserError(
            f"folder = {folder}: holds {(foreign or found)[0]}, which no export made. Name another folder, or move "
            "this one away."
        )


def _is_description(path: Path) -> bool:
    try:
        return {"format", "program"} <= json.loads(path.read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _beside(folder: Path, end: str) -> Path:
    return folder.with_name(f".{folder.name}.{os.getpid()}.{end}")


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed exports left of themselves; one with our own number is not ours either."""
    for entry in folder.parent.iterdir():
        found = re.fullmatch(rf"\.{re.escape(folder.name)}\.(\d+)\.(tmp|old)", entry.name, re.ASCII)
        if found and (int(found[1]) == os.getpid() or not alive(int(found[1]))):
            shutil.rmtree(entry)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("r+b") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())
    sync_folder(folder)


def _swap(new: Path, folder: Path) -> None:
    old = _beside(folder, "old")
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
