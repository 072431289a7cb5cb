"""The study folder: where things lie, and whose they are."""

from pathlib import Path

from app.config.job import TRIALS
from app.config.schema import Config
from app.files import write_json
from app.runs.claim import claim
from app.runs.config_file import write_config
from app.runs.fingerprint import Flat, read_fingerprint
from app.runs.lock import Lock
from app.runs.manifest import NAME, Manifest
from app.sweep.fingerprint import WAYS_OUT, refuse_other_study, widened

_PATIENCE = 60.0  # s that a launch waits for another one that begins or ends


class StudyFolder:
    """Paths below ``sweeps_dir/study_name``.

    Args:
        base: ``sweeps_dir``.
        name: of the study.
    """

    def __init__(self, base: Path, name: str):
        self.base, self.path = base, base / name
        self.database = self.path / "study.db"
        self.fingerprint, self.config = self.path / "fingerprint.json", self.path / "config.yaml"
        self.trials, self.launches = self.path / TRIALS, self.path / "launches"
        self._lock = Lock(self.path, "study", wait_s=_PATIENCE)

    def open(self) -> None:
        """Make the folder or take the one that is there, and own it until ``close``, or the end of the process.

        Several launches may share a study; only how one begins is for one at a time.

        Raises:
            UserError: it cannot be made, belongs to a running process, or was not made by this program.
        """
        claim(self._lock, "hydra.sweeper.study_name")

    def close(self) -> None:
        """Give the folder up; safe to call twice."""
        self._lock.release()

    def settle(self, mine: Flat, theirs: Flat | None, config: Config) -> None:
        """Check that the study here was made under the same fingerprint, and note what this sweep will create.

        Args:
            mine: the fingerprint of this sweep.
            theirs: what the study is known by in its storage; None for one that has yet to be made.
            config: before anything is searched.

        Raises:
            UserError: it was made under another one.
        """
        if self.database.exists() and self.fingerprint.is_file():
            theirs = read_fingerprint(self.fingerprint, WAYS_OUT)
            refuse_other_study(f"the study in {self.path}", theirs, mine)
        # What SQLite puts beside its file while it writes.
        beside = [self.database.with_name(self.database.name + end) for end in ("-journal", "-wal", "-shm")]
        Manifest.open(self.path).add("study", self.database, *beside)
        write_json(self.fingerprint, widened(theirs, mine))
        if theirs is None or not self.config.is_file():  # what is tried is compared with what the study began with
            write_config(self.config, config)

    def refuse_living(self) -> None:
        """Raise if a launch of the study is alive.

        Raises:
            UserError: one is.
        """
        for launch in sorted(self.launches.iterdir()) if self.launches.is_dir() else []:
            with Lock(launch, "study"):
                pass

    def holds(self, file: Path | None) -> bool:
        """Return whether a storage's file is the study's own."""
        return file is not None and file.resolve() == self.database.resolve()

    def trial_runs(self) -> list[Path]:
        """Return the run folders of the trials; a link is none of ours."""
        entries = sorted(self.trials.iterdir()) if self.trials.is_dir() else []
        return [entry for entry in entries if not entry.is_symlink() and (entry / NAME).is_file()]
