"""Execution of a restart plan: files are removed or moved into the archive, and a receipt says which."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from app.core.atomic_files import write_json
from app.core.errors import UserError
from app.runs.manifest import Manifest
from app.runs.restart.plan import Plan, PlannedFile
from app.runs.restart.safe_fs import Folder, stat_file
from app.runs.run_folder import unused_timestamp


@dataclass(frozen=True)
class Receipt:
    """Record of what was done with a plan.

    Attributes:
        plan: The plan.
        mode: "delete" or "archive".
        time: UTC, such as "20261122T223015Z"; names the folders of receipt and archive.
        done: Files that were taken, in the order of the plan.
        moved_to: Folder of the archive; None if files were deleted.
        path: File of the receipt; None if there was nothing to do.
    """

    plan: Plan
    mode: str
    time: str
    done: tuple[PlannedFile, ...]
    moved_to: Path | None
    path: Path | None

    @property
    def bytes(self) -> int:
        """Sum of the lengths of the files that were taken."""
        return sum(item.bytes for item in self.done)

    def write(self) -> None:
        """Write the receipt to its file."""
        left = self.plan.items[len(self.done) :]
        content = {
            "mode": self.mode,
            "targets": self.plan.targets,
            "time": self.time,
            "complete": not left,
            "bytes": self.bytes,
            "moved_to": None if self.moved_to is None else printable(self.moved_to),
            "files": [_entry(item) for item in self.done],
            "left": [_entry(item) for item in left],
            "refused": [{"path": printable(skipped.path), "reason": skipped.reason} for skipped in self.plan.skipped],
        }
        write_json(self.path, content)


def remove(plan: Plan) -> Receipt:
    """Remove the files of a plan, and the folders that become empty.

    The caller holds the lock of the plan's root. A plan without files leaves no receipt.

    Raises:
        UserError: A file cannot be removed. If this can be seen beforehand, nothing is changed; after an error on the
            way, the receipt says what was done.
    """
    return _apply(plan, "delete", unused_timestamp(plan.root), None, _unlink)


def archive(plan: Plan) -> Receipt:
    """Move the files of a plan to ``archive/<time>/`` in its root; otherwise as ``remove``."""
    time = unused_timestamp(plan.root)
    target_folder = plan.root / "archive" / time

    def move(item: PlannedFile) -> None:
        target = target_folder / _path_in_archive(plan, item)
        with (
            Folder.open(item.base, item.path.parent) as source,
            Folder.open(plan.base, target.parent, make=True) as folder,
        ):
            source.move(target.name, folder)

    return _apply(plan, "archive", time, target_folder, move)


def printable(path: Path) -> str:
    """Return a path as text that can be written anywhere, even if its name is not valid Unicode."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _apply(plan: Plan, mode: str, time: str, moved_to: Path | None, take: Callable[[PlannedFile], None]) -> Receipt:
    """Take every file of a plan, and keep the receipt.

    Args:
        plan: The plan.
        mode: "delete" or "archive".
        time: Name of the folder of the receipt.
        moved_to: Folder of the archive; None if files are deleted.
        take: Removes or moves one file.
    """
    if not plan.items:
        return Receipt(plan, mode, time, (), None, None)
    receipt = Receipt(plan, mode, time, (), moved_to, plan.root / "history" / time / "receipt.json")
    _check(plan)
    try:
        for folder in (receipt.path.parent, moved_to or receipt.path.parent):
            with Folder.open(plan.base, folder, make=True):
                pass
        receipt.write()  # before the first file: if this process is killed, it tells what was planned
    except OSError as error:
        raise UserError(
            f"{plan.root}: nothing was removed, because no record can be kept ({_reason(error)}). "
            "Free some space or make the folder writable, and start again."
        ) from None

    done: list[PlannedFile] = []
    try:
        try:
            for item in plan.items:
                take(item)
                done.append(item)
        finally:
            receipt = replace(receipt, done=tuple(done))
            receipt.write()
            _update_manifests(done)
    except OSError as error:
        path = plan.items[len(done)].path if len(done) < len(plan.items) else receipt.path
        raise UserError(
            f"{path}: restart stopped here ({_reason(error)}) after {len(done)} of {len(plan.items)} files, which "
            f"{receipt.path} lists. Repair the cause and start again: the rest follows."
        ) from None
    return receipt


def _unlink(item: PlannedFile) -> None:
    with Folder.open(item.base, item.path.parent) as folder:
        folder.unlink(item.path.name)


def _path_in_archive(plan: Plan, item: PlannedFile) -> Path:
    """Return the path of a file in the archive: as in the root; of another folder's file, with that folder's name."""
    if plan.root in item.path.parents:
        return item.path.relative_to(plan.root)
    return item.path.relative_to(item.base.parent)


def _check(plan: Plan) -> None:
    """Raise if it can be seen beforehand that a plan would stop half way.

    Raises:
        UserError: Names the first file that has changed since it was planned, or whose folder cannot be written.
    """
    for item in plan.items:
        if (problem := _problem(item)) is not None:
            raise UserError(
                f"{item.path}: cannot be removed: {problem}. Nothing was changed. "
                f"Repair that, or leave {item.kind!r} out of restart.targets, and start again."
            )


def _problem(item: PlannedFile) -> str | None:
    try:
        if stat_file(item.base, item.path) is None:
            return "it has gone since it was listed"
    except OSError as error:
        return _reason(error)
    if not os.access(item.path.parent, os.R_OK | os.W_OK | os.X_OK):
        return f"its folder {item.path.parent} cannot be written"
    if os.name == "nt" and not os.access(item.path, os.W_OK):
        return "it is marked read-only"
    return None


def _update_manifests(done: list[PlannedFile]) -> None:
    """Remove the taken files from the manifests, and the folders that have become empty."""
    listed = [item for item in done if item.listed]
    for root in {item.root for item in listed}:
        Manifest.open(root).discard(item.path for item in listed if item.root == root)
    folders = {(item.base, folder) for item in listed for folder in item.path.parents if item.root in folder.parents}
    for base, path in sorted(folders, key=lambda pair: len(pair[1].parts), reverse=True):
        with contextlib.suppress(OSError), Folder.open(base, path.parent) as parent:  # a folder with files stays
            parent.remove_folder(path.name)


def _entry(item: PlannedFile) -> dict:
    return {"kind": item.kind, "path": printable(item.path), "bytes": item.bytes}


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
