"""Checkpoints: the last two states of a run, written atomically, verified by checksum, and loaded as data only.

torch, which takes seconds to import, is imported where tensors are read or written: a list of runs needs only paths.
"""

import hashlib
import io
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.atomic_files import atomic_write
from app.core.errors import UserError, out_of_memory
from app.runs.fingerprint import recorded_fingerprint, with_current_names

FORMAT = 2
_KINDS = {
    "fingerprint": (dict,), "config": (dict,), "training": (dict,), "interface": (dict,), "rng": (dict,),
    "epochs_done": (int,), "vitals": (list,), "wall_s": (int, float),
}  # fmt: skip
PARTS = _KINDS.keys()
_MAX_HEADER_BYTES = 1000

State = dict[str, Any]


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be used; the text names the file and the reason."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint file that a run may continue from.

    Attributes:
        path: The file.
        state: Content of the file; None if it cannot be used.
        problem: Reason why it cannot be used; None if it can.
    """

    path: Path
    state: State | None
    problem: str | None


class Checkpoints:
    """The files ``last.pt`` and ``previous.pt`` of one folder.

    A file is one line of JSON (format, length, SHA-256), followed by what ``torch.save`` wrote: tensors, numbers,
    strings, lists and dicts. It is read with ``weights_only=True``, which executes nothing.

    Args:
        folder: Folder of the files; the first ``save`` makes it.

    Attributes:
        last: The newest checkpoint.
        previous: The one before.
    """

    def __init__(self, folder: Path):
        self.last, self.previous = folder / "last.pt", folder / "previous.pt"

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that may be made here."""
        return (self.last, self.previous, *(_damaged_path(path) for path in (self.last, self.previous)))

    def exist(self) -> bool:
        """Return whether there is a checkpoint, usable or not."""
        return self.last.is_file() or self.previous.is_file()

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the newest checkpoint; the one before becomes ``previous.pt``.

        Args:
            state: Content, with the keys of ``PARTS``.

        Raises:
            OSError: The file cannot be written; the existing checkpoints are unchanged.
        """
        import torch

        payload = io.BytesIO()
        torch.save(dict(state), payload)
        data = payload.getbuffer()
        header = {"format": FORMAT, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        with atomic_write(self.last, keep_as=self.previous) as temporary, temporary.open("wb") as file:
            file.write(json.dumps(header).encode() + b"\n")
            file.write(data)

    def candidates(self) -> list[Candidate]:
        """Read the checkpoints that exist, newest first, damaged ones included."""
        found = []
        for path in (self.last, self.previous):
            if path.is_file():
                try:
                    found.append(Candidate(path, read_checkpoint(path), None))
                except DamagedCheckpoint as error:
                    found.append(Candidate(path, None, str(error)))
        return found

    def mark_damaged(self, path: Path) -> Path:
        """Rename a checkpoint that cannot be used, so that it never takes the place of a good one.

        Returns:
            The new path.
        """
        damaged = _damaged_path(path)
        os.replace(path, damaged)
        return damaged


def read_checkpoint(path: Path) -> State:
    """Read and verify one checkpoint file.

    Returns:
        The state; its configuration and fingerprint have the key names of this version.

    Raises:
        DamagedCheckpoint: The file is truncated, changed, of another format, or holds something other than data.
        UserError: Memory ran out.
    """
    import torch

    try:
        with path.open("rb") as file:
            header, data = _parse_header(file.readline(_MAX_HEADER_BYTES)), file.read()
    except OSError as error:
        raise DamagedCheckpoint(f"{path}: cannot be read ({error.strerror}).") from None
    except MemoryError as error:
        raise out_of_memory(path, error) from None
    if header is None:
        raise DamagedCheckpoint(f"{path}: is no checkpoint of this program.")
    if header["format"] != FORMAT:
        raise DamagedCheckpoint(f"{path}: has format {header['format']}, and this version reads format {FORMAT}.")
    if len(data) != header["bytes"]:
        raise DamagedCheckpoint(f"{path}: is damaged: it has {len(data):,} bytes of data instead of {header['bytes']}.")
    if hashlib.sha256(data).hexdigest() != header["sha256"]:
        raise DamagedCheckpoint(f"{path}: is damaged: its checksum does not match.")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, MemoryError) as error:
        if (shortage := out_of_memory(path, error)) is not None:
            raise shortage from None
        reason = str(error).splitlines()[0]
        raise DamagedCheckpoint(f"{path}: holds something other than data and was not loaded: {reason}") from None
    if not isinstance(state, dict) or not state.keys() >= PARTS:
        raise DamagedCheckpoint(f"{path}: lacks parts that a checkpoint has.")
    if wrong := [name for name, kind in _KINDS.items() if type(state[name]) not in kind]:
        raise DamagedCheckpoint(f"{path}: its {wrong[0]} is not what a checkpoint has.")
    config, fingerprint = state["config"], state["fingerprint"]
    return state | {"config": with_current_names(config), "fingerprint": recorded_fingerprint(fingerprint)}


def _parse_header(line: bytes) -> dict[str, Any] | None:
    """Return the header, or None if the line is none."""
    try:
        header = json.loads(line)
        return header if {"format", "bytes", "sha256"} <= header.keys() else None
    except (ValueError, AttributeError):
        return None


def _damaged_path(path: Path) -> Path:
    return path.with_name(path.name + ".damaged")
