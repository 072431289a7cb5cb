"""Restart of a study: ``+restart=clean`` and ``+restart=archive``, applied once before the study is opened."""

from rich.console import Console

from app.config.schema import RestartConfig
from app.core.atomic_files import write_json
from app.core.console import print_line
from app.core.errors import UserError
from app.runs.lock import Lock
from app.runs.restart.clear_run import execute_plan, print_plan, with_tmrl_data
from app.runs.restart.plan import Plan, plan_folder
from app.runs.run_folder import unused_timestamp
from app.sweep.study_folder import StudyFolder
from app.sweep.study_store import StudyStore

_VERBS = {"delete": ("removes", "would remove"), "archive": ("renames", "would rename")}


class StudyRestart:
    """Clears a study: its files, those of its trials, and its part of a storage outside its folder.

    Args:
        folder: Folder of the study.
        store: The study in a storage outside the folder; None if the storage is a file of the folder.
        restart: Mode and targets of the restart.
        console: Console for messages.

    Attributes:
        keeps_study: Whether the study itself goes on, without what its trials left.

    Raises:
        UserError: The targets do not fit together, or this program did not make the study in the storage.
    """

    def __init__(self, folder: StudyFolder, store: StudyStore | None, restart: RestartConfig, console: Console):
        self.folder, self.restart, self.console = folder, restart, console
        if "replay" in restart.targets and "checkpoints" not in restart.targets:
            raise UserError(
                f"restart.targets = [{', '.join(restart.targets)}]: the checkpoints of a study's trials need their "
                "replay, and no trial could continue without it. Name checkpoints as well."
            )
        self.keeps_study = "study" not in restart.targets
        self.store = None if self.keeps_study else store
        self._study = None if self.store is None else self.store.load()
        if self._study is not None and not self.store.is_ours(self._study):
            raise UserError(
                f"{self.store}: was not made by this program, so it is not removed. "
                "Choose another hydra.sweeper.study_name."
            )

    def preview(self) -> None:
        """Print what the restart would clear, with sizes; nothing is changed and no lock is needed."""
        self._print_storage()
        print_plan(self.console, self._plan(), self.restart.mode, dry_run=True)

    def apply(self) -> None:
        """Clear the study; the caller holds its lock.

        Raises:
            UserError: A trial is still running, or something cannot be removed.
        """
        plan = self._plan()
        for trial in self.folder.trial_runs():
            with Lock(trial, "run"):  # released at once: there may be more trials than files that a process may open
                pass
        execute_plan(plan, self.restart, self.console)
        self._print_storage()
        if self._study is not None:
            self._clear_storage()

    def _plan(self) -> Plan:
        base, targets = self.folder.base, self.restart.targets
        plan = plan_folder(self.folder.path, base, targets)
        for trial in self.folder.trial_runs():
            plan = plan.joined(plan_folder(trial, base, targets))
        return with_tmrl_data(plan, self.restart)

    def _print_storage(self) -> None:
        if self._study is not None:
            verb = _VERBS[self.restart.mode][self.restart.dry_run]
            trials = len(self._study.get_trials(deepcopy=False))
            print_line(self.console, f"restart {verb} the {self.store} · trials: {trials}")

    def _clear_storage(self) -> None:
        """Remove the study from a storage that others may use, too, and leave a receipt."""
        time = unused_timestamp(self.folder.path)
        kept = f"{self.store.name}-archived-{time}" if self.restart.mode == "archive" else None
        receipt = self.folder.path / "history" / time / "receipt.json"
        record = {"mode": self.restart.mode, "targets": ["study"], "time": time, "kept_as": kept}
        record |= {"storage": self.store.shown_url, "study": self.store.name}
        write_json(receipt, record | {"complete": False})
        self.store.delete(kept)
        write_json(receipt, record | {"complete": True})
        print_line(self.console, f"receipt {receipt}", "green")
