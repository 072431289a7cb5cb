"""The record that a restart leaves."""

import os
from dataclasses import dataclass
from pathlib import Path

from app.files import write_json
from app.restart.plan import Item, Plan


@dataclass(frozen=True)
class Receipt:
    """What was done with a plan.

    Attributes:
        plan: what was asked for.
        mode: "delete" or "archive".
        time: UTC, such as "20261122T223015Z"; names the folders of receipt and archive.
        done: what went.
        moved_to: folder of the archive; None when files were deleted.
        path: the file of the receipt; None when there was nothing to do.
    """

    plan: Plan
    mode: str
    time: str
    done: tuple[Item, ...]
    moved_to: Path | None
    path: Path | None

    @property
    def bytes(self) -> int:
        """Sum of the lengths of what went."""
        return sum(item.bytes for item in self.done)

    def write(self) -> None:
        """Write it, or write it again."""
        left = self.plan.items[len(self.done) :]
        content = {
            "mode": self.mode,
            "targets": self.plan.targets,
            "time": self.time,
            "complete": not left,
            "bytes": self.bytes,
            "moved_to": None if self.moved_to is None else text(self.moved_to),
            "files": [_entry(item) for item in self.done],
            "left": [_entry(item) for item in left],
            "refused": [{"path": text(refused.path), "reason": refused.reason} for refused in self.plan.refused],
        }
        write_json(self.path, content)


def text(path: Path) -> str:
    """Return a path as text that can be written anywhere, also when its name is not valid Unicode."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _entry(item: Item) -> dict:
    return {"kind": item.kind, "path": text(item.path), "bytes": item.bytes}
