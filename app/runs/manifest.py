"""Manifest: the list of the files that this program made in a folder, and the refusal of folders that others made."""

import os
import stat
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from app.core.atomic_files import write_json
from app.core.errors import UserError
from app.core.json_data import read_json
from app.runs.lock import Lock

KINDS = ("study", "replay", "checkpoints", "weights")

MANIFEST_NAME = "manifest.json"
_FORMAT = 1
# First parts of paths that a restart must never remove: they guard the folder or record what happened in it.
_NEVER_LISTED = frozenset(
    {MANIFEST_NAME, *Lock.FILES, "config.yaml", "starts.jsonl", "metrics.jsonl", "history", "archive"}
)


@dataclass(frozen=True)
class Entry:
    """One listed file.

    Attributes:
        kind: One of ``KINDS``.
        path: Path relative to the root.
    """

    kind: str
    path: PurePosixPath


class Manifest:
    """The listed files of one folder; made by ``open``.

    Args:
        root: The folder.
        kinds: Kind of each listed path.
    """

    def __init__(self, root: Path, kinds: Mapping[str, str]):
        self._root = Path(os.path.abspath(root))
        self._kinds = dict(kinds)

    @classmethod
    def open(cls, root: Path) -> "Manifest":
        """Read the manifest of a folder; it is empty if there is no file.

        Raises:
            UserError: The file is damaged, or lists a path that this program never lists.
        """
        path = root / MANIFEST_NAME
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise ValueError("it is not a regular file")
            return cls(root, _parse(read_json(path)))
        except FileNotFoundError:
            return cls(root, {})
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"{path}: cannot be used as the list of this folder's files: {reason}. Nothing was touched. "
                "Repair the file or choose another run_name; the files of this folder can only be removed by hand."
            ) from None

    def add(self, kind: str, *paths: Path) -> None:
        """List files below the root durably; to be called before they are made.

        Args:
            kind: One of ``KINDS``.
            *paths: The files.

        Raises:
            UserError: The manifest cannot be written, or a name cannot be listed.
            ValueError: The kind is unknown, or a path is outside the root or listed as another kind.
        """
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is none of {KINDS}")
        new = {self._relative(path): kind for path in paths}
        try:
            for path in new:
                _require_listable(path)
        except ValueError as error:
            raise UserError(f"{self._root}: a file cannot be listed: {error}. Choose another name.") from None
        if taken := [path for path in new if self._kinds.get(path, kind) != kind]:
            raise ValueError(f"{taken[0]!r} is listed as {self._kinds[taken[0]]!r}, not {kind!r}")
        self._save({**self._kinds, **new})

    def entries(self, kinds: Collection[str]) -> tuple[Entry, ...]:
        """Return the listed files of some kinds, in the order of ``KINDS`` and by name."""
        listed = sorted(self._kinds.items(), key=lambda item: (KINDS.index(item[1]), item[0]))
        return tuple(Entry(kind, PurePosixPath(path)) for path, kind in listed if kind in kinds)

    def discard(self, paths: Iterable[Path]) -> None:
        """Remove files from the list; a path that is not listed is ignored."""
        gone = {self._relative(path) for path in paths}
        self._save({path: kind for path, kind in self._kinds.items() if path not in gone})

    def _relative(self, path: Path) -> str:
        return Path(os.path.abspath(path)).relative_to(self._root).as_posix()

    def _save(self, kinds: Mapping[str, str]) -> None:
        if kinds == self._kinds:
            return
        files = {kind: sorted(path for path in kinds if kinds[path] == kind) for kind in KINDS}
        try:
            write_json(self._root / MANIFEST_NAME, {"format": _FORMAT, "files": files})
        except OSError as error:
            raise UserError(
                f"{self._root / MANIFEST_NAME}: cannot be written ({error.strerror}). "
                "Free some space or make the folder writable, and start again."
            ) from None
        self._kinds = dict(kinds)


def _parse(content: Any) -> dict[str, str]:
    """Return the kind of each path in the content of a manifest.

    Raises:
        ValueError: The content is no manifest, or lists a path that this program never lists.
    """
    if not isinstance(content, dict) or set(content) != {"format", "files"}:
        raise ValueError('it must hold "format" and "files"')
    if type(content["format"]) is not int or content["format"] != _FORMAT:
        raise ValueError(f"its format is {content['format']!r}, and this version reads {_FORMAT}")
    if not isinstance(content["files"], dict):
        raise ValueError('"files" must map kinds to lists')
    found: dict[str, str] = {}
    for kind, paths in content["files"].items():
        if kind not in KINDS:
            raise ValueError(f"the kind {kind!r} is none of {', '.join(KINDS)}")
        if not isinstance(paths, list):
            raise ValueError(f"{kind!r} must be a list")
        for path in paths:
            _require_listable(path)
            if found.get(path, kind) != kind:
                raise ValueError(f"{path!r} is listed as two kinds")
            found[path] = kind
    return found


def _require_listable(path: Any) -> None:
    """Raise unless a path is one that this program would list, on any system.

    Raises:
        ValueError: It is not text, leads out of the root, is empty, or names a file that is never listed.
    """
    if not isinstance(path, str):
        raise ValueError(f"{path!r} is not a path")
    if any(part in ("", ".", "..") for part in path.split("/")):  # also what is empty, absolute or ends in "/"
        raise ValueError(f"the path {path!r} must lead to a file below the folder, without '..'")
    if any(character in '\\:<>"|?*' or unicodedata.category(character) in ("Cc", "Cs") for character in path):
        raise ValueError(f"the path {path!r} holds a character that means a separator, a drive or a pattern somewhere")
    if path.split("/")[0].casefold() in _NEVER_LISTED:
        raise ValueError(f"the path {path!r} is a record, which is never listed")


def acquire_folder(lock: Lock, key: str) -> None:
    """Make the folder of a lock, or take the one that exists, and own it until the lock is released.

    Args:
        lock: Lock of the folder.
        key: Configuration key that names the folder.

    Raises:
        UserError: The folder cannot be made, is in use, or was not made by this program.
    """
    lock.acquire()
    try:
        require_own_folder(lock.folder, key)
    except BaseException:
        lock.release()
        raise


def require_own_folder(folder: Path, key: str) -> None:
    """Refuse a folder that has contents and no manifest.

    Args:
        folder: A folder that exists.
        key: Configuration key that names it.

    Raises:
        UserError: This program did not make the folder.
    """
    others = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    if others and not (folder / MANIFEST_NAME).is_file():
        raise UserError(
            f"{folder}: holds {others[0]} and no {MANIFEST_NAME}: this program did not make it, or an older version "
            f"did. Choose another {key}, or move the folder away."
        )
