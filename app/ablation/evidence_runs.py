"""Runs of an evidence table, read from its CSV file and checked."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.core.errors import UserError
from app.training.stop import StopKind

LAP_SHARE = "lap_share_det"
OVERESTIMATION = "q_overestimation"  # Q minus the return that was earned; computed here, in no file

_COLUMNS = ("arm", "seed", "task", "end", "collapsed_at", "epoch")
MOST_EPOCHS = 20_000  # of a run, so that a wrong number costs no memory: every measure has a value for each epoch
_LONGEST_NUMBER = 18  # digits of a whole number

_ADVICE = "The command of the lab writes it anew: python app/lab.py."
_STOPPED_EARLY = (StopKind.COLLAPSED.value, StopKind.PRUNED.value)


@dataclass(frozen=True)
class EvidenceRun:
    """One run.

    Attributes:
        arm: Name of its arm.
        seed: Its seed.
        task: Name of its environment.
        end: Its stop reason so far, such as "finished".
        collapsed_at: First epoch after which it counted as collapsed; None: it never did.
        epochs: Its evaluated epochs, counted from 1, rising.
        metrics: Value of every metric after each of ``epochs``, arrays (epochs,); NaN where there is none.
        is_peer: Whether another library made it, which has no rule for a collapse.
    """

    arm: str
    seed: int
    task: str
    end: str
    collapsed_at: int | None
    epochs: tuple[int, ...]
    metrics: Mapping[str, NDArray[np.float64]]
    is_peer: bool = False

    @property
    def last_epoch(self) -> int:
        """Its newest epoch; 0 before the first."""
        return self.epochs[-1] if self.epochs else 0

    @property
    def is_broken_off(self) -> bool:
        """Whether its networks became NaN, after which it can drive no more."""
        return self.end.startswith(StopKind.NOT_FINITE.value)

    @property
    def is_stopped_early(self) -> bool:
        """Whether a rule stopped it while it could still drive, so that nobody knows what it would have done."""
        return self.end.startswith(_STOPPED_EARLY)

    def covers(self, epochs: int) -> bool:
        """Return whether it can be judged over the first epochs: it has reached them, or can no longer do so."""
        return self.is_broken_off or (self.last_epoch >= epochs and not self.is_stopped_early)

    def series(self, metric: str, epochs: int) -> NDArray[np.float64]:
        """Return a metric after each of the first epochs.

        Args:
            metric: Name of the metric.
            epochs: Number of epochs.

        Returns:
            Array (epochs,), NaN where there is no value. After its end, a run that became NaN covers nothing of a lap.
        """
        values = np.full(epochs, np.nan)
        for epoch, value in zip(self.epochs, self.metrics.get(metric, ()), strict=False):
            if epoch <= epochs:
                values[epoch - 1] = value
        if metric == LAP_SHARE and self.is_broken_off:
            values[self.last_epoch :] = 0.0
        return values


def with_overestimation(metrics: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Return metrics of a run with the over-estimation of Q, if they have what it is computed from."""
    if {"q_predicted", "q_earned"} <= metrics.keys():
        return {**metrics, OVERESTIMATION: metrics["q_predicted"] - metrics["q_earned"]}
    return dict(metrics)


def read_evidence(path: Path, are_peers: bool = False) -> tuple[EvidenceRun, ...]:
    """Read the runs of an evidence table, in its order.

    Args:
        path: The CSV file.
        are_peers: Whether other libraries made its runs.

    Raises:
        UserError: The file cannot be read, or is not such a table.
    """
    rows = _read_rows(path)
    runs: dict[tuple[str, str, int], list[dict[str, str]]] = {}
    for number, row in rows:
        key = (row["task"], row["arm"], _whole(row, "seed", f"{path}: line {number}"))
        runs.setdefault(key, []).append(row | {"line": f"{path}: line {number}"})
    return tuple(_make_run(found, seed, are_peers) for (_, _, seed), found in runs.items())


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return number and cells of every line below the header."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{path}: cannot be read ({reason}). {_ADVICE}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        _check_header(path, header)
        rows = []
        for cells in reader:
            if len(cells) != len(header):
                raise UserError(
                    f"{path}: line {reader.line_num} has {len(cells)} cells, and the header {len(header)}. {_ADVICE}"
                )
            rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} is no CSV ({error}). {_ADVICE}") from None
    return rows


def _check_header(path: Path, header: Sequence[str]) -> None:
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise UserError(f"{path}: is no table of evidence, because it has no column {', '.join(missing)}. {_ADVICE}")
    if len(set(header)) < len(header):
        raise UserError(f"{path}: names a column twice in its header. {_ADVICE}")


def _make_run(rows: Sequence[Mapping[str, str]], seed: int, is_peer: bool) -> EvidenceRun:
    """Make a run of its rows, each with its place in the file under "line"."""
    last = rows[-1]
    epochs: list[int] = []
    with_epoch = [row for row in rows if row["epoch"]]
    for row in with_epoch:
        epoch = _whole(row, "epoch", row["line"])
        before = epochs[-1] if epochs else 0
        if not before < epoch <= MOST_EPOCHS:
            raise UserError(
                f"{row['line']}: epoch = {epoch}: must be above {before} and at most {MOST_EPOCHS}. {_ADVICE}"
            )
        epochs.append(epoch)
    names = [name for name in last if name not in (*_COLUMNS, "line")]
    metrics = {name: np.array([_number(row, name) for row in with_epoch]) for name in names}
    collapsed_at = _whole(last, "collapsed_at", last["line"]) if last["collapsed_at"] else None
    return EvidenceRun(
        last["arm"],
        seed,
        last["task"],
        last["end"],
        collapsed_at,
        tuple(epochs),
        with_overestimation(metrics),
        is_peer,
    )


def _whole(row: Mapping[str, str], name: str, line: str) -> int:
    text = row[name]
    if not text.isascii() or not text.isdecimal() or len(text) > _LONGEST_NUMBER:
        raise UserError(f"{line}: {name} = {text[:40]!r}: must be a whole number. {_ADVICE}")
    return int(text)


def _number(row: Mapping[str, str], name: str) -> float:
    """Return the value of a cell; NaN of an empty one, and of one that is not finite."""
    if not row[name]:
        return math.nan
    try:
        value = float(row[name])
    except ValueError:
        raise UserError(f"{row['line']}: {name} = {row[name][:40]!r}: must be a number. {_ADVICE}") from None
    return value if math.isfinite(value) else math.nan
