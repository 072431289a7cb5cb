"""Runs and studies that a command line names: whether they exist, and what may have been meant."""

import difflib
import os
from pathlib import Path

from app.core.errors import UserError

RUNS, STUDIES = Path("runs"), Path("sweeps")  # the defaults of runs_dir and sweeps_dir, for advice only
_NEWEST = 3


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
