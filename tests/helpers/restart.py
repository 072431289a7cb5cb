"""A run folder with neighbours that a restart must leave alone, and snapshots of all files."""

import io
import json
import os
import stat
from pathlib import Path

import pytest
from rich.console import Console

from app.runs.manifest import KINDS, Manifest
from app.runs.restart.clear_run import print_plan
from app.runs.restart.plan import Plan, plan_folder

needs_links = pytest.mark.skipif(os.name == "nt", reason="needs the right to make links")


class World:
    """A data root with a run, another run beside it, and a folder outside of it; all below one path."""

    def __init__(self, top: Path):
        self.top, self.data, self.outside = top, top / "runs", top / "outside"
        self.root = self.data / "my run ü"
        for folder in (self.root, self.data / "other", self.outside):
            folder.mkdir(parents=True)
            for name in ("a", "victim", "x.pkl"):
                (folder / name if folder != self.root else self.data / name).write_text(f"never touch {name}")
        self.files: dict[str, bytes] = {}  # content of the regular files in real folders

    def make(self, path: str, node: str, content: bytes, mode: int) -> None:
        """Make a file, folder, pipe or link in the run, unless its name is taken."""
        target = self.root / path
        parents = [parent for parent in target.parents if self.root in parent.parents]
        if os.path.lexists(target) or any(
            os.path.lexists(p) and not stat.S_ISDIR(os.lstat(p).st_mode) for p in parents
        ):
            return  # the name, or a parent's, is taken by something else
        target.parent.mkdir(parents=True, exist_ok=True)
        if node == "file":
            target.write_bytes(content)
            target.chmod(mode)
            self.files[path] = content
        elif node == "folder":
            target.mkdir()
        elif node == "pipe":
            os.mkfifo(target)
        else:
            aims = {"link out": "victim", "folder link out": "", "dangling": "missing"}
            target.symlink_to(self.outside / aims[node] if node in aims else self.root / "a")

    def list(self, entries: list[tuple[str, str]]) -> None:
        """Write a manifest of pairs of path and kind."""
        files = {kind: [path for path, of in entries if of == kind] for kind in KINDS}
        (self.root / "manifest.json").write_text(json.dumps({"format": 1, "files": files}), encoding="utf-8")

    def plan(self, targets=KINDS) -> Plan:
        """Return the plan for the run."""
        return plan_folder(self.root, self.data, targets)

    def path(self, *parts: str) -> str:
        """Return a path in the run as a key of ``snapshot``."""
        return str(self.root.joinpath(*parts).relative_to(self.top))


def snapshot(top: Path) -> dict[str, tuple]:
    """Return every path below a folder with its type and rights, and its content or the target of the link."""
    found = {}
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = Path(folder, name)
            status = path.lstat()
            content = None
            if path.is_symlink():
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = path.read_bytes()
            found[str(path.relative_to(top))] = (status.st_mode, content)
    return found


def listed_world(top: Path) -> World:
    """Return a world whose run has four listed files and three others."""
    made = World(top)
    for path in ("checkpoints/last.pt", "checkpoints/previous.pt", "replay/rows.bin", "best/actor.safetensors"):
        made.make(path, "file", path.encode(), 0o644)
        Manifest.open(made.root).add({"best": "weights"}.get(path.split("/")[0], path.split("/")[0]), made.root / path)
    for path in ("config.yaml", "metrics.jsonl", "checkpoints/mine.txt"):
        (made.root / path).write_text("mine")
    return made


def shown(plan: Plan, mode: str, dry_run: bool) -> str:
    """Return what ``print_plan`` prints."""
    console = Console(file=io.StringIO(), width=120)
    print_plan(console, plan, mode, dry_run)
    return console.file.getvalue()
