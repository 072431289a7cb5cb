"""``+restart=clean`` and ``+restart=archive`` for a study: once, before it is opened."""

from rich.console import Console

from app.config.schema import RestartConfig
from app.errors import UserError
from app.files import write_json
from app.reporting.formatting import tell
from app.restart.clear import carry_out, with_tmrl
from app.restart.plan import Plan, plan_folder
from app.restart.table import table
from app.runs.history import unused_time
from app.runs.lock import Lock
from app.sweep.folder import StudyFolder
from app.sweep.storage import Stored

_WORDS = {"delete": ("removes", "would remove"), "archive": ("renames", "would rename")}


class StudyRestart:
    """What a restart takes of a study: its files, those of its trials, and what a storage elsewhere has of it.

    Args:
        folder: of the study.
        stored: the study in a storage that is no file of the folder; None where there is none.
        restart: what is asked for.
        console: where to tell.

    Raises:
        UserError: the targets do not fit together, or the study in the storage is not ours.
    """

    def __init__(self, folder: StudyFolder, stored: Stored | None, restart: RestartConfig, console: Console):
        self.folder, self.restart, self.console = folder, restart, console
        if "replay" in restart.targets and "checkpoints" not in restart.targets:
            raise UserError(
                f"restart.targets = [{', '.join(restart.targets)}]: the checkpoints of a study's trials count on their "
                "replay, and no trial could go on without it. Name checkpoints as well."
            )
        self.stored = stored if stored is not None and "study" in restart.targets else None
        self._study = None if self.stored is None else self.stored.find()
        if self._study is not None and not self.stored.is_ours(self._study):
            raise UserError(
                f"{self.stored}: was not made by this program, so it is not removed. "
                "Choose another hydra.sweeper.study_name."
            )

    def show(self) -> None:
        """Print what it would take, with sizes; nothing is changed and no lock is needed."""
        self._tell_of_storage()
        table(self.console, self._plan(), self.restart.mode, dry_run=True)

    def carry_out(self) -> None:
        """Take it; the caller holds the lock of the study.

        Raises:
            UserError: a trial still runs, or something cannot be removed.
        """
        plan = self._plan()
        for trial in self.folder.trial_runs():
            with Lock(trial, "run"):  # not held on: there may be more trials than files that a process may open
                pass
        carry_out(plan, self.restart, self.console)
        self._tell_of_storage()
        if self._study is not None:
            self._clear_storage()

    def _plan(self) -> Plan:
        base, targets = self.folder.base, self.restart.targets
        plan = plan_folder(self.folder.path, base, targets)
        for trial in self.folder.trial_runs():
            plan = plan.joined(plan_folder(trial, base, targets))
        return with_tmrl(plan, self.restart)

    def _tell_of_storage(self) -> None:
        if self._study is not None:
            words = _WORDS[self.restart.mode][self.restart.dry_run]
            trials = len(self._study.get_trials(deepcopy=False))
            tell(self.console, f"restart {words} the {self.stored} · trials: {trials}")

    def _clear_storage(self) -> None:
        """Remove the study from a storage that is not ours alone, and leave a receipt of that."""
        time = unused_time(self.folder.path)
        kept = f"{self.stored.name}-archived-{time}" if self.restart.mode == "archive" else None
        receipt = self.folder.path / "history" / time / "receipt.json"
        record = {"mode": self.restart.mode, "targets": ["study"], "time": time, "kept_as": kept}
        record |= {"storage": self.stored.shown_url, "study": self.stored.name}
        write_json(receipt, record | {"complete": False})
        self.stored.delete(kept)
        write_json(receipt, record | {"complete": True})
        tell(self.console, f"receipt {receipt}", "green")
