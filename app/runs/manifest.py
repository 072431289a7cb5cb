"""The list of files that this program made in a folder: what a restart may remove, and nothing else."""

import json
import os
import stat
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from app.errors import UserError
from app.files import write_json
from app.runs.lock import Lock

KINDS = ("study", "replay", "checkpoints", "weights")

NAME = "manifest.json"
_FORMAT = 1
# First parts of paths that are never listed: they guard a folder, or tell its story.
_KEPT = frozenset({NAME, *Lock.FILES, "config.yaml", "starts.jsonl", "metrics.jsonl", "history", "archive"})


@dataclass(frozen=True)
class Entry:
    """One listed file."""

    kind: str
    path: PurePosixPath  # relative to the root


class Manifest:
    """The listed files of one folder; see ``open``.

    Args:
        root: the folder.
        kinds: kind of each listed path.
    """

    def __init__(self, root: Path, kinds: Mapping[str, str]):
        self._root = Path(os.path.abspath(root))
        self._kinds = dict(kinds)

    @classmethod
    def open(cls, root: Path) -> "Manifest":
        """Read the manifest of a folder; it is empty where there is none.

        Raises:
            UserError: the file is damaged, or lists what this program never would.
        """
        path = root / NAME
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise ValueError("it is not a regular file")
            return cls(root, _parse(json.loads(path.read_text(encoding="utf-8"))))
        except FileNotFoundError:
            return cls(root, {})
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"{path}: cannot be used as the list of this folder's files: {reason}. Nothing was touched. "
                "Repair the file or choose another run_name; what it stands for can only be removed by hand."
            ) from None

    def add(self, kind: str, *paths: Path) -> None:
        """List files below the root durably; to be called before they are made.

        Raises:
            UserError: the manifest cannot be written, or a name is not fit for it.
        """
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is none of {KINDS}")
        new = {self._relative(path): kind for path in paths}
        try:
            for path in new:
                _check(path)
        except ValueError as error:
            raise UserError(f"{self._root}: a file cannot be listed: {error}. Choose another name.") from None
        if taken := [path for path in new if self._kinds.get(path, kind) != kind]:
            raise ValueError(f"{taken[0]!r} is listed as {self._kinds[taken[0]]!r}, not {kind!r}")
        self._save({**self._kinds, **new})

    def entries(self, kinds: Collection[str]) -> tuple[Entry, ...]:
        """Return the listed files of these kinds, in the order of ``KINDS`` and by name."""
        listed = sorted(self._kinds.items(), key=lambda item: (KINDS.index(item[1]), item[0]))
        return tuple(Entry(kind, PurePosixPath(path)) for path, kind in listed if kind in kinds)

    def discard(self, paths: Iterable[Path]) -> None:
        """Drop files that are gone from the list; others are no error."""
        gone = {self._relative(path) for path in paths}
        self._save({path: kind for path, kind in self._kinds.items() if path not in gone})

    def _relative(self, path: Path) -> str:
        return Path(os.path.abspath(path)).relative_to(self._root).as_posix()

    def _save(self, kinds: Mapping[str, str]) -> None:
        if kinds == self._kinds:
            return
        files = {kind: sorted(path for path in kinds if kinds[path] == kind) for kind in KINDS}
        try:
            write_json(self._root / NAME, {"format": _FORMAT, "files": files})
        except OSError as error:
            raise UserError(
                f"{self._root / NAME}: cannot be written ({error.strerror}). "
                "Free some space or make the folder writable, and start again."
            ) from None
        self._kinds = dict(kinds)


def _parse(content: Any) -> dict[str, str]:
    """Return the kind of each path.

    Raises:
        ValueError: the content is not a manifest, or names a file that is not ours.
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
            if found.get(_check(path), kind) != kind:
                raise ValueError(f"{path!r} is listed as two kinds")
            found[path] = kind
    return found


def _check(path: Any) -> str:
    """Return the path if it is one that this program would list, on any system.

    Raises:
        ValueError: it is not text, leads out of the root, is empty, or names a file that guards the folder.
    """
    if not isinstance(path, str):
        raise ValueError(f"{path!r} is not a path")
    if any(part in ("", ".", "..") for part in path.split("/")):  # also what is empty, absolute or ends in "/"
        raise ValueError(f"the path {path!r} must lead to a file below the folder, without '..'")
    if any(sign in '\\:<>"|?*' or unicodedata.category(sign) in ("Cc", "Cs") for sign in path):
        raise ValueError(f"the path {path!r} holds a sign that is a separator, a drive or a pattern somewhere")
    if path.split("/")[0].casefold() in _KEPT:
        raise ValueError(f"the path {path!r} is a record, which is never listed")
    return path
