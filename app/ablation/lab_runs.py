"""Folder of a lab and its runs, each an ordinary run folder with a log and, if it failed, the reason beside it."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from app.core.atomic_files import make_folder, write_json
from app.core.errors import UserError, format_error
from app.core.json_data import read_json
from app.health.score import History
from app.reporting.curves import read_metrics
from app.runs.run_folder import RunFolder
from app.training.stop import INTERRUPTED, TERMINATED, StopKind

PENDING, STOPPED = "to be done", "running/stopped"  # ends of runs that have not ended
FINISHED, FAILED = StopKind.FINISHED.value, "failed"

RESTORED = "restored.json"  # in the folder of a run that comes from a record and has no checkpoint
EPOCH_NUMBERS = ("epoch", "updates", "wall_s")  # in every line of metrics

_CONTINUES = (str(INTERRUPTED), str(TERMINATED))  # stop reasons of a run that continues


@dataclass(frozen=True)
class LabRun:
    """One arm on one seed.

    Attributes:
        arm: Name of the arm.
        seed: Seed of the run.
        task: Name of its environment.
        epochs: Epochs that it is to have.
        runs_dir: Folder of all runs of the lab.
    """

    arm: str
    seed: int
    task: str
    epochs: int
    runs_dir: str

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.arm}-seed{self.seed}"

    @property
    def folder(self) -> RunFolder:
        """Folder of the run."""
        return RunFolder(Path(self.runs_dir) / self.name)

    @property
    def log(self) -> Path:
        """Console output of all its starts."""
        return Path(self.runs_dir) / f"{self.name}.log"

    @property
    def failure(self) -> Path:
        """Reason why its last start failed, beside the folder, which may belong to another process."""
        return Path(self.runs_dir) / f"{self.name}.error"

    def history(self) -> History:
        """Return the metrics of every completed epoch; empty if there are none.

        Raises:
            UserError: The metrics are damaged.
        """
        try:
            lines = read_metrics(self.folder.metrics)
            if any(not isinstance(line.get(name), (int, float)) for line in lines for name in EPOCH_NUMBERS):
                raise ValueError(f"a line lacks one of {', '.join(EPOCH_NUMBERS)}")
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.folder.metrics}: cannot be read ({format_error(error)}). Remove {self.folder.path}, and the "
                "run is trained anew."
            ) from None
        return lines

    def last_epoch(self) -> Mapping[str, float | None]:
        """Return the metrics of the last completed epoch; empty without one, or if the metrics are damaged."""
        try:
            return ([{}, *self.history()])[-1]
        except UserError:  # the evidence says so
            return {}

    @property
    def epochs_done(self) -> int:
        """Number of completed epochs."""
        return int(self.last_epoch().get("epoch") or 0)

    def end(self) -> str:
        """Return the stop reason so far: "finished", "not finite: …", "failed: …", ``STOPPED`` or ``PENDING``."""
        summary = self._summary()
        reason = str(summary.get("stop_reason", _CONTINUES[0]))
        if reason == FINISHED and summary.get("epoch", 0) < self.epochs:
            reason = _CONTINUES[0]
        if reason not in _CONTINUES:
            return self._unreadable() or reason
        if self.failure.is_file():
            return f"{FAILED}: {' '.join(self.failure.read_text(encoding='utf-8').split())}"
        return STOPPED if self.folder.config.is_file() else PENDING

    def record_failure(self, error: Exception) -> None:
        """Record why the run failed, as one sentence."""
        make_folder(self.failure.parent)
        self.failure.write_text(format_error(error) + "\n", encoding="utf-8")

    def collapsed_at(self) -> int | None:
        """Return the epoch of its collapse that a record says; None if the run was trained here."""
        if not (self.folder.path / RESTORED).is_file():
            return None
        return read_json(self.folder.path / RESTORED)["collapsed_at"]

    def _unreadable(self) -> str | None:
        try:
            self.history()
        except UserError as error:
            return f"{FAILED}: {error}"
        return None

    def _summary(self) -> dict[str, Any]:
        try:
            summary = read_json(self.folder.summary)
        except (OSError, ValueError):
            return {}
        return summary if isinstance(summary, dict) else {}


def has_ended(end: str) -> bool:
    """Return whether a run with this end has nothing left to do; one that failed is tried again."""
    return end not in (PENDING, STOPPED) and not end.startswith(f"{FAILED}: ")


class LabFolder:
    """Folder of a lab.

    Args:
        path: The folder; nothing is made.

    Attributes:
        path: The folder.
        runs: Folder of the run folders.
        plan: Every run of the lab, as the last start of the command planned them.
        evidence: Table with a row for every run and epoch.
        arms: Folder with the configuration of every arm that has a run.
        stop: File whose presence asks running jobs to save and end.
    """

    def __init__(self, path: Path):
        self.path, self.runs = path, path / "runs"
        self.plan, self.evidence, self.stop = path / "plan.json", path / "evidence.csv", path / "stop"
        self.arms = path / "arms"

    def write_plan(self, runs: Sequence[LabRun]) -> None:
        """Write the list of all runs, from which jobs write the evidence."""
        write_json(self.plan, [asdict(run) for run in runs])

    def read_plan(self) -> list[LabRun]:
        """Return the list of all runs.

        Raises:
            UserError: The file is missing or damaged.
        """
        try:
            return TypeAdapter(list[LabRun]).validate_python(read_json(self.plan))
        except (OSError, ValueError) as error:  # pydantic's errors are of this kind
            raise UserError(
                f"{self.plan}: cannot be read ({format_error(error)}). The command of the lab writes it anew: "
                "python app/lab.py."
            ) from None

    def recorded_seeds(self, arms: Collection[str]) -> Iterator[int]:
        """Yield the seeds of the run folders of some arms."""
        for path in self.runs.glob("*-seed*/"):
            match = re.fullmatch(r"(.+)-seed(\d+)", path.name)
            if match and match[1] in arms:
                yield int(match[2])
