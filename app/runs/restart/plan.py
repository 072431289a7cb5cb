"""Plan of a restart: the files that it would take and those that it would leave; nothing is changed here."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from app.core.errors import UserError
from app.runs.manifest import Manifest
from app.runs.restart.safe_fs import UnsafePathError, folder_exists, stat_file


@dataclass(frozen=True)
class PlannedFile:
    """A file to take.

    Attributes:
        base: Trusted folder; below it no link is followed.
        root: Folder of the run or study, or TmrlData.
        path: Absolute path of the file.
        kind: One of ``manifest.KINDS``.
        bytes: Length of the file.
        listed: Whether the manifest of the root lists the file, so that the folders of the root are ours.
    """

    base: Path
    root: Path
    path: Path
    kind: str
    bytes: int
    listed: bool


@dataclass(frozen=True)
class SkippedPath:
    """A path that was asked for and is left alone.

    Attributes:
        path: Absolute path.
        reason: Reason in words.
    """

    path: Path
    reason: str


@dataclass(frozen=True)
class Plan:
    """The files that a restart would take, and the paths that it would leave.

    Attributes:
        base: Trusted folder above the root.
        root: Folder that gets the receipt and the archive.
        targets: Kinds that are asked for.
        items: Files to take.
        skipped: Paths to leave.
    """

    base: Path
    root: Path
    targets: tuple[str, ...]
    items: tuple[PlannedFile, ...]
    skipped: tuple[SkippedPath, ...]

    @property
    def bytes(self) -> int:
        """Sum of the lengths of the files."""
        return sum(item.bytes for item in self.items)

    def joined(self, other: "Plan") -> "Plan":
        """Return a plan that takes the files of both; receipt and archive go to the root of this one."""
        return replace(self, items=self.items + other.items, skipped=self.skipped + other.skipped)


def plan_folder(root: Path, data_root: Path, kinds: Collection[str]) -> Plan:
    """Return the plan for the listed files of a run or study.

    Args:
        root: Folder with the manifest; one that does not exist has no files.
        data_root: Folder of this program above it; trusted, so it may be a link itself.
        kinds: Kinds of files to take.

    Raises:
        UserError: The root is not below the data root, there is a link in between, or the manifest is damaged.
    """
    root, base = Path(os.path.abspath(root)), Path(os.path.abspath(data_root))
    if base not in root.parents:
        raise UserError(f"{root}: restart works only on folders below {base} (runs_dir). Check run_name and runs_dir.")
    try:
        exists = folder_exists(base, root)
    except OSError as error:
        raise UserError(
            f"{root}: restart works only inside real folders: {error.strerror or error}. "
            "Name the real place with runs_dir and run_name, or remove its contents by hand."
        ) from None
    entries = Manifest.open(root).entries(kinds) if exists else ()
    paths = {root.joinpath(*entry.path.parts): entry.kind for entry in entries}
    items, skipped = sort_files(paths, base, root, listed=True)
    return Plan(base, root, tuple(kinds), items, skipped)


def sort_files(
    kinds: Mapping[Path, str], base: Path, root: Path, listed: bool
) -> tuple[tuple[PlannedFile, ...], tuple[SkippedPath, ...]]:
    """Sort paths into files to take and paths to leave; a path that does not exist is in neither.

    Args:
        kinds: Kind of each absolute path.
        base: Trusted folder; see ``PlannedFile``.
        root: Folder of the run or study; see ``PlannedFile``.
        listed: Whether the manifest lists the paths; see ``PlannedFile``.
    """
    items, skipped = [], []
    for path, kind in kinds.items():
        try:
            status = stat_file(base, path)
        except UnsafePathError as error:
            skipped.append(SkippedPath(path, str(error)))
        else:
            if status is not None:
                items.append(PlannedFile(base, root, path, kind, status.st_size, listed))
    return tuple(items), tuple(skipped)
