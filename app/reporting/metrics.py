"""The metrics of a run: ``metrics.jsonl`` and TensorBoard."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.reporting.files import strict_json

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

    The file is what counts: a failing TensorBoard (not installed, disk, ...) costs one warning and is then
    left alone, while a failing file raises.
    """

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        """Open ``folder/metrics.jsonl`` for appending and, if wanted, ``folder/tensorboard``."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        _drop_torn_line(path)
        self._file = path.open("a", encoding="utf-8", newline="\n")
        self._board: Any = None  # a SummaryWriter
        if tensorboard:
            self._guarded(lambda: self._open_board(folder / "tensorboard"))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one step (updates since the run began); NaN becomes null."""
        self._file.write(strict_json({"step": step, **metrics}) + "\n")
        self._file.flush()
        if self._board is not None:
            self._guarded(lambda: self._write_board(step, metrics))

    def close(self) -> None:
        """Close both; safe to call twice."""
        self._file.close()
        if self._board is not None:
            self._guarded(self._board.close)
            self._board = None

    def _open_board(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second

        self._board = SummaryWriter(str(folder))

    def _write_board(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            group = next(group for prefix, group in _GROUPS.items() if name.startswith(prefix))
            self._board.add_scalar(f"{group}/{name}", value, step)
        self._board.flush()

    def _guarded(self, action: Callable[[], None]) -> None:
        """Run ``action``; when it fails in any way, warn once and do without TensorBoard."""
        try:
            action()
        except Exception as error:  # whatever it is, it is no reason to end a training run
            _LOG.warning("TensorBoard is off for the rest of this run: %s: %s", type(error).__name__, error)
            self._board = None


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line without its newline: the process that wrote it was killed."""
    if path.exists():
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)
