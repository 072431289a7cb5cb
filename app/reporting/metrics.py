"""The metrics of a run: ``metrics.jsonl`` and TensorBoard."""

import errno
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.files import replacing, strict_json, sync_folder

_LOG = logging.getLogger(__name__)

# TensorBoard shows one section per group; the first prefix that fits decides.
_GROUPS = {
    "return_train": "training",
    "return_": "evaluation",
    "lap_": "evaluation",
    "laps_": "evaluation",
    "length_": "evaluation",
    "outcome_": "evaluation",
    "loss_": "loss",
    "grad_": "gradient",
    "": "training",
}


class MetricsWriter:
    """Appends one line of strict JSON per call, and the same numbers to TensorBoard.

    Both only record: where one cannot be written (a full disk, a folder that is gone, TensorBoard not installed),
    that costs one warning, and the training goes on.
    """

    def __init__(self, folder: Path, tensorboard: bool, after: int) -> None:
        """Go on with ``folder/metrics.jsonl`` and, if wanted, ``folder/tensorboard``.

        Args:
            folder: of the run.
            tensorboard: whether to write for TensorBoard.
            after: updates of all epochs already done. Later lines, of a start that was killed, are dropped: they
                come again.
        """
        self._path = folder / "metrics.jsonl"
        self._warned: set[str] = set()
        self._board: Any = None  # a SummaryWriter
        self._guarded("metrics.jsonl", lambda: _keep_lines(self._path, after))
        if tensorboard:
            self._guarded("TensorBoard", lambda: self._open_board(folder / "tensorboard", after))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one step (updates since the run began); NaN becomes null."""
        line = strict_json({"step": step, **metrics}) + "\n"
        self._guarded("metrics.jsonl", lambda: _append(self._path, line.encode()))
        if self._board is not None:
            self._guarded("TensorBoard", lambda: self._write_board(step, metrics))

    def close(self) -> None:
        """Close TensorBoard; safe to call twice."""
        if self._board is not None:
            self._guarded("TensorBoard", self._board.close)
            self._board = None

    def _open_board(self, folder: Path, after: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second

        self._board = SummaryWriter(str(folder), purge_step=after + 1)

    def _write_board(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            group = next(group for prefix, group in _GROUPS.items() if name.startswith(prefix))
            self._board.add_scalar(f"{group}/{name}", value, step)
        self._board.flush()

    def _guarded(self, what: str, action: Callable[[], None]) -> None:
        """Run ``action``; when it fails in any way, warn once. TensorBoard is then left alone."""
        try:
            action()
        except Exception as error:  # whatever it is, it is no reason to end a training run
            if what not in self._warned:
                _LOG.warning("%s cannot be written, training goes on: %s: %s", what, type(error).__name__, error)
                self._warned.add(what)
            if what == "TensorBoard":
                self._board = None


def _append(path: Path, line: bytes) -> None:
    """Append a whole line or nothing: half a line would spoil the next one, too."""
    with path.open("ab", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(length)
            raise
        os.fsync(file.fileno())  # the checkpoint that comes next says that the epoch is done
    if not length:
        sync_folder(path.parent)


def _keep_lines(path: Path, after: int) -> None:
    """Keep the lines of steps up to ``after``; a last line that a killed process left half written goes, too."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= after]
    if kept != lines:
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(kept))


def _step_of(line: bytes) -> float:
    """The step of a line, infinity if it is none of ours."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
