"""The study folder: where things lie, and whose they are."""

import json
from pathlib import Path

from app.config.job import TRIALS
from app.errors import UserError
from app.files import make_folder, write_json
from app.runs.fingerprint import Flat, flatten, refuse_other
from app.runs.lock import Lock
from app.runs.manifest import Manifest

WAYS_OUT = (
    "Add +restart=clean to remove the study with what its trials left (restart.dry_run=true shows it first), "
    "or keep it and choose another hydra.sweeper.study_name."
)


class StudyFolder:
    """Paths below ``sweeps_dir/study_name``.

    Args:
        base: ``sweeps_dir``.
        name: of the study.
    """

    def __init__(self, base: Path, name: str):
        self.base, self.path = base, base / name
        self.database = self.path / "study.db"
        self.fingerprint, self.trials = self.path / "fingerprint.json", self.path / TRIALS
        self._lock = Lock(self.path, "study")

    def open(self) -> None:
        """Make the folder or take the one that is there, and own it until ``close``, or the end of the process.

        Raises:
            UserError: it cannot be made, belongs to a running process, or was not made by this program.
        """
        try:
            make_folder(self.path)
        except OSError as error:
            raise UserError(
                f"sweeps_dir = {self.base}: no study folder can be made there ({error.strerror}). "
                "Name a folder that can be written, such as sweeps_dir=sweeps."
            ) from None
        self._lock.acquire()
        try:
            self._refuse_foreign()
        except UserError:
            self.close()
            raise

    def close(self) -> None:
        """Give the folder up; safe to call twice."""
        self._lock.release()

    def settle(self, mine: Flat) -> None:
        """Check that the study here was made under the same fingerprint, and note what this sweep will create.

        Raises:
            UserError: it was made under another one.
        """
        if self.database.exists() and self.fingerprint.is_file():
            refuse_other(f"the study in {self.path}", self._made_under(), mine, WAYS_OUT)
        # What SQLite puts beside its file while it writes.
        beside = [self.database.with_name(self.database.name + end) for end in ("-journal", "-wal", "-shm")]
        Manifest.open(self.path).add("study", self.database, *beside)
        write_json(self.fingerprint, mine)

    def holds(self, file: Path | None) -> bool:
        """Return whether a storage's file is the study's own."""
        return file is not None and file.resolve() == self.database.resolve()

    def trial_runs(self) -> list[Path]:
        """Return the run folders of the trials; a link is none of ours."""
        entries = sorted(self.trials.iterdir()) if self.trials.is_dir() else []
        return [entry for entry in entries if not entry.is_symlink() and (entry / "manifest.json").is_file()]

    def _made_under(self) -> Flat:
        try:
            return flatten(json.loads(self.fingerprint.read_text(encoding="utf-8")))
        except (ValueError, OSError) as error:
            raise UserError(f"{self.fingerprint}: is damaged: {str(error).splitlines()[0]}. {WAYS_OUT}") from None

    def _refuse_foreign(self) -> None:
        others = [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]
        if others and not (self.path / "manifest.json").is_file():
            raise UserError(
                f"{self.path}: holds {others[0]} and no manifest.json: this program did not make it. "
                "Choose another hydra.sweeper.study_name, or move the folder away."
            )
