"""Finding a study that was made before, by its name."""

from pathlib import Path

import optuna

from app.errors import UserError
from app.sweep.folder import StudyFolder
from app.sweep.storage import Stored


def find_study(sweeps_dir: Path, name: str, storage: str | None) -> tuple[StudyFolder, optuna.Study]:
    """Return the folder of a study and the study in its storage; nothing is made or changed.

    Args:
        sweeps_dir: where the study folders lie.
        name: of the study and of its folder.
        storage: URL of the storage; None: ``study.db`` of the folder.

    Raises:
        UserError: there is no such study, this program did not make it, or the storage cannot be used.
    """
    folder = StudyFolder(sweeps_dir, name)
    stored = Stored(f"sqlite:///{folder.database}" if storage is None else storage, name)
    study = stored.find()
    if study is None and storage is None:
        raise UserError(f"study = {name}: {folder.database} does not hold it. {_others(sweeps_dir)}")
    if study is None:
        raise UserError(f"study = {name}: is not in storage = {stored.shown_url}. Check both.")
    if not stored.is_ours(study):
        raise UserError(f"study = {name}: {stored} was not made by this program. Name one that is a sweep of it.")
    return folder, study


def _others(sweeps_dir: Path) -> str:
    names = sorted(database.parent.name for database in sweeps_dir.glob("*/study.db"))
    if names:
        return f"Below sweeps_dir = {sweeps_dir} there are: {', '.join(names)}."
    return f"There is no study below sweeps_dir = {sweeps_dir}. Set sweeps_dir, or storage if it is kept elsewhere."
