"""States in which a power cut may leave a folder: recording of the file operations, and a model of the disk.

What is assumed, as in SQLite's test VFS:

- What was synced is there afterwards: data by ``fsync`` of the file or ``flush`` of its mapped pages, names by
  ``fsync`` of their folder. A disk that answers before it has written is not covered.
- Everything else may be there or not, each sector and each name on its own and in any order; a sector may be torn.
  A file may have its new length without its new data.
- One rename happens as a whole or not at all. It is durable once both folders were synced, which is stricter than what
  journaling file systems do.
- A file that was made or moved twice has no later name without the earlier one.
"""

import contextlib
import mmap
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.stopped_runs import Killed

SECTOR = 512  # bytes that are written as one
_ROOT = 0  # identifier of the recorded folder

Tree = dict[str, bytes | None]  # content by relative path; None is a folder


@dataclass(eq=False)
class Name:
    """A file or folder gets a name, loses one (``to`` is None), or both (a rename); durable when folders are synced."""

    node: int
    at: tuple[int, str] | None
    to: tuple[int, str] | None
    unsynced: set[int] = field(default_factory=set)


@dataclass(eq=False)
class Length:
    """A file gets another length."""

    node: int
    size: int


@dataclass(eq=False)
class Sector:
    """A sector of a file gets other content."""

    node: int
    number: int
    data: bytes


@dataclass(frozen=True)
class Sync:
    """Data of a file, or names in a folder, become durable; ``sectors`` is None for all of them."""

    node: int
    sectors: range | None = None


@dataclass(frozen=True)
class Mark:
    """Something that the program has done, such as a checkpoint that was saved."""

    what: Any


Change = Name | Length | Sector
Event = Change | Sync | Mark


