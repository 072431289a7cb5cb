"""What a restart would take: nothing here changes anything."""

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from app.errors import UserError
from app.restart.beneath import Obstacle, check_folder, find_file
from app.runs.manifest import Manifest


@dataclass(frozen=True)
class Item:
    """A file to take.

    Attributes:
        base: the trusted folder; from here on no link is followed.
        root: the run, study or TmrlData folder.
        path: the file, absolute.
        kind: one of ``manifest.KINDS``.
        bytes: its length.
        listed: whether it stands in the manifest of the root, and the root's folders are ours.
    """

    base: Path
    root: Path
    path: Path
    kind: str
    bytes: int
    listed: bool


@dataclass(frozen=True)
class Refused:
    """Something that is left alone although it was asked for."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a restart would take, and what it would leave.

    Attributes:
        base: the trusted folder above the root.
        root: the folder that gets the receipt and the archive.
        targets: the kinds asked for.
        items: what goes.
        refused: what stays.
    """

    base: Path
    root: Path
    targets: tuple[str, ...]
    items: tuple[Item, ...]
    refused: tuple[Refused, ...]

    @property
    def bytes(self) -> int:
        """Sum of the lengths."""
        return sum(item.bytes for item in self.items)

    def joined(self, other: "Plan") -> "Plan":
        """Return a plan that takes what either takes; its receipt and archive are those of this one."""
        return replace(self, items=self.items + other.items, refused=self.refused + other.refused)


def plan_folder(root: Path, data_root: Path, kinds: Collection[str]) -> Plan:
    """Plan for the listed files of a run or study that exist.

    Args:
        root: the folder with the manifest; one that is missing holds nothing.
        data_root: the program's own folder, above it; trusted, so it may be a link itself.
        kinds: what to take.

    Raises:
        UserError: the root is not below the data root, there is a link in between, or the manifest is damaged.
    """
    root, base = Path(os.path.abspath(root)), Path(os.path.abspath(data_root))
    if base not in root.parents:
        raise UserError(f"{root}: restart works only on folders below {base} (runs_dir). Check run_name and runs_dir.")
    try:
        exists = check_folder(base, root)
    except OSError as error:
        raise UserError(
            f"{root}: restart works only inside real folders: {error.strerror or error}. "
            "Name the real place with runs_dir and run_name, or remove its contents by hand."
        ) from None
    entries = Manifest.open(root).entries(kinds) if exists else ()
    paths = {root.joinpath(*entry.path.parts): entry.kind for entry in entries}
    items, refused = sort_files(paths, base, root, listed=True)
    return Plan(base, root, tuple(kinds), items, refused)


def sort_files(
    kinds: dict[Path, str], base: Path, root: Path, listed: bool
) -> tuple[tuple[Item, ...], tuple[Refused, ...]]:
    """Sort files into those that can be taken and those that are left; what does not exist is in neither.

    Args:
        kinds: kind of each absolute path.
        base: see ``Item``.
        root: see ``Item``.
        listed: see ``Item``.
    """
    items, refused = [], []
    for path, kind in kinds.items():
        try:
            status = find_file(base, path)
        except Obstacle as obstacle:
            refused.append(Refused(path, str(obstacle)))
        else:
            if status is not None:
                items.append(Item(base, root, path, kind, status.st_size, listed))
    return tuple(items), tuple(refused)
