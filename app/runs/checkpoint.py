"""Checkpoints: the last one and the one before, each whole or not there, known by its checksum, and data only."""

import hashlib
import io
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from app.errors import UserError
from app.files import replacing

FORMAT = 2
PARTS = {"fingerprint", "config", "training", "interface", "rng", "epochs_done", "vitals", "wall_s"}
_LONGEST_HEADER = 1000  # bytes

State = dict[str, Any]


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be used; the text names the file and says why."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint file, and what it holds or why it cannot be used."""

    path: Path
    state: State | None
    trouble: str


class Checkpoints:
    """``last.pt`` and ``previous.pt`` in one folder.

    A file is one line of JSON (format, length, SHA-256) and then what ``torch.save`` wrote: tensors, numbers,
    strings, lists and dicts, read with ``weights_only=True``, which executes nothing.

    Args:
        folder: where they lie; made by the first ``save``.
    """

    def __init__(self, folder: Path):
        self.last, self.previous = folder / "last.pt", folder / "previous.pt"

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that may be made here."""
        return (self.last, self.previous, *(_aside(path) for path in (self.last, self.previous)))

    def exist(self) -> bool:
        """Whether there is anything to go on from, or that claims to be."""
        return self.last.is_file() or self.previous.is_file()

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the newest checkpoint; the one before becomes ``previous.pt``.

        Raises:
            OSError: it cannot be written; the checkpoints on the disk are as they were.
        """
        payload = io.BytesIO()
        torch.save(dict(state), payload)
        data = payload.getbuffer()
        header = {"format": FORMAT, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        with replacing(self.last, keep_as=self.previous) as temporary, temporary.open("wb") as file:
            file.write(json.dumps(header).encode() + b"\n")
            file.write(data)

    def candidates(self) -> list["Candidate"]:
        """Read what is there, newest first, damaged ones included."""
        found = []
        for path in (self.last, self.previous):
            if path.is_file():
                try:
                    found.append(Candidate(path, read(path), ""))
                except DamagedCheckpoint as error:
                    found.append(Candidate(path, None, str(error)))
        return found

    def put_aside(self, path: Path) -> Path:
        """Rename a checkpoint that cannot be used, so that it never pushes a good one out; returns the new path."""
        aside = _aside(path)
        os.replace(path, aside)
        return aside


def read(path: Path) -> State:
    """Read and check one checkpoint file.

    Raises:
        DamagedCheckpoint: it is cut off, changed, of another format, or holds something other than data.
    """
    try:
        with path.open("rb") as file:
            header, data = _header(file.readline(_LONGEST_HEADER)), file.read()
    except OSError as error:
        raise DamagedCheckpoint(f"{path}: cannot be read ({error.strerror}).") from None
    if not header:
        raise DamagedCheckpoint(f"{path}: is no checkpoint of this program.")
    if header["format"] != FORMAT:
        raise DamagedCheckpoint(f"{path}: has format {header['format']}, and this version reads format {FORMAT}.")
    if len(data) != header["bytes"]:
        raise DamagedCheckpoint(f"{path}: is damaged: it has {len(data):,} bytes of data instead of {header['bytes']}.")
    if hashlib.sha256(data).hexdigest() != header["sha256"]:
        raise DamagedCheckpoint(f"{path}: is damaged: its checksum does not fit.")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise DamagedCheckpoint(f"{path}: holds something other than data and was not loaded: {reason}") from None
    if not isinstance(state, dict) or not state.keys() >= PARTS:
        raise DamagedCheckpoint(f"{path}: lacks parts that a checkpoint has.")
    return state


def _header(line: bytes) -> dict[str, Any]:
    """The header, or an empty dict if the line is none."""
    try:
        header = json.loads(line)
        return header if {"format", "bytes", "sha256"} <= header.keys() else {}
    except (ValueError, AttributeError):
        return {}


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".damaged")