class Recorder:
    """Records what a program does to the files below a folder.

    The folder is compared with what it was before and after every operation that changes names or makes data durable:
    whatever wrote in between, in Python or not, is seen.

    Args:
        root: The folder.

    Attributes:
        events: Everything that happened, in order.
        folders: Identifiers of the folders.
        start: Names and contents when the recording began, by identifier; they count as durable.
    """

    def __init__(self, root: Path):
        self.root, self.events, self.folders = root, [], {_ROOT}
        self._names: dict[tuple[int, str], int] = {}
        self._contents: dict[int, bytes] = {}
        self._nodes = {os.stat(root).st_ino: _ROOT}
        self._count, self._busy = 0, False
        self._left: int | None = None  # operations until the program is killed
        self.observe()
        self.start = dict(self._names), dict(self._contents)
        self.events = []

    def kill_after(self, operations: int) -> None:
        """Raise ``Killed`` after so many recorded operations, and in every one that follows: nothing changes then."""
        self._left = operations

    def revive(self) -> None:
        """Let another start of the program work."""
        self._left = None

    def mark(self, what: Any) -> None:
        """Note what the program has done."""
        self.observe()
        self.events.append(Mark(what))

    def observe(self) -> None:
        """Record what has changed since the last call."""
        found = dict(self._walk(self.root, _ROOT))
        names = {place: node for place, (node, _) in found.items()}
        lost = {node: place for place, node in self._names.items() if names.get(place) != node}
        for place, node in names.items():
            if self._names.get(place) != node:
                self.events.append(Name(node, lost.pop(node, None), place))
        # A name that another file has taken is lost with that rename, not by an operation of its own.
        self.events += [Name(node, place, None) for node, place in lost.items() if place not in names]
        gone = {node for node in self._names.values() if node not in names.values()}
        self._nodes = {number: node for number, node in self._nodes.items() if node not in gone}
        self._names = names
        for node, content in found.values():
            self._record_content(node, content)

    @contextlib.contextmanager
    def recording(self) -> Iterator["Recorder"]:
        """Record during the block."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("replace", "rename", "mkdir"):
                patch.setattr(os, name, self._observed(getattr(os, name)))
            for name in ("unlink", "remove", "rmdir"):
                patch.setattr(os, name, self._observed(getattr(os, name), removes=True))
            patch.setattr(os, "fsync", self._synced(os.fsync))
            patch.setattr(mmap, "mmap", self._observed_map())
            yield self
        self.observe()

    def _walk(self, folder: Path, node: int) -> Iterator[tuple[tuple[int, str], tuple[int, bytes]]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                inner = self._node(entry.inode())
                if entry.is_dir(follow_symlinks=False):
                    self.folders.add(inner)
                    yield (node, entry.name), (inner, b"")
                    yield from self._walk(Path(entry.path), inner)
                else:
                    yield (node, entry.name), (inner, Path(entry.path).read_bytes())

    def _node(self, inode: int) -> int:
        if inode not in self._nodes:
            self._count += 1
            self._nodes[inode] = self._count
        return self._nodes[inode]

    def _record_content(self, node: int, content: bytes) -> None:
        before = self._contents.get(node, b"")
        self._contents[node] = content
        if content == before:
            return
        if len(content) != len(before):
            self.events.append(Length(node, len(content)))
        for number, begin in enumerate(range(0, len(content), SECTOR)):
            data = content[begin : begin + SECTOR]
            if data != before[begin : begin + SECTOR]:
                self.events.append(Sector(node, number, data))

    def _is_dead(self) -> bool:
        """Count an operation; return whether the program has been killed before it."""
        if self._left is not None:
            self._left -= 1
        return self._left is not None and self._left < 0

    def _observed(self, action: Callable, removes: bool = False) -> Callable:
        def observed(*args: Any, **kwargs: Any) -> Any:
            if self._busy:
                return action(*args, **kwargs)
            self.observe()
            if self._is_dead():
                if removes:  # cleaning up, which a killed program does not
                    return None
                raise Killed
            self._busy = True
            try:
                return action(*args, **kwargs)
            finally:
                self._busy = False
                self.observe()

        return observed

    def _synced(self, action: Callable[[int], None]) -> Callable[[int], None]:
        def synced(handle: int) -> None:
            self.observe()
            if self._is_dead():
                raise Killed
            action(handle)
            self._sync(os.fstat(handle).st_ino)

        return synced

    def _sync(self, inode: int, sectors: range | None = None) -> None:
        if inode in self._nodes:
            self.events.append(Sync(self._nodes[inode], sectors))

    def _observed_map(self) -> type:
        recorder = self

        class ObservedMap(mmap.mmap):
            def __new__(cls, handle: int, *args: Any) -> "ObservedMap":
                made = super().__new__(cls, handle, *args)
                made.inode = os.fstat(handle).st_ino
                return made

            def flush(self, offset: int = 0, size: int | None = None) -> None:
                recorder.observe()
                if recorder._is_dead():
                    raise Killed
                end = len(self) if size is None else offset + size
                super().flush(offset, end - offset)
                recorder._sync(self.inode, range(offset // SECTOR, -(-end // SECTOR)))

        return ObservedMap


class Disk:
    """What is durable, and what may be lost, after some events of a recording."""

    def __init__(self, recorder: Recorder):
        names, contents = recorder.start
        self._names, self._contents, self._folders = dict(names), dict(contents), recorder.folders
        self.pending: list[Change] = []

    def apply(self, event: Event) -> None:
        """Go on by one event."""
        if isinstance(event, Sync):
            self._sync(event)
        elif not isinstance(event, Mark):
            if isinstance(event, Name):
                event.unsynced = {place[0] for place in (event.at, event.to) if place is not None}
            self.pending.append(event)

    def tree(self, kept: Iterable[Change] | None = None, torn: Mapping[Change, int] | None = None) -> Tree:
        """Return the folder as it is if some of the pending changes reached the disk.

        Args:
            kept: They; all of them by default. A name that needs an earlier one that is missing is left out.
            torn: Number of bytes of a sector that reached the disk; the rest is as before.
        """
        chosen = set(self.pending if kept is None else kept)
        names, contents, broken = dict(self._names), dict(self._contents), set()
        for change in self.pending:
            if isinstance(change, Name):
                if change not in chosen or change.node in broken:
                    broken.add(change.node)
                else:
                    _rename(names, change)
            elif change in chosen:
                contents[change.node] = _changed(contents.get(change.node, b""), change, (torn or {}).get(change))
        return self._as_tree(names, contents)

    def _as_tree(self, names: Mapping[tuple[int, str], int], contents: Mapping[int, bytes]) -> Tree:
        inside: dict[int, list[tuple[str, int]]] = {}
        for (folder, name), node in names.items():
            inside.setdefault(folder, []).append((name, node))
        tree, queue = {}, [("", _ROOT)]
        while queue:
            prefix, folder = queue.pop()
            for name, node in inside.get(folder, ()):
                tree[prefix + name] = None if node in self._folders else contents.get(node, b"")
                if node in self._folders:
                    queue.append((f"{prefix}{name}/", node))
        return tree

    def _sync(self, sync: Sync) -> None:
        left = []
        for change in self.pending:
            if isinstance(change, Name):
                change.unsynced.discard(sync.node)
                blocked = any(isinstance(other, Name) and other.node == change.node for other in left)
                if change.unsynced or blocked:
                    left.append(change)
                else:
                    _rename(self._names, change)
            elif change.node == sync.node and (
                sync.sectors is None or isinstance(change, Length) or change.number in sync.sectors
            ):
                self._contents[change.node] = _changed(self._contents.get(change.node, b""), change)
            else:
                left.append(change)
        self.pending = left


def crash_trees(disk: Disk, draw: random.Random, count: int) -> Iterator[Tree]:
    """Yield the folder as a power cut at this moment may leave it: the corner cases, and some drawn at random.

    Args:
        disk: The disk at this moment.
        draw: Generator of the random ones.
        count: Number of random ones.
    """
    pending = disk.pending
    yield disk.tree()
    if not pending:
        return
    yield disk.tree(())
    names = [change for change in pending if isinstance(change, Name)]
    yield disk.tree(change for change in pending if not isinstance(change, Sector))  # lengths without data
    yield disk.tree(names)
    yield disk.tree(change for change in pending if not isinstance(change, Name))
    for change in names:
        yield disk.tree(other for other in pending if other is not change)
        yield disk.tree((change,))
    for _ in range(count):
        share = draw.choice((0.1, 0.5, 0.9))
        kept = [change for change in pending if draw.random() < share]
        sectors = [change for change in kept if isinstance(change, Sector)]
        torn = {change: draw.randrange(1, SECTOR) for change in sectors if draw.random() < 0.2}
        yield disk.tree(kept, torn)


def crash_states(recorder: Recorder, count: int, seed: int) -> Iterator[tuple[int, Tree]]:
    """Yield states in which a power cut may leave the recorded folder, no two of them alike.

    Args:
        recorder: The recording.
        count: Number of states; fewer if there are not as many.
        seed: Seed of the choice.

    Yields:
        Number of the last event before the power cut, and the folder afterwards.
    """
    draw, disk = random.Random(seed), Disk(recorder)
    # Writes are many, and one more of them changes little: some of them are chosen, and all other events.
    writes = [number for number, event in enumerate(recorder.events) if isinstance(event, Sector)]
    chosen = set(draw.sample(writes, min(len(writes), count)))
    found: dict[int, tuple[int, Tree]] = {}
    for number, event in enumerate(recorder.events):
        disk.apply(event)
        if number in chosen or not isinstance(event, Sector):
            for tree in crash_trees(disk, draw, 2):
                found.setdefault(hash(frozenset(tree.items())), (number, tree))
    states = list(found.values())
    yield from sorted(draw.sample(states, min(len(states), count)), key=lambda state: state[0])


def write_tree(tree: Tree, folder: Path) -> None:
    """Make a folder with the files of a tree."""
    folder.mkdir(parents=True)
    for path, content in sorted(tree.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def _rename(names: dict[tuple[int, str], int], change: Name) -> None:
    if change.at is not None and names.get(change.at) == change.node:
        del names[change.at]
    if change.to is not None:
        names[change.to] = change.node


def _changed(content: bytes, change: Length | Sector, torn: int | None = None) -> bytes:
    """Return the content of a file after a change; data beyond its length is lost."""
    if isinstance(change, Length):
        return content[: change.size].ljust(change.size, b"\0")
    begin = change.number * SECTOR
    data = change.data[:torn]
    return (content[:begin] + data + content[begin + len(data) :])[: len(content)] if begin < len(content) else content
