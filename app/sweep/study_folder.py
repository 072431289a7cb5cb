"""Study folder: paths, ownership, and the search for an existing study by its name."""

from pathlib import Path

import optuna

from app.config.multirun import TRIALS
from app.config.run_paths import STUDY_FILE, missing_study
from app.config.schema import Config
from app.core.atomic_files import write_json
from app.core.errors import UserError
from app.runs.config_file import write_config
from app.runs.fingerprint import FlatDict, read_fingerprint
from app.runs.lock import Lock
from app.runs.manifest import MANIFEST_NAME, Manifest, acquire_folder, require_own_folder
from app.sweep.study_fingerprint import HINT, merged_fingerprint, recorded_study_fingerprint, require_same_study
from app.sweep.study_store import StudyStore

_NAME_KEY = "hydra.sweeper.study_name"
_LOCK_TIMEOUT_S = 60.0  # for another launch that starts or ends


class StudyFolder:
    """Paths below ``sweeps_dir/study_name``.

    Args:
        base: Folder of all studies, ``sweeps_dir``.
        name: Name of the study.
    """

    def __init__(self, base: Path, name: str):
        self.base, self.path = base, base / name
        self.database = self.path / STUDY_FILE
        self.fingerprint, self.config = self.path / "fingerprint.json", self.path / "config.yaml"
        self.trials, self.launches = self.path / TRIALS, self.path / "launches"
        self._lock = Lock(self.path, "study", wait_s=_LOCK_TIMEOUT_S)

    def open(self) -> None:
        """Make the folder or take the existing one, and own it until ``close``, or until the process ends.

        Several launches may share a study; only their starts exclude each other.

        Raises:
            UserError: The folder cannot be made, belongs to a running process, or was not made by this program.
        """
        acquire_folder(self._lock, _NAME_KEY)

    def close(self) -> None:
        """Give the folder up; safe to call twice."""
        self._lock.release()

    def require_own(self) -> None:
        """Raise if the folder exists, and this program did not make it.

        Raises:
            UserError: This program did not make it.
        """
        if self.path.exists():
            require_own_folder(self.path, _NAME_KEY)

    def require_same_fingerprint(self, current: FlatDict) -> FlatDict | None:
        """Raise unless the study in the folder, if there is one, was made under the same fingerprint.

        Args:
            current: Fingerprint of this sweep.

        Returns:
            The recorded fingerprint; None for a folder without a study of its own.

        Raises:
            UserError: It was made under another fingerprint.
        """
        if not (self.database.exists() and self.fingerprint.is_file()):
            return None
        recorded = recorded_study_fingerprint(read_fingerprint(self.fingerprint, HINT))
        require_same_study(f"the study in {self.path}", recorded, current)
        return recorded

    def register(self, current: FlatDict, recorded: FlatDict | None, config: Config) -> None:
        """Record the fingerprint of the study, and the files that this sweep is going to create.

        Args:
            current: Fingerprint of this sweep.
            recorded: Recorded fingerprint of the study; None for a study that does not exist yet.
            config: Configuration before anything is searched.
        """
        # SQLite keeps these beside its file while it writes.
        temporary = [self.database.with_name(self.database.name + end) for end in ("-journal", "-wal", "-shm")]
        Manifest.open(self.path).add("study", self.database, *temporary)
        write_json(self.fingerprint, merged_fingerprint(recorded, current))
        if recorded is None or not self.config.is_file():  # later launches may fix what the first one searched
            write_config(self.config, config)

    def require_no_launch(self) -> None:
        """Raise if a launch of the study is alive.

        Raises:
            UserError: One is alive.
        """
        for launch in sorted(self.launches.iterdir()) if self.launches.is_dir() else []:
            with Lock(launch, "study"):
                pass

    def holds(self, file: Path | None) -> bool:
        """Return whether the file of a storage is the study's own."""
        return file is not None and file.resolve() == self.database.resolve()

    def trial_runs(self) -> list[Path]:
        """Return the run folders of the trials; links are left out."""
        entries = sorted(self.trials.iterdir()) if self.trials.is_dir() else []
        return [entry for entry in entries if not entry.is_symlink() and (entry / MANIFEST_NAME).is_file()]


def find_study(sweeps_dir: Path, name: str, storage: str | None) -> tuple[StudyFolder, optuna.Study]:
    """Return the folder of an existing study and the study in its storage; nothing is made or changed.

    Args:
        sweeps_dir: Folder of all studies.
        name: Name of the study and of its folder.
        storage: URL of the storage; None: ``study.db`` in the folder of the study.

    Raises:
        UserError: There is no such study, this program did not make it, or the storage cannot be used.
    """
    folder = StudyFolder(sweeps_dir, name)
    store = StudyStore(f"sqlite:///{folder.database}" if storage is None else storage, name)
    study = store.load()
    if study is None and storage is None:
        raise UserError(missing_study(sweeps_dir, name))
    if study is None:
        raise UserError(f"study = {name}: is not in storage = {store.shown_url}. Check both.")
    if not store.is_ours(study):
        raise UserError(f"study = {name}: {store} was not made by this program. Name one that is a sweep of it.")
    return folder, study
