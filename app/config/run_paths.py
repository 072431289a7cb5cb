"""Runs and studies that a command line names: whether they exist, and what may have been meant."""

import difflib
import os
from pathlib import Path

from app.core.errors import UserError

RUNS, STUDIES = Path("runs"), Path("sweeps")  # the defaults of runs_dir and sweeps_dir, for advice only
_NEWEST = 3
STUDY_FILE = "study.db"  # trials of a study, in its folder


def require_run(key: str, path: str) -> None:
    """Refuse a folder that holds no run, before anything heavy is imported.

    Args:
        key: Key of the configuration that names the folder, such as "run".
        path: The folder.

    Raises:
        UserError: It holds no run; with what may have been meant.
    """
    folder = Path(path)
    if (folder / "config.yaml").is_file():
        return
    problem = f"{key} = {path}: holds no run ({folder / 'config.yaml'} is missing)."
    raise UserError(f"{problem} {_advice(key, folder)}")


def require_run_or_bundle(run: str | None, bundle: str | None) -> None:
    """Refuse anything but the folder of one run or one exported folder, before anything heavy is imported.

    Raises:
        UserError: Both are given, or none; or the run is none, with what may have been meant.
    """
    if run is None and bundle is None:
        raise UserError(f"{missing_value('run')} For a folder that app/export.py wrote, write bundle=FOLDER.")
    if run is not None and bundle is not None:
        raise UserError("run and bundle exclude each other. Leave one of them out.")
    if run is not None:
        require_run("run", run)


def require_study(sweeps_dir: Path, name: str, storage: str | None) -> None:
    """Refuse a study without a file of trials, before anything heavy is imported.

    Args:
        sweeps_dir: Folder of all studies.
        name: Name of the study.
        storage: URL of the storage, which is not looked into here; None: ``study.db`` in the folder of the study.

    Raises:
        UserError: There is no such file; with the studies that there are.
    """
    database = sweeps_dir / name / STUDY_FILE
    if storage is None and not database.is_file():
        raise UserError(missing_study(sweeps_dir, name))


def missing_study(sweeps_dir: Path, name: str) -> str:
    """Return the sentence for a study that is not in its folder, with the studies that are there."""
    problem = f"study = {name}: {sweeps_dir / name / STUDY_FILE} does not hold it."
    names = sorted(database.parent.name for database in sweeps_dir.glob(f"*/{STUDY_FILE}"))
    if names:
        return f"{problem} Below sweeps_dir = {sweeps_dir} there are: {', '.join(names)}."
    advice = "Set sweeps_dir, or storage if it is kept elsewhere."
    return f"{problem} There is no study below sweeps_dir = {sweeps_dir}. {advice}"


def missing_value(key: str) -> str:
    """Return the sentence for a key that a command cannot do without."""
    if key == "run":
        return f"run: is missing. Write run=runs/NAME. {newest_runs()}"
    if key == "study":
        return f"study: is missing. Write study=NAME. {_newest_studies()}"
    return f"{key}: is missing. Write {key}=..."


def newest_runs(runs: Path = RUNS) -> str:
    """Return a sentence with the newest runs below a folder; without any, one on how to make one."""
    folders = sorted(_runs(runs), key=_last_change, reverse=True)[:_NEWEST]
    if not folders:
        return f"There is none below {runs}/: python app/train.py makes one."
    return f"The newest runs are {', '.join(map(str, folders))}."


def _newest_studies() -> str:
    names = [path.parent.name for path in sorted(STUDIES.glob("*/fingerprint.json"), key=os.path.getmtime)]
    if not names:
        return f"There is none below {STUDIES}/: python app/train.py -m hydra/sweeper=optuna makes one."
    return f"The newest studies are {', '.join(reversed(names[-_NEWEST:]))}."


def _advice(key: str, folder: Path) -> str:
    if (folder.parent / "config.yaml").is_file():
        return f"It is a part of one: write {key}={folder.parent}."
    runs = folder.parent if len(folder.parts) > 1 and _runs(folder.parent) else RUNS
    close = difflib.get_close_matches(folder.name, [found.name for found in _runs(runs)], n=1)
    return f"Did you mean {key}={runs / close[0]}?" if close else newest_runs(runs)


def _runs(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if (entry / "config.yaml").is_file()]
    except OSError:
        return []


def _last_change(folder: Path) -> float:
    times = [0.0]
    for name in ("metrics.jsonl", "config.yaml"):
        try:
            times.append(os.stat(folder / name).st_mtime)
        except OSError:
            continue
    return max(times)
